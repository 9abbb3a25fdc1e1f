//! Other people's programs, run to their end or a deadline.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest run of one program.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where distributions put programs.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/sbin", "/bin"];

/// How a run ended.
pub(super) struct Outcome {
    /// Whether it said that it succeeded.
    pub(super) success: bool,
    /// What it wrote to standard output.
    pub(super) stdout: String,
}

/// The program, if it is installed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Runs it; `None` if it is not installed, else its end or why there was none.
pub(super) fn run(name: &str, words: &[&str]) -> Option<Result<Outcome, String>> {
    let path = find(name)?;
    let command = format!("{name} {}", words.join(" "));
    let child = Command::new(path)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    Some(match child {
        Ok(child) => wait(child, &command),
        Err(error) => Err(format!("cannot run {command}: {error}")),
    })
}

/// As [`run`], and what it wrote; an error if it failed.
pub(super) fn read(name: &str, words: &[&str]) -> Option<Result<String, String>> {
    Some(run(name, words)?.and_then(|outcome| {
        if outcome.success {
            Ok(outcome.stdout)
        } else {
            Err(format!("{name} {} failed", words.join(" ")))
        }
    }))
}

fn wait(mut child: Child, command: &str) -> Result<Outcome, String> {
    let failed = |error: std::io::Error| format!("cannot run {command}: {error}");
    // Read beside the wait: a ruleset does not fit into a pipe.
    let pipe = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if start.elapsed() >= DEADLINE {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(format!("{command} did not end within {} s", DEADLINE.as_secs()));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let bytes = reader.join().map_err(|_| format!("cannot read {command}"))?.map_err(failed)?;
    Ok(Outcome { success: status.success(), stdout: String::from_utf8_lossy(&bytes).into_owned() })
}
