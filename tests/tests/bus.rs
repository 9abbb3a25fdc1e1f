//! The D-Bus service on a real system bus, called with busctl and gdbus, by root and by a plain
//! user.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use rig::bus::{SystemBus, as_nobody, busctl};
use rig::{Command, Container, Daemon, Host, poll};
use serde_json::{Value, json};

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(15);

const AGENT: &str = "dev.ovs.PortAgent1 /dev/ovs/PortAgent1 dev.ovs.PortAgent1";

const GDBUS: &str = "gdbus call --system --dest dev.ovs.PortAgent1 \
                     --object-path /dev/ovs/PortAgent1 --method dev.ovs.PortAgent1";

fn start(host: &Host) -> Daemon {
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

fn served(agent: &Daemon) {
    agent.ready(SOON, || busctl(&format!("call {AGENT} Ping")).output().ok());
}

fn call(method: &str) -> String {
    busctl(&format!("call {AGENT} {method}")).run()
}

fn property(name: &str) -> String {
    busctl(&format!("get-property {AGENT} {name}")).run().trim().to_owned()
}

fn lab() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" })
}

/// A veth whose other end is `eth0` of a container.
fn veth(host: &Host, name: &str, container: &str) -> Container {
    let container = host.container(container);
    host.ip(&format!("link add {name} type veth peer name eth0 netns {}", container.name()));
    container.ip("link set eth0 up");
    host.ip(&format!("link set {name} up"));
    container
}

/// Lets it out over the gateway.
fn addressed(container: &Container, address: &str) -> IpAddr {
    container.ip(&format!("address add {address}/24 dev eth0"));
    "10.200.0.1".parse().unwrap()
}

#[test]
fn root_may_do_everything() {
    let host = Host::new();
    host.config("bridge_name = \"ovsbr1\"\n[[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n");
    let _bus = SystemBus::start(&host);
    let agent = start(&host);
    served(&agent);
    assert_eq!(call("Ping"), "s \"pong\"\n");
    assert_eq!(property("Version"), format!("s \"{}\"", env!("CARGO_PKG_VERSION")));
    assert_eq!(property("Bridges"), "as 1 \"ovsbr1\"");
    assert_eq!(property("DefaultBridge"), "s \"ovsbr1\"");
    assert_eq!(property("Healthy"), "b true");
    assert_eq!(property("Health"), "a{ss} 0");
    assert_eq!(call("ListPorts"), "a(sss) 0\n");
    // A veth, by busctl.
    let web = veth(&host, "hand1", "web");
    let before = host.snapshot();
    assert_eq!(call("AddPort 'sa{sv}' hand1 0"), "s \"veth-web-eth0\"\n");
    assert_eq!(call("AddPort 'sa{sv}' veth-web-eth0 0"), "s \"veth-web-eth0\"\n", "again");
    assert_eq!(call("ListPorts"), "a(sss) 1 \"veth-web-eth0\" \"ovsbr1\" \"untagged\"\n");
    let shown = call("Attachments");
    for word in ["\"Container\" s \"web\"", "\"Runtime\" s \"port-agent\"", "\"State\" s \"ok\""] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let gateway = addressed(&web, "10.200.0.9");
    let echo = host.echo_server();
    assert!(web.ping(gateway));
    web.tcp_echo(gateway, 300_000).unwrap();
    drop(echo);
    web.ip("address flush dev eth0");
    call("DelPort s hand1");
    assert_eq!(call("ListPorts"), "a(sss) 0\n");
    // The other end computes its checksums from now on; all the rest is as it was.
    rig::assert_soon_same(&before, SOON, || host.snapshot());
    // Another, by gdbus, with options.
    let db = veth(&host, "hand2", "db");
    let added = Command::new("sh")
        .args(["-ec", &format!("{GDBUS}.AddPort hand2 \"{{'vlan': <uint16 20>, 'bridge': <'ovsbr1'>, 'netns': <'db'>}}\"")])
        .run();
    assert_eq!(added, "('veth-db-eth0',)\n");
    assert_eq!(host.vsctl("get Port veth-db-eth0 tag vlan_mode"), "20\naccess\n");
    drop(db);
    // Its device goes with the namespace: whoever is first, we or the agent, takes it out.
    poll("it is gone", SOON, || (call("ListPorts") == "a(sss) 0\n").then_some(()));
    let status = call("Status");
    let text = status.trim().strip_prefix("s ").unwrap();
    let text: String = serde_json::from_str(text).unwrap();
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["bridges"][0]["name"], "ovsbr1");
}

