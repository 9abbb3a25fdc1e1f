//! Our nftables table: what it says of each segment, and whether it is still there.
//!
//! `inet ovs-agent`, replaced as a whole in one transaction and only when it would change: taking
//! rules away makes the kernel wait for RCU. One static rule per subnet, nothing per container but
//! the ports it publishes ([`super::ports`]).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::forwarding::Switched;
use super::nft::{
    self, Batch, Chain, Comparison, Ct, Expression, Family, Hold, Hook, InstalledTable, Meta, Rule,
    Set, Socket, Verdict, padded,
};
use super::ports::{self, Elements};
use super::routing::Uplinks;
use super::{Error, Segment};
use crate::config::Uplink;
use crate::control;
use crate::hex;
use crate::link::{HOST_END_GROUP, UPLINK_GROUP};
use crate::name::IfName;
use crate::state::State;

/// The table's name, family inet.
pub const NAME: &str = "ovs-agent";

/// The bit of the packet mark that says "our forward chain let this pass". Bit 12 is nobody's in
/// the registry of packet marks but Cilium's, which uses all of them; Kubernetes has 14 and 15,
/// CNI portmap 13, Tailscale 16 to 23, Calico 16 to 31.
pub const MARK: u32 = 0x1000;

const SRCNAT: &str = "srcnat";
const FORWARD: &str = "forward";
const LEAVING: &str = "leaving";
const ENTERING: &str = "entering";
const OUTSIDE: &str = "outside";
const WIRES: &str = "wires";
const FROM_WIRE: &str = "from-wire";
const ALLOW: &str = "allow";
const GUARD: &str = "guard";

pub(super) const GATEWAYS: &str = "gateways";
const UPLINKS: &str = "uplinks";
pub(super) const UPLINKS_V4: &str = "uplinks-ipv4";
pub(super) const UPLINKS_V6: &str = "uplinks-ipv6";
const SWITCHED_V4: &str = "switched-ipv4";
const SWITCHED_V6: &str = "switched-ipv6";

/// NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// RFC 5771 and RFC 4291 section 2.7.
const MULTICAST_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4));
const MULTICAST_V6: IpNet =
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8));

/// The verb by which the agent is asked to write.
const ASK: &str = "table";
/// How long the agent may take for that.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// A rule of a segment that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The segment's gateway interface; `None` for a rule all segments share.
    pub interface: Option<IfName>,
    /// What the rule is for: its comment.
    pub rule: String,
}

/// What the table is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub(super) segments: Vec<Segment>,
    pub(super) uplinks: Uplinks,
    pub(super) switched: Switched,
}

/// Makes the table what the plan says, with all ports on record; false if it was. While an agent
/// runs it is the agent that writes: the table may be its own.
pub(super) fn write(state: &State, plan: &Plan) -> Result<bool, Error> {
    let failed = |source| Error::Table { action: "write", source };
    let layout = Layout::of(plan);
    let elements = Elements::recall(state)?;
    let mut socket = Socket::open().map_err(failed)?;
    let there = socket.table(Family::Inet, NAME).map_err(failed)?;
    let same = layout.is_installed(&mut socket, there.as_ref(), &elements).map_err(failed)?;
    let hold = Hold::of(there.as_ref());
    if same && hold == Hold::Owned {
        return Ok(false);
    }
    match control::ask(state, ASK, &Some(plan), ASK_DEADLINE) {
        Err(control::Error::Absent) if same => Ok(false),
        Err(control::Error::Absent) => {
            let batch = layout.replacement(hold, Hold::Free, &elements);
            socket.commit(&batch).map_err(failed)?;
            Ok(true)
        }
        answer => Ok(answer?),
    }
}

/// Removes the table; false if there is none.
pub(super) fn remove(state: &State) -> Result<bool, Error> {
    let failed = |source| Error::Table { action: "remove", source };
    let mut socket = Socket::open().map_err(failed)?;
    if socket.table(Family::Inet, NAME).map_err(failed)?.is_none() {
        return Ok(false);
    }
    match control::ask(state, ASK, &None::<Plan>, ASK_DEADLINE) {
        Err(control::Error::Absent) => delete(&mut socket),
        answer => Ok(answer?),
    }
}

