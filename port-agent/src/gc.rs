//! `gc`: removes what containers left that ended without a word.

use std::io;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::Engine;
use shared::config::Config;

use crate::Failure;
use crate::table::printable;

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArguments {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Exit code 1 if something could not be removed.
pub(crate) fn run(
    config: Config,
    arguments: &GcArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let buried = Engine::new(config).bury(arguments.dry_run).map_err(Failure::new)?;
    let done = if arguments.dry_run { "would be removed" } else { "removed" };
    for dead in &buried.dead {
        let key = &dead.record.key;
        let name = dead.record.labels.name.as_ref().map(|name| format!(" ({name})"));
        let what = format!("{key}{}", name.unwrap_or_default());
        writeln!(out, "{}: {done}: {}", printable(&what), printable(&dead.proof))?;
    }
    for (key, why) in &buried.kept {
        writeln!(out, "{}: kept: {}", printable(&key.to_string()), printable(why))?;
    }
    if buried.dead.is_empty() && buried.kept.is_empty() && buried.failed.is_empty() {
        writeln!(out, "Nothing was left behind.")?;
    }
    if buried.failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Work(buried.failed.join("; ")))
}
