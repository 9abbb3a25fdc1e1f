//! A writer of the managed block is killed at every step: the file is the old one or the new one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shared::interfaces::{PortStanza, update};
use shared::vlan::{PortVlan, VlanId};

const TAG: &str = "ovs-port-agent";
/// Makes `the_writer` write this file.
const TARGET: &str = "INTERFACES_TO_WRITE";
const OLD: &str = "auto lo\niface lo inet loopback\n";
/// What one update asks of the kernel after it has read the file.
const STEPS: [&str; 9] =
    ["flock", "openat", "unlink", "write", "fchmod", "fchown", "fsetxattr", "fsync", "renameat2"];

fn write(path: &Path) -> bool {
    let ports: Vec<_> = (0..300)
        .map(|n| PortStanza {
            name: format!("veth-{n}").parse().unwrap(),
            bridge: "ovsbr0".parse().unwrap(),
            vlan: PortVlan::access(VlanId::try_from(5).unwrap()),
        })
        .collect();
    update(path, TAG, &[], &ports).unwrap()
}

fn fresh(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, OLD).unwrap();
    std::os::unix::fs::chown(&path, Some(1), Some(2))
        .expect("changing the owner takes root: run the tests as root");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    xattr::set(&path, "user.note", b"kept").unwrap();
    path
}

/// The child of the sweep, and by itself a check that there is something to sweep.
#[test]
fn the_writer() {
    if let Some(path) = env::var_os(TARGET) {
        write(Path::new(&path));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = fresh(dir.path(), "interfaces");
    assert!(write(&path));
    assert_ne!(fs::read_to_string(path).unwrap(), OLD);
}

#[test]
fn a_killed_writer_leaves_the_old_file_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let reference = fresh(dir.path(), "reference");
    write(&reference);
    let new = fs::read_to_string(&reference).unwrap();
    for step in STEPS {
        let mut olds = 0;
        let mut news = 0;
        for number in 1.. {
            assert!(number < 200, "{step}: the child never comes to its end");
            let path = fresh(dir.path(), "interfaces");
            let status = Command::new("strace")
                .args(["-f", "-qqq", "-o", "/dev/null", "-e", "signal=none"])
                .args(["-e", &format!("trace={step}")])
                .args(["-e", &format!("inject={step}:signal=SIGKILL:when={number}")])
                .arg(env::current_exe().unwrap())
                .args(["--exact", "the_writer", "--test-threads=1"])
                .env(TARGET, &path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("the sweep needs strace: apt-get install strace");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text == OLD || text == new, "{step} {number}: mixed\n{text}");
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o604, "{step} {number}");
            assert_eq!((metadata.uid(), metadata.gid()), (1, 2), "{step} {number}");
            let note = xattr::get(&path, "user.note").unwrap();
            assert_eq!(note.as_deref(), Some(b"kept".as_slice()), "{step} {number}");
            if status.success() {
                assert_eq!(text, new);
                break;
            }
            if text == OLD {
                olds += 1;
            } else {
                news += 1;
            }
            // Nobody has to clean up: the next writer does, lock and left-over included.
            write(&path);
            assert_eq!(fs::read_to_string(&path).unwrap(), new);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
        println!("{step}: killed with the old file {olds} times, with the new {news} times");
        assert!(olds + news > 0, "no update calls {step}: the list of steps is out of date");
    }
}

/// Runs the writer on `path` with one kind of system call on the new file failing.
fn failing(path: &Path, inject: &str) -> bool {
    let temporary = path.with_file_name(format!(".interfaces.{TAG}.new"));
    Command::new("strace")
        .args(["-f", "-qqq", "-o", "/dev/null", "-e", "signal=none", "-P"])
        .arg(temporary)
        .args(["-e", &format!("inject={inject}")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "the_writer", "--test-threads=1"])
        .env(TARGET, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the test needs strace: apt-get install strace")
        .success()
}

#[test]
fn a_failing_disk_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for inject in [
        "openat:error=EROFS",
        "write:error=ENOSPC",
        "fchown:error=EPERM",
        "fsetxattr:error=ENOSPC",
        "fsync:error=EIO",
        "renameat2:error=EIO",
    ] {
        let path = fresh(dir.path(), "interfaces");
        assert!(!failing(&path, inject), "{inject} went unnoticed");
        assert_eq!(fs::read_to_string(&path).unwrap(), OLD, "{inject}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{inject}");
    }
}

#[test]
fn a_file_system_that_cannot_exchange_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = fresh(dir.path(), "interfaces");
    assert!(failing(&path, "renameat2:error=EINVAL"));
    assert!(fs::read_to_string(&path).unwrap().contains("iface veth-299 inet manual"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
