//! Rows 13 and 14: ovs-vswitchd is killed, or away while an ADD wants it. With it come VLANs,
//! isolation and traffic back, at once or not at all: there is no moment in which a container hears
//! what it must not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rig::{Frame, RawSocket, Recovery, rounds};

use super::*;

/// Between two frames of one sender.
const EVERY: Duration = Duration::from_millis(2);

/// What one listener heard: from whom, when.
type Heard = BTreeMap<String, Vec<Instant>>;

struct Member {
    name: &'static str,
    socket: RawSocket,
    container: Container,
}

impl Member {
    fn new(site: &Site, name: &'static str, more: &Value) -> Self {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent",
                              "bridge": "ovsbr1", "ipam": {}});
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let container = site.host.container(name);
        site.host.plugin().add(&container, &conf).success();
        Self { name, socket: container.raw_socket("eth0"), container }
    }

    /// Sends a frame now and then, and writes down whose frames arrive, until `ended`.
    fn talk(&self, ended: &AtomicBool) -> Heard {
        let mac = self.container.mac("eth0");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A host end may be without its switch for a while; that is the point.
                let frame = Frame::broadcast(mac, None, &format!("probe {} ", self.name));
                while !ended.load(Ordering::Relaxed) {
                    self.socket.send(&frame);
                    std::thread::sleep(EVERY);
                }
            });
            let mut heard = Heard::new();
            while !ended.load(Ordering::Relaxed) {
                let probe = |frame: &Frame| frame.payload.starts_with(b"probe ");
                if let Some(frame) = self.socket.receive(Duration::from_millis(20), probe) {
                    let text = String::from_utf8_lossy(&frame.payload).into_owned();
                    let from = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    heard.entry(from).or_default().push(Instant::now());
                }
            }
            heard
        })
    }
}

/// The longest pause between two of these.
fn longest_gap(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[test]
fn a_killed_ovs_vswitchd_comes_back_with_vlans_and_isolation_at_once() {
    let site = Site::with_agent();
    let members = [
        ("red", json!({"vlan": 30})),
        ("ruby", json!({"vlan": 30})),
        ("blue", json!({"vlan": 40})),
        ("plain", json!({})),
        ("lone", json!({"vlan": 50, "isolated": true})),
        ("alone", json!({"vlan": 50, "isolated": true})),
        ("host50", json!({"vlan": 50})),
    ]
    .map(|(name, more)| Member::new(&site, name, &more));
    // Who may hear whom.
    let may = |from: &str, to: &str| {
        matches!(
            (from, to),
            ("red", "ruby")
                | ("ruby", "red")
                | ("lone" | "alone", "host50")
                | ("host50", "lone" | "alone")
        )
    };
    let (web, _) = site.plug("web");
    let switch = site.host.switch();
    let mut outage = Recovery::of("13 ovs-vswitchd killed: frames pass between containers again");
    let mut gateway = Recovery::of("13 ovs-vswitchd killed: the gateway answers again");
    for round in 0..rounds(3, 100) {
        let ended = AtomicBool::new(false);
        let heard: Vec<Heard> = std::thread::scope(|scope| {
            let ended = &ended;
            let threads: Vec<_> =
                members.iter().map(|member| scope.spawn(move || member.talk(ended))).collect();
            std::thread::sleep(Duration::from_millis(300));
            let begin = Instant::now();
            switch.kill_vswitchd();
            // Whoever looks after it may take a moment.
            std::thread::sleep(Duration::from_millis((round as u64 * 61) % 300));
            switch.start_vswitchd();
            poll("the gateway", CONVERGED, || {
                web.try_exec("ping -n -q -c 1 -W 1 10.200.0.1").ok().then_some(())
            });
            gateway.took(begin.elapsed());
            std::thread::sleep(Duration::from_millis(500));
            ended.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (to, heard) in members.iter().zip(&heard) {
            for (from, times) in heard {
                let count = times.len();
                assert!(
                    may(from, to.name),
                    "round {round}: {} heard {count} frames of {from}",
                    to.name
                );
            }
            for from in members.iter().filter(|from| may(from.name, to.name)) {
                let times = heard.get(from.name).unwrap_or_else(|| {
                    panic!("round {round}: {} never heard {}", to.name, from.name)
                });
                assert!(times.len() > 100, "round {round}: {} frames", times.len());
                outage.took(longest_gap(times));
            }
        }
    }
    assert!(outage.worst() < CONVERGED && gateway.worst() < CONVERGED);
    for member in members {
        let mut conf = lab();
        conf["ipam"] = json!({});
        site.del(&member.container, &conf).success();
    }
    site.assert_whole("after all", &[&web]);
    site.del(&web, &lab()).success();
    site.assert_clean("after all");
}

/// While it is away the host's own stack must not take its place: it has the other ends of the
/// cables.
#[test]
fn while_ovs_vswitchd_is_away_nobody_answers_in_its_stead() {
    let site = Site::with_agent();
    let wire = site.host.uplink("eth0", 1).addressed(&site.host).routed(&site.host, 100);
    let (web, own) = site.plug("web");
    let (db, there) = site.plug("db");
    let _servers = (site.host.echo_server(), db.echo_server());
    web.tcp_echo(GATEWAY, 1000).unwrap();
    let socket = web.raw_socket("eth0");
    site.host.switch().kill_vswitchd();
    let mac = web.mac("eth0");
    let IpAddr::V4(own) = own else { panic!("an IPv4 address first") };
    for wanted in [GATEWAY, there, wire.address()] {
        let IpAddr::V4(wanted) = wanted else { panic!("{wanted}") };
        // Who has it? (RFC 826)
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
        payload.extend(mac);
        payload.extend(own.octets());
        payload.extend([0; 6]);
        payload.extend(wanted.octets());
        let ask = Frame { to: [0xff; 6], from: mac, vlan: None, ethertype: [8, 6], payload };
        for _ in 0..20 {
            socket.send(&ask);
            let answer = socket.receive(Duration::from_millis(20), |frame| {
                frame.ethertype == [8, 6] && frame.payload[7] == 2
            });
            assert_eq!(answer, None, "somebody has {wanted}");
        }
        assert!(web.tcp_echo(IpAddr::V4(wanted), 10).is_err(), "{wanted} answers");
    }
    site.host.switch().start_vswitchd();
    let back = |what: &str, to: IpAddr| {
        poll(what, CONVERGED, || web.tcp_echo(to, 1000).ok());
    };
    back("the gateway", GATEWAY);
    back("the other container", there);
    site.assert_whole("it is back", &[&web, &db]);
}

#[test]
fn an_add_while_ovs_vswitchd_is_away_leaves_nothing_and_the_same_add_succeeds() {
    let site = Site::with_agent();
    let web = site.host.container("web");
    let switch = site.host.switch();
    for round in 0..rounds(1, 20) {
        switch.kill_vswitchd();
        let error = site.add(&web, &lab()).failure();
        assert!(said(&error).contains("ovs-vswitchd"), "{error}");
        assert_eq!(site.host.vsctl("list-ports ovsbr1").trim(), "", "round {round}");
        switch.start_vswitchd();
        site.assert_whole(&format!("round {round}"), &[]);
        site.assert_heals(&format!("round {round}"), &web);
    }
}
