//! Row 27: the clock is a day ahead, or a day behind. Nothing that says how old something is may
//! ask it: a machine without a clock of its own learns the date while its containers start.

use rig::{DockerDriver, Output};

use super::*;

/// For the dynamic programs of a debug build (faketime(1)); the time since boot is no clock.
const PRELOAD: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn by(clock: &str) -> [(&str, &str); 4] {
    [
        ("LD_PRELOAD", PRELOAD),
        ("FAKETIME", clock),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]
}

fn gc(site: &Site, clock: &str) -> Output {
    let command = site.host.port_agent().command("gc");
    by(clock).iter().fold(command, |command, (key, value)| command.env(key, value)).output()
}

#[test]
fn a_clock_that_jumps_a_day_changes_no_lease() {
    assert!(std::path::Path::new(PRELOAD).exists(), "apt-get install faketime (./run test does)");
    let site = Site::new();
    let (web, db) = (site.host.container("web"), site.host.container("db"));
    let date = site.host.sh(&format!("LD_PRELOAD={PRELOAD} FAKETIME=+1d date +%s; date +%s"));
    let seconds: Vec<i64> = date.lines().map(|line| line.parse().unwrap()).collect();
    assert!(seconds[0] - seconds[1] > 86_000, "the clock cannot be faked: {date}");
    // An ADD under way: the address is taken, and nothing else is there yet to speak for it.
    let subnet = shared::address::Subnet {
        net: "10.200.0.0/24".parse().unwrap(),
        range: None,
        gateway: None,
    };
    for clock in ["+1d", "-1d"] {
        let now = site.host.plugin();
        let then = by(clock)
            .iter()
            .fold(site.host.plugin(), |plugin, (key, value)| plugin.env(key, value));
        now.add(&web, &lab()).success();
        then.add(&db, &lab()).success();
        let lease = site.engine.pools().acquire(&subnet, "lab/young/eth0", None).unwrap();
        for clock in [clock, "+0"] {
            let said = gc(&site, clock);
            assert!(
                said.ok() && said.stdout.contains("Nothing was left behind"),
                "{clock}: {said}"
            );
        }
        assert!(site.engine.pools().release(subnet.net, lease.ip, "lab/young/eth0").unwrap());
        site.assert_whole(&format!("clock {clock}"), &[&web, &db]);
        // Whoever finishes by another clock than it began.
        now.del(&db, &lab()).success();
        then.del(&web, &lab()).success();
        site.assert_clean(&format!("clock {clock}"));
    }
}

#[test]
fn a_clock_that_jumps_a_day_takes_no_endpoint_from_docker() {
    let site = Site::new();
    let ask = json!({"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24", "SubPool": "",
                     "Options": {}, "V6": false});
    let ids = json!({"NetworkID": "1".repeat(64), "EndpointID": "3".repeat(64)});
    let with = |more: Value| {
        let mut body = ids.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for clock in ["+1d", "-1d"] {
        let driver = site.host.docker_driver();
        let pool = driver.ok("IpamDriver.RequestPool", &ask)["PoolID"].clone();
        let generic = json!({"com.docker.network.generic": {}});
        let v4 = json!([{"AddressSpace": "ovs-agent", "Pool": "10.200.0.0/24",
                         "Gateway": "10.200.0.1/24"}]);
        driver.ok(
            "NetworkDriver.CreateNetwork",
            &json!({"NetworkID": ids["NetworkID"], "Options": generic, "IPv4Data": v4,
                    "IPv6Data": []}),
        );
        let request = json!({"PoolID": pool, "Address": "", "Options": null});
        let given = driver.ok("IpamDriver.RequestAddress", &request)["Address"].clone();
        let interface = json!({"Address": given, "AddressIPv6": "", "MacAddress": ""});
        driver.ok("NetworkDriver.CreateEndpoint", &with(json!({"Interface": interface})));
        // The clock jumps; what dockerd has forgotten is cleared away when a driver starts.
        driver.kill();
        let driver = site.host.docker_driver_with(&by(clock));
        sweep(&driver);
        let join = with(json!({"SandboxKey": "/var/run/docker/netns/0123456789ab", "Options": {}}));
        driver.ok("NetworkDriver.Join", &join);
        // Plugged in, and dockerd has not moved the other end yet.
        driver.kill();
        let driver = site.host.docker_driver_with(&by(if clock == "+1d" { "+2d" } else { "+0" }));
        sweep(&driver);
        let ports = site.host.vsctl("list-ports ovsbr1");
        assert_eq!(ports.lines().count(), 1, "{clock}: an endpoint that joins is unplugged");
        let bare = given.as_str().unwrap().split('/').next().unwrap();
        let held = site.engine.pools().leases().unwrap();
        assert!(held.iter().any(|(_, lease)| lease.ip.to_string() == bare), "{clock}: {held:?}");
        driver.ok("NetworkDriver.Leave", &ids);
        driver.ok("NetworkDriver.DeleteEndpoint", &ids);
        driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": ids["NetworkID"]}));
        driver.ok("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": bare}));
        driver.ok("IpamDriver.ReleasePool", &json!({"PoolID": pool}));
        driver.stop();
        site.assert_clean(&format!("clock {clock}"));
    }
}

/// The first thing a driver does once it serves.
fn sweep(driver: &DockerDriver) {
    assert_eq!(driver.post("Plugin.Activate", "").0, 200);
    std::thread::sleep(Duration::from_secs(2));
}
