//! `ovs-agent-sweep [VERB...]`: the crash sweep, on private hosts.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use rig::sweep::{Choice, Report, Verb, sweep};

/// Disturbs verbs at each of their system calls, and looks after each point whether the host is
/// as it should be.
///
/// Without a verb: all. Needs root. Exit status 1 if something did not hold.
#[derive(Debug, Parser)]
#[command(after_help = "Verbs: cni-add, cni-del, cni-check, cni-gc, netavark-setup,
netavark-teardown, netavark-create, docker-create-network, docker-delete-network,
docker-create-endpoint, docker-delete-endpoint, docker-join, docker-leave,
docker-request-address, docker-release-address, up, down, gc

Examples:
  ovs-agent-sweep
  ovs-agent-sweep cni-add --at-most 50 --seed 7")]
struct Args {
    /// What to disturb.
    #[arg(value_name = "VERB", value_parser = verb)]
    verbs: Vec<Verb>,
    /// Only the calls that change or reveal something outside the process.
    #[arg(long)]
    acting: bool,
    /// At most so many kills and so many errors for each verb, spread over its calls.
    #[arg(long, value_name = "N", default_value_t = usize::MAX)]
    at_most: usize,
    /// Which share is tried where not all are, and which errors.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: usize,
    /// How many verbs at once.
    #[arg(long, value_name = "N", default_value_t = 2)]
    at_once: usize,
}

fn verb(name: &str) -> Result<Verb, String> {
    Verb::from_name(name).ok_or_else(|| "no such verb; see --help for all".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if cfg!(panic = "abort") {
        eprintln!("this build ends with the first point that is wrong: ./run sweep makes another");
        return ExitCode::FAILURE;
    }
    // What a panic says belongs to its point and is printed there.
    std::panic::set_hook(Box::new(|_| {}));
    let verbs = if args.verbs.is_empty() { Verb::ALL.to_vec() } else { args.verbs.clone() };
    let choice = Choice { every_call: !args.acting, at_most: args.at_most.max(1), seed: args.seed };
    println!(
        "{:<24}{:>7}{:>7}{:>7}{:>8}{:>8}{:>8}{:>9}",
        "verb", "calls", "kills", "died", "errors", "failed", "wrong", "seconds"
    );
    let queue = Mutex::new(VecDeque::from(verbs));
    let wrong = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.at_once.max(1) {
            // Threads of their own: each host unshares namespaces.
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(verb) = next else { return };
                    let report = sweep(verb, choice);
                    print(verb, &report);
                    *wrong.lock().unwrap_or_else(PoisonError::into_inner) += report.faults.len();
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(verb: Verb, report: &Report) {
    let Report { calls, kills, died, errors, failed, faults, took } = report;
    let faults: String = faults.iter().map(|fault| format!("\n{fault}\n")).collect();
    let wrong = report.faults.len();
    println!(
        "{:<24}{calls:>7}{kills:>7}{died:>7}{errors:>8}{failed:>8}{wrong:>8}{:>9.0}{faults}",
        verb.name(),
        took.as_secs_f64()
    );
}
