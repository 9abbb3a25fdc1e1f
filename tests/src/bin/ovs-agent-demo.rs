//! `./run demo`: the whole thing at work on a private host, told in plain words.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use rig::{Container, Host, INTERNET, INTERNET6, Uplink};
use serde_json::{Value, json};

const CONFIG: &str = r#"# the direct bridge: what is plugged in here is on the LAN
[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
addresses = ["172.16.0.10/24"]

# the NAT bridge: what is plugged in here shares the Wi-Fi's address
[[bridge]]
name = "ovsbr1"
mode = "nat"
uplink = "wlp4s0"
addresses = ["10.200.0.1/24", "fd00:ba5e:1::1/64"]
"#;

fn main() {
    println!(
        "ovs-agent, shown on a host that exists only for this run: its network, its /etc and its\n\
         Open vSwitch are private to this process and end with it. Your machine is not touched."
    );
    let host = Host::new();
    let agent = host.port_agent();

    chapter("The host");
    let _wired = host.uplink("enp2s0", 1);
    let usb = host.uplink("enx0", 2).addressed(&host).routed(&host, 100);
    let wifi = host.uplink("wlp4s0", 3).addressed(&host).routed(&host, 600);
    println!(
        "Three interfaces, as on many a laptop: enp2s0 is wired to the LAN and has no address;\n\
         enx0 (a USB adapter, {}) has the better way to the internet, metric 100;\n\
         wlp4s0 (played Wi-Fi, {}) has the other, metric 600. The internet is {INTERNET}.",
        usb.address(),
        wifi.address()
    );
    shell(&host, "ip -br -4 address show type veth");
    shell(&host, "ip -4 route");
    let before = host.snapshot();

    chapter("One file describes the bridges, one command makes them");
    host.config(CONFIG);
    let described = host.snapshot();
    shell(&host, "cat /etc/ovs-port-agent/config.toml");
    show("ovs-port-agent up", &agent.run("up"));
    shell(&host, "ovs-vsctl show");
    println!("The heart of NAT: what is masqueraded, and a way of its own for the NAT bridge.");
    shell(&host, "nft list chain inet ovs-agent srcnat");
    shell(&host, "ip rule");

    chapter("Two containers, attached by the real CNI plugin");
    println!("A runtime calls the plugin once per container, as here, with this network:");
    let conf = json!({"cniVersion": "1.0.0", "name": "demo", "type": "ovs-agent"});
    println!("{}", indent(&conf.to_string()));
    let (web, db) = (host.container("web"), host.container("db"));
    let web_ip = attach(&host, &web, &conf);
    let db_ip = attach(&host, &db, &conf);

    chapter("They talk to each other");
    let _server = db.echo_server();
    told("web pings db, three times", || yes(web.ping(db_ip[0])));
    told("web sends db 20 MB over TCP; every byte comes back right", || {
        web.tcp_echo(db_ip[0], 20_000_000)
    });
    told("the same over IPv6", || web.tcp_echo(db_ip[1], 1_000_000));
    told("web sends db a datagram over UDP", || web.udp_echo(db_ip[0]));

    chapter("They reach the internet through NAT");
    told("db sends the internet 20 MB over TCP; every byte comes back right", || {
        db.tcp_echo(INTERNET, 20_000_000)
    });
    outside(&web, web_ip[0], INTERNET, &wifi, wifi.address());
    outside(&web, web_ip[1], INTERNET6, &wifi, wifi.address6());
    println!("wlp4s0 it is, as the configuration says, although the host's own way is enx0.");

    chapter("What is plugged in where");
    show("ovs-port-agent status", &agent.run("status"));

    chapter("Who plugged what in when");
    println!("Each line of the ledger carries the hash of the one before it.");
    show("ovs-port-agent ledger show", &agent.run("ledger show"));
    show("ovs-port-agent ledger verify", &agent.run("ledger verify"));

    chapter("And away again");
    for container in [&web, &db] {
        told(&format!("DEL {}", container.name()), || {
            let reply = host.plugin().del(container, &conf);
            if reply.ok() { Ok(()) } else { Err(io::Error::other(reply.output.to_string())) }
        });
    }
    web.remove();
    drop((_server, db));
    show("ovs-port-agent down", &agent.run("down"));
    let left = described.difference(&host.snapshot());
    assert!(left.is_empty(), "the host is not as it was before `up`:\n{left}");
    std::fs::remove_dir_all("/etc/ovs-port-agent").expect("it was written above");
    let left = before.difference(&host.snapshot());
    assert!(left.is_empty(), "the host is not as it was at first:\n{left}");
    println!(
        "Compared with what was noted before `up` - {} facts: links, addresses, routes, rules,\n\
         nftables, iptables, switch, kernel settings, files - nothing is left but the ledger.",
        described.len()
    );
    println!("\nInstall it with ./run install; README.md has the rest.");
}

fn chapter(title: &str) {
    println!("\n== {title}\n");
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}\n")).collect()
}

fn show(command: &str, output: &str) {
    println!("  $ {command}\n{}", indent(output));
}

fn shell(host: &Host, command: &str) {
    show(command, &host.sh(command));
}

fn yes(outcome: bool) -> io::Result<()> {
    if outcome { Ok(()) } else { Err(io::Error::other("no answer")) }
}

/// Does one thing, and says that it worked and how long it took. Ends the demo if it did not.
fn told(what: &str, work: impl FnOnce() -> io::Result<()>) {
    let started = Instant::now();
    match work() {
        Ok(()) => println!("  ok  {what} ({:.1?})", started.elapsed()),
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Attaches a container and returns its addresses, IPv4 first.
fn attach(host: &Host, container: &Container, conf: &Value) -> Vec<IpAddr> {
    let started = Instant::now();
    let result = host.plugin().add(container, conf).success();
    let took = started.elapsed();
    let mut addresses: Vec<IpAddr> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    addresses.sort();
    assert_eq!(addresses.len(), 2, "an IPv4 and an IPv6 address: {result}");
    println!("  ok  ADD {} ({took:.1?}): {addresses:?}", container.name());
    println!("{}", indent(&container.ip("-br address show dev eth0")));
    addresses
}

/// Calls a server out there and tells whom it saw.
fn outside(from: &Container, own: IpAddr, to: IpAddr, through: &Uplink, expected: IpAddr) {
    let what = format!("{} calls {to}", from.name());
    told(&what, || {
        let (_, seen) = from.who_answers(to)?;
        println!("      {own} called; the server saw {seen}, the address of {}", through.name());
        yes(seen == expected)
    });
}
