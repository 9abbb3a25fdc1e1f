//! The file's text, old to new.
//!
//! Stanzas of ours are found anywhere, by name and signature: Proxmox sorts stanzas and drops
//! comments between them. The block is written as
//!
//! ```text
//! (one blank line, unless the file starts here)
//! # BEGIN tag
//! (lines found between the markers that are not ours)
//! (stanzas, each with a blank line behind it)
//! # END tag
//! ```
//!
//! The blank lines keep both markers out of any stanza: Proxmox would carry them along as comments
//! of that stanza. A file without a final newline ends without one still: the marker lacks it.

use std::collections::BTreeMap;
use std::path::Path;

use super::foreign::Foreign;
use super::{BridgeStanza, Error, PortStanza, stanza};

/// The new text, or `None` if it is the old one. `path` names the file in errors and is what
/// relative `source` lines are relative to.
pub(super) fn rewrite(
    path: &Path,
    text: &[u8],
    tag: &str,
    bridges: &[BridgeStanza],
    ports: &[PortStanza],
) -> Result<Option<Vec<u8>>, Error> {
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    let markers = Markers::find(path, &lines, tag)?;
    let mut own = vec![false; lines.len()];
    if let Some((begin, end)) = markers.0 {
        own[begin] = true;
        own[end] = true;
    }

    let candidates = candidates(&lines, tag);
    let mut foreign = Foreign::default();
    for line in candidates.iter().flat_map(|found| &found.lines) {
        own[*line] = true;
    }
    let others = lines.iter().zip(&own).filter(|(_, own)| !**own).map(|(line, _)| *line);
    foreign.read(path, others)?;
    for found in candidates {
        if foreign.starts(found.name) {
            foreign.define(found.name);
            for line in found.lines {
                own[line] = false;
            }
        }
    }

    let stanzas = render(tag, bridges, ports, &foreign);
    let new = assemble(&lines, &own, markers.0, tag, &stanzas);
    Ok((new != text).then_some(new))
}

/// What is wrong with a marker that ifup does not see for what it is.
const CONTINUED: &str = "is in the middle of a line that a backslash continues";

/// Where the block is: the lines of BEGIN and END.
struct Markers(Option<(usize, usize)>);

impl Markers {
    fn find(path: &Path, lines: &[&[u8]], tag: &str) -> Result<Self, Error> {
        let wrong = |line: usize, word, problem| {
            let marker = format!("# {word} {tag}");
            Err(Error::Marker { path: path.to_owned(), line: line + 1, marker, problem })
        };
        let mut open = None;
        let mut block = None;
        let mut continued = false;
        for (at, line) in lines.iter().enumerate() {
            let words = ["BEGIN", "END"];
            if let Some(word) = words.into_iter().find(|word| is_marker(line, word, tag))
                && continued
            {
                // What is written beside the marker would end that line, or become part of it.
                return wrong(at, word, CONTINUED);
            }
            if !line.trim_ascii_start().starts_with(b"#") {
                continued = line.strip_suffix(b"\n").unwrap_or(line).ends_with(b"\\");
            }
            if is_marker(line, "BEGIN", tag) {
                if block.is_some() || open.is_some() {
                    return wrong(at, "BEGIN", "is there for the second time");
                }
                open = Some(at);
            } else if is_marker(line, "END", tag) {
                let Some(begin) = open.take() else {
                    return wrong(at, "END", "has no BEGIN before it");
                };
                block = Some((begin, at));
            }
        }
        match open {
            Some(begin) => wrong(begin, "BEGIN", "has no END behind it"),
            None => Ok(Self(block)),
        }
    }
}

pub(super) fn is_marker(line: &[u8], word: &str, tag: &str) -> bool {
    line.trim_ascii_start().strip_prefix(b"#").is_some_and(|comment| {
        comment
            .split(u8::is_ascii_whitespace)
            .filter(|part| !part.is_empty())
            .eq([word.as_bytes(), tag.as_bytes()])
    })
}

/// A stanza that carries our signature and nothing but what we write.
struct Candidate<'a> {
    name: &'a [u8],
    lines: Vec<usize>,
}

fn candidates<'a>(lines: &[&'a [u8]], tag: &str) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(name) = header(line)
            && let Some(lines) = body(lines, at, tag, name)
        {
            found.push(Candidate { name, lines });
        }
    }
    found
}

/// The name in `iface NAME inet manual`.
fn header(line: &[u8]) -> Option<&[u8]> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let name = words.next().filter(|key| *key == b"iface").and_then(|_| words.next())?;
    words.eq([b"inet".as_slice(), b"manual"]).then_some(name)
}

