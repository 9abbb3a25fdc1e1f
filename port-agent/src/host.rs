//! `up`, `down` and `sync`.

use std::io;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::{self, Engine, Picture, Restored};
use shared::config::Config;
use shared::error::sentence;
use shared::key::Key;
use shared::ledger::{Action, Event, Written};
use shared::network::{
    self,
    host::{self, Kept, Step},
};

use crate::{Failure, gc};

/// Arguments of `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// Unplug containers that are still plugged in.
    #[arg(long)]
    force: bool,
}

/// Width of the left column: "/etc/network/interfaces", and "forwarding, NAT and guard".
const WHAT: usize = 27;

pub(crate) fn up(config: Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let steps = host::up(engine.config()).map_err(Failure::new)?;
    finish(&engine, steps, out)?;
    writeln!(
        out,
        "\nThe host is up. See \"ovs-port-agent status\"; \"ovs-port-agent down\" takes it all back."
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What follows a bring-up that moved uplinks as well, and what is said of it.
pub(crate) fn moved(
    config: Config,
    steps: Vec<Step>,
    out: &mut impl io::Write,
) -> Result<(), Failure> {
    finish(&Engine::new(config), steps, out)
}

/// What follows a bring-up, and what is said of it: every step, those with nothing to do among them.
fn finish(engine: &Engine, steps: Vec<Step>, out: &mut impl io::Write) -> Result<(), Failure> {
    let kept = came_up(engine, Kept { steps, refused: Vec::new(), failed: Vec::new() })?;
    say(out, &kept.steps)?;
    try_to_show(engine, out)?;
    if kept.failed.is_empty() { Ok(()) } else { Err(Failure::Work(kept.failed.join("; "))) }
}

/// The host as the configuration wants it, without what earlier boots left, for the agent, which
/// goes on without what cannot be brought up.
pub(crate) fn begin(engine: &Engine) -> Result<Kept, Failure> {
    came_up(engine, host::keep(engine.config()).map_err(Failure::new)?)
}

fn came_up(engine: &Engine, mut kept: Kept) -> Result<Kept, Failure> {
    if let Err(error) = engine.ledger().boot("port-agent") {
        tracing::error!(error = %sentence(&error), "the ledger cannot be written");
    }
    let swept = engine.sweep_old_boots().map_err(Failure::new)?;
    if swept > 0 {
        let what = "ports of earlier boots".to_owned();
        kept.steps.push(Step { what, acts: vec![format!("{swept} removed")] });
    }
    plug_in_again(engine, &mut kept);
    let collected = collect(engine);
    if !collected.is_empty() {
        kept.steps.push(Step { what: "left behind".to_owned(), acts: collected });
    }
    record(engine, Action::Up, &kept.steps);
    Ok(kept)
}

/// Removes what crashes and earlier boots left; what cannot be removed stays, and the host is up.
fn collect(engine: &Engine) -> Vec<String> {
    let survey = engine.survey();
    if !survey.unreadable.is_empty() {
        return Vec::new();
    }
    let mut acts = Vec::new();
    for (piece, outcome) in engine.clear(survey.pieces) {
        match outcome {
            Ok(true) => acts.push(format!("{} removed", gc::said(&piece))),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %sentence(&error), "left behind, and kept"),
        }
    }
    acts
}

/// What [`begin`] does, later. With `ports`, those of containers as well. The error is a sentence.
pub(crate) fn repair(engine: &Engine, ports: bool) -> Result<Kept, String> {
    let mut kept = host::keep(engine.config()).map_err(|error| sentence(&error))?;
    if ports {
        plug_in_again(engine, &mut kept);
    }
    record(engine, Action::Up, &kept.steps);
    Ok(kept)
}

/// Ports of containers that the switch has lost, for the agent.
pub(crate) fn restore(engine: &Engine, lost: &[Key]) -> Result<Vec<Step>, String> {
    let steps = replugged(engine.restore_lost(lost))?;
    record(engine, Action::Up, &steps);
    Ok(steps)
}

/// Ports of containers that the switch had lost before `known` was seen, for the agent.
pub(crate) fn restore_unseen(engine: &Engine, known: &Picture) -> Result<Vec<Step>, String> {
    let steps = replugged(engine.restore_unseen(known))?;
    record(engine, Action::Up, &steps);
    Ok(steps)
}

/// Plugs in again what the switch has lost.
fn plug_in_again(engine: &Engine, kept: &mut Kept) {
    match replugged(engine.restore()) {
        Ok(steps) => kept.steps.extend(steps),
        Err(why) => kept.failed.push(why),
    }
}

fn replugged(restored: Result<Restored, attachment::Error>) -> Result<Vec<Step>, String> {
    let restored = restored.map_err(|error| sentence(&error))?;
    let mut steps = Vec::new();
    if !restored.plugged.is_empty() {
        let acts = restored.plugged.iter().map(|key| format!("{key} plugged in again")).collect();
        steps.push(Step { what: "lost ports".to_owned(), acts });
    }
    if restored.failed.is_empty() { Ok(steps) } else { Err(restored.failed.join("; ")) }
}

pub(crate) fn down(
    config: Config,
    arguments: &DownArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    if matches!(engine.agent_lives(), Ok(true)) {
        return Err(Failure::new(network::Error::AgentRuns));
    }
    let unplugged = engine.unplug_all(arguments.force).map_err(Failure::new)?;
    let mut steps = Vec::new();
    if unplugged > 0 {
        let acts = vec![format!("{unplugged} unplugged")];
        steps.push(Step { what: "containers".to_owned(), acts });
    }
    steps.extend(host::down(engine.config(), arguments.force).map_err(Failure::new)?);
    say(out, &steps)?;
    record(&engine, Action::Down, &steps);
    try_to_show(&engine, out)?;
    writeln!(out, "\nThe host is as it was before \"ovs-port-agent up\".")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn sync(config: Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    show(&Engine::new(config), out)?;
    Ok(ExitCode::SUCCESS)
}

/// Rewrites the managed block, which is only a view: a host is up without it.
fn try_to_show(engine: &Engine, out: &mut impl io::Write) -> Result<(), Failure> {
    match show(engine, out) {
        Err(Failure::Work(why)) => {
            tracing::warn!("the managed block is out of date: {why}");
            Ok(())
        }
        other => other,
    }
}

/// Rewrites the managed block.
fn show(engine: &Engine, out: &mut impl io::Write) -> Result<(), Failure> {
    let changed = engine.show().map_err(Failure::new)?;
    let path = engine.config().interfaces_path.display().to_string();
    let word = if changed { "managed block rewritten" } else { AS_IT_WAS };
    writeln!(out, "{path:<WHAT$} {word}")?;
    Ok(())
}

/// What is said of a step that had nothing to do.
const AS_IT_WAS: &str = "as it was";

fn say(out: &mut impl io::Write, steps: &[Step]) -> io::Result<()> {
    for step in steps {
        let acts = if step.acts.is_empty() { AS_IT_WAS.to_owned() } else { step.acts.join(", ") };
        writeln!(out, "{:<WHAT$} {acts}", step.what)?;
    }
    Ok(())
}

/// One line of history, if anything was changed.
fn record(engine: &Engine, action: Action, steps: &[Step]) {
    let changed: Vec<_> = steps
        .iter()
        .filter(|step| !step.acts.is_empty())
        .map(|step| format!("{}: {}", step.what, step.acts.join(", ")))
        .collect();
    if !changed.is_empty() {
        tell(engine, action, changed.join("; "));
    }
}

/// One line of history about the host itself.
pub(crate) fn note(engine: &Engine, what: &str) {
    tell(engine, Action::Up, what.to_owned());
}

/// The same about anything else.
pub(crate) fn tell(engine: &Engine, action: Action, note: String) {
    let mut event = Event::new("port-agent", action);
    event.note = Some(note);
    match engine.ledger().append(&event) {
        Ok(Written::Ledger) => {}
        Ok(Written::Spool) => tracing::error!(
            ledger = %engine.config().ledger_path.display(),
            "the ledger cannot be written; the line waits in {}",
            engine.state().spool().display()
        ),
        Err(error) => tracing::error!(error = %sentence(&error), "the ledger cannot be written"),
    }
}
