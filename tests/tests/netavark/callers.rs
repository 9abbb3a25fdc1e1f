//! Whoever speaks to Podman in the user's place: Docker's client and Compose through the socket,
//! podman-compose, pods, Kubernetes files, Quadlet.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::{Command, Daemon, INTERNET, Podman, image};
use serde_json::{Value, json};

use super::{Scene, address, ip, scene};

/// Where `podman compose` looks for it.
const SOCKET: &str = "/run/podman/podman.sock";

/// `podman system service`, ready.
fn service(podman: &Podman) -> Daemon {
    let command =
        podman.podman().args(["system", "service", "--time=0", &format!("unix://{SOCKET}")]);
    std::fs::create_dir_all("/run/podman").unwrap();
    let service = Daemon::start("podman-service", command);
    service.ready(Duration::from_secs(20), || UnixStream::connect(SOCKET).is_ok());
    service
}

/// Docker's own client, speaking to Podman.
fn docker(args: &str) -> rig::Output {
    Command::new("docker")
        .args(["-H", &format!("unix://{SOCKET}")])
        .args(args.split_whitespace())
        .deadline(Duration::from_secs(60))
        .output()
}

#[test]
fn dockers_client_says_options_as_labels() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    podman.load();
    let _service = service(podman);
    // Podman drops the option and keeps the label.
    let create = "network create -d ovs-agent -o vlan=31 --label ovs-agent.vlan=30 \
                  --label com.example.team=net --subnet 10.30.0.0/24 team";
    docker(create).success();
    let network = scene.inspect("team");
    assert_eq!(network["options"]["vlan"], "30", "{network}");
    assert_eq!(network["labels"]["com.example.team"], "net", "{network}");
    let image = image::NAME;
    docker(&format!("run --rm --network team {image} true")).success();
    // The gateway of VLAN 30 stays from its first container on.
    let before = host.snapshot();
    docker(&format!("run -d --name web --network team --ip 10.30.0.50 {image}")).success();
    docker(&format!("run -d --name db --network team {image}")).success();
    let (web, db) = (podman.container("web"), podman.container("db"));
    assert_eq!(address(&web, "eth0", 4), ip("10.30.0.50"));
    let server = web.echo_server();
    db.tcp_echo(ip("10.30.0.50"), 1_000_000).unwrap();
    drop(server);
    let wrong = docker("network create -d ovs-agent --label ovs-agent.vlna=30 wrong");
    assert!(
        !wrong.ok() && wrong.stderr.contains("unknown key options.vlna (value \\\"30\\\")")
            || wrong.stderr.contains("unknown key options.vlna (value \"30\")"),
        "{wrong}"
    );
    docker("rm -f web db").success();
    scene.returned(&before);
}

/// The example below a directory of its own, with an image that is there. Returns its path.
fn compose(scene: &Scene) -> &'static str {
    scene.podman.load();
    let file = "examples/podman/compose.yaml";
    let text = scene.host.shipped(file).replace("docker.io/library/busybox", image::NAME);
    assert!(text.contains(image::NAME), "{text}");
    let path = "/root/shop/compose.yaml";
    scene.podman.write(path, &text);
    path
}

/// No network is left, and no port but the gateway of VLAN 30, which stays until `down`.
fn gone(scene: &Scene) {
    assert!(!scene.podman.run("network ls").contains("shop"), "networks are left");
    assert_eq!(scene.host.vsctl("list-ports ovsbr1").trim(), "ovsbr1.30");
}