/// The lines of the stanza whose header stands at `start`, if it is ours. To ifup a stanza goes on
/// over blank lines, up to the next keyword: an option there is part of it, and makes it the user's.
fn body(lines: &[&[u8]], start: usize, tag: &str, name: &[u8]) -> Option<Vec<usize>> {
    let mut own = vec![start];
    let mut signed = false;
    let mut ended = false;
    for (at, line) in lines.iter().enumerate().skip(start + 1) {
        let text = line.trim_ascii();
        if text.is_empty() {
            if !ended {
                own.push(at);
            }
            ended = true;
        } else if text.starts_with(b"#") {
            if is_marker(line, "BEGIN", tag) || is_marker(line, "END", tag) {
                break;
            }
            if !ended && stanza::is_signature(line, tag, name) {
                own.push(at);
                signed = true;
            }
        } else if is_keyword(text) {
            break;
        } else if !ended && stanza::is_option(text) {
            own.push(at);
        } else {
            return None;
        }
    }
    signed.then_some(own)
}

/// Whether a line starts something new (interfaces(5) of ifupdown and of ifupdown2).
fn is_keyword(text: &[u8]) -> bool {
    let key = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    key.starts_with(b"allow-")
        || matches!(
            key,
            b"iface"
                | b"auto"
                | b"mapping"
                | b"source"
                | b"source-directory"
                | b"no-auto-down"
                | b"no-scripts"
                | b"rename"
                | b"template"
                | b"vlan"
        )
}

/// Our stanzas, bridges first, each kind by name, so that the same switch gives the same text.
fn render(
    tag: &str,
    bridges: &[BridgeStanza],
    ports: &[PortStanza],
    foreign: &Foreign,
) -> Vec<String> {
    let bridges: BTreeMap<_, _> = bridges
        .iter()
        .filter(|bridge| !stanza::looks_like_vlan(bridge.name.as_str()))
        .filter(|bridge| !foreign.rules_bridge(bridge.name.as_str().as_bytes()))
        .map(|bridge| (&bridge.name, bridge))
        .collect();
    let ports: BTreeMap<_, _> = ports
        .iter()
        .filter(|port| !stanza::looks_like_vlan(port.name.as_str()))
        .filter(|port| !foreign.rules_port(port.name.as_str().as_bytes()))
        .filter(|port| !bridges.contains_key(&port.name))
        .map(|port| (&port.name, port))
        .collect();
    let bridges = bridges.values().map(|bridge| stanza::bridge(bridge, tag));
    bridges.chain(ports.values().map(|port| stanza::port(port, tag))).collect()
}

fn assemble(
    lines: &[&[u8]],
    own: &[bool],
    block: Option<(usize, usize)>,
    tag: &str,
    stanzas: &[String],
) -> Vec<u8> {
    let kept = |from: usize, to: usize| {
        lines[from..to].iter().zip(&own[from..to]).filter(|(_, own)| !**own).map(|(line, _)| *line)
    };
    let (begin, end) = block.unwrap_or((lines.len(), lines.len()));
    let mut before: Vec<&[u8]> = kept(0, begin).collect();
    let mut inside: Vec<&[u8]> = Vec::new();
    let mut after = Vec::new();
    let mut bare_end = lines.last().is_some_and(|line| !line.ends_with(b"\n"));
    if block.is_some() {
        inside.extend(kept(begin, end));
        after.extend(kept(end, lines.len()));
        bare_end &= end + 1 == lines.len();
        if before.last().is_some_and(|line| is_blank(line)) {
            before.pop();
        }
    }
    while inside.last().is_some_and(|line| is_blank(line)) {
        inside.pop();
    }
    let first = inside.iter().position(|line| !is_blank(line)).unwrap_or(0);
    let inside = &inside[first..];

    let mut text = before.concat();
    let apart = |text: &mut Vec<u8>| {
        if !text.is_empty() {
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.push(b'\n');
        }
    };
    if stanzas.is_empty() {
        if !inside.is_empty() {
            apart(&mut text);
            text.extend(inside.concat());
        }
        // The markers kept it from the stanza before them: a blank line does so now.
        let goes_on = |line: &&[u8]| !is_blank(line) && !is_keyword(line.trim_ascii());
        if block.is_some() && after.first().is_some_and(goes_on) && !ends_blank(&text) {
            text.push(b'\n');
        }
        if bare_end && block.is_some() && text.ends_with(b"\n") {
            text.pop();
        }
    } else {
        apart(&mut text);
        text.extend(format!("# BEGIN {tag}\n").into_bytes());
        if !inside.is_empty() {
            text.extend(inside.concat());
            apart(&mut text);
        }
        text.extend(stanzas.concat().into_bytes());
        text.extend(format!("# END {tag}").into_bytes());
        if !bare_end {
            text.push(b'\n');
        }
    }
    text.extend(after.concat());
    text
}

/// Whether nothing can be gone on with at the end of `text`.
fn ends_blank(text: &[u8]) -> bool {
    text.is_empty() || text.ends_with(b"\n\n") || text.ends_with(b"\n\r\n")
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}
