//! `doctor`: every check with its verdict and the command that puts it right.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shared::config::{self, Config};
use shared::doctor::{self, Check, Facts, Verdict};

use crate::Failure;
use crate::table::printable;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Leave out what is as it should be.
    #[arg(long, short)]
    quiet: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    verdict: Verdict,
    checks: &'a [Check],
}

/// Exit code 0: nothing to do; 1: warnings; 2: problems.
pub(crate) fn run(
    path: &Path,
    loaded: Result<Config, config::Error>,
    arguments: &DoctorArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let mut checks = doctor::examine(&Facts::gather(path, loaded));
    let verdict = doctor::worst(&checks);
    if arguments.quiet {
        checks.retain(|check| check.verdict > Verdict::Ok);
    }
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &Report { verdict, checks: &checks })
            .map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&checks, out)?;
    }
    Ok(ExitCode::from(match verdict {
        Verdict::Ok | Verdict::Note => 0,
        Verdict::Warning => 1,
        Verdict::Problem => 2,
    }))
}

fn print(checks: &[Check], out: &mut impl io::Write) -> io::Result<()> {
    let width = checks.iter().map(|check| check.what.len()).max().unwrap_or_default();
    for check in checks {
        let word = match check.verdict {
            Verdict::Problem => "PROBLEM",
            other => other.as_str(),
        };
        writeln!(out, "{word:<7}  {:<width$}  {}", check.what, printable(&check.says))?;
        if let Some(fix) = &check.fix {
            writeln!(out, "{:<7}  {:<width$}  {}", "", "->", printable(fix))?;
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let many =
        |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let told =
        [(Verdict::Problem, "problem"), (Verdict::Warning, "warning"), (Verdict::Note, "note")];
    let told: Vec<_> = told
        .into_iter()
        .map(|(verdict, noun)| (count(verdict), noun))
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| many(count, noun))
        .collect();
    let told = if told.is_empty() { "Nothing to do".to_owned() } else { told.join(", ") };
    writeln!(out, "\n{told}.")
}
