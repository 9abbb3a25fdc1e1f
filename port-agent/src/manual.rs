//! `completions` and `man`: what the definition of the arguments knows already.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{Arguments, Failure};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The directory, which must exist.
    directory: PathBuf,
}

pub(crate) fn completions(
    arguments: &CompletionsArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let shell = match arguments.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    };
    // The generator panics on a writer that fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ovs-port-agent", &mut text);
    out.write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The policy that lets root have our name on the system bus, for a host without `./run install`.
pub(crate) fn policy(out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    out.write_all(include_bytes!("../../conf/dev.ovs.PortAgent1.conf"))?;
    Ok(ExitCode::SUCCESS)
}

/// One page for the program and one for each command: `ovs-port-agent-ledger-show.8`.
pub(crate) fn pages(
    arguments: &ManArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    render(&command, &mut pages)?;
    for (name, text) in pages {
        let path = arguments.directory.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Failure::Work(format!("cannot write {}: {error}", path.display())))?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let man = clap_mangen::Man::new(command.clone())
        .section("8")
        .manual("Open vSwitch agent")
        .title(command.get_display_name().unwrap_or_else(|| command.get_name()))
        .source(concat!("ovs-port-agent ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    pages.push((man.get_filename(), text));
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        render(command, pages)?;
    }
    Ok(())
}
