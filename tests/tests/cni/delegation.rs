//! Addresses from IPAM plugins: Debian's own host-local, static and dhcp, and one that misbehaves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rig::{Host, assert_same, poll};
use serde_json::{Value, json};

use crate::{after, conf, host, ip, port, versioned};

/// What host-local has reserved for network "net".
fn reserved() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/var/lib/cni/networks/net") else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort();
    names
}

fn host_local() -> Value {
    json!({
        "bridge": "ovsbr0",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.44.0.0/24", "gateway": "10.44.0.1"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.45.0.0/16", "gw": "10.44.0.9"}],
        },
    })
}

/// An IPAM plugin that notes each call in /run/calls and then does what `script` says.
fn fake(host: &Host, script: &str) -> Value {
    host.write(
        "/opt/cni/bin/fake",
        &format!(
            "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME\" >> /run/calls\n{script}\n"
        ),
    );
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions("/opt/cni/bin/fake", mode).unwrap();
    conf(json!({"bridge": "ovsbr0", "ipam": {"type": "fake"}}))
}

fn calls() -> Vec<String> {
    let text = std::fs::read_to_string("/run/calls").unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn host_local_gives_checks_and_takes_back_in_every_version() {
    let host = host();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let web = host.container("web");
        let conf = versioned(version, host_local());
        let result = host.plugin().add(&web, &conf).success();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["gateway"], "10.44.0.1");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(reserved(), [ip(&result, 0).to_string()]);
        let routes = web.ip("route");
        assert!(routes.contains("default via 10.44.0.1"), "{routes}");
        assert!(routes.contains("10.45.0.0/16 via 10.44.0.9"), "{routes}");
        // Asked again, host-local itself would refuse: the same answer comes from the record.
        assert_eq!(host.plugin().add(&web, &conf).success(), result);
        if version != "0.3.1" {
            host.plugin().check(&web, &after(&conf, &result)).success();
        }
        host.plugin().del(&web, &conf).success();
        host.plugin().del(&web, &conf).success();
        assert_eq!(reserved(), Vec::<String>::new());
        web.remove();
    }
}

#[test]
fn a_lost_reservation_is_found_by_check() {
    let host = host();
    let web = host.container("web");
    let conf = versioned("0.4.0", host_local());
    let result = host.plugin().add(&web, &conf).success();
    std::fs::remove_file(format!("/var/lib/cni/networks/net/{}", ip(&result, 0))).unwrap();
    let error = host.plugin().check(&web, &after(&conf, &result)).failure();
    assert!(error["msg"].as_str().unwrap().contains("ipam plugin \"host-local\" failed CHECK"));
}

#[test]
fn an_address_is_given_back_when_the_rest_fails() {
    let host = host();
    let web = host.container("web");
    let before = host.snapshot();
    let mut wrong = conf(host_local());
    // A next hop that is in another place than the scope says: the kernel refuses.
    wrong["routes"] = json!([{"dst": "10.99.0.0/16", "gw": "10.44.0.1", "scope": 254}]);
    let error = host.plugin().add(&web, &wrong).failure();
    assert!(error["msg"].as_str().unwrap().contains("10.99.0.0/16"), "{error}");
    assert_eq!(reserved(), Vec::<String>::new());
    // The plugin's own lock and its memory of the last address.
    host.sh("rm -r /var/lib/cni");
    assert_same(&before, &host.snapshot());
}

/// Upstream's host-local validates its ranges on DEL too, so a slip in the file blocks release.
#[test]
fn a_configuration_broken_since_does_not_block_release() {
    let host = host();
    let web = host.container("web");
    host.plugin().add(&web, &conf(host_local())).success();
    let mut broken = conf(json!({"brigde": 1, "vlan": "x", "cniVersion": "9.9.9"}));
    broken["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "nonsense"}]]});
    host.plugin().call("DEL", "web", "", "eth0", &broken).success();
    assert_eq!(reserved(), Vec::<String>::new());
}

#[test]
fn without_a_record_the_configuration_still_releases() {
    let host = host();
    let web = host.container("web");
    let conf = conf(host_local());
    host.plugin().add(&web, &conf).success();
    host.sh("rm -r /run/ovs-port-agent/attachments");
    host.plugin().del(&web, &conf).success();
    assert_eq!(reserved(), Vec::<String>::new());
    assert_eq!(host.vsctl("list-ports ovsbr0").trim(), "");
}

#[test]
fn gc_gives_back_what_host_local_gave() {
    let host = host();
    let (web, db) = (host.container("web"), host.container("db"));
    let conf = versioned("1.1.0", host_local());
    host.plugin().add(&web, &conf).success();
    let kept = host.plugin().add(&db, &conf).success();
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "db", "ifname": "eth0"}]);
    // Debian's host-local knows no GC; ours releases by DEL, so nothing depends on it.
    host.plugin().call("GC", "", "", "", &gc).success();
    assert_eq!(reserved(), [ip(&kept, 0).to_string()]);
    host.plugin().call("STATUS", "", "", "", &conf).success();
}

