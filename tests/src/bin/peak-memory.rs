//! Runs a command and prints its peak resident memory in KiB on stderr.
//!
//! A process of its own because the kernel counts the memory of whoever starts a command into the
//! command's peak: this one starts from a few hundred KiB.

use std::mem::MaybeUninit;
use std::process::{Command, ExitCode};

use nix::libc;

#[expect(clippy::zombie_processes, reason = "wait4 waits, and counts")]
fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let child = Command::new(words.next().unwrap()).args(words).spawn().unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: both pointers are to live, writable values of the right type.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, pid);
    // SAFETY: wait4 succeeded, so it has filled the structure.
    let usage = unsafe { usage.assume_init() };
    eprintln!("peak {}", usage.ru_maxrss);
    ExitCode::from(u8::try_from(libc::WEXITSTATUS(status)).unwrap())
}
