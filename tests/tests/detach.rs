//! DEL: whatever is missing, moved, broken or dead, afterwards nothing is left of the attachment
//! and everything of others is as it was.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rig::lab::key;
use rig::{Container, Lab, assert_same};
use serde_json::Value;
use shared::attachment::{Engine, Error, Record};
use shared::config::Config;

/// What a DEL with a dead or frozen Open vSwitch may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// A host with a container, a veth and a port of somebody else.
fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    lab.host.bridge("foreign");
    lab.host.ip("link add veth-other type veth peer name veth-other-p");
    lab.host.vsctl("add-port foreign veth-other tag=7 -- set Port veth-other external_ids:a=b");
    lab.host.switch().wait_open("veth-other");
    let web = lab.host.container("web");
    (lab, web)
}

/// Attaches, wrecks, detaches twice: nothing is left, and the host is as it was.
fn survives(lab: &Lab, web: &Container, what: &str, wreck: impl FnOnce(&Record)) {
    let before = lab.snapshot();
    let record = lab.attach(web);
    wreck(&record);
    for turn in ["first", "second"] {
        lab.engine.detach(&record.key).unwrap_or_else(|e| panic!("{what}: {turn} DEL: {e}"));
    }
    assert_eq!(lab.traces(), [""; 0], "{what}");
    lab.assert_returned(&before, what);
}

#[test]
fn what_is_gone_from_the_kernel() {
    let (lab, web) = lab();
    let ip = |args: &str| lab.host.ip(args);
    survives(&lab, &web, "nothing missing", |_| ());
    survives(&lab, &web, "container end deleted", |_| drop(web.ip("link delete eth0")));
    survives(&lab, &web, "host end deleted", |r| drop(ip(&format!("link delete {}", r.port))));
    survives(&lab, &web, "container end renamed", |_| {
        web.ip("link set eth0 down");
        web.ip("link set eth0 name lan0");
    });
    survives(&lab, &web, "host end renamed", |r| {
        ip(&format!("link set {} down", r.port));
        ip(&format!("link set {} name elsewhere", r.port));
    });
    survives(&lab, &web, "both ends renamed", |r| {
        web.ip("link set eth0 down");
        web.ip("link set eth0 name lan0");
        ip(&format!("link set {} down", r.port));
        ip(&format!("link set {} name elsewhere", r.port));
    });
    let other = lab.host.container("other");
    survives(&lab, &web, "host end moved", |r| {
        ip(&format!("link set {} netns other", r.port));
    });
    survives(&lab, &web, "container end moved", |_| {
        web.ip("link set eth0 netns other");
    });
    assert!(!other.ip("-o link").contains("eth0"));
}

#[test]
fn what_is_gone_from_the_switch() {
    let (lab, web) = lab();
    let vsctl = |args: &str| lab.host.vsctl(args);
    survives(&lab, &web, "port deleted", |r| drop(vsctl(&format!("del-port {}", r.port))));
    survives(&lab, &web, "port moved to another bridge", |r| {
        let id = vsctl(&format!("get Port {} _uuid", r.port));
        let id = id.trim();
        vsctl(&format!("remove Bridge ovsbr1 ports {id} -- add Bridge foreign ports {id}"));
    });
    survives(&lab, &web, "port without its owner", |r| {
        // Then it is nobody's: DEL leaves the row, and takes the interface, which is ours.
        vsctl(&format!("clear Port {} external_ids", r.port));
        lab.detach("web");
        assert!(vsctl("list-ports ovsbr1").contains(r.port.as_str()));
        vsctl(&format!("del-port {}", r.port));
    });
    let before = lab.snapshot();
    lab.host.bridge("short");
    let mut request = lab.request("web");
    request.bridge = "short".parse().unwrap();
    let record = lab.attach_as(&request);
    lab.host.vsctl("del-br short");
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0], "{}", record.port);
    assert_same(&before, &lab.snapshot());
}

