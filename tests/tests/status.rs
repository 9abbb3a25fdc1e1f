//! `ovs-port-agent status`, its help, and what it says of a broken host.

use std::fs;
use std::time::Duration;

use rig::{Command, Host};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[bridge]]
name = "ovsbr0"
mode = "direct"

[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd00:200::1/64"]
"#;

#[test]
fn a_small_host_in_tables_and_as_json() {
    let host = Host::new();
    host.config(CONFIG);
    let agent = host.port_agent();
    let kernel = std::path::Path::new("/sys/module/openvswitch").exists();
    let datapath = if kernel { "system  " } else { "netdev  " };
    agent.run("up");
    assert_eq!(
        agent.run("status"),
        format!(
            "\
BRIDGE  MODE    STATE  DATAPATH  MTU   ADDRESSES                     UPLINK   PORTS
ovsbr0  direct  up     {datapath}  1500  -                             -        0
ovsbr1  nat     up     {datapath}  1500  10.200.0.1/24 fd00:200::1/64  default  0

NETWORK  VLAN      GATEWAY PORT  NAT         SUBNET         IN USE
ovsbr1   untagged  ovsbr1        masquerade  10.200.0.0/24  0 of 253
ovsbr1   untagged  ovsbr1        masquerade  fd00:200::/64  0

No containers are plugged in.

PART           STATE
ovsdb-server   works
ovs-vswitchd   works
kernel         works
networks       works
records        works
ports          works
agent          off    nothing is repaired, and nothing comes back after a reboot; start it \
(systemctl enable --now ovs-port-agent)
Docker driver  off
"
        )
    );
    let conf = json!({
        "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent",
        "runtimeConfig": { "ips": ["10.200.0.7/24", "fd00:200::7/64"] },
    });
    let web = host.container("web");
    host.plugin().add(&web, &conf).success();
    let text = agent.run("status");
    let table = text.split("\n\n").nth(2).unwrap();
    assert_eq!(table.trim_end(), "\
CONTAINER  RUNTIME  NETWORK  INTERFACE  ADDRESSES                     BRIDGE  VLAN      PORT           \
STATE
web        cni      lab      eth0       10.200.0.7/24 fd00:200::7/64  ovsbr1  untagged  veth-web-eth0  \
ok");
    assert!(text.contains("1 of 253"), "{text}");

    let json: Value = serde_json::from_str(&agent.run("status --json")).unwrap();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    // Other programs read these: a name once given stays.
    let mut expected = [
        (&json, "attachments bridges health networks ports uplinks"),
        (&json["health"][0], "detail ok part state"),
        (&json["bridges"][0], "addresses datapath mode mtu name ports state uplink ways"),
        (&json["networks"][0], "bridge gateway_interface nat pools vlan"),
        (&json["networks"][0]["pools"][0], "size subnet used"),
        (
            &json["attachments"][0],
            "addresses bridge caller container id ifname mac network port runtime since state vlan",
        ),
    ]
    .into_iter();
    expected.all(|(object, names)| {
        let mut found = keys(object);
        found.sort();
        assert_eq!(found.join(" "), names);
        true
    });
    assert_eq!(json["attachments"][0]["addresses"], json!(["10.200.0.7/24", "fd00:200::7/64"]));
    assert_eq!(json["networks"][0]["pools"][0]["used"], 1);
    assert_eq!(json["bridges"][1]["ports"], 1);

    // What a record says is not believed.
    host.vsctl("del-port veth-web-eth0");
    assert!(agent.run("status").contains("port missing"));
}

#[test]
fn before_up_it_says_what_is_not_there() {
    let host = Host::new();
    let before = host.snapshot();
    let text = host.port_agent().run("status");
    rig::assert_same(&before, &host.snapshot());
    assert!(
        text.contains("ovsbr1  nat     missing  -         -    -          default  0"),
        "{text}"
    );
    assert!(text.contains("masquerade (not up)") && text.contains("ovs-port-agent up"), "{text}");
    let bare = Host::bare();
    let output = bare.port_agent().output("status");
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(output.stdout.contains("PROBLEM ovsdb-server: cannot reach"), "{output}");
    assert!(output.stdout.contains("PROBLEM ovs-vswitchd: "), "{output}");
    let output = bare.port_agent().output("status --json");
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["health"][0]["ok"], false);
}

#[test]
fn names_of_containers_cannot_draw_on_the_terminal() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    let web = host.container("web");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent",
    });
    host.plugin().add(&web, &conf).success();
    let records = fs::read_dir("/run/ovs-port-agent/attachments").unwrap();
    let path = records.flatten().next().unwrap().path();
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    record["labels"]["name"] = "a\u{1b}[2J\rb\nc\u{7}d\u{9b}31m\u{202e}e\u{200b}\u{2028}".into();
    fs::write(&path, record.to_string()).unwrap();
    let text = agent.run("status");
    let bad = |c: char| {
        c != '\n' && (c.is_control() || ['\u{202e}', '\u{200b}', '\u{2028}'].contains(&c))
    };
    assert!(!text.contains(bad), "{text:?}");
    assert_eq!(text.lines().filter(|line| line.contains("veth-web-eth0")).count(), 1, "{text}");
    let row = text.lines().find(|line| line.contains("veth-web-eth0")).unwrap();
    assert!(row.starts_with('a') && row.contains("ok"), "still one row: {text}");
    // Machines get what there is, escaped by JSON.
    let json: Value = serde_json::from_str(&agent.run("status --json")).unwrap();
    assert_eq!(json["attachments"][0]["container"], record["labels"]["name"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let host = Host::new();
    let agent = host.port_agent();
    agent.run("up");
    for args in ["status", "status --json", "ledger show", "--help"] {
        let path = agent.path().display();
        // The pipe is closed before anything is written.
        let script = format!("{{ sleep 0.3; {path} {args}; echo status $? >&2; }} | true");
        let output = Command::new("sh").args(["-c", &script]).output();
        assert_eq!(output.stderr.trim(), "status 0", "{args}: {output}");
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let host = Host::bare();
    let agent = host.port_agent();
    let commands = [
        "",
        "up",
        "down",
        "run",
        "attach",
        "detach",
        "dbus-policy",
        "monitor",
        "status",
        "topology",
        "doctor",
        "sync",
        "ledger show",
        "ledger verify",
        "completions",
        "man",
    ];
    for command in commands {
        let text = agent.run(&format!("{command} --help"));
        let example = format!("\n  ovs-port-agent {command}");
        assert!(text.contains("Example") && text.contains(&example), "{command}:\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn a_bad_configuration_is_told_with_its_place() {
    let host = Host::bare();
    let agent = host.port_agent();
    let fails = |args: &str, expected: &str| {
        let output = agent.output(args);
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert_eq!(output.stderr, format!("ovs-port-agent: {expected}\n"));
        assert!(output.took < Duration::from_secs(5));
    };
    fails(
        "--config /etc/nothing.toml up",
        "there is no configuration file /etc/nothing.toml; name a file that exists, or none: \
         /etc/ovs-port-agent/config.toml may be absent",
    );
    host.config("bridge_name = \"ovsbr0\"\ndebounce = 5\n");
    let output = agent.output("status");
    assert!(!output.ok());
    for word in ["/etc/ovs-port-agent/config.toml:2:1", "debounce", "debounce_ms"] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

#[test]
fn containers_are_listed_by_name() {
    let host = Host::new();
    host.port_agent().run("up");
    let conf = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    for name in ["web", "db", "cache", "worker", "alpha"] {
        host.plugin().add(&host.container(name), &conf).success();
    }
    let text = host.port_agent().run("status");
    let table = text.split("\n\n").nth(2).unwrap();
    let names: Vec<_> = table.lines().skip(1).filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names, ["alpha", "cache", "db", "web", "worker"]);
}
