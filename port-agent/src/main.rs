//! `ovs-port-agent`: the admin command of the host.

mod agent;
mod doctor;
mod gc;
mod host;
mod interface;
mod ledger;
mod manual;
mod status;
mod table;
mod topology;
mod uplink;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::config::{self, Config};
use shared::error::{Fault, sentence};
use shared::journal::Journal;

/// Keeps the Open vSwitch bridges of a host, their NAT and their containers.
#[derive(Debug, Parser)]
#[command(name = "ovs-port-agent", version, max_term_width = 100)]
#[command(after_help = "Examples:
  ovs-port-agent up                    make bridges, addresses, forwarding and NAT
  ovs-port-agent status                show bridges, networks, containers and pools
  ovs-port-agent ledger tail           show the latest acts
  ovs-port-agent down                  remove all that is ours")]
struct Arguments {
    /// Configuration file; without it /etc/ovs-port-agent/config.toml, if that exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make or repair bridges, uplinks, addresses, forwarding and NAT; what stands is left alone.
    #[command(after_help = "Everything is checked first: an error has changed nothing.

Examples:
  ovs-port-agent up
  ovs-port-agent up --config ./lab.toml
  ovs-port-agent up --move-uplink      an uplink carries the host's own address: move both
  ovs-port-agent up --confirm          the host can still be reached: keep it so")]
    Up(uplink::UpArguments),
    /// Take a move of uplinks back unless it is confirmed in time; started by "up --move-uplink".
    #[command(hide = true)]
    StandBy,
    /// Remove what is ours: NAT, gateways, addresses and bridges that "up" made.
    #[command(after_help = "Examples:
  ovs-port-agent down
  ovs-port-agent down --force          unplug what is still plugged in")]
    Down(host::DownArguments),
    /// Bring the host up and keep it so: follows the switch, the kernel and the ledger.
    #[command(after_help = "Runs until it is stopped, and repairs what gets lost meanwhile.

Example:
  ovs-port-agent run")]
    Run,
    /// Plug an interface of this host into a bridge: a veth, a tap, whatever carries no address.
    #[command(
        after_help = "A veth is renamed by the naming template unless enable_rename is false.

Examples:
  ovs-port-agent attach veth1                      into the default bridge, untagged
  ovs-port-agent attach tap0 --bridge ovsbr1 --vlan 20
  ovs-port-agent attach eth0 --netns web           the pair whose other end is eth0 of web"
    )]
    Attach(interface::AttachArguments),
    /// Unplug an interface that was plugged in by hand or by the monitor, and leave it as it was.
    #[command(after_help = "The monitor does not take it again.

Example:
  ovs-port-agent detach veth1")]
    Detach(interface::DetachArguments),
    /// Look at what the agent's monitor takes by itself, or take what it leaves alone.
    #[command(after_help = "Examples:
  ovs-port-agent monitor --dry-run             what would be taken, and why the rest would not
  ovs-port-agent monitor --dry-run --adopt     as if the agent had been there first
  ovs-port-agent monitor --adopt               take what is free, older ones too")]
    Monitor(interface::MonitorArguments),
    /// Show bridges, networks, NAT, attachments by container, and pool use.
    #[command(after_help = "Exit code 1 says that something everything hangs on does not work.

Examples:
  ovs-port-agent status
  ovs-port-agent status --json | jq -r '.attachments[] | .container + \" \" + .port'")]
    Status(status::StatusArguments),
    /// Draw the host: uplinks, bridges, VLANs, and the containers by runtime.
    #[command(after_help = "Examples:
  ovs-port-agent topology              a tree
  ovs-port-agent topology --svg >host.svg
  ovs-port-agent topology --mermaid    for Markdown, between ```mermaid and ```")]
    Topology(topology::TopologyArguments),
    /// Check everything this host's networks hang on, and name the command that fixes it.
    #[command(after_help = "Changes nothing. Exit code 0: nothing to do, 1: warnings, 2: problems.

Examples:
  ovs-port-agent doctor
  ovs-port-agent doctor --quiet        only what is not as it should be
  ovs-port-agent doctor --json | jq -r '.checks[] | select(.fix) | .fix'")]
    Doctor(doctor::DoctorArguments),
    /// Remove what a crash left behind: ports, addresses, records, gateways that nobody has.
    #[command(
        after_help = "Only what two sources agree on; as long as one cannot be read, nothing.
