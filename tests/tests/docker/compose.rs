//! `docker compose` with the example file.

use rig::{Host, INTERNET};

use crate::{nothing_left, up};

#[test]
fn the_example_comes_up_works_and_goes_down() {
    let host = Host::new();
    let _way_out = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    let lan = host.uplink("enp2s0", 7);
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"enp2s0\"\n\
         [[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n",
    );
    let (driver, docker) = up(&host);
    let before = host.snapshot();
    let example = host.shipped("examples/docker/compose.yaml");
    docker.compose(&example, "up -d");
    let name =
        |service: &str| docker.compose(&example, &format!("ps -q {service}")).trim().to_owned();
    let (web, db) = (name("web"), name("db"));
    let (front, back) = (docker.container(&web), docker.container(&db));
    front.tcp_echo(INTERNET, 1 << 20).unwrap();
    let _server = back.echo_server();
    front.tcp_echo("10.77.0.20".parse().unwrap(), 1 << 20).unwrap();
    docker.run(&format!("exec {web} ping -c 1 -W 2 db"));
    assert!(back.ping(lan.gateway()), "{}", driver.log());
    let mtu = back.ip("-o address show to 10.77.0.20");
    let interface = mtu.split_whitespace().nth(1).unwrap();
    assert!(back.ip(&format!("-o link show {interface}")).contains("mtu 1400"));
    // A second "up" changes nothing, a restart brings the same.
    docker.compose(&example, "up -d");
    assert_eq!((name("web"), name("db")), (web.clone(), db));
    docker.compose(&example, "restart -t 0");
    docker.run(&format!("exec {web} ping -c 1 -W 2 db"));
    docker.compose(&example, "down -t 0");
    drop((front, back));
    nothing_left(&before, &host);
}
