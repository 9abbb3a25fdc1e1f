//! The picture as a Mermaid flow chart.

use std::fmt::Write as _;

use super::picture::{Picture, Plug};

/// Fill and stroke of each runtime, as in the SVG.
const CLASSES: &str = "\
  classDef cni fill:#ede9fe,stroke:#7c3aed,color:#1e1b4b
  classDef docker fill:#e0f2fe,stroke:#0284c7,color:#082f49
  classDef podman fill:#fae8ff,stroke:#a21caf,color:#3b0764
  classDef host fill:#ecfccb,stroke:#4d7c0f,color:#1a2e05
  classDef uplink fill:#f1f5f9,stroke:#475569,color:#0f172a
  classDef trouble fill:#fee2e2,stroke:#dc2626,color:#450a0a
";

pub(super) fn draw(picture: &Picture) -> String {
    let mut text = String::from("flowchart LR\n");
    // Writing to a String cannot fail.
    let mut line = |content: String| {
        let _ = writeln!(text, "  {content}");
    };
    for (at, uplink) in picture.uplinks.iter().enumerate() {
        let lines = [vec![uplink.name.clone(), uplink.state.clone()], uplink.addresses.clone()];
        line(format!("u{at}[/{}/]:::uplink", label(&lines.concat())));
    }
    for (b, bridge) in picture.bridges.iter().enumerate() {
        let title = format!("{} ({}, {})", bridge.name, bridge.mode, bridge.state);
        line(format!("subgraph b{b}[{}]", label(&[title])));
        line("  direction LR".to_owned());
        let mut own = vec![bridge.name.clone()];
        own.extend(bridge.addresses.iter().cloned());
        line(format!("  s{b}(({}))", label(&own)));
        for (l, lane) in bridge.lanes.iter().enumerate() {
            let mut lines = vec![lane.name.clone()];
            lines.extend(lane.notes.iter().cloned());
            line(format!("  b{b}l{l}{{{{{}}}}}", label(&lines)));
            line(format!("  s{b} --- b{b}l{l}"));
            for (p, plug) in lane.plugs.iter().enumerate() {
                let node = format!("b{b}l{l}p{p}");
                line(format!("  {node}({}):::{}", label(&words(plug)), class(plug)));
                line(format!("  b{b}l{l} --- {node}"));
            }
        }
        line("end".to_owned());
        for at in &bridge.uplinks {
            line(format!("u{at} === s{b}"));
        }
    }
    text.push_str(CLASSES);
    text
}

fn words(plug: &Plug) -> Vec<String> {
    let mut words = vec![plug.container.clone(), format!("{} {}", plug.runtime, plug.ifname)];
    words.extend(plug.addresses.iter().cloned());
    words.extend(plug.trouble.iter().cloned());
    words
}

fn class(plug: &Plug) -> &str {
    match plug.runtime.as_str() {
        _ if plug.trouble.is_some() => "trouble",
        known @ ("cni" | "docker" | "podman") => known,
        _ => "host",
    }
}

/// A text of several lines in quotes. Whatever could mean something to Mermaid or to the HTML it
/// makes stands as its number.
fn label(lines: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || " .:,/()_-".contains(c);
    let mut text = String::from("\"");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            text.push_str("<br/>");
        }
        for c in line.chars() {
            if plain(c) {
                text.push(c);
            } else {
                let _ = write!(text, "#{};", u32::from(c));
            }
        }
    }
    text.push('"');
    text
}
