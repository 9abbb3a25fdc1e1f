//! `up --move-uplink`: the host's own address and default route go from the wired port to the
//! bridge, and come back unless somebody confirms that the host can still be reached.

use std::fs;
use std::time::{Duration, Instant};

use rig::{EchoServer, Host, INTERNET, INTERNET6, Snapshot, Uplink, assert_same, poll};

const CONFIG: &str = r#"
[[bridge]]
name = "ovsbr1"
mode = "nat"
addresses = ["10.200.0.1/24", "fd6f:7673:6272:1::1/64"]

[[bridge]]
name = "ovsbr0"
mode = "direct"
uplink = "enp2s0"
"#;

const JOURNAL: &str = "/var/lib/ovs-port-agent/uplink.json";

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(20);

/// A host with a static address and a default route on enp2s0, IPv4 and IPv6, and its LAN.
struct Server {
    // Threads and children first: the host is left by a thread that is alone.
    _echo: EchoServer,
    wire: Uplink,
    host: Host,
}

impl Server {
    fn new() -> Self {
        let host = Host::new();
        let wire = host.uplink("enp2s0", 1).addressed(&host).routed(&host, 100);
        host.config(CONFIG);
        let echo = host.echo_server();
        Self { host, wire, _echo: echo }
    }

    /// Whether the LAN reaches the host and the host the internet, both families, TCP with data.
    fn works(&self) -> std::io::Result<()> {
        for address in [self.wire.address(), self.wire.address6()] {
            self.wire.router().tcp_echo(address, 100_000)?;
        }
        for address in [INTERNET, INTERNET6] {
            let ping = format!("ping -n -q -c 3 -i 0.2 -W 1 {address}");
            if !self.host.try_sh(&ping).ok() {
                return Err(std::io::Error::other(format!("{address} does not answer")));
            }
        }
        Ok(())
    }

    fn assert_works(&self, what: &str) {
        let end = Instant::now() + SOON;
        while let Err(error) = self.works() {
            assert!(Instant::now() < end, "{what}: {error}");
        }
    }

    fn default_routes(&self) -> String {
        self.host.ip("-4 route show default") + &self.host.ip("-6 route show default")
    }

    fn is_moved(&self) -> bool {
        let bare = self.host.ip("-o address show dev enp2s0 scope global").is_empty();
        let all = self.host.try_sh("ip -o address show dev ovsbr0 scope global").stdout;
        bare && [self.wire.address(), self.wire.address6()]
            .iter()
            .all(|address| all.contains(&format!(" {address}/")))
    }

    fn phase_is(&self, phase: &str) -> bool {
        fs::read_to_string(JOURNAL).is_ok_and(|t| t.contains(&format!("\"phase\":\"{phase}\"")))
    }

    /// Waits until the move was taken back, and everything is as it was.
    fn assert_returned(&self, before: &Snapshot, what: &str) {
        poll(&format!("{what}: taken back"), SOON, || self.is_taken_back().then_some(()));
        let end = Instant::now() + SOON;
        loop {
            let difference = before.difference(&self.host.snapshot());
            if difference.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "{what}: the host is not as it was:\n{difference}");
        }
        self.assert_works(what);
    }

    fn is_taken_back(&self) -> bool {
        self.phase_is("returned")
    }
}

