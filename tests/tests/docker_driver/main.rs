//! The Docker driver on the wire: calls shaped as dockerd sends them, without dockerd.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests")]

mod pools;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rig::{DockerDriver, Host, assert_same, poll};
use serde_json::{Value, json};

const NETWORK: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const ENDPOINT: &str = "3333333333333333333333333333333333333333333333333333333333333333";

/// Every method whose request has data.
const METHODS: [&str; 13] = [
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
];

/// A host that is up, and a driver on it.
fn host() -> (Host, DockerDriver) {
    let host = Host::new();
    host.port_agent().run("up");
    let driver = host.docker_driver();
    (host, driver)
}

fn network(id: &str, subnet: &str, options: Value) -> Value {
    let gateway = subnet.replace(".0/", ".1/");
    json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway}],
        "IPv6Data": [],
    })
}

fn endpoint(address: &str) -> Value {
    json!({
        "NetworkID": NETWORK,
        "EndpointID": ENDPOINT,
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""},
        "Options": {
            "com.docker.network.endpoint.exposedports": [],
            "com.docker.network.portmap": [],
        },
    })
}

fn join() -> Value {
    json!({
        "NetworkID": NETWORK,
        "EndpointID": ENDPOINT,
        "SandboxKey": "/var/run/docker/netns/0123456789ab",
        "Options": {
            "com.docker.network.endpoint.exposedports": [],
            "com.docker.network.portmap": [],
        },
    })
}

fn ids() -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT})
}

/// How many files the driver keeps.
fn kept() -> usize {
    let files =
        |kind: &str| fs::read_dir(format!("/var/lib/ovs-port-agent/docker/{kind}")).unwrap();
    ["networks", "endpoints", "pools"].iter().map(|kind| files(kind).count()).sum()
}

/// The container that is plugged in dies, and its interface with it.
fn die(host: &Host) {
    let ports = host.vsctl("list-ports ovsbr1");
    let port = ports.lines().find(|port| port.starts_with("veth")).unwrap();
    host.ip(&format!("link delete {port}"));
}

fn endpoint_is_forgotten() {
    poll("the endpoint is gone", Duration::from_secs(10), || {
        let mut left = fs::read_dir("/var/lib/ovs-port-agent/docker/endpoints").unwrap();
        left.next().is_none().then_some(())
    });
}

#[test]
fn the_handshake_is_what_dockerd_expects() {
    let (_host, driver) = host();
    let answer = driver.ok("Plugin.Activate", &Value::Null);
    assert_eq!(answer, json!({"Implements": ["NetworkDriver", "IpamDriver"]}));
    let answer = driver.ok("NetworkDriver.GetCapabilities", &Value::Null);
    assert_eq!(answer["Scope"], "local");
    let answer = driver.ok("IpamDriver.GetCapabilities", &Value::Null);
    assert_eq!(answer, json!({"RequiresMACAddress": false, "RequiresRequestReplay": true}));
    let answer = driver.ok("IpamDriver.GetDefaultAddressSpaces", &Value::Null);
    assert_ne!(answer["LocalDefaultAddressSpace"], answer["GlobalDefaultAddressSpace"]);
    assert_eq!(driver.post("NetworkDriver.AllocateNetwork", "{}").0, 404);
    // Of swarm.
    driver.ok("NetworkDriver.DiscoverNew", &json!({"DiscoveryType": 1, "DiscoveryData": {}}));
}