/// Removes the table through this socket; false if there is none.
pub(super) fn delete(socket: &mut Socket) -> Result<bool, Error> {
    let failed = |source| Error::Table { action: "remove", source };
    let Some(there) = socket.table(Family::Inet, NAME).map_err(failed)? else {
        return Ok(false);
    };
    let mut batch = Batch::new(Family::Inet, NAME);
    // Declared first, so that one that vanished meanwhile is no error.
    batch.add_table("", Hold::of(Some(&there)));
    batch.delete_table();
    socket.commit(&batch).map_err(failed)?;
    Ok(true)
}

/// The rules these segments need and the table lacks.
pub(super) fn missing(segments: &[Segment]) -> Result<Vec<Missing>, Error> {
    let failed = |source| Error::Table { action: "read", source };
    let rules = Socket::open().and_then(|mut s| s.rules(Family::Inet, NAME)).map_err(failed)?;
    let found = |rule: &Rule| {
        rules.iter().any(|r| r.chain == rule.chain && r.comment.as_deref() == Some(&rule.comment))
    };
    let lacking = rules_of(segments).into_iter().filter(|(_, rule)| !found(rule));
    Ok(lacking.map(|(interface, rule)| Missing { interface, rule: rule.comment }).collect())
}

/// All of the table but the elements of its maps.
pub(super) struct Layout {
    sets: Vec<Set>,
    chains: Vec<Chain>,
    rules: Vec<Rule>,
}

