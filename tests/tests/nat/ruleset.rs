//! The table as nft reads it, and how long it takes.

use super::*;

#[test]
fn nft_reads_what_was_written() {
    let host = host();
    let _wires =
        [host.uplink("eth0", 1).addressed(&host).routed(&host, 100), host.uplink("wlan0", 2)];
    let _networks = [network(&host, "ovsbr1", 1), network(&host, "vlan20", 2)];
    let segments = [
        segment("ovsbr1", 1, Uplink::Default),
        Segment { masquerade: false, ..segment("vlan20", 2, Uplink::Named(name("wlan0"))) },
    ];
    assert!(apply(&segments));
    let listing = plain(&host.sh("nft list ruleset"));
    let golden = include_str!("ruleset.nft");
    assert!(listing == golden, "expected:\n{golden}\nnft says:\n{listing}");
}

/// A listing without the digest, which every change changes, and with sorted set elements.
fn plain(listing: &str) -> String {
    let one_line = listing.replace(",\n\t\t\t     ", ", ");
    let mut text = String::new();
    for line in one_line.lines().filter(|line| !line.contains("digest")) {
        let elements = line.strip_prefix("\t\telements = { ").and_then(|l| l.strip_suffix(" }"));
        match elements {
            Some(elements) => {
                let mut elements: Vec<&str> = elements.split(", ").collect();
                elements.sort_unstable();
                text.push_str(&format!("\t\telements = {{ {} }}\n", elements.join(", ")));
            }
            None => text.push_str(&format!("{}\n", line.trim_end())),
        }
    }
    text
}

#[test]
fn a_hundred_segments_fit_one_batch_and_it_is_quick() {
    let host = host();
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let mut segments = Vec::new();
    for number in 1..=100 {
        let interface = format!("gw{number}");
        host.ip(&format!("link add {interface} type veth peer name p{number}"));
        segments.push(segment(&interface, number, Uplink::Default));
    }
    let timed = |what: &str, work: &mut dyn FnMut() -> bool| {
        let start = Instant::now();
        assert!(work(), "{what}");
        println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
        assert!(start.elapsed() < Duration::from_secs(2), "{what}");
    };
    timed("apply of one segment", &mut || apply(&segments[..1]));
    timed("no change", &mut || !apply(&segments[..1]));
    timed("missing", &mut || nat::missing(&segments[0]).unwrap().is_none());
    timed("apply of two, one of them there", &mut || apply(&segments[..2]));
    timed("apply of a hundred", &mut || apply(&segments));
    timed("no change of a hundred", &mut || !apply(&segments));
    timed("missing, of a hundred", &mut || nat::missing(&segments[99]).unwrap().is_none());
    timed("remove", &mut remove);
}
