//! Writes lines into a ledger as a process of its own, to be killed at it: each line is named on
//! stdout once `append` has said that it is safe. `flush` does the agent's part after each line,
//! twice.
//!
//! `ledger-writer LEDGER SPOOL NAME COUNT agent|always|flush SIZE BOOT`

use std::env;
use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use shared::ledger::{Action, Event, Ledger, Sync, Written};

/// Bytes kept: all, so that every acknowledged line can be asked for.
const KEPT: u64 = u64::MAX;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, spool, name, count, sync, size, boot] = args.as_slice() else {
        return Err("expected LEDGER SPOOL NAME COUNT agent|always|flush SIZE BOOT".into());
    };
    let flush = sync == "flush";
    let sync = if sync == "always" { Sync::Always } else { Sync::Agent };
    let ledger = Ledger::new(PathBuf::from(path), PathBuf::from(spool), sync)
        .with_rotation(size.parse()?, KEPT)
        .with_boot(boot);
    let mut event = Event {
        network: Some("lan".to_owned()),
        ifname: Some("eth0".to_owned()),
        netns: Some("/run/netns/cni-7d1d0a2c-5b0e-4f3c-9d0e-5f1c2b3a4d5e".to_owned()),
        bridge: Some("ovsbr1".to_owned()),
        port: Some("veth-0123456789".to_owned()),
        vlan: Some("untagged".to_owned()),
        mac: Some("02:00:00:00:00:01".to_owned()),
        addresses: vec!["10.200.0.2/24".parse()?, "fd00::2/64".parse()?],
        ..Event::new("cni", Action::Attach)
    };
    let mut out = io::stdout().lock();
    let mut times = Vec::new();
    for number in 0..count.parse::<u64>()? {
        let container = format!("{name}-{number}");
        event.container = Some(container.clone());
        let begin = Instant::now();
        let written = ledger.append(&event)?;
        times.push(begin.elapsed());
        let place = match written {
            Written::Ledger => "ledger",
            Written::Spool => "spool",
        };
        writeln!(out, "{container} {place}")?;
        if flush {
            let flushed = [ledger.flush().is_ok(), ledger.flush().is_ok()];
            writeln!(out, "flushed {flushed:?}")?;
        }
    }
    times.sort_unstable();
    if let (Some(median), Some(late)) =
        (times.get(times.len() / 2), times.get(times.len() * 99 / 100))
    {
        writeln!(io::stderr(), "median {median:?}, 99 of 100 within {late:?}")?;
    }
    Ok(())
}
