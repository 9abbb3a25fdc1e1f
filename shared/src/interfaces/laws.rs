//! What must hold for any `/etc/network/interfaces` and anything shown in it.
#![allow(clippy::expect_used, reason = "a law that does not hold must be heard")]

use std::collections::BTreeSet;
use std::path::Path;

use super::{BridgeStanza, PortStanza, block};
use crate::error::sentence;
use crate::name::IfName;
use crate::vlan::{PortVlan, VlanId};
use laws::one_line;

const TAG: &str = "ovs-port-agent";

/// A file that is not there, so that nothing relative is found beside it.
const FILE: &str = "/nonexistent/interfaces";

/// The first line says what to show, as `bridge` and `port@bridge` or `port@bridge/vlan`; the rest
/// is the file.
///
/// What was taken out of the block is as if the block had never been; rendering again changes
/// nothing; every line of somebody else stays, in its order.
pub fn interfaces(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, rest) = data.split_at(at);
    let text = rest.strip_prefix(b"\n").unwrap_or(rest);
    // Files that a `source` line names are those of the machine the law is tried on.
    if text.windows(6).any(|word| word == b"source") && text.contains(&b'/') {
        return;
    }
    let (bridges, ports) = shown(&String::from_utf8_lossy(first));
    let Some(bare) = rewritten(text, &[], &[]) else { return };
    let with = rewritten(text, &bridges, &ports).expect("the markers were well a moment ago");
    assert_eq!(rewritten(&with, &bridges, &ports).as_ref(), Some(&with), "twice is once");
    assert_eq!(rewritten(&bare, &[], &[]).as_ref(), Some(&bare), "nothing is left to take out");
    let again = rewritten(&bare, &bridges, &ports).expect("a file without markers");
    assert_eq!(rewritten(&again, &[], &[]).as_ref(), Some(&bare), "taking out gives back");
    let without = rewritten(&with, &[], &[]).expect("what was written has both markers");
    let mut kept = lines(&without).into_iter();
    assert!(lines(&bare).iter().all(|line| kept.any(|other| other == *line)), "a line is lost");
    if bare == text {
        assert_eq!(without, text, "byte for byte");
        assert!(with.starts_with(text), "what stood there stands there");
    }
}

/// The lines that say something, without what ends them.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).collect()
}

/// The new text; `None` if the markers are broken.
fn rewritten(text: &[u8], bridges: &[BridgeStanza], ports: &[PortStanza]) -> Option<Vec<u8>> {
    match block::rewrite(Path::new(FILE), text, TAG, bridges, ports) {
        Ok(new) => Some(new.unwrap_or_else(|| text.to_vec())),
        Err(error) => {
            one_line(&sentence(&error));
            None
        }
    }
}

fn shown(line: &str) -> (Vec<BridgeStanza>, Vec<PortStanza>) {
    let (mut bridges, mut ports) = (Vec::new(), Vec::new());
    let mut taken: BTreeSet<IfName> = BTreeSet::new();
    for word in line.split_whitespace() {
        let (name, place) = word.split_once('@').unwrap_or((word, ""));
        let Ok(name) = name.parse::<IfName>() else { continue };
        if !taken.insert(name.clone()) {
            continue;
        }
        let (bridge, vlan) = place.split_once('/').unwrap_or((place, ""));
        let vlan = vlan.parse::<u64>().ok().and_then(|id| VlanId::try_from(id).ok());
        let vlan = vlan.map_or_else(PortVlan::untagged, PortVlan::access);
        match bridge.parse() {
            Ok(bridge) => ports.push(PortStanza { name, bridge, vlan }),
            Err(_) => bridges.push(BridgeStanza { name }),
        }
    }
    (bridges, ports)
}
