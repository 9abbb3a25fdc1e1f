//! The picture as a tree of text.

use std::fmt::Write as _;

use super::picture::{Bridge, Lane, Picture, Plug};

pub(super) fn draw(picture: &Picture) -> String {
    let mut text = format!("{}\n", picture.host);
    for (at, bridge) in picture.bridges.iter().enumerate() {
        let last = at + 1 == picture.bridges.len();
        branch(&mut text, "", last, &head(picture, bridge));
        let indent = if last { "   " } else { "│  " };
        for (at, lane) in bridge.lanes.iter().enumerate() {
            let last = at + 1 == bridge.lanes.len();
            branch(&mut text, indent, last, &lane_head(lane));
            let indent = format!("{indent}{}", if last { "   " } else { "│  " });
            for (at, plug) in lane.plugs.iter().enumerate() {
                branch(&mut text, &indent, at + 1 == lane.plugs.len(), &leaf(plug));
            }
        }
    }
    text
}

fn branch(text: &mut String, indent: &str, last: bool, content: &str) {
    let twig = if last { "└─ " } else { "├─ " };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{indent}{twig}{content}");
}

fn head(picture: &Picture, bridge: &Bridge) -> String {
    let mut words = vec![format!("{}  {}, {}", bridge.name, bridge.mode, bridge.state)];
    if !bridge.datapath.is_empty() {
        words.push(bridge.datapath.clone());
    }
    words.extend(bridge.mtu.map(|mtu| format!("MTU {mtu}")));
    words.extend(bridge.addresses.iter().cloned());
    for at in &bridge.uplinks {
        let uplink = &picture.uplinks[*at];
        words.push(format!("uplink {} ({})", uplink.name, uplink.state));
    }
    words.join(", ")
}

fn lane_head(lane: &Lane) -> String {
    if lane.notes.is_empty() {
        return lane.name.clone();
    }
    format!("{}  {}", lane.name, lane.notes.join(", "))
}

fn leaf(plug: &Plug) -> String {
    let mut words = vec![plug.container.clone(), plug.runtime.clone(), plug.ifname.clone()];
    words.extend(plug.addresses.iter().cloned());
    words.push(plug.port.clone());
    words.extend(plug.trouble.iter().map(|trouble| trouble.to_uppercase()));
    words.join("  ")
}