#[test]
fn a_repeated_call_without_body_is_an_error_and_changes_nothing() {
    let (host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    let before = host.snapshot().with_tree("/var/lib/ovs-port-agent/docker");
    for method in METHODS {
        assert!(driver.error(method, &Value::Null).contains("no body"), "{method}");
        assert!(driver.error(method, &json!("{")).contains("cannot read the request"), "{method}");
    }
    assert_same(&before, &host.snapshot().with_tree("/var/lib/ovs-port-agent/docker"));
}

#[test]
fn what_is_unknown_is_removed_with_success_and_used_with_an_error() {
    let (_host, driver) = host();
    driver.ok("NetworkDriver.Leave", &ids());
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": "ovs-1"}));
    driver.ok("IpamDriver.ReleaseAddress", &json!({"PoolID": "ovs-1", "Address": "10.0.0.1"}));
    let error = driver.error("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    assert!(error.contains(&format!("network {NETWORK} is not known; remove")), "{error}");
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    let error = driver.error("NetworkDriver.Join", &join());
    assert!(error.contains("endpoint") && error.contains("is not known"), "{error}");
}

#[test]
fn each_call_twice_is_as_once_and_the_end_leaves_nothing() {
    let (host, driver) = host();
    let before = host.snapshot();
    for _ in 0..2 {
        driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    }
    let address = host.ip("-o -4 address show dev ovsbr1.3000");
    assert!(address.contains("10.30.0.1/24"), "{address}");
    let made = driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    assert_eq!(made, json!({"Interface": {"MacAddress": "0a:58:0a:1e:00:02"}}));
    assert_eq!(driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24")), made);
    let joined = driver.ok("NetworkDriver.Join", &join());
    assert_eq!(joined["Gateway"], "10.30.0.1");
    assert_eq!(joined.get("DisableGatewayService"), None);
    let name = joined["InterfaceName"]["SrcName"].as_str().unwrap();
    let link = host.ip(&format!("-o link show dev {name}"));
    assert!(link.contains("0a:58:0a:1e:00:02") && link.contains("state DOWN"), "{link}");
    assert_eq!(driver.ok("NetworkDriver.Join", &join()), joined);
    driver.ok("NetworkDriver.ProgramExternalConnectivity", &join());
    assert_eq!(driver.ok("NetworkDriver.EndpointOperInfo", &ids()), json!({"Value": {}}));
    for _ in 0..2 {
        driver.ok("NetworkDriver.RevokeExternalConnectivity", &ids());
        driver.ok("NetworkDriver.Leave", &ids());
    }
    for _ in 0..2 {
        driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    }
    for _ in 0..2 {
        driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    }
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
}

#[test]
fn ports_that_cannot_be_published_are_refused() {
    let (_host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    let port = |protocol: u8| {
        json!([{"Proto": protocol, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080,
                "HostPortEnd": 8080}])
    };
    let with = |mut request: Value, ports: Value| {
        request["Options"]["com.docker.network.portmap"] = ports;
        request
    };
    let sctp = with(endpoint("10.30.0.2/24"), port(132));
    let error = driver.error("NetworkDriver.CreateEndpoint", &sctp);
    assert!(error.contains("-p \"80/sctp\"") && error.contains("tcp or udp"), "{error}");
    driver.ok("NetworkDriver.CreateEndpoint", &with(endpoint("10.30.0.2/24"), port(6)));
    driver.ok("NetworkDriver.Join", &with(join(), port(6)));
    // No agent runs here.
    let error = driver.error("NetworkDriver.ProgramExternalConnectivity", &with(join(), port(6)));
    assert!(error.contains("published ports need a running ovs-port-agent; start it"), "{error}");
    driver.ok("NetworkDriver.ProgramExternalConnectivity", &with(join(), json!([])));
    driver.ok("NetworkDriver.Leave", &ids());
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
}

#[test]
fn bad_options_are_refused_by_name_and_leave_nothing() {
    let (host, driver) = host();
    let before = host.snapshot();
    for (option, value) in
        [("vlan", "4095"), ("mtu", "12"), ("nat", "maybe"), ("vlna", "30"), ("bridge", "not there")]
    {
        let request = network(NETWORK, "10.30.0.0/24", json!({option: value}));
        let error = driver.error("NetworkDriver.CreateNetwork", &request);
        assert!(
            error.contains(&format!("-o {option} \"{value}\"")) && error.contains(';'),
            "{error}"
        );
    }
    let request = network(NETWORK, "0.0.0.0/0", json!({"bridge": "nowhere"}));
    let error = driver.error("NetworkDriver.CreateNetwork", &request);
    assert!(error.contains("nowhere"), "{error}");
    let request = network(NETWORK, "10.200.0.0/24", json!({}));
    let error = driver.error("NetworkDriver.CreateNetwork", &request);
    assert!(error.contains("--ipam-driver ovs-agent"), "{error}");
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    let request = network(OTHER, "10.30.0.128/25", json!({}));
    let error = driver.error("NetworkDriver.CreateNetwork", &request);
    assert!(error.contains("overlaps 10.30.0.0/24 of ovsbr1, VLAN 3000"), "{error}");
}

#[test]
fn a_dead_or_frozen_ovsdb_is_an_error_within_seconds_and_heals() {
    let (host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    host.switch().freeze_ovsdb();
    let start = Instant::now();
    driver.error("NetworkDriver.Join", &join());
    driver.error("NetworkDriver.CreateNetwork", &network(OTHER, "10.31.0.0/24", json!({})));
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    host.switch().thaw_ovsdb();
    host.switch().stop_ovsdb();
    let start = Instant::now();
    let error = driver.error("NetworkDriver.Join", &join());
    assert!(error.contains("db.sock"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    driver.error("NetworkDriver.Leave", &ids());
    host.switch().start_ovsdb();
    poll("a join after OVSDB is back", Duration::from_secs(20), || {
        driver.call("NetworkDriver.Join", &join()).get("Err").is_none().then_some(())
    });
    driver.ok("NetworkDriver.Leave", &ids());
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    assert_eq!(kept(), 0);
}

#[test]
fn every_call_is_answered_within_its_deadline_while_ovsdb_hangs() {
    let (host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    driver.ok("NetworkDriver.Join", &join());
    let pool = driver.ok(
        "IpamDriver.RequestPool",
        &json!({"AddressSpace": "ovs-agent", "Pool": "10.31.0.0/24", "SubPool": "", "V6": false}),
    );
    host.switch().freeze_ovsdb();
    let pool = &pool["PoolID"];
    std::thread::scope(|scope| {
        for method in METHODS {
            let body = match method {
                "NetworkDriver.CreateNetwork" => network(OTHER, "10.32.0.0/24", json!({})),
                "NetworkDriver.CreateEndpoint" => endpoint("10.30.0.2/24"),
                "NetworkDriver.Join" | "NetworkDriver.ProgramExternalConnectivity" => join(),
                "IpamDriver.RequestPool" => json!({"Pool": "10.33.0.0/24"}),
                "IpamDriver.ReleasePool" => json!({"PoolID": pool}),
                "IpamDriver.RequestAddress" => json!({"PoolID": pool, "Address": ""}),
                "IpamDriver.ReleaseAddress" => json!({"PoolID": pool, "Address": "10.31.0.2"}),
                _ => ids(),
            };
            let driver = &driver;
            scope.spawn(move || {
                let start = Instant::now();
                driver.post(method, &body.to_string());
                let took = start.elapsed();
                assert!(took < Duration::from_secs(21), "{method}: {took:?}");
            });
        }
    });
    host.switch().thaw_ovsdb();
}

/// Docker 29 forgets it after a live-restore.
#[test]
fn a_leave_without_a_revoke_takes_the_ports_back() {
    let (host, driver) = host();
    let agent = host.port_agent().command("run").deadline(Duration::MAX);
    let agent = rig::Daemon::start("port-agent", agent);
    let socket = "/run/ovs-port-agent/control.sock";
    agent.ready(Duration::from_secs(15), || fs::exists(socket).unwrap());
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    let free = || std::net::TcpListener::bind("0.0.0.0:8080").is_ok();
    let mut program = join();
    program["Options"]["com.docker.network.portmap"] = json!([{
        "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080,
    }]);
    for revoke in [true, false] {
        driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
        driver.ok("NetworkDriver.Join", &join());
        for _ in 0..2 {
            driver.ok("NetworkDriver.ProgramExternalConnectivity", &program);
            assert!(!free());
        }
        if revoke {
            driver.ok("NetworkDriver.RevokeExternalConnectivity", &ids());
            assert!(free());
        }
        driver.ok("NetworkDriver.Leave", &ids());
        assert!(free());
        driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    }
}

#[test]
fn the_driver_may_be_killed_between_any_two_calls() {
    let (host, mut driver) = host();
    let before = host.snapshot();
    let calls = [
        ("NetworkDriver.CreateNetwork", network(NETWORK, "10.30.0.0/24", json!({"mtu": "1400"}))),
        ("NetworkDriver.CreateEndpoint", endpoint("10.30.0.2/24")),
        ("NetworkDriver.Join", join()),
        ("NetworkDriver.Leave", ids()),
        ("NetworkDriver.DeleteEndpoint", ids()),
        ("NetworkDriver.DeleteNetwork", json!({"NetworkID": NETWORK})),
    ];
    for (method, body) in &calls {
        driver.ok(method, body);
        driver.kill();
        driver = host.docker_driver();
    }
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
    driver.stop();
    assert!(!fs::exists(DockerDriver::SOCKET).unwrap());
}

#[test]
fn a_network_that_was_made_or_removed_in_part_goes_with_the_next_call() {
    let (host, driver) = host();
    let before = host.snapshot();
    let create = network(NETWORK, "10.30.0.0/24", json!({}));
    driver.ok("NetworkDriver.CreateNetwork", &create);
    // The last that is written of a new network, and the first that goes of an old one.
    host.sh("rm /run/ovs-port-agent/networks/*");
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_removed_network_that_is_not_all_gone_is_not_in_the_way_of_the_next() {
    let (host, driver) = host();
    let before = host.snapshot();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    // As after a DeleteNetwork that could not be finished.
    let file = format!("/var/lib/ovs-port-agent/docker/networks/{NETWORK}.json");
    host.sh(&format!("sed -i 's/\"removed\":false/\"removed\":true/' {file}"));
    driver.ok("NetworkDriver.CreateNetwork", &network(OTHER, "10.30.0.0/24", json!({})));
    assert!(!fs::exists(&file).unwrap(), "it is still there");
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": OTHER}));
    assert_same(&before, &host.snapshot());
}

#[test]
fn what_an_earlier_try_left_of_a_network_is_not_in_its_own_way() {
    let (host, driver) = host();
    let before = host.snapshot();
    let create = network(NETWORK, "10.30.0.0/24", json!({}));
    driver.ok("NetworkDriver.CreateNetwork", &create);
    // As after a file that was written and could not be forced to the disk.
    let file = format!("/var/lib/ovs-port-agent/docker/networks/{NETWORK}.json");
    host.sh(&format!("sed -i 's/\"unfinished\":false/\"unfinished\":true/' {file}"));
    assert!(fs::read_to_string(&file).unwrap().contains("\"unfinished\":true"));
    driver.ok("NetworkDriver.CreateNetwork", &create);
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
}

/// It kept every other from being looked after.
#[test]
fn a_network_whose_bridge_is_gone_keeps_no_dead_endpoint() {
    let (host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    driver.ok("NetworkDriver.Join", &join());
    driver.kill();
    die(&host);
    host.vsctl("del-br ovsbr1");
    let driver = host.docker_driver();
    endpoint_is_forgotten();
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    // What is ruled of the bridge waits for its return; the network's is gone.
    let rules = host.sh("nft list table inet ovs-agent");
    assert!(rules.contains("10.200.0.0/24") && !rules.contains("10.30.0.0/24"), "{rules}");
}

#[test]
fn thirty_networks_at_once_get_a_vlan_each() {
    let (host, driver) = host();
    let before = host.snapshot();
    let id = |n: usize| format!("{n:02}").repeat(32);
    let all = |method: &str, body: &(dyn Fn(usize) -> Value + Sync)| {
        std::thread::scope(|scope| {
            for n in 0..30 {
                let driver = &driver;
                scope.spawn(move || driver.ok(method, &body(n)));
            }
        });
    };
    all("NetworkDriver.CreateNetwork", &|n| {
        network(&id(n), &format!("10.{}.0.0/24", 30 + n), json!({}))
    });
    let links = host.ip("-o link");
    for vlan in 3000..3030 {
        assert!(links.contains(&format!(": ovsbr1.{vlan}:")), "no gateway in VLAN {vlan}: {links}");
    }
    all("NetworkDriver.DeleteNetwork", &|n| json!({"NetworkID": id(n)}));
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_network_of_ipv6_alone_has_a_way_out() {
    let (_host, driver) = host();
    // As Docker 28 sends "--ipv4=false --ipv6".
    let mut create = network(NETWORK, "10.30.0.0/24", json!({}));
    create["Options"]["com.docker.network.enable_ipv4"] = json!(false);
    create["IPv4Data"] = json!([]);
    create["IPv6Data"] = json!([{"AddressSpace": "LocalDefault", "Pool": "fd00:30::/64",
                                 "Gateway": "fd00:30::1/64"}]);
    driver.ok("NetworkDriver.CreateNetwork", &create);
    let mut create = endpoint("");
    create["Interface"]["AddressIPv6"] = json!("fd00:30::2/64");
    driver.ok("NetworkDriver.CreateEndpoint", &create);
    let joined = driver.ok("NetworkDriver.Join", &join());
    assert_eq!(joined["GatewayIPv6"], "fd00:30::1");
    // A Docker as old as 20.10 looks at the gateway of IPv4 alone before it adds one of its own.
    assert_eq!((joined.get("Gateway"), &joined["DisableGatewayService"]), (None, &json!(true)));
    driver.ok("NetworkDriver.Leave", &ids());
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
}

#[test]
fn a_torn_state_file_costs_one_network_and_says_so() {
    let (host, driver) = host();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateNetwork", &network(OTHER, "10.31.0.0/24", json!({})));
    driver.kill();
    let file = format!("/var/lib/ovs-port-agent/docker/networks/{NETWORK}");
    host.sh(&format!(": >{file}.json"));
    let driver = host.docker_driver();
    // dockerd would never tell it again: there is a copy.
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    assert!(driver.log().contains("its copy takes its place"), "{}", driver.log());
    host.sh(&format!(": >{file}.json; : >{file}.copy"));
    let error = driver.error("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    assert!(error.contains(&format!("network {NETWORK} is not known; remove")), "{error}");
    let mut other = endpoint("10.31.0.2/24");
    other["NetworkID"] = OTHER.into();
    driver.ok("NetworkDriver.CreateEndpoint", &other);
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.32.0.0/24", json!({})));
    assert!(driver.log().contains("it is put aside"), "{}", driver.log());
}

#[test]
fn systemd_is_told_that_the_driver_serves_and_ends() {
    let host = Host::new();
    host.port_agent().run("up");
    let path = "/run/rig/notify";
    // As systemd starts it: here we listen for what it says of itself.
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let said = || {
        let mut text = [0; 100];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let driver = host.docker_driver_with(&[("NOTIFY_SOCKET", path)]);
    assert_eq!(said(), "READY=1");
    driver.terminate();
    assert_eq!(said(), "STOPPING=1");
    driver.gone();
    assert!(!fs::exists(DockerDriver::SOCKET).unwrap());
}

#[test]
fn a_driver_that_is_stopped_ends_and_answers_what_it_began() {
    let (host, driver) = host();
    let before = host.snapshot();
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    host.switch().freeze_ovsdb();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| driver.ok("NetworkDriver.Join", &join()));
        std::thread::sleep(Duration::from_millis(500));
        driver.terminate();
        poll("its socket stays", Duration::from_secs(5), || {
            (!fs::exists(DockerDriver::SOCKET).unwrap()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500));
        host.switch().thaw_ovsdb();
        assert_eq!(call.join().unwrap()["Gateway"], "10.30.0.1");
    });
    driver.gone();
    let driver = host.docker_driver();
    driver.ok("NetworkDriver.Leave", &ids());
    driver.ok("NetworkDriver.DeleteEndpoint", &ids());
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": NETWORK}));
    assert_same(&before, &host.snapshot());
}
