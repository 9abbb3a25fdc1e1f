//! `up --move-uplink` and `up --confirm`, and the process that stands by meanwhile.

use std::io::{self, BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{self, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid, setsid};
use shared::attachment::Engine;
use shared::config::{self, Config};
use shared::network::host as engine;
use shared::network::uplink::{self, Journal, Outcome, Phase};

use crate::{Failure, host};

/// How often who stands by looks at how far the move is.
const LOOK: Duration = Duration::from_millis(500);

/// How long the process that stands by may take to start.
const START: Duration = Duration::from_secs(10);

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Move the host's own addresses and routes from each uplink to its bridge.
    #[arg(long)]
    move_uplink: bool,
    /// With --move-uplink: everything returns to what it was unless confirmed within so long.
    #[arg(
        long, value_name = "SECONDS", default_value_t = 60, requires = "move_uplink",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    confirm_within: u64,
    /// Keep what --move-uplink moved: the host can still be reached.
    #[arg(long, conflicts_with = "move_uplink")]
    confirm: bool,
}

pub(crate) fn up(
    config: Config,
    path: Option<&Path>,
    arguments: &UpArguments,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    if arguments.confirm {
        return confirm(config, out);
    }
    if !arguments.move_uplink {
        return host::up(config, out);
    }
    let within = Duration::from_secs(arguments.confirm_within);
    // Its end tells the other process that this one has ended.
    let mut lifeline = None;
    let moved = engine::move_uplinks(&config, within, || {
        lifeline = Some(stand_by(path)?);
        Ok(())
    });
    let moved = moved.map_err(Failure::new)?;
    let route = moved.route;
    host::moved(config, moved.steps, out)?;
    if let Some(route) = route {
        writeln!(
            out,
            "\nMoved: {route}. Unless you confirm it within {} s, everything returns to what it \
             was.\nSee that you can open a new session to this host, and say there:\n\n  \
             ovs-port-agent up --confirm",
            within.as_secs()
        )?;
    }
    out.flush()?;
    drop(lifeline);
    Ok(ExitCode::SUCCESS)
}

fn confirm(config: Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    let route = uplink::confirm(&config).map_err(Failure::new)?;
    host::note(&Engine::new(config), &format!("move of {route} confirmed"));
    writeln!(
        out,
        "Confirmed: {route}. Every boot keeps it; \"ovs-port-agent down\" moves it back."
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the process that takes the move back, in a session of its own: the end of ours, and of
/// the terminal's, is not its end. It runs when this returns.
fn stand_by(config: Option<&Path>) -> io::Result<ChildStdin> {
    let mut command = Command::new("/proc/self/exe");
    if let Some(path) = config {
        command.arg("--config").arg(path);
    }
    // Where it stands must not be in the way of an unmount.
    command.arg("stand-by").current_dir("/");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (Some(lifeline), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    let started = Instant::now();
    let mut waited = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(START).unwrap_or(PollTimeout::MAX);
    if poll(&mut waited, timeout).map_err(io::Error::from)? == 0 {
        let why = format!("it said nothing within {} s", started.elapsed().as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    let mut line = String::new();
    BufReader::new(answer).read_line(&mut line)?;
    if line.trim_end() != READY {
        return Err(io::Error::other("it did not come up"));
    }
    Ok(lifeline)
}

/// What the process that stands by says when it does.
const READY: &str = "standing by";

/// The hidden command: waits for the end of the move's process (its end of our stdin), then for
/// the confirmation, and takes the move back if either says so.
pub(crate) fn run_stand_by(config: &Config, out: &mut impl io::Write) -> Result<ExitCode, Failure> {
    let mover = getppid();
    setsid().map_err(|errno| Failure::Work(format!("cannot open a session: {errno}")))?;
    writeln!(out, "{READY}")?;
    out.flush()?;
    let mut ended = false;
    loop {
        ended = ended || has_ended();
        if ended {
            thread::sleep(LOOK);
        }
        match Journal::read(config) {
            Ok(None) => return Ok(ExitCode::SUCCESS),
            // At work still, and it holds the lock. One that hangs must not hold the host.
            Ok(Some(journal)) if journal.phase == Phase::Moving && !ended => {
                if journal.left() == 0 && mover != Pid::from_raw(1) {
                    // It may have ended this very moment.
                    let _ = kill(mover, Signal::SIGKILL);
                }
                continue;
            }
            // An unreadable one may be readable again.
            Ok(Some(_)) | Err(_) => {}
        }
        match uplink::look_after(config) {
            Ok(Outcome::Nothing) => return Ok(ExitCode::SUCCESS),
            Ok(Outcome::Waiting { .. }) => {}
            Ok(Outcome::Returned { why }) => {
                let engine = Engine::new(config.clone());
                host::note(&engine, &format!("move taken back: {why}"));
                // Only a view: nobody is left to be told that it could not be written.
                drop(engine.show());
                return Ok(ExitCode::SUCCESS);
            }
            // The switch may come back, the lock be given up.
            Err(error) => {
                tracing::warn!(error = %shared::error::sentence(&error), "not taken back yet");
                thread::sleep(LOOK);
            }
        }
    }
}

/// Waits a moment for the end of the process that holds the other end of our stdin.
fn has_ended() -> bool {
    let stdin = io::stdin();
    let mut waited = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
    match poll(&mut waited, timeout) {
        Ok(count) => count > 0,
        Err(nix::errno::Errno::EINTR) => false,
        Err(_) => true,
    }
}

/// Whether the agent works by a configuration that knows nothing of an uplink moved since, while
/// the file at `path` does: then it must begin anew.
pub(crate) fn is_outdated(engine: &Engine, path: Option<&Path>) -> bool {
    let Ok(Some(journal)) = Journal::read(engine.config()) else { return false };
    if journal.fits(engine.config()) {
        return false;
    }
    let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
    Config::load(path, Path::new(config::SYSFS)).is_ok_and(|fresh| journal.fits(&fresh))
}

/// Begins this program anew, in this very process. Returns only if that cannot be done.
pub(crate) fn begin_anew() -> io::Error {
    use std::os::unix::process::CommandExt as _;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    process::Command::new("/proc/self/exe").arg0(name).args(arguments).exec()
}
