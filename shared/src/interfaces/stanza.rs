//! One stanza of ours: its text, and how it is known again.

use super::{BridgeStanza, Error, PortStanza};
use crate::vlan::PortVlan;

/// The longest tag; far longer than a program's name.
const TAG_BYTES: usize = 64;

/// Refuses a tag that could be more than a word of a comment: it comes from the configuration.
pub fn check_tag(tag: &str) -> Result<(), Error> {
    let fits = (1..=TAG_BYTES).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(()) } else { Err(Error::Tag { value: tag.to_owned() }) }
}

/// The text of a bridge, with the blank line that ends it.
pub(super) fn bridge(bridge: &BridgeStanza, tag: &str) -> String {
    let name = &bridge.name;
    format!("iface {name} inet manual\n\tovs_type OVSBridge\n{}\n", signature(tag, name.as_str()))
}

/// The text of a port, with the blank line that ends it.
///
/// `ovs_bonds` naming the port itself is there for Proxmox alone: its writer turns an OVS port that
/// no interface lists into a bare, untagged `iface` line which nobody could tell from the user's,
/// but drops one that is listed by something other than a bridge. ifup reads the key of bonds only.
pub(super) fn port(port: &PortStanza, tag: &str) -> String {
    let PortStanza { name, bridge, vlan } = port;
    let kind = if looks_physical(name.as_str()) { "OVSPort" } else { "OVSIntPort" };
    let options = options(vlan);
    format!(
        "iface {name} inet manual\n\tovs_type {kind}\n\tovs_bridge {bridge}\n\tovs_options \
         {options}\n\tovs_bonds {name}\n{}\n",
        signature(tag, name.as_str())
    )
}

/// The comment that marks a stanza as ours, under that name only: a copy under another name is not.
fn signature(tag: &str, name: &str) -> String {
    format!("# managed by {tag}: {name}\n")
}

/// Whether `line` is the signature of `name`, whatever Proxmox or an editor did to its spaces.
pub(super) fn is_signature(line: &[u8], tag: &str, name: &[u8]) -> bool {
    let Some(comment) = line.trim_ascii_start().strip_prefix(b"#") else { return false };
    let label = [tag.as_bytes(), b":"].concat();
    comment.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).eq([
        b"managed".as_slice(),
        b"by",
        &label,
        name,
    ])
}

/// Whether an option line could be ours. Any other option makes a stanza the user's.
pub(super) fn is_option(line: &[u8]) -> bool {
    let key = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    matches!(key, b"ovs_type" | b"ovs_bridge" | b"ovs_options" | b"ovs_bonds")
}

/// The columns of the port as `ovs-vsctl` takes them.
fn options(vlan: &PortVlan) -> String {
    let mut words = Vec::new();
    if let Some(tag) = vlan.tag {
        words.push(format!("tag={tag}"));
    }
    if !vlan.trunks.is_empty() {
        let ids: Vec<_> = vlan.trunks.iter().map(ToString::to_string).collect();
        words.push(format!("trunks={}", ids.join(",")));
    }
    words.push(format!("vlan_mode={}", vlan.mode.as_str()));
    words.join(" ")
}

/// Whether Proxmox takes the name for a network card's, and so knows it only as an `OVSPort`:
/// `eth1`, `nic1`, `if1`, `en…` and `ib…` (its own test reads `/eth\d+|en[^:.]+|ib[^:.]+|nic\d+/`).
fn looks_physical(name: &str) -> bool {
    let number = |prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let word = |prefix| {
        name.strip_prefix(prefix).is_some_and(|rest: &str| !rest.is_empty() && !rest.contains('.'))
    };
    ["eth", "nic", "if"].into_iter().any(number) || ["en", "ib"].into_iter().any(word)
}

/// Whether Proxmox would take the name for a VLAN device (`eth0.5`): it then refuses to save any
/// change of the file, because the parent is missing.
pub(super) fn looks_like_vlan(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(parent, id)| {
        !parent.is_empty() && !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())
    })
}
