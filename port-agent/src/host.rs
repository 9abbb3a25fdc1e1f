//! `up`, `down` and `sync`.

use std::io;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::Engine;
use shared::config::Config;
use shared::error::sentence;
use shared::ledger::{Action, Event};
use shared::network::host::{self, Step};

use crate::Failure;

/// Arguments of `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// Unplug containers that are still plugged in.
    #[arg(long)]
    force: bool,
}

pub(crate) fn up(config: Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    let steps = host::up(&config).map_err(Failure::new)?;
    say(out, &steps)?;
    let engine = Engine::new(config);
    if let Err(error) = engine.ledger().boot("port-agent") {
        tracing::error!(error = %sentence(&error), "the ledger cannot be written");
    }
    let swept = engine.sweep_old_boots().map_err(Failure::new)?;
    if swept > 0 {
        writeln!(out, "{:<28} {swept} removed", "ports of earlier boots")?;
    }
    record(&engine, Action::Up, &steps);
    show(&engine, out)
}

pub(crate) fn down(
    config: Config,
    arguments: &DownArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let unplugged = engine.unplug_all(arguments.force).map_err(Failure::new)?;
    if unplugged > 0 {
        writeln!(out, "{:<28} {unplugged} unplugged", "containers")?;
    }
    let steps = host::down(engine.config()).map_err(Failure::new)?;
    say(out, &steps)?;
    record(&engine, Action::Down, &steps);
    show(&engine, out)
}

pub(crate) fn sync(config: Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    show(&Engine::new(config), out)
}

/// Rewrites the managed block.
fn show(engine: &Engine, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    let changed = engine.show().map_err(Failure::new)?;
    let path = engine.config().interfaces_path.display().to_string();
    writeln!(out, "{path:<28} {}", word(changed))?;
    Ok(ExitCode::SUCCESS)
}

fn say(out: &mut impl io::Write, steps: &[Step]) -> io::Result<()> {
    for step in steps {
        writeln!(out, "{:<28} {}", step.what, word(step.changed))?;
    }
    Ok(())
}

fn word(changed: bool) -> &'static str {
    if changed { "changed" } else { "as it was" }
}

fn record(engine: &Engine, action: Action, steps: &[Step]) {
    let changed: Vec<_> =
        steps.iter().filter(|step| step.changed).map(|step| step.what.as_str()).collect();
    if changed.is_empty() {
        return;
    }
    let mut event = Event::new("port-agent", action);
    event.note = Some(changed.join(", "));
    if let Err(error) = engine.ledger().append(&event) {
        tracing::error!(error = %sentence(&error), "the ledger cannot be written");
    }
}