#[test]
fn what_is_gone_from_our_own_records() {
    let (lab, web) = lab();
    let state = lab.engine.state();
    let record_file = || {
        let mut files = shared::state::files(&state.attachments()).unwrap();
        assert_eq!(files.len(), 1);
        files.remove(0)
    };
    survives(&lab, &web, "record deleted", |_| fs::remove_file(record_file()).unwrap());
    survives(&lab, &web, "record torn", |_| {
        let text = fs::read(record_file()).unwrap();
        fs::write(record_file(), &text[..text.len() / 2]).unwrap();
    });
    survives(&lab, &web, "record empty", |_| fs::write(record_file(), "").unwrap());
    survives(&lab, &web, "leases deleted", |_| fs::remove_dir_all(state.leases()).unwrap());
    // What `up` left there is gone too: not a matter of this container.
    let record = lab.attach(&web);
    fs::remove_dir_all(state.dir()).unwrap();
    lab.detach("web");
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0], "{}", record.port);
    assert!(!lab.host.ip("-o link").contains(record.port.as_str()));
}

#[test]
fn without_its_namespace() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let web = lab.host.container("web");
    lab.attach(&web);
    web.remove();
    lab.detach("web");
    lab.detach("web");
    assert_same(&before, &lab.snapshot());
}

#[test]
fn a_namespace_that_took_the_path_is_left_alone() {
    let lab = Lab::new();
    let web = lab.host.container("web");
    let record = lab.attach(&web);
    web.remove();
    let next = lab.host.container("web");
    // As like the old one as can be.
    next.ip(&format!("link add eth0 address {} type veth peer name p", record.mac));
    next.ip("link set eth0 up");
    let before = next.ip("-d link");
    lab.detach("web");
    assert_eq!(next.ip("-d link"), before);
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn a_stranger_that_took_the_name_is_left_alone() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    let name = &record.port;
    lab.host.ip(&format!("link delete {name}"));
    lab.host.vsctl(&format!("del-port {name}"));
    lab.host.ip(&format!("link add {name} type veth peer name stranger"));
    lab.host.vsctl(&format!("add-port foreign {name}"));
    web.ip("link add eth0 type veth peer name p");
    let look = || {
        let id = lab.host.vsctl(&format!("get Port {name} _uuid"));
        (lab.host.ip(&format!("-d link show {name}")), id, web.ip("-d link"))
    };
    let before = look();
    lab.detach("web");
    assert_eq!(look(), before);
}

#[test]
fn of_what_was_never_added() {
    let (lab, _web) = lab();
    let before = lab.snapshot().with_tree("/var/lib/ovs-port-agent");
    assert!(lab.engine.detach(&key("nobody")).unwrap().is_none());
    assert_same(&before, &lab.snapshot().with_tree("/var/lib/ovs-port-agent"));
}

#[test]
fn with_ovs_vswitchd_stopped_frozen_killed() {
    let (lab, web) = lab();
    let switch = lab.host.switch();
    for fault in ["stopped", "frozen", "killed"] {
        let before = lab.snapshot();
        lab.attach(&web);
        match fault {
            "stopped" => switch.stop_vswitchd(),
            "frozen" => switch.freeze_vswitchd(),
            _ => switch.kill_vswitchd(),
        }
        let start = Instant::now();
        lab.detach("web");
        assert!(start.elapsed() < Duration::from_secs(1), "{fault}: {:?}", start.elapsed());
        assert_eq!(lab.traces(), [""; 0], "{fault}");
        match fault {
            "frozen" => switch.thaw_vswitchd(),
            _ => switch.start_vswitchd(),
        }
        lab.assert_returned(&before, fault);
    }
}