impl Layout {
    pub(super) fn of(plan: &Plan) -> Self {
        let Plan { segments, uplinks, switched } = plan;
        let gateways = segments.iter().map(|segment| &segment.interface);
        let mut sets = vec![
            set(GATEWAYS, gateways),
            set(UPLINKS, uplinks.all()),
            set(UPLINKS_V4, &uplinks.ipv4),
            set(UPLINKS_V6, &uplinks.ipv6),
        ];
        let mut chains = vec![
            base(SRCNAT, "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC),
            // Before the FORWARD chain of iptables, which looks for the mark.
            base(FORWARD, "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER - 10),
            base(GUARD, "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW_BEFORE_DEFRAG),
        ];
        chains.extend([LEAVING, ENTERING, OUTSIDE, ALLOW].map(plain));
        chains.extend(ports::chains());

        let mut rules: Vec<Rule> = rules_of(segments).into_iter().map(|(_, r)| r).collect();
        if !switched.is_empty() {
            sets.push(set(SWITCHED_V4, &switched.ipv4));
            sets.push(set(SWITCHED_V6, &switched.ipv6));
            chains.extend([WIRES, FROM_WIRE].map(plain));
            rules.extend(wire_rules(switched.all_ipv6));
        }
        Self { sets, chains, rules }
    }

    /// The batch of all that is inside the table.
    fn content(&self) -> Batch {
        let mut batch = Batch::new(Family::Inet, NAME);
        self.sets.iter().for_each(|set| batch.add_set(set));
        ports::MAPS.iter().for_each(|map| batch.add_map(map));
        self.chains.iter().for_each(|chain| batch.add_chain(*chain));
        self.rules.iter().for_each(|rule| batch.add_rule(rule));
        batch
    }

    /// The table's comment: says whose it is, and by a digest what is in it.
    pub(super) fn comment(&self) -> String {
        let mut hash = Sha256::new();
        for part in self.content().content() {
            hash.update(part);
        }
        format!("written by ovs-agent, digest {}", hex::encode(&hash.finalize()[..8]))
    }

    /// Whether the table is exactly this. Sets cannot be changed while rules use them.
    pub(super) fn is_installed(
        &self,
        socket: &mut Socket,
        there: Option<&InstalledTable>,
        elements: &Elements,
    ) -> Result<bool, nft::Error> {
        if there.is_none_or(|table| table.comment != self.comment())
            || Elements::installed(socket)? != *elements
        {
            return Ok(false);
        }
        let installed = socket.rules(Family::Inet, NAME)?;
        Ok(installed.len() == self.rules.len()
            && self.chains.iter().all(|chain| {
                let there = installed.iter().filter(|rule| rule.chain == chain.name);
                let mine = self.rules.iter().filter(|rule| rule.chain == chain.name);
                there.map(|r| r.comment.as_deref()).eq(mine.map(|r| Some(&*r.comment)))
            }))
    }

    /// Old out, new in, one transaction.
    pub(super) fn replacement(&self, old: Hold, new: Hold, elements: &Elements) -> Batch {
        let comment = self.comment();
        let mut batch = Batch::new(Family::Inet, NAME);
        // Declared first: removing what is not there would refuse the whole batch.
        batch.add_table(&comment, old);
        batch.delete_table();
        batch.add_table(&comment, new);
        batch.append(self.content());
        elements.add_to(&mut batch);
        batch
    }
}

/// The rules these segments need, each with the segment it is for; within a chain, in order.
fn rules_of(segments: &[Segment]) -> Vec<(Option<IfName>, Rule)> {
    let shared = |chain, comment: &str, parts: &[Vec<Expression>]| {
        let rule = Rule { chain, comment: comment.to_owned(), expressions: parts.concat() };
        vec![(None, rule)]
    };
    let each = |rules: fn(&Segment) -> Vec<Rule>| {
        let mut found = Vec::new();
        for segment in segments {
            found.extend(rules(segment).into_iter().map(|r| (Some(segment.interface.clone()), r)));
        }
        found
    };
    let published = [status(Ct::DNAT), goto(ALLOW)];
    let answers = [state(Ct::ESTABLISHED | Ct::RELATED), goto(ALLOW)];
    [
        ports::rules().into_iter().map(|rule| (None, rule)).collect(),
        each(masquerade),
        each(hairpin),
        shared(FORWARD, "from our networks", &[inside(Meta::IifName, GATEWAYS), jump(LEAVING)]),
        shared(FORWARD, "to our networks", &[inside(Meta::OifName, GATEWAYS), jump(ENTERING)]),
        // A published port is a wish of its own, whatever way its answers take.
        shared(LEAVING, "published ports", &published),
        // Before the answers: a connection must not change to another uplink in its middle.
        each(confinement),
        shared(LEAVING, "answers", &answers),
        each(within),
        shared(LEAVING, "isolation", &[inside(Meta::OifName, GATEWAYS), drop()]),
        each(leave),
        shared(LEAVING, "foreign source", &[drop()]),
        shared(ENTERING, "answers", &answers),
        shared(ENTERING, "published ports", &published),
        shared(ENTERING, "nothing else", &[drop()]),
        shared(OUTSIDE, "to an uplink", &[inside(Meta::OifName, UPLINKS), goto(ALLOW)]),
        // Another manager's bridge (Docker, Podman, libvirt): its own rules decide, so no mark.
        shared(OUTSIDE, "to foreign bridges", &[kind(Meta::OifKind, "bridge"), accept()]),
        shared(OUTSIDE, "to anywhere else", &[goto(ALLOW)]),
        shared(ALLOW, "mark and pass", &[mark(), accept()]),
        // On a userspace datapath the host's stack sees the frames of our host ends and of plugged-in wires besides the
        // switch. On the kernel's, the switch takes them before this chain. ARP is not for nftables
        // to stop: the host ends do not answer it (link::Veth).
        shared(GUARD, "host ends", &[from_group(HOST_END_GROUP), drop()]),
        shared(GUARD, "wires", &[from_group(UPLINK_GROUP), drop()]),
    ]
    .concat()
}

/// Source NAT of what leaves; multicast keeps its source.
fn masquerade(segment: &Segment) -> Vec<Rule> {
    if !segment.masquerade {
        return Vec::new();
    }
    let rule = |subnet: IpNet| {
        let way_out = match &segment.uplink {
            // The host talking to its own gateway address stays as it is.
            Uplink::Default => [outside(Meta::OifName, GATEWAYS), is_not("lo")].concat(),
            Uplink::Named(uplink) => is(Meta::OifName, uplink.as_str()),
        };
        let parts = [from(subnet), way_out, unicast(subnet), vec![Expression::Masquerade]];
        own(segment, SRCNAT, &format!("masquerade {subnet}"), &parts)
    };
    segment.subnets.iter().map(|subnet| rule(subnet.trunc())).collect()
}

/// A container that reaches a published port of its own network through the host: the answer must
/// come back this way.
fn hairpin(segment: &Segment) -> Vec<Rule> {
    let name = segment.interface.as_str();
    let parts = [
        is(Meta::IifName, name),
        is(Meta::OifName, name),
        status(Ct::DNAT),
        vec![Expression::Masquerade],
    ];
    vec![own(segment, SRCNAT, "published to itself", &parts)]
}

/// Nothing of a segment with a named uplink leaves by another interface.
fn confinement(segment: &Segment) -> Vec<Rule> {
    let Uplink::Named(uplink) = &segment.uplink else { return Vec::new() };
    let parts = [
        is(Meta::IifName, segment.interface.as_str()),
        is_not(uplink.as_str()),
        outside(Meta::OifName, GATEWAYS),
        vec![Expression::RejectNoRoute],
    ];
    vec![own(segment, LEAVING, &format!("nowhere but {uplink}"), &parts)]
}

/// From one subnet of a segment to another of its own.
fn within(segment: &Segment) -> Vec<Rule> {
    let name = segment.interface.as_str();
    let parts = [is(Meta::IifName, name), is(Meta::OifName, name), goto(ALLOW)];
    vec![own(segment, LEAVING, "between its subnets", &parts)]
}

/// From a segment to the outside, under a source address of its own.
fn leave(segment: &Segment) -> Vec<Rule> {
    let rule = |subnet: IpNet| {
        let from_here = is(Meta::IifName, segment.interface.as_str());
        let parts = match &segment.uplink {
            Uplink::Default => [from_here, Vec::new(), from(subnet), goto(OUTSIDE)],
            Uplink::Named(uplink) => {
                [from_here, is(Meta::OifName, uplink.as_str()), from(subnet), goto(ALLOW)]
            }
        };
        own(segment, LEAVING, &format!("{subnet} to the outside"), &parts)
    };
    segment.subnets.iter().map(|subnet| rule(subnet.trunc())).collect()
}

/// What we switched forwarding on for goes to our networks only: before, nothing that came in
/// there was forwarded at all, and the host must not become a router between its wires. Devices
/// of other managers (bridges, tunnels, veths: whatever has a kind) are not our business.
fn wire_rules(all_ipv6: bool) -> Vec<Rule> {
    let rule = |chain, comment: &str, parts: &[Vec<Expression>]| Rule {
        chain,
        comment: comment.to_owned(),
        expressions: parts.concat(),
    };
    let (v4, v6) = (protocol(NFPROTO_IPV4), protocol(NFPROTO_IPV6));
    let from_v6 = if all_ipv6 { Vec::new() } else { inside(Meta::IifName, SWITCHED_V6) };
    vec![
        rule(FORWARD, "ipv4 between wires", &[v4, inside(Meta::IifName, SWITCHED_V4), jump(WIRES)]),
        rule(FORWARD, "ipv6 between wires", &[v6, from_v6, jump(WIRES)]),
        rule(WIRES, "to an uplink", &[inside(Meta::OifName, UPLINKS), goto(FROM_WIRE)]),
        rule(WIRES, "to a device with a kind", &[not_kind(Meta::OifKind, ""), accept()]),
        rule(WIRES, "to a wire", &[goto(FROM_WIRE)]),
        rule(FROM_WIRE, "from an uplink", &[inside(Meta::IifName, UPLINKS), drop()]),
        rule(FROM_WIRE, "from a device with a kind", &[not_kind(Meta::IifKind, ""), accept()]),
        rule(FROM_WIRE, "from a wire", &[drop()]),
    ]
}

fn from_group(group: u32) -> Vec<Expression> {
    let group = group.to_ne_bytes().to_vec();
    vec![Expression::Meta(Meta::IifGroup), Expression::Compare(Comparison::Is, group)]
}

fn own(segment: &Segment, chain: &'static str, what: &str, parts: &[Vec<Expression>]) -> Rule {
    let comment = format!("{}: {what}", segment.interface);
    Rule { chain, comment, expressions: parts.concat() }
}

pub(super) fn base(name: &'static str, kind: &'static str, number: i32, priority: i32) -> Chain {
    Chain { name, hook: Some(Hook { kind, number, priority }) }
}

pub(super) fn plain(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

fn set<'a>(name: &'static str, interfaces: impl IntoIterator<Item = &'a IfName>) -> Set {
    let mut interfaces: Vec<String> = interfaces.into_iter().map(IfName::to_string).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    Set { name, interfaces }
}

fn is(key: Meta, name: &str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Compare(Comparison::Is, padded(name))]
}

fn is_not(output: &str) -> Vec<Expression> {
    let name = padded(output);
    vec![Expression::Meta(Meta::OifName), Expression::Compare(Comparison::IsNot, name)]
}

fn kind(key: Meta, kind: &str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Compare(Comparison::Is, padded(kind))]
}

fn not_kind(key: Meta, kind: &str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Compare(Comparison::IsNot, padded(kind))]
}