The agent does the same by itself.

Examples:
  ovs-port-agent gc --dry-run          what would be removed, and the proof
  ovs-port-agent gc --json | jq -r '.found[] | .kind + \" \" + .name'"
    )]
    Gc(gc::GcArguments),
    /// Show, follow or verify the history of the host.
    Ledger(ledger::LedgerArgs),
    /// Write the managed block of the interfaces file anew from Open vSwitch.
    #[command(after_help = "Example:
  ovs-port-agent sync                  after the file was edited by hand")]
    Sync,
    /// Print the completions of a shell.
    #[command(after_help = "\"./run install\" puts them where the shells look.

Example:
  ovs-port-agent completions bash >/etc/bash_completion.d/ovs-port-agent")]
    Completions(manual::CompletionsArguments),
    /// Print the policy that lets the agent have its name on the system bus.
    #[command(after_help = "\"./run install\" puts it where the bus looks.

Example:
  ovs-port-agent dbus-policy >/etc/dbus-1/system.d/dev.ovs.PortAgent1.conf")]
    DbusPolicy,
    /// Write the manual pages into a directory.
    #[command(after_help = "\"./run install\" puts them where man looks.

Example:
  ovs-port-agent man /usr/local/share/man/man8")]
    Man(manual::ManArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log(matches!(arguments.command, Command::Run));
    let mut out = io::stdout().lock();
    let given = arguments.config.as_deref();
    let path = given.unwrap_or(Path::new(config::DEFAULT_PATH));
    let loaded = Config::load(path, Path::new(config::SYSFS));
    let result = run(given, loaded, arguments.command, &mut out);
    match result.and_then(|code| out.flush().map(|()| code).map_err(Failure::from)) {
        Ok(code) => code,
        // Whoever reads us has seen enough ("| head").
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Nowhere is left to report that stderr cannot be written.
            drop(writeln!(io::stderr(), "ovs-port-agent: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Logs to the journal where systemd has connected us with it, with fields of their own, else to
/// stderr. The daemon says what it does.
fn log(daemon: bool) {
    let level = if daemon { tracing::Level::INFO } else { tracing::Level::WARN };
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = Journal::behind(io::stderr(), stream.as_deref(), "ovs-port-agent", level);
    let set = match journal {
        Some(journal) => tracing::subscriber::set_global_default(journal),
        None => tracing::subscriber::set_global_default(
            tracing_subscriber::fmt()
                .with_writer(io::stderr)
                .with_target(false)
                .with_max_level(level)
                .finish(),
        ),
    };
    // There is none before this one.
    drop(set);
}

fn run(
    given: Option<&Path>,
    loaded: Result<Config, config::Error>,
    command: Command,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(up) => uplink::up(loaded?, given, &up, out),
        Command::StandBy => uplink::run_stand_by(&loaded?, out),
        Command::Down(arguments) => host::down(loaded?, &arguments, out),
        Command::Run => agent::run(loaded?, given.map(Path::to_owned)),
        Command::Status(arguments) => status::run(loaded?, &arguments, out),
        Command::Attach(arguments) => interface::attach(loaded?, arguments, out),
        Command::Detach(arguments) => interface::detach(loaded?, &arguments, out),
        Command::Monitor(arguments) => interface::monitor(loaded?, &arguments, out),
        Command::Topology(arguments) => topology::run(loaded?, &arguments, out),
        // A configuration that cannot be used is one of the things it is for.
        Command::Doctor(arguments) => {
            let path = given.unwrap_or(Path::new(config::DEFAULT_PATH));
            doctor::run(path, loaded, &arguments, out)
        }
        Command::Gc(arguments) => gc::run(loaded?, &arguments, out),
        Command::Ledger(arguments) => ledger::run(&loaded?, arguments, out),
        Command::Sync => host::sync(loaded?, out),
        Command::Completions(arguments) => manual::completions(&arguments, out),
        Command::DbusPolicy => manual::policy(out),
        Command::Man(arguments) => manual::pages(&arguments, out),
    }
}

/// Why a command ends with an error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The work could not be done: one sentence with the next step.
    #[error("{0}")]
    Work(String),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(error)
    }
}

impl Failure {
    #[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
    fn new(fault: impl Fault) -> Self {
        Self::Work(sentence(&fault))
    }
}