/// Attaches, takes ovsdb-server away: DEL says so and does the rest; once it is back, DEL finishes.
fn finishes_later(lab: &Lab, web: &Container, take: impl FnOnce(), give: impl FnOnce()) {
    let before = lab.snapshot();
    let record = lab.attach(web);
    take();
    let start = Instant::now();
    let error = lab.engine.detach(&record.key).unwrap_err();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(matches!(error, Error::Remains { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("ovsdb-server at") && !said.contains("interface"), "{said}");
    assert!(!lab.host.ip("-o link").contains(record.port.as_str()));
    assert!(lab.engine.pools().leases().unwrap().is_empty());
    give();
    assert_eq!(lab.traces().len(), 2, "port and record: {:?}", lab.traces());
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
    lab.assert_returned(&before, "ovsdb-server is back");
}

#[test]
fn with_ovsdb_server_down() {
    let (lab, web) = lab();
    let switch = lab.host.switch();
    finishes_later(&lab, &web, || switch.stop_ovsdb(), || switch.start_ovsdb());
    finishes_later(&lab, &web, || switch.kill_ovsdb(), || switch.start_ovsdb());
}

#[test]
fn with_ovsdb_server_frozen() {
    let (lab, web) = lab();
    let switch = lab.host.switch();
    finishes_later(&lab, &web, || switch.freeze_ovsdb(), || switch.thaw_ovsdb());
}

#[test]
fn addresses_stay_taken_while_the_container_may_use_them() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    // Nothing says any more which interface it was.
    for path in shared::state::files(&lab.engine.state().attachments()).unwrap() {
        fs::write(path, "{").unwrap();
    }
    lab.host.switch().stop_ovsdb();
    assert!(matches!(lab.engine.detach(&record.key), Err(Error::Remains { .. })));
    let held: Vec<_> =
        lab.engine.pools().leases().unwrap().into_iter().map(|(_, l)| l.ip).collect();
    for lease in &record.leases {
        assert!(held.contains(&lease.ip), "{} was freed under a living container", lease.ip);
    }
    lab.host.switch().start_ovsdb();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn by_another_configuration() {
    let (lab, web) = lab();
    let other = Engine::new(Config {
        naming_template: "ovs{index}-{container}".parse().unwrap(),
        bridges: Vec::new(),
        ..Config::default()
    });
    survives(&lab, &web, "configuration changed", |record| {
        other.detach(&record.key).unwrap();
        lab.engine.show().unwrap();
    });
    survives(&lab, &web, "configuration changed, record deleted", |record| {
        fs::remove_dir_all(lab.engine.state().attachments()).unwrap();
        other.detach(&record.key).unwrap();
        lab.engine.show().unwrap();
    });
}

#[test]
fn with_the_database_made_anew() {
    let (lab, web) = lab();
    let record = lab.attach(&web);
    let switch = lab.host.switch();
    switch.stop_ovsdb();
    lab.host.sh("rm /run/rig/conf.db; ovsdb-tool create /run/rig/conf.db \
         /usr/share/openvswitch/vswitch.ovsschema");
    switch.start_ovsdb();
    lab.host.vsctl("--no-wait init");
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0], "{}", record.port);
    // `up` makes everything again, and the next ADD works.
    rig::poll("up", Duration::from_secs(20), || {
        shared::network::host::up(lab.engine.config()).ok()
    });
    let record = lab.attach(&web);
    lab.check(&record).unwrap();
    assert!(web.ping("10.200.0.1".parse().unwrap()));
}

#[test]
fn a_failed_add_leaves_the_interface_of_another_network_alone() {
    let (lab, _web) = lab();
    let mut one = lab.request("web");
    one.mac = Some("02:00:00:00:00:11".parse().unwrap());
    let record = lab.attach_as(&one);
    // Same interface name, same MAC, another network: only the first is there.
    let mut two = one.clone();
    two.key.network = "second".to_owned();
    assert!(matches!(lab.engine.attach(&two), Err(Error::InterfaceExists { .. })));
    lab.check(&record).unwrap();
    lab.detach("web");
    assert_eq!(lab.traces(), [""; 0]);
}

/// Somebody in the agent's place, who takes one question and says `answer`; returns the question.
fn in_the_agents_place(answer: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind("/run/ovs-port-agent/control.sock").unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut question).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        // Silent until the other side gives up.
        drop(stream.read(&mut [0]));
        question
    })
}

#[test]
fn an_agent_that_says_it_is_gone_is_not_taken_at_its_word() {
    let (lab, web) = lab();
    for answer in ["\n{\"ok\":true}\n", "\n{\"ok\":false}\n", "\n", "nonsense\n", ""] {
        let record = lab.attach(&web);
        let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", record.port)).unwrap();
        let agent = in_the_agents_place(answer);
        let begin = Instant::now();
        lab.engine.detach(&record.key).unwrap();
        assert!(begin.elapsed() < PATIENCE, "{answer:?}");
        assert_eq!(lab.traces(), [""; 0], "{answer:?}");
        let question: Value = serde_json::from_str(&agent.join().unwrap()).unwrap();
        let asked = &question["unlink"];
        assert_eq!(asked["name"], record.port.as_str(), "{question}");
        assert_eq!(asked["index"].to_string(), index.trim(), "{question}");
        fs::remove_file("/run/ovs-port-agent/control.sock").unwrap();
    }
}