#[test]
fn static_addresses_pass_traffic() {
    let host = host();
    let conf = |address: &str| {
        conf(json!({
            "bridge": "ovsbr0",
            "ipam": {"type": "static", "addresses": [
                {"address": format!("{address}/24")}, {"address": "fd44::5/64"},
            ]},
        }))
    };
    let (web, db) = (host.container("web"), host.container("db"));
    host.plugin().add(&web, &conf("10.46.0.5")).success();
    let mut second = conf("10.46.0.6");
    second["ipam"]["addresses"][1]["address"] = json!("fd44::6/64");
    host.plugin().add(&db, &second).success();
    let _server = db.echo_server();
    web.tcp_echo("10.46.0.6".parse().unwrap(), 1 << 20).unwrap();
    web.tcp_echo("fd44::6".parse().unwrap(), 1 << 20).unwrap();
}

#[test]
fn addresses_of_our_own_pools_are_refused_before_and_after() {
    let host = host();
    let web = host.container("web");
    let said = conf(json!({"ipam": {"type": "host-local", "subnet": "10.200.0.0/24"}}));
    let error = host.plugin().add(&web, &said).failure();
    assert_eq!(error["code"], 7);
    assert!(error["msg"].as_str().unwrap().contains("overlaps the pool 10.200.0.0/24"), "{error}");
    assert_eq!(reserved(), Vec::<String>::new());

    let conf = fake(
        &host,
        r#"[ $CNI_COMMAND = ADD ] && echo '{"ips": [{"address": "10.200.0.9/24"}]}'; exit 0"#,
    );
    let error = host.plugin().add(&web, &conf).failure();
    assert_eq!(error["code"], 7);
    assert!(error["msg"].as_str().unwrap().contains("ipam hands out 10.200.0.9"), "{error}");
    assert_eq!(calls(), ["ADD web eth0", "DEL web eth0"]);
}

#[test]
fn its_error_is_passed_on() {
    let host = host();
    let web = host.container("web");
    let script = r#"echo '{"cniVersion": "1.0.0", "code": 107, "msg": "no lease", "details": "ask"}'
        exit 1"#;
    let error = host.plugin().add(&web, &fake(&host, script)).failure();
    assert_eq!(error["code"], 107);
    assert_eq!(error["msg"], "ipam plugin \"fake\" failed ADD: no lease");
    assert_eq!(error["details"], "ask");
    assert_eq!(error["cniVersion"], "1.0.0");
}

#[test]
fn answers_that_are_none_are_refused_and_taken_back() {
    let host = host();
    let web = host.container("web");
    for (answer, says) in [
        (r#"echo '{"ips": []}'"#, "gave no address"),
        (r#"echo '{"ips": [{"address": "10.1.0.300/24"}]}'"#, "ips[0].address"),
    ] {
        std::fs::remove_file("/run/calls").ok();
        let error = host.plugin().add(&web, &fake(&host, answer)).failure();
        assert!(error["msg"].as_str().unwrap().contains(says), "{error}");
        assert_eq!(calls(), ["ADD web eth0", "DEL web eth0"]);
    }
    let error = host.plugin().add(&web, &fake(&host, "echo hello")).failure();
    assert!(error["msg"].as_str().unwrap().contains("answered ADD with no result"), "{error}");
    let error = host.plugin().add(&web, &fake(&host, "kill -9 $$")).failure();
    assert!(error["msg"].as_str().unwrap().contains("signal: 9"), "{error}");
}

#[test]
fn a_type_cannot_leave_cni_path_nor_be_ourselves() {
    let host = host();
    host.install_plugin();
    let web = host.container("web");
    for (kind, says) in [
        ("../bin/sh", "expected the name of a plugin in CNI_PATH"),
        ("/bin/sh", "expected the name of a plugin in CNI_PATH"),
        ("..", "expected the name of a plugin in CNI_PATH"),
        ("ovs-agent", "this very plugin"),
        ("nobody", "is not in CNI_PATH (/opt/cni/bin:/usr/lib/cni)"),
    ] {
        let error = host.plugin().add(&web, &conf(json!({"ipam": {"type": kind}}))).failure();
        assert!(error["msg"].as_str().unwrap().contains(says), "{error}");
    }
}

/// A plugin that is being replaced while a container starts.
#[test]
fn a_plugin_open_for_writing_is_tried_again() {
    let host = host();
    let web = host.container("web");
    std::fs::create_dir_all("/opt/cni/bin").unwrap();
    std::fs::copy("/usr/lib/cni/static", "/opt/cni/bin/static").unwrap();
    let more = json!({"ipam": {"type": "static", "addresses": [{"address": "10.46.0.5/24"}]}});
    let writer = std::fs::OpenOptions::new().append(true).open("/opt/cni/bin/static").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(writer);
        });
        host.plugin().add(&web, &conf(more)).success();
    });
}

