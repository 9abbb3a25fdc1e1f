//! VLANs are real: raw frames, tagged and untagged, reach whom the port's columns say and nobody
//! else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rig::{Container, Frame, Lab, RawSocket};
use shared::attachment::AttachRequest;
use shared::vlan::{PortVlan, VlanId, VlanMode};

/// Silence after which no more frames are expected.
const QUIET: Duration = Duration::from_millis(300);

/// What a frame that must arrive may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The tags injected: none, a priority tag, two VLANs in use, one that nobody has.
const TAGS: [Option<u16>; 5] = [None, Some(0), Some(30), Some(40), Some(50)];

/// The frames that arrived, by their text, with their tags.
type Heard = BTreeMap<String, Option<u16>>;

/// A container on a port, with a socket that sends and hears what is on the wire.
struct Member {
    name: &'static str,
    vlan: PortVlan,
    container: Container,
    socket: RawSocket,
}

impl Member {
    fn new(lab: &Lab, name: &'static str, vlan: PortVlan) -> Self {
        let container = lab.host.container(name);
        lab.attach_as(&lab.plain(name, vlan.clone()));
        let socket = container.raw_socket("eth0");
        Self { name, vlan, container, socket }
    }

    /// The VLAN that a frame of the container is in; `None` if the port takes it not
    /// (ovs-vswitchd.conf.db(5), "VLAN Configuration").
    fn takes(&self, tag: Option<u16>) -> Option<u16> {
        let tag = tag.filter(|tag| *tag != 0);
        match (self.vlan.mode, self.vlan.tag, tag) {
            (VlanMode::Access, Some(own), None) => Some(own.get()),
            (VlanMode::NativeUntagged, Some(own), None) => Some(own.get()),
            (VlanMode::Access, ..) => None,
            (_, _, tag) => Some(tag.unwrap_or(0)).filter(|vlan| self.carries(*vlan)),
        }
    }

    /// The tag that a frame of this VLAN has for the container; `None` if it gets none of them.
    fn gives(&self, vlan: u16) -> Option<Option<u16>> {
        match (self.vlan.mode, self.vlan.tag.map(VlanId::get)) {
            (VlanMode::Access | VlanMode::NativeUntagged, Some(own)) if own == vlan => Some(None),
            (VlanMode::Access, _) => None,
            _ => self.carries(vlan).then_some(Some(vlan).filter(|vlan| *vlan != 0)),
        }
    }

    fn carries(&self, vlan: u16) -> bool {
        let trunks = &self.vlan.trunks;
        trunks.is_empty()
            || trunks.iter().any(|id| id.get() == vlan)
            || self.vlan.tag.is_some_and(|own| own.get() == vlan)
    }

    /// Everything that arrives, by its text, with its tag: what is expected, then until a silence.
    fn hear(&self, expected: &Heard) -> Heard {
        let mut heard = Heard::new();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let complete = expected.keys().all(|text| heard.contains_key(text));
            let patience = if complete { QUIET } else { PATIENCE };
            let ours = |frame: &Frame| frame.payload.starts_with(b"probe ");
            let Some(frame) = self.socket.receive(patience, ours) else { break };
            let text = String::from_utf8_lossy(&frame.payload);
            let text = text.trim_end_matches('\0').to_owned();
            let before = heard.insert(text.clone(), frame.vlan.filter(|tag| *tag != 0));
            assert!(before.is_none(), "{} heard \"{text}\" twice", self.name);
        }
        heard
    }
}

fn id(vlan: u16) -> VlanId {
    u64::from(vlan).try_into().unwrap()
}

fn trunk(vlans: &[u16]) -> PortVlan {
    PortVlan { trunks: vlans.iter().map(|vlan| id(*vlan)).collect(), ..PortVlan::all() }
}

fn native(vlan: u16, trunks: &[u16]) -> PortVlan {
    PortVlan { mode: VlanMode::NativeUntagged, tag: Some(id(vlan)), ..trunk(trunks) }
}