/// The services of the example talk, and one of them reaches the internet.
fn composed(scene: &Scene, web: &str, db: &str) {
    let (web, db) = (scene.podman.container(web), scene.podman.container(db));
    let side = |container: &rig::Container, net: &str| {
        let all = container.ip("-o -4 address show scope global");
        let line = all.lines().find(|line| line.contains(net)).unwrap_or_else(|| panic!("{all}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let team = side(&db, "10.30.0.");
    assert_eq!(address(&db, &team, 4), ip("10.30.0.50"));
    assert!(db.ip(&format!("link show dev {team}")).contains("mtu 1400"));
    let server = db.echo_server();
    web.tcp_echo(ip("10.30.0.50"), 1_000_000).unwrap();
    drop(server);
    side(&web, "10.200.0.");
    assert_eq!(web.who_answers(INTERNET).unwrap().1, scene.uplink.address());
}

#[test]
fn podman_compose_runs_the_example() {
    let scene = scene();
    let file = compose(&scene);
    let run = |args: &str| {
        let words = ["-f", file].into_iter().chain(args.split_whitespace());
        scene.podman.tool("podman-compose").args(words).output().success()
    };
    run("up -d");
    composed(&scene, "shop_web_1", "shop_db_1");
    run("down");
    gone(&scene);
}

/// Docker's Compose behind `podman compose`, through the API that is compatible with Docker's.
#[test]
fn dockers_compose_runs_the_example() {
    let scene = scene();
    let file = compose(&scene);
    let _service = service(&scene.podman);
    let run = |args: &str| {
        let words = ["compose", "-f", file].into_iter().chain(args.split_whitespace());
        scene.podman.podman().args(words).output().success()
    };
    run("up -d");
    composed(&scene, "shop-web-1", "shop-db-1");
    run("down -t 0");
    gone(&scene);
}

#[test]
fn a_pod_is_one_attachment() {
    let scene = scene();
    let Scene { podman, uplink, host } = &scene;
    podman.load();
    scene.create("pool");
    scene.create("--subnet 10.30.0.0/24 -o vlan=30 blue");
    let first = podman.start("first", "--network blue");
    let before = host.snapshot();
    let image = image::NAME;
    // The order of networks is not the user's, unless the interfaces are named.
    podman.run(
        "pod create --name shop --network blue:ip=10.30.0.50,interface_name=eth0 \
         --network pool:interface_name=eth1",
    );
    for name in ["web", "db"] {
        podman.run(&format!("run -d --pod shop --name {name} {image}"));
    }
    let (web, db) = (podman.container("web"), podman.container("db"));
    assert_eq!(address(&web, "eth0", 4), ip("10.30.0.50"));
    assert_eq!(address(&web, "eth1", 4), address(&db, "eth1", 4), "one namespace for all");
    let server = db.echo_server();
    first.tcp_echo(ip("10.30.0.50"), 1_000_000).unwrap();
    drop(server);
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    podman.run("pod restart shop");
    assert_eq!(address(&podman.container("db"), "eth0", 4), ip("10.30.0.50"));
    podman.run("pod rm -f -t 0 shop");
    scene.returned(&before);
}

#[test]
fn a_kubernetes_file_is_played() {
    let scene = scene();
    let Scene { podman, host, .. } = &scene;
    podman.load();
    scene.create("pool");
    let before = host.snapshot();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"},
        "spec": {"containers": [{
            "name": "web", "image": image::NAME, "imagePullPolicy": "Never",
            "command": ["/bin/sleep", "100000"],
        }]},
    });
    podman.write("/root/shop.yaml", &pod.to_string());
    podman.run("kube play --network pool:ip=10.200.0.50 /root/shop.yaml");
    let web = podman.container("shop-web");
    assert_eq!(address(&web, "eth0", 4), ip("10.200.0.50"));
    podman.run("kube down /root/shop.yaml");
    scene.returned(&before);
}

/// What Quadlet makes of the examples, and what systemd would run of it.
#[test]
fn the_quadlet_examples_work() {
    let scene = scene();
    let Scene { podman, uplink, .. } = &scene;
    podman.load();
    for file in ["pool.network", "blue.network", "island.network", "web.container"] {
        let text = scene.host.shipped(&format!("examples/podman/{file}"));
        let text = text.replace("docker.io/library/busybox", image::NAME);
        podman.write(&format!("/etc/containers/systemd/{file}"), &text);
    }
    let units = podman
        .command("/usr/libexec/podman/quadlet")
        .args(["-dryrun"])
        .env("QUADLET_UNIT_DIRS", "/etc/containers/systemd")
        .run();
    let starts = |of: &str| -> Vec<Vec<String>> {
        let lines = units.lines().filter_map(|line| line.strip_prefix("ExecStart="));
        lines.filter(|line| line.contains(of)).map(words).collect()
    };
    let networks = starts(" network create ");
    assert_eq!(networks.len(), 3, "{units}");
    for words in networks {
        podman.podman().args(&words[1..]).output().success();
    }
    let [web] = &starts(" run ")[..] else { panic!("{units}") };
    // The unit's control group and its notification socket are systemd's to give.
    let own = ["--cgroups=split", "--sdnotify=conmon"];
    let web = web[1..].iter().filter(|word| !own.contains(&word.as_str()));
    let web = web.map(|word| word.replace("%t", "/run").replace("%N", "web"));
    podman.podman().args(web).output().success();
    let web = podman.container("web");
    assert_eq!(address(&web, "eth0", 4), ip("10.30.0.50"));
    assert_eq!(web.who_answers(INTERNET).unwrap().1, uplink.address());
    let pool = podman.start("one", "--network pool");
    assert!(address(&pool, "eth0", 4).to_string().starts_with("10.200.0."));
    let blue = podman.start("two", "--network blue");
    assert!(address(&blue, "eth0", 6).to_string().starts_with("fd30::"));
    let island = podman.start("three", "--network island");
    let std::net::IpAddr::V4(v4) = address(&island, "eth0", 4) else { panic!("asked for IPv4") };
    assert!((64..128).contains(&v4.octets()[3]), "{v4} is outside the range of the example");
    assert_eq!(island.ip("route show default"), "");
}

/// A line of a unit as words; Quadlet quotes those with special characters.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(|word| word.trim_matches('"').replace("%%", "%")).collect()
}

/// What is asked for through the API reaches the plugin as from the command line.
#[test]
fn a_network_of_the_api_is_like_any() {
    let scene = scene();
    let _service = service(&scene.podman);
    let body = json!({
        "name": "api", "driver": "ovs-agent", "options": {"vlan": "30", "mtu": "1400"},
        "subnets": [{"subnet": "10.30.0.0/24"}],
    });
    let made = Command::new("curl")
        .args(["-s", "--unix-socket", SOCKET, "-H", "Content-Type: application/json", "-d"])
        .args([body.to_string().as_str(), "http://d/v5.0.0/libpod/networks/create"])
        .run();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["options"]["gateway"], "10.30.0.1", "{made}");
    let web = scene.podman.start("web", "--network api");
    assert!(web.ip("link show dev eth0").contains("mtu 1400"));
}