#[test]
fn dhcp_leases_from_a_server_on_the_wire() {
    let host = host();
    // The server is a container too, plugged in as plain L2.
    let server = host.container("server");
    let wire = json!({"bridge": "ovsbr0", "ipam": {}});
    host.plugin().add(&server, &conf(wire)).success();
    server.ip("address add 10.47.0.1/24 dev eth0");
    host.write(
        "/run/udhcpd.conf",
        "start 10.47.0.50\nend 10.47.0.60\ninterface eth0\nlease_file /run/udhcpd.leases\n\
         option subnet 255.255.255.0\noption router 10.47.0.1\noption lease 600\n",
    );
    host.write("/run/udhcpd.leases", "");
    let busybox = Path::new("/usr/bin/busybox");
    assert!(busybox.exists(), "install busybox-static: apt-get install busybox-static");
    let _udhcpd = server.daemon("udhcpd", "busybox", &["udhcpd", "-f", "/run/udhcpd.conf"]);
    host.sh("mkdir -p /run/cni");
    let daemon =
        rig::Daemon::start("dhcp", rig::Command::new("/usr/lib/cni/dhcp").args(["daemon"]));
    daemon.ready(Duration::from_secs(5), || Path::new("/run/cni/dhcp.sock").exists());

    let web = host.container("web");
    let conf = conf(json!({"bridge": "ovsbr0", "ipam": {"type": "dhcp"}}));
    let result = host.plugin().add(&web, &conf).success();
    assert!(ip(&result, 0).to_string().starts_with("10.47.0."), "{result}");
    poll("a ping to the DHCP server", Duration::from_secs(3), || {
        web.ping("10.47.0.1".parse().unwrap()).then_some(())
    });
    host.plugin().del(&web, &conf).success();
    assert!(!host.vsctl("list-ports ovsbr0").contains(&port(&result)));
}

/// What it prints for ADD; silent otherwise.
const GIVES: &str = r#"[ "$CNI_COMMAND" != ADD ] || echo '{"ips": [{"address": "10.48.0.5/24"}]}'"#;

#[test]
fn killed_while_the_plugin_works_it_gives_back_at_the_next_call() {
    let host = host();
    let before = host.snapshot();
    let web = host.container("web");
    // The plugin's parent is ours.
    let deadly = fake(&host, r#"[ "$CNI_COMMAND" != ADD ] || kill -9 $PPID"#);
    for next in ["ADD", "DEL"] {
        std::fs::remove_file("/run/calls").ok();
        assert!(!host.plugin().add(&web, &deadly).ok());
        assert_eq!(host.vsctl("list-ports ovsbr0"), "veth-web-eth0\n");
        let conf = fake(&host, GIVES);
        host.plugin().call(next, "web", web.path().to_str().unwrap(), "eth0", &conf).success();
        let expected: &[&str] = match next {
            "ADD" => &["ADD web eth0", "DEL web eth0", "ADD web eth0"],
            _ => &["ADD web eth0", "DEL web eth0"],
        };
        assert_eq!(calls(), expected);
        host.plugin().del(&web, &conf).success();
        fake(&host, r#"[ "$CNI_COMMAND" != ADD ] || kill -9 $PPID"#);
    }
    web.remove();
    host.sh("rm -r /opt/cni /run/calls");
    assert_same(&before, &host.snapshot());
}

/// A runtime that loses patience sends DEL while the IPAM plugin still ponders.
#[test]
fn del_waits_for_an_add_that_asks_its_plugin() {
    let host = host();
    let web = host.container("web");
    let conf = fake(&host, &format!("sleep 1; {GIVES}"));
    let (plugin, netns) = (host.plugin(), web.path().display().to_string());
    std::thread::scope(|scope| {
        let add = scope.spawn(|| plugin.call("ADD", "web", &netns, "eth0", &conf));
        poll("the call of the IPAM plugin", Duration::from_secs(10), || {
            (calls() == ["ADD web eth0"]).then_some(())
        });
        plugin.call("DEL", "web", &netns, "eth0", &conf).success();
        add.join().unwrap().success();
    });
    assert_eq!(calls(), ["ADD web eth0", "DEL web eth0"]);
    assert_eq!(host.vsctl("list-ports ovsbr0"), "");
}