/// Every member sends every tag to everybody, and to each other member by its MAC: what arrives
/// must be what the columns say, frame by frame.
#[test]
fn frames_reach_their_vlan_and_no_other() {
    let lab = Lab::new();
    let members: Vec<_> = [
        ("green", PortVlan::access(id(30))),
        ("olive", PortVlan::access(id(30))),
        ("red", PortVlan::access(id(40))),
        ("plain", PortVlan::untagged()),
        ("simple", PortVlan::untagged()),
        ("some", trunk(&[30, 40])),
        ("all", PortVlan::all()),
        ("native", native(30, &[40])),
    ]
    .into_iter()
    .map(|(name, vlan)| Member::new(&lab, name, vlan))
    .collect();

    let mut expected: BTreeMap<_, Heard> = BTreeMap::new();
    let mut passed = BTreeSet::new();
    for sender in &members {
        let from = sender.container.mac("eth0");
        for tag in TAGS {
            let text = format!("probe {} {tag:?} to all", sender.name);
            sender.socket.send(&Frame::broadcast(from, tag, &text));
            for other in members.iter().filter(|other| other.name != sender.name) {
                let Some(wire) = sender.takes(tag).and_then(|vlan| other.gives(vlan)) else {
                    continue;
                };
                expected.entry(other.name).or_default().insert(text.clone(), wire);
                passed.insert((sender.name, other.name));
            }
        }
    }
    for pair in [("green", "olive"), ("plain", "simple"), ("some", "red"), ("native", "green")] {
        assert!(passed.contains(&pair), "{pair:?} talk");
    }
    for pair in [("green", "red"), ("green", "plain"), ("plain", "native"), ("some", "plain")] {
        assert!(!passed.contains(&pair), "{pair:?} do not talk");
    }
    for member in &members {
        let expected = expected.remove(member.name).unwrap_or_default();
        assert_eq!(member.hear(&expected), expected, "what {} hears", member.name);
    }

    // Now that the switch knows where each MAC is: still none reaches another VLAN.
    for sender in &members {
        let from = sender.container.mac("eth0");
        for (other, tag) in members.iter().flat_map(|other| TAGS.map(|tag| (other, tag))) {
            let to = other.container.mac("eth0");
            let text = format!("probe {} {tag:?} to {}", sender.name, other.name);
            sender.socket.send(&Frame { to, ..Frame::broadcast(from, tag, &text) });
        }
    }
    for member in &members {
        let (mut expected, mut forbidden) = (Heard::new(), Vec::new());
        for (sender, tag) in members.iter().flat_map(|sender| TAGS.map(|tag| (sender, tag))) {
            let text = format!("probe {} {tag:?} to {}", sender.name, member.name);
            let wire = sender.takes(tag).and_then(|vlan| member.gives(vlan));
            match wire.filter(|_| sender.name != member.name) {
                Some(wire) => drop(expected.insert(text, wire)),
                None => forbidden.push(text),
            }
        }
        let heard = member.hear(&expected);
        for (text, wire) in expected {
            assert_eq!(heard.get(&text), Some(&wire), "{text}");
        }
        for text in forbidden {
            assert_eq!(heard.get(&text), None, "{text}");
        }
    }
}

/// Sends from one to the other and says whether it arrived.
fn reaches(one: &Member, other: &Member) -> bool {
    let text = format!("probe from {}", one.name);
    one.socket.send(&Frame::broadcast(one.container.mac("eth0"), None, &text));
    other.socket.hear(&text, QUIET).is_some()
}

#[test]
fn isolated_ports_reach_the_others_but_not_each_other() {
    let lab = Lab::new();
    let member = |name: &'static str, isolated: bool| {
        let container = lab.host.container(name);
        let request = lab.plain(name, PortVlan::untagged());
        lab.attach_as(&AttachRequest { isolated, ..request });
        let socket = container.raw_socket("eth0");
        Member { name, vlan: PortVlan::untagged(), container, socket }
    };
    let (one, two, open) = (member("one", true), member("two", true), member("open", false));
    for isolated in [&one, &two] {
        assert!(reaches(isolated, &open) && reaches(&open, isolated), "{}", isolated.name);
    }
    assert!(!reaches(&one, &two) && !reaches(&two, &one));
}