#[test]
fn what_is_confirmed_stays_and_down_moves_it_back() {
    let server = Server::new();
    let before = server.host.snapshot();
    let agent = server.host.port_agent();
    server.assert_works("before");
    let refused = agent.output("up");
    assert!(!refused.ok() && refused.stderr.contains("up --move-uplink"), "{refused}");
    assert_same(&before, &server.host.snapshot());

    let said = agent.run("up --move-uplink");
    assert!(said.contains("198.18.1.2/24") && said.contains("taken over from enp2s0"), "{said}");
    assert!(said.contains("ovs-port-agent up --confirm"), "{said}");
    assert!(server.is_moved());
    assert_eq!(server.host.vsctl("list-ports ovsbr0").trim(), "enp2s0");
    let mac = |name: &str| fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap();
    assert_eq!(mac("ovsbr0"), mac("enp2s0"));
    let routes = server.default_routes();
    assert!(!routes.contains("enp2s0") && routes.matches("dev ovsbr0").count() == 2, "{routes}");
    assert_eq!(routes.matches("metric 100").count(), 2, "{routes}");
    server.assert_works("moved");

    // Until then nothing else is done.
    let waiting = agent.output("up");
    assert!(!waiting.ok() && waiting.stderr.contains("waits to be confirmed"), "{waiting}");
    assert!(agent.run("up --confirm").contains("enp2s0 to ovsbr0"));
    let again = agent.output("up --confirm");
    assert!(!again.ok() && again.stderr.contains("confirmed already"), "{again}");
    assert!(agent.run("up").contains("bridge ovsbr0               as it was"));
    server.assert_works("confirmed");

    let web = server.host.container("web");
    let lab = serde_json::json!({ "cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent" });
    server.host.plugin().add(&web, &lab).success();
    assert!(web.ping(INTERNET), "NAT leaves through the bridge");
    server.host.plugin().del(&web, &lab).success();
    web.remove();

    let down = agent.run("down");
    assert!(down.contains("198.18.1.2/24 given back to enp2s0"), "{down}");
    assert_same(&before, &server.host.snapshot());
    server.assert_works("down");
    assert!(!fs::exists(JOURNAL).unwrap());
}

#[test]
fn what_nobody_confirms_returns_at_the_deadline() {
    let server = Server::new();
    let before = server.host.snapshot();
    server.host.port_agent().run("up --move-uplink --confirm-within 3");
    let since = Instant::now();
    assert!(server.is_moved());
    poll("taken back", SOON, || server.is_taken_back().then_some(()));
    assert!(since.elapsed() > Duration::from_secs(2), "after {:?}", since.elapsed());
    server.assert_returned(&before, "unconfirmed");
    let late = server.host.port_agent().output("up --confirm");
    assert!(late.stderr.contains("nobody confirmed it within 3 s"), "{late}");
    // The rest of the host is brought up without it.
    let up = server.host.port_agent().run("up");
    assert!(up.contains("uplink enp2s0") && up.contains("left as it is: nobody confirmed"), "{up}");
    server.assert_works("up without it");
    server.host.port_agent().run("down");
    assert_same(&before, &server.host.snapshot());
}

#[test]
fn a_gateway_that_falls_silent_takes_it_back_at_once() {
    let server = Server::new();
    let before = server.host.snapshot();
    let router = server.wire.router();
    // A switch that takes no bridge on this port.
    let shut = "ip link set lan0 arp off; echo 8 >/proc/sys/net/ipv4/conf/lan0/arp_ignore";
    let output = std::thread::scope(|scope| {
        let moving = scope.spawn(|| server.host.port_agent().output("up --move-uplink"));
        let plugged = || server.host.try_sh("ovs-vsctl --timeout=5 port-to-br enp2s0").ok();
        poll("enp2s0 is plugged in", SOON, || plugged().then_some(()));
        router.exec(shut);
        moving.join().unwrap()
    });
    assert!(!output.ok(), "{output}");
    for word in ["does not answer on ovsbr0", "everything is as it was"] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
    router.exec("echo 0 >/proc/sys/net/ipv4/conf/lan0/arp_ignore; ip link set lan0 arp on");
    server.assert_returned(&before, "a silent gateway");
}

#[test]
fn a_gateway_that_does_not_answer_before_is_refused() {
    let server = Server::new();
    server.wire.router().exec("echo 8 >/proc/sys/net/ipv4/conf/lan0/arp_ignore");
    server.host.ip("neigh flush all");
    let before = server.host.snapshot();
    let output = server.host.port_agent().output("up --move-uplink");
    assert!(!output.ok(), "{output}");
    assert!(output.stderr.contains("198.18.1.1 does not answer on enp2s0"), "{output}");
    assert_same(&before, &server.host.snapshot());
    assert!(!fs::exists(JOURNAL).unwrap());
}

#[test]
fn a_datagram_of_the_lan_arrives_once() {
    let server = Server::new();
    server.host.port_agent().run("up --move-uplink");
    let socket = std::net::UdpSocket::bind("0.0.0.0:9999").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let sent = 20;
    server.wire.router().inside(|| {
        let sender = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..sent {
            sender.send_to(&[number], (server.wire.address(), 9999)).unwrap();
        }
    });
    let mut seen = Vec::new();
    let mut buffer = [0; 16];
    while let Ok(1) = socket.recv(&mut buffer) {
        seen.push(buffer[0]);
    }
    assert_eq!(seen, (0..sent).collect::<Vec<u8>>());
}

