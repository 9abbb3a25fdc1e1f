//! `gc`: what a crash left behind, with the proof, and its removal.

use std::io;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shared::attachment::Engine;
use shared::attachment::garbage::{Kind, Piece, Survey};
use shared::config::Config;
use shared::error::sentence;
use shared::ledger::Action;

use crate::table::{self, printable};
use crate::{Failure, host};

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArguments {
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// What became of a piece.
#[derive(Debug, Serialize)]
struct Cleared {
    #[serde(flatten)]
    piece: Piece,
    /// "removed", "would be removed", or why not.
    outcome: String,
}

/// All that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    found: Vec<Cleared>,
    spared: Vec<String>,
    unreadable: Vec<String>,
}

/// Exit code 1 says that a source cannot be read or that something could not be removed.
pub(crate) fn run(
    config: Config,
    arguments: &GcArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let engine = Engine::new(config);
    let Survey { pieces, spared, unreadable } = engine.survey();
    let mut well = unreadable.is_empty();
    let all = |pieces: Vec<Piece>, outcome: &str| {
        let cleared = |piece| Cleared { piece, outcome: outcome.to_owned() };
        pieces.into_iter().map(cleared).collect()
    };
    let found: Vec<Cleared> = if !unreadable.is_empty() {
        all(pieces, "kept: a source cannot be read")
    } else if arguments.dry_run {
        all(pieces, "would be removed")
    } else {
        let outcome = |(piece, result)| {
            let outcome = match result {
                Ok(true) => "removed".to_owned(),
                Ok(false) => "kept: somebody is at work on it".to_owned(),
                Err(error) => {
                    well = false;
                    format!("kept: {}", sentence(&error))
                }
            };
            Cleared { piece, outcome }
        };
        engine.clear(pieces).into_iter().map(outcome).collect()
    };
    if !arguments.dry_run {
        for why in engine.sweep_half_written() {
            well = false;
            tracing::warn!("{why}");
        }
        engine.show_if_behind();
    }
    note(&engine, found.iter().filter(|f| f.outcome == "removed").map(|f| &f.piece));
    let report = Report { found, spared, unreadable };
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&report, out)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line of history for all that was removed.
pub(crate) fn note<'a>(engine: &Engine, removed: impl Iterator<Item = &'a Piece>) {
    let removed: Vec<_> = removed.map(said).collect();
    if !removed.is_empty() {
        host::tell(
            engine,
            Action::Collect,
            format!("left behind, removed: {}", removed.join("; ")),
        );
    }
}

/// "port veth-web-eth0 (there is no interface veth-web-eth0, there is no record of …)".
pub(crate) fn said(piece: &Piece) -> String {
    format!("{} {} ({})", word(piece.kind), printable(&piece.name), piece.proof.join(", "))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Attachment => "attachment",
        Kind::Port => "port",
        Kind::Lease => "lease",
        Kind::Gateway => "gateway",
        Kind::Publication => "published port",
    }
}

fn print(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    for why in &report.unreadable {
        writeln!(out, "PROBLEM nothing is removed: {}\n", printable(why))?;
    }
    if report.found.is_empty() {
        writeln!(out, "Nothing was left behind.")?;
    } else {
        let mut found = table::new(&["KIND", "NAME", "OUTCOME", "PROOF"]);
        for Cleared { piece, outcome } in &report.found {
            found.add_row([
                word(piece.kind).to_owned(),
                printable(&piece.name),
                printable(outcome),
                printable(&piece.proof.join("; ")),
            ]);
        }
        writeln!(out, "{}", table::text(&found))?;
    }
    if !report.spared.is_empty() {
        writeln!(out, "\nSpared:")?;
        for spared in &report.spared {
            writeln!(out, "  {}", printable(spared))?;
        }
    }
    Ok(())
}