pub(super) fn inside(key: Meta, set: &'static str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Lookup { set, inside: true }]
}

fn outside(key: Meta, set: &'static str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Lookup { set, inside: false }]
}

pub(super) fn protocol(number: u8) -> Vec<Expression> {
    vec![Expression::Meta(Meta::NfProto), Expression::Compare(Comparison::Is, vec![number])]
}

fn state(bits: u32) -> Vec<Expression> {
    [vec![Expression::Ct(Ct::State)], any_of(bits)].concat()
}

fn status(bits: u32) -> Vec<Expression> {
    [vec![Expression::Ct(Ct::Status)], any_of(bits)].concat()
}

fn any_of(bits: u32) -> Vec<Expression> {
    let zero = vec![0; 4];
    vec![
        Expression::Bitwise { mask: bits.to_ne_bytes().to_vec(), xor: zero.clone() },
        Expression::Compare(Comparison::IsNot, zero),
    ]
}

/// Sets our bit and leaves the others.
fn mark() -> Vec<Expression> {
    let (mask, xor) = ((!MARK).to_ne_bytes().to_vec(), MARK.to_ne_bytes().to_vec());
    vec![Expression::Meta(Meta::Mark), Expression::Bitwise { mask, xor }, Expression::SetMark]
}

/// The source address, at byte 12 of an IPv4 header and 8 of an IPv6 one.
fn from(subnet: IpNet) -> Vec<Expression> {
    let offset = if matches!(subnet, IpNet::V4(_)) { 12 } else { 8 };
    [family(subnet), address(offset, subnet, Comparison::Is)].concat()
}

