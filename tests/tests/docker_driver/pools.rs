//! The IpamDriver on the wire: pools, and the addresses in them.

use super::*;

#[test]
fn pools_are_unique_shared_with_cni_and_replayed() {
    let (host, driver) = host();
    let container = host.container("web");
    let conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    let result = host.plugin().add(&container, &conf).success();
    let cni: Vec<String> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned())
        .collect();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24", "SubPool": "",
                     "Options": {}, "V6": false});
    driver.ok("Plugin.Activate", &Value::Null);
    let one = driver.ok("IpamDriver.RequestPool", &ask);
    let two = driver.ok("IpamDriver.RequestPool", &ask);
    assert_ne!(one["PoolID"], two["PoolID"]);
    assert_eq!(one["Data"]["com.docker.network.gateway"], "10.200.0.1/24");
    let mut given = cni.clone();
    let address = |pool: &Value, address: &str| json!({"PoolID": pool["PoolID"], "Address": address, "Options": null});
    for _ in 0..3 {
        for pool in [&one, &two] {
            let answer = driver.ok("IpamDriver.RequestAddress", &address(pool, ""));
            let ip = answer["Address"].as_str().unwrap().strip_suffix("/24").unwrap().to_owned();
            assert!(!given.contains(&ip), "{ip} of {given:?}");
            given.push(ip);
        }
    }
    let taken = driver.error("IpamDriver.RequestAddress", &address(&one, &cni[0]));
    assert!(taken.contains("is held by lab/web/eth0"), "{taken}");
    let mine = given.last().unwrap().clone();
    let taken = driver.error("IpamDriver.RequestAddress", &address(&two, &mine));
    assert!(taken.contains("is held by docker/"), "{taken}");
    // dockerd starts anew, and asks for everything it knows.
    driver.ok("Plugin.Activate", &Value::Null);
    let again = driver.ok("IpamDriver.RequestPool", &ask);
    assert_eq!(again["PoolID"], one["PoolID"]);
    assert_eq!(driver.ok("IpamDriver.RequestPool", &ask)["PoolID"], two["PoolID"]);
    let gateway = json!({"PoolID": two["PoolID"], "Address": "10.200.0.1",
                         "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    driver.ok("IpamDriver.RequestAddress", &gateway);
    driver.ok("IpamDriver.RequestAddress", &address(&two, &mine));
    let taken = driver.error("IpamDriver.RequestAddress", &address(&two, &mine));
    assert!(taken.contains("is held by"), "{taken}");
    driver.ok("IpamDriver.ReleaseAddress", &address(&two, &mine));
    driver.ok("IpamDriver.RequestAddress", &address(&two, &mine));
    for pool in [one, two] {
        driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": pool["PoolID"]}));
    }
    let _gone = host.plugin().del(&container, &conf).success();
    assert_eq!(kept(), 0);
    let leases = host.sh("find /run/ovs-port-agent/leases -type f ! -name .order");
    assert_eq!(leases, "", "leases are left");
}

/// dockerd asks for its networks in the order of a hash: each may get the other's pool, and asks
/// there for its own addresses. With live-restore containers have them.
#[test]
fn pools_of_one_subnet_may_be_asked_for_in_any_order() {
    let (_host, driver) = host();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24", "SubPool": "",
                     "Options": {}, "V6": false});
    driver.ok("Plugin.Activate", &Value::Null);
    let pools = [0, 1].map(|_| driver.ok("IpamDriver.RequestPool", &ask)["PoolID"].clone());
    let address = |pool: &Value, ip: &str| json!({"PoolID": pool, "Address": ip, "Options": null});
    let given = pools.each_ref().map(|pool| {
        let answer = driver.ok("IpamDriver.RequestAddress", &address(pool, ""));
        answer["Address"].as_str().unwrap().strip_suffix("/24").unwrap().to_owned()
    });
    driver.ok("Plugin.Activate", &Value::Null);
    let [b, a] = [0, 1].map(|_| driver.ok("IpamDriver.RequestPool", &ask)["PoolID"].clone());
    assert_eq!([&b, &a], [&pools[0], &pools[1]]);
    driver.ok("IpamDriver.RequestAddress", &address(&a, &given[0]));
    driver.ok("IpamDriver.RequestAddress", &address(&b, &given[1]));
    // Network B goes; the address of A stays A's.
    driver.ok("IpamDriver.ReleaseAddress", &address(&b, &given[1]));
    driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": b}));
    let engine = shared::attachment::Engine::new(shared::config::Config::default());
    let held = |ip: &String| {
        let leases = engine.pools().leases().unwrap();
        leases.iter().any(|(_, lease)| lease.ip.to_string() == *ip)
    };
    assert_eq!(given.each_ref().map(held), [true, false]);
    driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": a}));
    assert!(!held(&given[0]));
}

