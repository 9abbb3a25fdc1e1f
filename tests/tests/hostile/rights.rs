//! Who may open what we make: root, whatever the umask.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use rig::Host;
use rig::bus::as_nobody;

use super::{SOON, lab, pool, start};

/// Tries everything a plain user could, and prints what went well.
const TRY: &str = r#"
import os, socket, sys
for path in sys.stdin.read().split("\n"):
    if not path:
        continue
    for how, flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY)):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
            print(how, path)
        except OSError:
            pass
    try:
        os.listdir(path)
        print("list", path)
    except OSError:
        pass
    try:
        open(path + "/planted", "x")
        print("make in", path)
    except OSError:
        pass
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(path)
        print("connect to", path)
    except OSError:
        pass
"#;

fn below(top: &Path, all: &mut Vec<PathBuf>) {
    all.push(top.to_owned());
    let Ok(entries) = fs::read_dir(top) else { return };
    entries.for_each(|entry| below(&entry.unwrap().path(), all));
}

#[test]
fn nothing_of_ours_is_anybody_elses_whatever_the_umask() {
    // A host has a file system context of its own, and so has its umask.
    let host = Host::new();
    umask(Mode::empty());
    assert_eq!(host.sh("umask"), "0000\n");
    host.write("/etc/network/interfaces", "auto lo\niface lo inet loopback\n");
    host.sh("chmod 0640 /etc/network/interfaces");
    host.config("metrics_listen = \"unix:/run/ovs-port-agent/metrics.sock\"\n");
    let agent = start(&host);
    let driver = host.docker_driver();
    driver.ok("IpamDriver.RequestPool", &pool("10.77.0.0/24"));
    let web = host.container("web");
    host.plugin().add(&web, &lab(Some(8080))).success();
    agent.ready(SOON, || Path::new("/run/ovs-port-agent/metrics.sock").exists());

    let mut all = Vec::new();
    below(Path::new("/run/ovs-port-agent"), &mut all);
    below(Path::new("/var/lib/ovs-port-agent"), &mut all);
    all.push("/run/docker/plugins".into());
    all.push("/run/docker/plugins/ovs-agent.sock".into());
    let kind = |path: &PathBuf| fs::symlink_metadata(path).unwrap().file_type();
    assert_eq!(all.iter().filter(|path| kind(path).is_socket()).count(), 3, "{all:?}");
    for file in ["attachments/", "ports/", "leases/10.200.0.0-24/10.200.0", "lock", "docker/pools/"]
    {
        let there = all.iter().any(|path| path.to_str().unwrap().contains(file));
        assert!(there, "{file} is not among {all:?}");
    }
    for path in &all {
        let there = fs::symlink_metadata(path).unwrap();
        let mode = there.mode() & 0o7777;
        let wanted = if there.is_dir() { 0o700 } else { 0o600 };
        assert_eq!((mode, there.uid(), there.gid()), (wanted, 0, 0), "{}", path.display());
    }
    // The copy that replaced it has the rights of the one before.
    assert_eq!(fs::metadata("/etc/network/interfaces").unwrap().mode() & 0o777, 0o640);

    let list: Vec<_> = all.iter().map(|path| path.to_str().unwrap()).collect();
    host.write("/run/list", &list.join("\n"));
    host.write("/run/try.py", TRY);
    let tried = as_nobody("python3 /run/try.py </run/list").success();
    assert_eq!(tried.stdout, "", "a plain user may");
    // The list is read, and the way is the right one: root may.
    let tried = host.sh("python3 /run/try.py </run/list");
    for what in ["connect to /run/ovs-port-agent/control.sock", "read /run/ovs-port-agent/lock"] {
        assert!(tried.contains(what), "{tried}");
    }
    fs::remove_file("/run/ovs-port-agent/planted").unwrap();
    driver.stop();
    agent.terminate(SOON);
}

#[test]
fn a_state_directory_that_others_may_write_to_is_refused() {
    let host = Host::new();
    host.port_agent().run("up");
    let web = host.container("web");
    for (change, words) in [
        ("chmod 0777 /run/ovs-port-agent", "others may write to it (mode 0777)"),
        ("chmod 0720 /run/ovs-port-agent/attachments", "others may write to it (mode 0720)"),
        ("chown nobody /run/ovs-port-agent/ports", "it belongs to user 65534"),
    ] {
        host.sh(change);
        let failure = host.plugin().add(&web, &lab(None)).failure();
        let message = failure["msg"].as_str().unwrap();
        assert!(message.contains("cannot use directory /run/ovs-port-agent"), "{message}");
        assert!(message.contains(words), "{message}");
        host.sh("chown -R root /run/ovs-port-agent; chmod -R u=rwX,go= /run/ovs-port-agent");
    }
    host.plugin().add(&web, &lab(None)).success();
    host.plugin().del(&web, &lab(None)).success();
}
