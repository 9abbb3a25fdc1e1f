//! Child processes: each with a deadline, none outliving the test.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, pivot_root, setgid, setgroups, setuid};

/// Deadline of a child unless told otherwise.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where Debian keeps its programs; a `sudo` or CI environment may leave out the sbin ones.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A child process to run to its end.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// What a child left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
    /// It was killed because its deadline passed.
    pub timed_out: bool,
}

impl Command {
    /// `program` with no argument, the usual `PATH` and an otherwise inherited environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(program);
        inner.env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        Self { inner, stdin: Vec::new(), deadline: DEADLINE }
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Empties the environment, `PATH` included.
    #[must_use]
    pub fn no_env(mut self) -> Self {
        self.inner.env_clear();
        self
    }

    /// The command line as one would type it.
    pub(crate) fn line(&self) -> String {
        format!("{:?}", Line(&self.inner))
    }

    /// What the child reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Kills the child after this long.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the child in the network namespace open at `fd`, which must outlive the child's start.
    #[must_use]
    pub(crate) fn netns(mut self, fd: RawFd) -> Self {
        // SAFETY: setns is async-signal-safe and the closure allocates nothing.
        unsafe {
            self.inner.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        self
    }

    /// Runs the child as a plain user whose root directory is `root`, a mount of its own: there,
    /// unlike in a chroot, the user may make user namespaces.
    #[must_use]
    pub(crate) fn rooted(mut self, root: &Path, uid: u32) -> Self {
        let root = root.to_owned();
        // SAFETY: system calls only; the path is short, so that nix copies it on the stack.
        unsafe {
            self.inner.pre_exec(move || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                chdir(&root)?;
                pivot_root(".", ".")?;
                umount2(".", MntFlags::MNT_DETACH)?;
                chdir("/")?;
                setgroups(&[])?;
                setgid(Gid::from_raw(uid))?;
                Ok(setuid(Uid::from_raw(uid))?)
            });
        }
        self
    }

    /// Runs the child to its end, whatever that is. Panics if it cannot be started.
    pub fn output(mut self) -> Output {
        let command = format!("{:?}", Line(&self.inner));
        die_with_parent(&mut self.inner);
        self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.inner.spawn().unwrap_or_else(|error| panic_start(&command, &error));
        let input = child.stdin.take().expect("stdin was piped");
        let (stdout, stderr, timed_out) = talk(&mut child, input, &self.stdin, self.deadline);
        if timed_out {
            child.kill().ok();
        }
        let status = child.wait().unwrap_or_else(|error| panic!("waiting for {command}: {error}"));
        Output {
            command,
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: started.elapsed(),
            timed_out,
        }
    }

    /// Runs the child, panics unless it succeeds, and returns its stdout.
    pub fn run(self) -> String {
        self.output().success().stdout
    }

    /// The child as a standard command, for who wants to keep it running.
    pub(crate) fn into_inner(mut self) -> std::process::Command {
        die_with_parent(&mut self.inner);
        self.inner
    }
}

impl Output {
    /// Panics with everything known unless the child succeeded.
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Whether the child succeeded.
    pub fn ok(&self) -> bool {
        self.status.success()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.timed_out, self.status.code(), self.status.signal()) {
            (true, ..) => format!("killed at its deadline after {:?}", self.took),
            (_, Some(code), _) => format!("exit status {code}"),
            (_, _, Some(signal)) => format!("killed by signal {signal}"),
            _ => self.status.to_string(),
        };
        write!(f, "{}: {end}", self.command)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A command line as one would type it.
struct Line<'a>(&'a std::process::Command);

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.get_program().to_string_lossy())?;
        for arg in self.0.get_args() {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        Ok(())
    }
}

pub(crate) fn panic_start(command: &str, error: &std::io::Error) -> ! {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "; what the tests need is installed by: ./run test",
        _ => "",
    };
    panic!("cannot start {command}: {error}{hint}")
}

/// The child gets SIGKILL when the thread that started it ends: a test's thread, so also when
/// the whole runner is killed.
pub(crate) fn die_with_parent(command: &mut std::process::Command) {
    // SAFETY: prctl is async-signal-safe and the closure allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Feeds and drains the child until it has exited or the deadline passes.
///
/// It is the exit that ends the wait, not the end of the pipes: a daemon the child started may
/// hold those for ever.
fn talk(
    child: &mut Child,
    input: ChildStdin,
    bytes: &[u8],
    deadline: Duration,
) -> (Vec<u8>, Vec<u8>, bool) {
    let end = Instant::now() + deadline;
    let exited = pidfd(child.id());
    let mut sources = [
        (child.stdout.take().map(OwnedFd::from).map(std::fs::File::from), Vec::new()),
        (child.stderr.take().map(OwnedFd::from).map(std::fs::File::from), Vec::new()),
    ];
    let mut pending = bytes;
    // Dropped at once if there is nothing to say: the child sees the end of its stdin.
    let mut input = (!bytes.is_empty()).then_some(input);
    for source in &sources {
        set_nonblocking(source.0.as_ref().expect("piped"));
    }
    if let Some(input) = &input {
        set_nonblocking(input);
    }
    let mut gone = false;
    loop {
        for (file, buffer) in &mut sources {
            drain(file, buffer);
        }
        if gone {
            break;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let mut watched = vec![PollFd::new(exited.as_fd(), PollFlags::POLLIN)];
        for (file, _) in &sources {
            if let Some(file) = file {
                watched.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(input) = &input {
            watched.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        gone = watched[0].any().unwrap_or(false);
        drop(watched);
        if let Some(writer) = &mut input {
            match writer.write(pending) {
                Ok(count) => pending = &pending[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // The child closed its stdin unread; that is its right.
                Err(_) => pending = &[],
            }
            if pending.is_empty() {
                input = None;
            }
        }
    }
    let [(_, stdout), (_, stderr)] = sources;
    (stdout, stderr, !gone)
}

fn drain(file: &mut Option<std::fs::File>, buffer: &mut Vec<u8>) {
    let Some(open) = file else { return };
    let mut chunk = [0; 16384];
    loop {
        match open.read(&mut chunk) {
            Ok(0) => {
                *file = None;
                return;
            }
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("reading a child's output: {error}"),
        }
    }
}

fn set_nonblocking(fd: &impl AsFd) {
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(flags)).expect("O_NONBLOCK on a pipe");
}

fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: plain system call on the id of a child not yet waited for; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Asks `probe` until it answers with a value, at most for `deadline`; panics naming `what` then.
pub fn poll<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The descriptor number of an open file, for [`Command::netns`].
pub(crate) fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}