#[test]
fn a_refused_call_says_why_and_changes_nothing() {
    let host = Host::new();
    let _bus = SystemBus::start(&host);
    let agent = start(&host);
    served(&agent);
    let web = host.container("web");
    host.plugin().add(&web, &lab()).success();
    let _db = veth(&host, "hand1", "db");
    host.ip("link add used0 type veth peer name used1");
    host.ip("address add 192.0.2.1/24 dev used0");
    let before = host.snapshot();
    for (args, name, words) in [
        (
            "AddPort nothing0 '{}'",
            "dev.ovs.PortAgent1.Error.NotFound",
            "there is no interface nothing0",
        ),
        (
            "AddPort 'a name/too long' '{}'",
            "org.freedesktop.DBus.Error.InvalidArgs",
            "a name/too long",
        ),
        (
            "AddPort hand1 \"{'vlan': <uint16 5000>}\"",
            "org.freedesktop.DBus.Error.InvalidArgs",
            "from 1 to 4094",
        ),
        (
            "AddPort hand1 \"{'tag': <uint16 5>}\"",
            "org.freedesktop.DBus.Error.InvalidArgs",
            "option \"tag\" is not known",
        ),
        ("AddPort hand1 \"{'bridge': <'br9'>}\"", "dev.ovs.PortAgent1.Error.NotFound", "br9"),
        (
            "AddPort hand1 \"{'netns': <'web'>}\"",
            "dev.ovs.PortAgent1.Error.NotFound",
            "the other end of hand1 is not in /run/netns/web",
        ),
        (
            "AddPort hand1 \"{'netns': <'nowhere'>}\"",
            "dev.ovs.PortAgent1.Error.NotFound",
            "/run/netns/nowhere",
        ),
        (
            "AddPort used0 '{}'",
            "dev.ovs.PortAgent1.Error.Conflict",
            "it has an address; remove its addresses: ip address flush dev used0",
        ),
        ("AddPort ovsbr1 '{}'", "dev.ovs.PortAgent1.Error.Conflict", "ovsbr1"),
        ("DelPort hand1", "dev.ovs.PortAgent1.Error.NotFound", "interface hand1 is not plugged in"),
        (
            "DelPort veth-web-eth0",
            "dev.ovs.PortAgent1.Error.Conflict",
            "veth-web-eth0 was plugged in by cni for lab/web/eth0; stop the container instead",
        ),
    ] {
        let output = Command::new("sh").args(["-ec", &format!("{GDBUS}.{args}")]).output();
        assert!(!output.ok(), "{args}: {output}");
        assert!(output.stderr.contains(&format!("{name}: ")), "{args}: {output}");
        assert!(output.stderr.contains(words), "{args}: {output}");
    }
    rig::assert_same(&before, &host.snapshot());
    host.switch().stop_ovsdb();
    let output = busctl(&format!("call {AGENT} ListPorts")).output();
    assert!(!output.ok() && output.stderr.contains("ovsdb-server"), "{output}");
    poll("its health says so", SOON, || (property("Healthy") == "b false").then_some(()));
    assert!(
        property("Health").contains("\"keeper\" \"Open vSwitch cannot be followed"),
        "{}",
        property("Health")
    );
    host.switch().start_ovsdb();
    poll("and that it passed", SOON, || (property("Healthy") == "b true").then_some(()));
}