#[test]
fn the_end_of_the_session_is_not_the_end_of_the_way_back() {
    let server = Server::new();
    let before = server.host.snapshot();
    let agent = server.host.port_agent();
    let program = agent.path().display();
    // A terminal's session as sshd makes it: its end is SIGHUP for all that is in it.
    let typed = format!("{program} up --move-uplink --confirm-within 4; sleep 60");
    let session = rig::Daemon::start(
        "session",
        rig::Command::new("setsid").args(["--wait", "script", "-qec", &typed, "/dev/null"]),
    );
    poll("moved", SOON, || server.phase_is("waiting").then_some(()));
    assert!(server.is_moved());
    session.kill();
    server.assert_returned(&before, "the session died");
}

#[test]
fn an_address_of_a_dhcp_server_is_refused_unless_a_static_one_is_given() {
    let server = Server::new();
    let host = &server.host;
    host.ip("address change 198.18.1.2/24 dev enp2s0 valid_lft 3600 preferred_lft 3600");
    let before = host.snapshot();
    let agent = host.port_agent();
    let output = agent.output("up --move-uplink");
    assert!(!output.ok(), "{output}");
    for word in ["198.18.1.2/24 from a DHCP server", "give ovsbr0 a static address"] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
    assert_same(&before, &host.snapshot());

    host.config(&format!("{CONFIG}addresses = [\"198.18.1.77/24\"]\ngateway = \"198.18.1.1\"\n"));
    let before = host.snapshot();
    agent.run("up --move-uplink");
    let addresses = host.ip("-o -4 address show dev ovsbr0");
    assert!(addresses.contains("198.18.1.77/24") && !addresses.contains("198.18.1.2/24"));
    assert!(host.ip("-o -4 address show dev enp2s0").is_empty());
    let routes = host.ip("-4 route show default");
    assert!(routes.contains("via 198.18.1.1 dev ovsbr0") && routes.contains("metric 220"));
    assert_eq!(routes.trim().lines().count(), 1, "{routes}");
    server.wire.router().tcp_echo("198.18.1.77".parse().unwrap(), 100_000).unwrap();
    agent.run("up --confirm");
    agent.run("down");
    assert_same(&before, &host.snapshot());
    let lifetime = host.ip("-o -4 address show dev enp2s0");
    assert!(lifetime.contains("valid_lft 3") && lifetime.contains("dynamic"), "{lifetime}");
}

#[test]
fn a_bridge_that_stood_already_takes_the_uplink_and_its_mac_and_gives_them_back() {
    let server = Server::new();
    let host = &server.host;
    // Without a configuration the two bridges come up, and no wire is touched.
    let agent = host.port_agent();
    fs::remove_file("/etc/ovs-port-agent/config.toml").unwrap();
    agent.run("up");
    host.config(CONFIG);
    let before = host.snapshot();
    agent.run("up --move-uplink --confirm-within 3");
    assert!(server.is_moved());
    let mac = |name: &str| fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap();
    assert_eq!(mac("ovsbr0"), mac("enp2s0"));
    server.assert_works("moved");
    server.assert_returned(&before, "unconfirmed");
}

/// As in [`server.host.port_agent()`], under strace; with a fault, SIGKILL comes before that call.
/// Only the command's own thread is followed: whoever stands by lives on.
fn move_under_strace(server: &Server, fault: Option<(&str, usize)>) -> rig::Output {
    let agent = server.host.port_agent();
    let mut command = rig::Command::new("strace").args(["-qq", "-o", STRACE, "-e"]);
    command = match fault {
        None => command.args([format!("trace={CALLS}")]),
        Some((call, number)) => command.args([
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:signal=KILL:when={number}"),
        ]),
    };
    let program = agent.path().display().to_string();
    // Killed behind its last step, it is taken back at the deadline.
    command.args([&*program, "up", "--move-uplink", "--confirm-within", "5"]).output()
}

const STRACE: &str = "/run/rig/move.strace";

