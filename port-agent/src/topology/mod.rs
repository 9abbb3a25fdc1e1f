//! `topology`: the host as a tree, as an SVG or as a Mermaid diagram.

mod mermaid;
mod picture;
mod svg;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::process::ExitCode;

use clap::Args;
use shared::attachment::Engine;
use shared::config::Config;
use shared::status;

use self::picture::Picture;
use crate::Failure;

/// Arguments of `topology`.
#[derive(Debug, Args)]
pub(crate) struct TopologyArguments {
    /// An SVG: one file, no fonts, no scripts, fit for any browser.
    #[arg(long, conflicts_with = "mermaid")]
    svg: bool,
    /// A Mermaid flow chart.
    #[arg(long)]
    mermaid: bool,
}

/// Draws what `status` sees; what could not be seen is missing from the picture, and exit code 1
/// says so.
pub(crate) fn run(
    config: Config,
    arguments: &TopologyArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let status = status::look(&Engine::new(config));
    let host = nix::unistd::gethostname().unwrap_or_default();
    let picture = Picture::of(&host.to_string_lossy(), &status);
    let text = if arguments.svg {
        svg::draw(&picture)
    } else if arguments.mermaid {
        mermaid::draw(&picture)
    } else {
        tree::draw(&picture)
    };
    out.write_all(text.as_bytes())?;
    let seen = status.health.iter().all(|health| health.ok);
    Ok(if seen { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