#[test]
fn a_plain_user_may_look_and_change_nothing() {
    let host = Host::new();
    let bus = SystemBus::start(&host);
    let agent = start(&host);
    served(&agent);
    let _web = veth(&host, "hand1", "web");
    let ping = as_nobody(&format!("busctl --system call {AGENT} Ping"));
    assert_eq!(ping.success().stdout, "s \"pong\"\n");
    for look in ["ListPorts", "Attachments", "Status"] {
        as_nobody(&format!("busctl --system call {AGENT} {look}")).success();
        as_nobody(&format!("{GDBUS}.{look}")).success();
    }
    as_nobody(&format!("busctl --system get-property {AGENT} Health")).success();
    let refused = |why: &str| {
        for change in ["AddPort hand1 '{}'", "DelPort hand1"] {
            let output = as_nobody(&format!("{GDBUS}.{change}"));
            assert!(!output.ok(), "{change}: {output}");
            assert!(
                output.stderr.contains("org.freedesktop.DBus.Error.AccessDenied: "),
                "{output}"
            );
            assert!(output.stderr.contains(why), "{output}");
        }
        let output = as_nobody(&format!("busctl --system call {AGENT} AddPort 'sa{{sv}}' hand1 0"));
        assert!(!output.ok(), "{output}");
    };
    // By the policy of the bus.
    refused("Rejected send message");
    assert_eq!(host.vsctl("list-ports ovsbr0"), "");
    // And by the agent, where somebody loosened the policy.
    drop(bus);
    let _bus = SystemBus::with_policy(
        &host,
        "<busconfig><policy context=\"default\"><allow own=\"dev.ovs.PortAgent1\"/>\
         <allow send_destination=\"dev.ovs.PortAgent1\"/></policy></busconfig>",
    );
    served(&agent);
    refused("only root may ");
    assert_eq!(host.vsctl("list-ports ovsbr0"), "");
}

#[test]
fn it_describes_itself() {
    let host = Host::new();
    let _bus = SystemBus::start(&host);
    let agent = start(&host);
    served(&agent);
    let text = as_nobody(
        "busctl --system introspect dev.ovs.PortAgent1 /dev/ovs/PortAgent1 dev.ovs.PortAgent1",
    )
    .success()
    .stdout;
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let has = |member: &str, kind: &str, words: &str| {
        let start = format!("{member} {kind} ");
        let found = lines.iter().any(|line| line.starts_with(&start) && line.contains(words));
        assert!(found, "{member}: {text}");
    };
    has(".Ping", "method", "- s");
    has(".ListPorts", "method", "- a(sss)");
    has(".AddPort", "method", "sa{sv} s");
    has(".DelPort", "method", "s -");
    has(".Attachments", "method", "- aa{sv}");
    has(".Status", "method", "- s");
    has(".PortAdded", "signal", "sss");
    has(".PortRemoved", "signal", "sss");
    has(".Version", "property", "const");
    has(".Bridges", "property", "as");
    has(".Health", "property", "emits-change");
    has(".Healthy", "property", "emits-change");
    let xml = busctl("introspect --xml-interface dev.ovs.PortAgent1 /dev/ovs/PortAgent1").run();
    for named in ["name=\"port\"", "name=\"options\"", "name=\"bridge\"", "name=\"container\""] {
        assert!(xml.contains(named), "{named}: {xml}");
    }
}