/// The calls that change or reveal something outside the process.
const CALLS: &str =
    "openat,write,rename,unlink,mkdir,fcntl,sendto,sendmsg,connect,fdatasync,fsync,execve";

/// Each point from the first sign of the journal on, as a call and its number, in their order.
fn points() -> Vec<(String, usize)> {
    let log = fs::read_to_string(STRACE).unwrap();
    let mut counts: std::collections::BTreeMap<&str, usize> = Default::default();
    let (mut points, mut begun) = (Vec::new(), false);
    for line in log.lines() {
        let Some(call) = line.split('(').next().filter(|call| CALLS.contains(*call)) else {
            continue;
        };
        let count = counts.entry(call).or_default();
        *count += 1;
        begun |= line.contains("uplink.json.new");
        if begun {
            points.push((call.to_owned(), *count));
        }
        // Told, and the rest is words.
        if line.contains("ledger.jsonl") {
            break;
        }
    }
    points
}

/// Kills the command at every `of`th of its calls, from the `part`th on.
fn killed_at_each_step(part: usize, of: usize) {
    let server = Server::new();
    let before = server.host.snapshot();
    move_under_strace(&server, None).success();
    let points = points();
    assert!(points.len() > 60, "{points:?}");
    server.host.port_agent().run("down");
    let mut died = 0;
    for (call, number) in points.iter().skip(part).step_by(of) {
        let at = format!("killed before {call} number {number}");
        fs::remove_file(JOURNAL).ok();
        let output = move_under_strace(&server, Some((call, *number)));
        if output.ok() {
            // Waiting took fewer calls this time.
            server.host.port_agent().run("down");
            continue;
        }
        died += 1;
        poll(&format!("{at}: nobody is at it"), SOON, || {
            // Before the journal is there nothing has begun; after it, somebody stands by.
            (!fs::exists(JOURNAL).unwrap() || server.phase_is("returned") || !guarded())
                .then_some(())
        });
        if !fs::exists(JOURNAL).unwrap() || !server.phase_is("returned") {
            // Killed before anybody stood by: nothing was moved, and the next command finds that.
            assert!(!server.is_moved(), "{at}");
            server.host.port_agent().run("down");
            assert_same(&before, &server.host.snapshot());
            continue;
        }
        server.assert_returned(&before, &at);
    }
    let tried = points.len().div_ceil(of);
    println!("{died} of {tried} died");
    assert!(died * 10 >= tried * 8, "{died} of {tried} died");
}

/// Whether a process stands by.
fn guarded() -> bool {
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let path = process.path();
        fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.contains("stand-by"))
            && fs::read_link(path.join("ns/net")).is_ok_and(|net| net == own)
    })
}

#[test]
fn killed_at_each_eighth_step() {
    killed_at_each_step(0, 8);
}

#[test]
fn killed_at_each_eighth_step_from_the_fourth() {
    killed_at_each_step(4, 8);
}

