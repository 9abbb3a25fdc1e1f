//! The one rule of ours outside our table.
//!
//! Docker sets the policy of FORWARD to DROP, and an accept in one table does not spare a packet
//! the next. So where a filter table of iptables exists, one rule in DOCKER-USER, else in FORWARD,
//! accepts the packets our forward chain has marked. iptables writes it: a table written by
//! anything else becomes unreadable for it.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::legacy;
use super::nft::{self, Family, Socket};
use super::table::MARK;
use crate::error::{Fault, Kind};
use crate::lock;
use crate::state::State;

/// The comment of the rule.
pub const TAG: &str = "ovs-agent";

/// The lock of whoever looks for the rule and changes it.
const LOCK: &str = "tagged rule";

/// Longest run of iptables; it waits for its own lock for at most [`LOCK_WAIT`] seconds.
const DEADLINE: Duration = Duration::from_secs(10);
const LOCK_WAIT: &str = "5";

/// Exit codes of a check for a rule that is not there, and for one that leads to a chain that is
/// not there; 4 says that iptables could not look (`xtables_exittype`, xtables.h).
const NO_SUCH_RULE: i32 = 1;
const NO_SUCH_TARGET: i32 = 2;

/// Where distributions put iptables.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];

const DOCKER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// Why the rule is not there, or not gone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are rules of iptables but no iptables.
    #[error("{table} has a FORWARD chain, but none of {names} is installed to add a rule to it")]
    NoProgram {
        /// "the nft table ip filter", "the legacy table ip6 filter".
        table: String,
        /// The programs looked for.
        names: String,
    },
    /// iptables refused.
    #[error("{command} failed: {answer}")]
    Refused {
        /// The command line.
        command: String,
        /// What it wrote.
        answer: String,
    },
    /// iptables hangs.
    #[error("{command} did not end within {} s", DEADLINE.as_secs())]
    Timeout {
        /// The command line.
        command: String,
    },
    /// iptables cannot be run.
    #[error("cannot run {command}")]
    Run {
        /// The command line.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else is at it for long.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// It cannot be told which tables exist.
    #[error("cannot look for the tables of iptables")]
    Look {
        /// What nf_tables said.
        source: nft::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoProgram { .. } => Kind::Missing,
            Self::Timeout { .. } => Kind::Unavailable,
            Self::Lock(error) => error.kind(),
            Self::Refused { .. } | Self::Run { .. } | Self::Look { .. } => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoProgram { .. } => Some("install the package iptables".into()),
            Self::Timeout { .. } => Some("see who holds /run/xtables.lock".into()),
            _ => None,
        }
    }
}

/// One filter table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backend {
    family: Family,
    legacy: bool,
}

/// A rule that is there, or should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Docker,
    Forward,
}

impl Place {
    fn chain(self) -> &'static str {
        match self {
            Self::Docker => DOCKER,
            Self::Forward => FORWARD,
        }
    }
}

/// Whether the rule may live in that chain, or be kept from its place by what happens there.
pub(super) fn is_ours(chain: Option<&str>) -> bool {
    matches!(chain, Some(DOCKER | FORWARD))
}

/// Adds the rule on top of the right chain of every filter table found; one that is there stays
/// where it is. Returns whether anything was changed. Runs iptables, which knows no "add unless it
/// is there": who looks and adds holds a lock.
pub fn ensure(state: &State) -> Result<bool, Error> {
    let _lock = state.lock(LOCK)?;
    let mut changed = false;
    for backend in backends()? {
        let program = backend.program()?;
        let docker = program.leads_to_docker()?;
        let (right, wrong) =
            if docker { (Place::Docker, Some(Place::Forward)) } else { (Place::Forward, None) };
        if !program.has_rule(right)? {
            program.run(&words(&["-I", right.chain(), "1"], true))?;
            changed = true;
        }
        if let Some(wrong) = wrong {
            changed |= program.delete(wrong)?;
        }
    }
    Ok(changed)
}

/// Removes the rule everywhere; returns whether it was anywhere. Runs iptables.
pub fn remove(state: &State) -> Result<bool, Error> {
    let _lock = state.lock(LOCK)?;
    let mut changed = false;
    for backend in backends()? {
        let program = backend.program()?;
        for place in [Place::Docker, Place::Forward] {
            changed |= program.delete(place)?;
        }
    }
    Ok(changed)
}

/// The filter tables which have a FORWARD chain and lack the rule, in words. Runs iptables.
pub fn missing() -> Result<Vec<String>, Error> {
    let mut lacking = Vec::new();
    for backend in backends()? {
        let program = backend.program()?;
        if !program.has_rule(Place::Docker)? && !program.has_rule(Place::Forward)? {
            lacking.push(backend.to_string());
        }
    }
    Ok(lacking)
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.legacy { "legacy" } else { "nft" };
        let family = if self.family == Family::Ip6 { "ip6" } else { "ip" };
        write!(f, "the {kind} table {family} filter")
    }
}