/// No multicast destination, in the family of `subnet`; at byte 16 or 24.
fn unicast(subnet: IpNet) -> Vec<Expression> {
    match subnet {
        IpNet::V4(_) => address(16, MULTICAST_V4, Comparison::IsNot),
        IpNet::V6(_) => address(24, MULTICAST_V6, Comparison::IsNot),
    }
}

pub(super) fn family(net: IpNet) -> Vec<Expression> {
    protocol(if matches!(net, IpNet::V4(_)) { NFPROTO_IPV4 } else { NFPROTO_IPV6 })
}

pub(super) fn address(offset: u32, net: IpNet, comparison: Comparison) -> Vec<Expression> {
    let (length, mask, network) = match net {
        IpNet::V4(net) => (4, net.netmask().octets().to_vec(), net.network().octets().to_vec()),
        IpNet::V6(net) => (16, net.netmask().octets().to_vec(), net.network().octets().to_vec()),
    };
    let mut expressions = vec![Expression::Network { offset, length }];
    if net.prefix_len() < net.max_prefix_len() {
        let xor = vec![0; mask.len()];
        expressions.push(Expression::Bitwise { mask, xor });
    }
    expressions.push(Expression::Compare(comparison, network));
    expressions
}

pub(super) fn accept() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Accept)]
}

fn drop() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Drop)]
}

pub(super) fn jump(chain: &'static str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Jump(chain))]
}

fn goto(chain: &'static str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Goto(chain))]
}