#[test]
fn a_pool_without_subnet_is_that_of_the_nat_bridge() {
    let (host, mut driver) = host();
    let ask = |pool: &str, v6: bool| json!({"AddressSpace": "ovs-agent", "Pool": pool, "SubPool": "", "Options": null, "V6": v6});
    let one = driver.ok("IpamDriver.RequestPool", &ask("", false));
    let two = driver.ok("IpamDriver.RequestPool", &ask("", false));
    assert_ne!(one["PoolID"], two["PoolID"]);
    // dockerd would refuse 10.200.0.0/24: the host has a route to it.
    assert_eq!(one["Pool"], "0.0.0.0/0");
    assert_eq!(one["Data"]["com.docker.network.gateway"], "10.200.0.1/24");
    let request = json!({"PoolID": one["PoolID"], "Address": "", "Options": null});
    let address = driver.ok("IpamDriver.RequestAddress", &request)["Address"].clone();
    assert_eq!(address, "10.200.0.2/24");
    // dockerd starts anew, and asks for what it was given.
    driver.ok("Plugin.Activate", &Value::Null);
    let again = driver.ok("IpamDriver.RequestPool", &ask("0.0.0.0/0", false));
    assert_eq!(again, one);
    let request = json!({"PoolID": one["PoolID"], "Address": "10.200.0.2", "Options": null});
    assert_eq!(driver.ok("IpamDriver.RequestAddress", &request)["Address"], address);
    // It compares with routes of IPv4 alone.
    let six = driver.ok("IpamDriver.RequestPool", &ask("", true));
    let (net, gateway) = (six["Pool"].as_str().unwrap(), six["Data"].to_string());
    assert!(net.ends_with("::/64") && gateway.contains(&net.replace("::/64", "::1/64")), "{six}");
    let direct = "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\n";
    let nat = "[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n";
    for (text, v6, words) in [
        (format!("{direct}{nat}"), true, "ovsbr1 has no IPv6 subnet to join; name a subnet"),
        (direct.to_owned(), false, "no NAT bridge is configured"),
    ] {
        host.config(&text);
        driver.stop();
        driver = host.docker_driver();
        let error = driver.error("IpamDriver.RequestPool", &ask("", v6));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_range_limits_what_is_given_but_not_what_is_asked_for() {
    let (_host, driver) = host();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.40.0.0/24", "SubPool": "10.40.0.64/30",
                     "Options": {}, "V6": false});
    let pool = driver.ok("IpamDriver.RequestPool", &ask);
    let address = |wanted: &str, options: Value| json!({"PoolID": pool["PoolID"], "Address": wanted, "Options": options});
    let kind = json!({"RequestAddressType": "com.docker.network.gateway"});
    let gateway = driver.ok("IpamDriver.RequestAddress", &address("10.40.0.254", kind));
    assert_eq!(gateway["Address"], "10.40.0.254/24");
    driver.ok("IpamDriver.RequestAddress", &address("10.40.0.9", Value::Null));
    let mut given = Vec::new();
    for _ in 0..4 {
        let answer = driver.ok("IpamDriver.RequestAddress", &address("", Value::Null));
        given.push(answer["Address"].as_str().unwrap().to_owned());
    }
    given.sort();
    assert_eq!(given, ["10.40.0.64/24", "10.40.0.65/24", "10.40.0.66/24", "10.40.0.67/24"]);
    let full = driver.error("IpamDriver.RequestAddress", &address("", Value::Null));
    assert!(full.contains("no free address in 10.40.0.0/24"), "{full}");
    let outside = driver.error("IpamDriver.RequestAddress", &address("10.41.0.1", Value::Null));
    assert!(outside.contains("10.41.0.1"), "{outside}");
}

/// A pool, the host as it is with it, and a driver whose last one was killed when it had given an
/// address and not written that down.
fn killed_in_a_request() -> (Host, DockerDriver, Value, rig::Snapshot) {
    let (host, driver) = host();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24", "SubPool": "",
                     "Options": {}, "V6": false});
    let pool = driver.ok("IpamDriver.RequestPool", &ask)["PoolID"].clone();
    let before = host.snapshot();
    let file = format!("/var/lib/ovs-port-agent/docker/pools/{}.json", pool.as_str().unwrap());
    host.sh(&format!("cp {file} /run/rig/pool"));
    let address = json!({"PoolID": pool, "Address": "", "Options": null});
    driver.ok("IpamDriver.RequestAddress", &address);
    driver.kill();
    host.sh(&format!("cp /run/rig/pool {file}"));
    let driver = host.docker_driver();
    (host, driver, pool, before)
}

#[test]
fn a_pool_takes_along_the_address_that_a_killed_driver_gave_and_did_not_write_down() {
    let (host, driver, pool, before) = killed_in_a_request();
    driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": pool}));
    assert_eq!(kept(), 0);
    assert_same(&before, &host.snapshot());
}

#[test]
fn an_address_that_a_killed_driver_gave_and_did_not_write_down_is_in_nobodys_way() {
    let (host, driver, pool, before) = killed_in_a_request();
    rig::assert_soon_same(&before, Duration::from_secs(5), || host.snapshot());
    let named = json!({"PoolID": pool, "Address": "10.200.0.77", "Options": null});
    assert_eq!(driver.ok("IpamDriver.RequestAddress", &named)["Address"], "10.200.0.77/24");
}

/// dockerd names nothing but the address when it releases one, and may go on with it before the
/// driver finds the endpoint that had it dead.
#[test]
fn an_address_that_went_on_to_another_container_is_not_taken_from_it() {
    let (host, driver) = host();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.30.0.0/24", "SubPool": "",
                     "Options": {}, "V6": false});
    let pool = driver.ok("IpamDriver.RequestPool", &ask)["PoolID"].clone();
    let named = json!({"PoolID": pool, "Address": "10.30.0.2", "Options": null});
    driver.ok("NetworkDriver.CreateNetwork", &network(NETWORK, "10.30.0.0/24", json!({})));
    driver.ok("IpamDriver.RequestAddress", &named);
    driver.ok("NetworkDriver.CreateEndpoint", &endpoint("10.30.0.2/24"));
    driver.ok("NetworkDriver.Join", &join());
    die(&host);
    driver.ok("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": "10.30.0.2"}));
    driver.ok("IpamDriver.RequestAddress", &named);
    driver.kill();
    let driver = host.docker_driver();
    endpoint_is_forgotten();
    let taken = driver.error("IpamDriver.RequestAddress", &named);
    assert!(taken.contains("10.30.0.2"), "{taken}");
}