impl Backend {
    fn program(self) -> Result<Program, Error> {
        let stem = if self.family == Family::Ip6 { "ip6tables" } else { "iptables" };
        let suffix = if self.legacy { "legacy" } else { "nft" };
        let named = format!("{stem}-{suffix}");
        if let Some(path) = find(&named) {
            return Ok(Program { path });
        }
        // Without variants, the plain one is it or is of the other kind.
        if let Some(path) = find(stem) {
            let program = Program { path };
            let version = program.run(&["--version".to_owned()])?;
            if version.contains("nf_tables") != self.legacy {
                return Ok(program);
            }
        }
        Err(Error::NoProgram { table: self.to_string(), names: format!("{named}, {stem}") })
    }
}

/// The filter tables there are. Asking iptables would make them.
fn backends() -> Result<Vec<Backend>, Error> {
    let mut found = Vec::new();
    let mut socket = Socket::open().map_err(|source| Error::Look { source })?;
    for family in [Family::Ip, Family::Ip6] {
        let chain = socket.has_chain(family, "filter", FORWARD);
        if chain.map_err(|source| Error::Look { source })? {
            found.push(Backend { family, legacy: false });
        }
        if legacy::exists(family) {
            found.push(Backend { family, legacy: true });
        }
    }
    Ok(found)
}

fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The rule's words behind an operation.
fn words(operation: &[&str], rule: bool) -> Vec<String> {
    let mut words: Vec<String> = ["-w", LOCK_WAIT].map(str::to_owned).to_vec();
    words.extend(operation.iter().map(|&word| word.to_owned()));
    if rule {
        let mark = format!("{MARK:#x}/{MARK:#x}");
        let tail =
            ["-m", "mark", "--mark", &mark, "-m", "comment", "--comment", TAG, "-j", "ACCEPT"];
        words.extend(tail.map(str::to_owned));
    }
    words
}

/// One of the iptables commands.
struct Program {
    path: PathBuf,
}

/// How a run ended.
struct Outcome {
    /// `None`: a signal.
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Program {
    /// Whether there is Docker's chain and FORWARD leads there: a flush takes the way there alone.
    fn leads_to_docker(&self) -> Result<bool, Error> {
        self.holds(&words(&["-C", FORWARD, "-j", DOCKER], false))
    }

    fn has_rule(&self, place: Place) -> Result<bool, Error> {
        self.holds(&words(&["-C", place.chain()], true))
    }

    /// What a check says. One that was killed, or could not look, has not said "no": the rule would
    /// be added a second time, or left behind.
    fn holds(&self, check: &[String]) -> Result<bool, Error> {
        let outcome = self.spawn(check)?;
        match outcome.code {
            Some(0) => Ok(true),
            Some(NO_SUCH_RULE | NO_SUCH_TARGET) => Ok(false),
            _ => Err(self.refused(check, &outcome)),
        }
    }

    fn delete(&self, place: Place) -> Result<bool, Error> {
        let mut changed = false;
        while self.has_rule(place)? {
            self.run(&words(&["-D", place.chain()], true))?;
            changed = true;
        }
        Ok(changed)
    }

    /// Runs it; its standard output if it succeeds.
    fn run(&self, words: &[String]) -> Result<String, Error> {
        let outcome = self.spawn(words)?;
        if outcome.code == Some(0) {
            return Ok(outcome.stdout);
        }
        Err(self.refused(words, &outcome))
    }

    fn refused(&self, words: &[String], outcome: &Outcome) -> Error {
        let answer = match outcome.code {
            Some(_) => outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" "),
            None => "it was killed".to_owned(),
        };
        Error::Refused { command: self.line(words), answer }
    }

    fn line(&self, words: &[String]) -> String {
        format!("{} {}", self.path.display(), words.join(" "))
    }

    /// Runs it to its end or the deadline. What it writes fits its pipes.
    fn spawn(&self, words: &[String]) -> Result<Outcome, Error> {
        let run = |source| Error::Run { command: self.line(words), source };
        let mut child = Command::new(&self.path)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run)?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(run)? {
                break status;
            }
            if start.elapsed() >= DEADLINE {
                child.kill().and_then(|()| child.wait()).map_err(run)?;
                return Err(Error::Timeout { command: self.line(words) });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut outcome =
            Outcome { code: status.code(), stdout: String::new(), stderr: String::new() };
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut outcome.stdout).map_err(run)?;
        }
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_string(&mut outcome.stderr).map_err(run)?;
        }
        Ok(outcome)
    }
}
