//! `ovs-agent-soak [--pairs N] [--at-once N] [--seed N]`: the soak, on a private host.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use rig::soak::{Plan, Soaked, soak};

/// ADD and DEL through the real plugin, many at once, the agent running, while ovsdb-server and
/// ovs-vswitchd are restarted and killed at random. Needs root.
///
/// Exit status 1 if a failure is not healed by DEL and another ADD, or if anything is left.
#[derive(Debug, Parser)]
struct Args {
    /// Pairs of ADD and DEL.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pairs: usize,
    /// Containers at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    at_once: usize,
    /// Ends after so long, whatever is done.
    #[arg(long, value_name = "MINUTES")]
    at_most: Option<u64>,
    /// Repeats the faults of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = args.seed.unwrap_or(now);
    println!("--pairs {} --at-once {} --seed {seed}", args.pairs, args.at_once);
    println!(
        "{:>8}{:>10}{:>20}{:>20}{:>20}{:>13}{:>13}",
        "pairs", "", "agent", "ovsdb-server", "ovs-vswitchd", "conf.db", "ledger"
    );
    let limit = args.at_most.map(|minutes| Duration::from_secs(minutes * 60));
    let plan = Plan { pairs: args.pairs, at_once: args.at_once, seed, faults: None, limit };
    // A thread of its own: the host unshares namespaces, and `main` keeps the machine's.
    let Ok(soaked) = std::thread::spawn(move || soak(plan)).join() else {
        return ExitCode::FAILURE;
    };
    let Soaked {
        pairs,
        add_failures,
        del_failures,
        most_tries,
        longest,
        sampled,
        faults,
        wrong,
        took,
        ..
    } = soaked;
    println!(
        "{pairs} pairs in {:.0} s ({:.1} a second); {} faults of ovsdb-server, {} of ovs-vswitchd; \
         {add_failures} ADDs and {del_failures} DELs failed at first, at most {most_tries} tries; \
         longest call {longest} ms; traffic through {sampled}; {} wrong",
        took.as_secs_f64(),
        pairs as f64 / took.as_secs_f64(),
        faults[0],
        faults[1],
        wrong.len()
    );
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