#[test]
fn signals_tell_what_came_and_went_whoever_made_it() {
    let host = Host::new();
    host.config("debounce_ms = 100\n");
    let _bus = SystemBus::start(&host);
    let agent = start(&host);
    served(&agent);
    let listen = Command::new("gdbus")
        .args(["monitor", "--system", "--dest", "dev.ovs.PortAgent1"])
        .deadline(Duration::MAX);
    let monitor = Daemon::start("gdbus-monitor", listen);
    monitor.ready(SOON, || monitor.log().contains("is owned by"));
    let heard = |words: &str| {
        poll(&format!("{words} is heard in\n{}", monitor.log()), SOON, || {
            monitor.log().contains(words).then_some(())
        });
    };
    // By a runtime.
    let web = host.container("web");
    host.plugin().add(&web, &lab()).success();
    heard("PortAdded ('veth-web-eth0', 'ovsbr1', 'web')");
    host.plugin().del(&web, &lab()).success();
    heard("PortRemoved ('veth-web-eth0', 'ovsbr1', 'web')");
    // By hand.
    let _db = veth(&host, "hand1", "db");
    host.port_agent().run("attach hand1");
    heard("PortAdded ('veth-db-eth0', 'ovsbr0', 'db')");
    host.port_agent().run("detach hand1");
    heard("PortRemoved ('veth-db-eth0', 'ovsbr0', 'db')");
    // What is wrong, as a property.
    host.switch().stop_ovsdb();
    heard("'Healthy': <false>");
    host.switch().start_ovsdb();
    heard("'Healthy': <true>");
}

#[test]
fn a_bus_that_comes_late_or_again_finds_the_agent() {
    let host = Host::new();
    let agent = start(&host);
    poll("it says that there is no bus", SOON, || {
        agent.log().contains("the system bus cannot be reached").then_some(())
    });
    assert!(agent.log().contains("systemctl start dbus"), "{}", agent.log());
    let bus = SystemBus::start(&host);
    served(&agent);
    for _ in 0..2 {
        bus.kill();
    }
    poll("it says that the bus went away", SOON, || {
        agent.log().contains("the system bus went away").then_some(())
    });
    let _bus = SystemBus::start(&host);
    served(&agent);
    assert_eq!(property("Healthy"), "b true");
}

#[test]
fn a_name_that_cannot_be_had_is_said_and_tried_again() {
    let host = Host::new();
    // A bus without our policy lets nobody have the name.
    let bus = SystemBus::with_policy(&host, "");
    let agent = start(&host);
    poll("it names the policy", SOON, || {
        agent.log().contains("install conf/dev.ovs.PortAgent1.conf").then_some(())
    });
    drop(bus);
    let _bus = SystemBus::start(&host);
    served(&agent);
    // A second agent with a state of its own: the first keeps the name.
    host.write("/etc/other.toml", "state_dir = \"/run/other\"\n");
    let command = host.port_agent().command("--config /etc/other.toml run");
    let other = Daemon::start("other-agent", command);
    poll("the other says that the name is taken", SOON, || {
        other.log().contains("the name dev.ovs.PortAgent1 is taken").then_some(())
    });
    assert_eq!(call("Ping"), "s \"pong\"\n");
    agent.kill();
    poll("then it is the other's", SOON, || {
        busctl(&format!("call {AGENT} Ping")).output().ok().then_some(())
    });
}

#[test]
fn the_service_manager_is_told() {
    use std::os::unix::net::UnixDatagram;
    let host = Host::new();
    fs::create_dir_all("/run/test").unwrap();
    let socket = UnixDatagram::bind("/run/test/notify").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let command = host.port_agent().command("run").env("NOTIFY_SOCKET", "/run/test/notify");
    let agent = Daemon::start("ovs-port-agent", command);
    let mut told = Vec::new();
    let mut until = |words: &str| {
        while !told.iter().any(|line: &String| line.contains(words)) {
            let mut buffer = [0; 4096];
            let length = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{words} is not told, {error}: {told:#?}"));
            told.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        told.clear();
    };
    until("READY=1");
    until("STATUS=bus: the system bus cannot be reached");
    let _bus = SystemBus::start(&host);
    until("STATUS=the host is as it should be");
    host.switch().stop_ovsdb();
    until("STATUS=keeper: Open vSwitch cannot be followed");
    host.switch().start_ovsdb();
    until("STATUS=the host is as it should be");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    until("STOPPING=1");
    poll("it ended", SOON, || (!agent.alive()).then_some(()));
}