/// Ends the process that stands by on this host.
fn kill_the_guard() {
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let stands = fs::read_to_string(path.join("cmdline")).is_ok_and(|l| l.contains("stand-by"));
        if stands && fs::read_link(path.join("ns/net")).is_ok_and(|net| net == own) {
            let pid: i32 = process.file_name().to_str().unwrap().parse().unwrap();
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
    poll("nobody stands by", SOON, || (!guarded()).then_some(()));
}

fn start_agent(host: &Host) -> rig::Daemon {
    let agent = rig::Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

#[test]
fn the_agent_and_the_next_command_take_it_back_where_nobody_stands_by() {
    let server = Server::new();
    let before = server.host.snapshot();
    let agent = server.host.port_agent();
    agent.run("up --move-uplink --confirm-within 3");
    kill_the_guard();
    std::thread::sleep(Duration::from_secs(4));
    assert!(server.is_moved(), "nobody is there to take it back");
    assert!(agent.run("up").contains("left as it is: nobody confirmed it within 3 s"));
    server.assert_works("the next command");
    agent.run("down");
    assert_same(&before, &server.host.snapshot());

    let _daemon = start_agent_without_uplink(&server);
    agent.run("up --move-uplink --confirm-within 3");
    kill_the_guard();
    poll("the agent takes it back", SOON, || server.is_taken_back().then_some(()));
    server.assert_works("the agent");
    assert!(!server.is_moved());
}

/// An agent that knows of no uplink yet, and the configuration that has one.
fn start_agent_without_uplink(server: &Server) -> rig::Daemon {
    fs::remove_file("/etc/ovs-port-agent/config.toml").unwrap();
    let daemon = start_agent(&server.host);
    server.host.config(CONFIG);
    daemon
}

#[test]
fn the_agent_keeps_what_was_confirmed() {
    let server = Server::new();
    let host = &server.host;
    let daemon = start_agent_without_uplink(&server);
    let agent = host.port_agent();
    agent.run("up --move-uplink");
    agent.run("up --confirm");
    poll("the agent reads its configuration", SOON, || {
        daemon.log().contains("beginning anew").then_some(())
    });
    poll("and is up", SOON, || (daemon.log().matches("the host is up").count() == 2).then_some(()));
    assert!(server.is_moved());
    server.assert_works("with the agent");
    host.ip("address flush dev ovsbr0 scope global");
    poll("flushed addresses are back", SOON, || server.is_moved().then_some(()));
    server.assert_works("flushed");
    // What a network script does that knows nothing of the bridge.
    host.ip("address add 198.18.1.2/24 dev enp2s0");
    poll("an address of the uplink goes to the bridge", SOON, || server.is_moved().then_some(()));
    host.switch().restart_vswitchd();
    poll("all is there after ovs-vswitchd", SOON, || server.is_moved().then_some(()));
    server.assert_works("ovs-vswitchd");
    drop(daemon);
}

/// What a reboot leaves: conf.db and /var, another boot id, and a wired port that the operating
/// system has given its addresses.
fn reboot(server: &Server, number: u8) {
    let host = &server.host;
    kill_the_guard();
    host.switch().kill_vswitchd();
    for bridge in ["ovsbr0", "ovsbr1"] {
        host.try_sh(&format!("ip link delete {bridge}"));
    }
    host.sh(&format!(
        "rm -rf /run/ovs-port-agent; nft flush ruleset; ip link set enp2s0 group default
         ip address flush dev enp2s0 scope global
         echo 00000000-0000-4000-8000-00000000000{number} >/run/rig/boot{number}
         mount --bind /run/rig/boot{number} /proc/sys/kernel/random/boot_id"
    ));
    for address in [server.wire.address(), server.wire.address6()] {
        let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
        host.ip(&format!("address add {address}/{length} dev enp2s0 {nodad}"));
    }
    for (gateway, family) in [(server.wire.gateway(), "-4"), (server.wire.gateway6(), "-6")] {
        host.ip(&format!("{family} route add default via {gateway} dev enp2s0 metric 100"));
    }
    host.switch().start_vswitchd();
}

#[test]
fn a_boot_keeps_what_was_confirmed_and_asks_nothing() {
    let server = Server::new();
    let agent = server.host.port_agent();
    agent.run("up --move-uplink");
    agent.run("up --confirm");
    for number in 1..=2 {
        reboot(&server, number);
        let said = agent.run("up");
        assert!(
            said.contains("198.18.1.2/24") && said.contains("taken over from enp2s0"),
            "{said}"
        );
        assert!(!said.contains("onfirm"), "{said}");
        assert!(server.is_moved());
        let routes = server.default_routes();
        assert!(
            !routes.contains("enp2s0") && routes.matches("dev ovsbr0").count() == 2,
            "{routes}"
        );
        server.assert_works("after a boot");
    }
    agent.run("down");
    assert!(!server.is_moved());
    server.assert_works("down after a boot");
}

#[test]
fn a_boot_before_the_confirmation_leaves_the_uplink_as_it_is() {
    let server = Server::new();
    let agent = server.host.port_agent();
    agent.run("up --move-uplink");
    reboot(&server, 1);
    let said = agent.run("up");
    assert!(said.contains("left as it is: the host was rebooted"), "{said}");
    assert!(!server.is_moved());
    assert_eq!(server.host.vsctl("list-ports ovsbr0").trim(), "");
    server.assert_works("after the boot");
    let late = agent.output("up --confirm");
    assert!(late.stderr.contains("rebooted before anybody confirmed it"), "{late}");
}
