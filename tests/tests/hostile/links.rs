//! Links planted at every name that we make or open: what they lead to is neither written,
//! truncated, given other rights nor deleted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use rig::{Command, Daemon, Host, poll};

use super::{SOON, lab, pool, start};

/// Somebody else's, and where nothing is.
const FILE: &str = "/run/theirs/file";
const DIRECTORY: &str = "/run/theirs/directory";
const MISSING: &str = "/run/theirs/missing";

const STATE: &str = "/run/ovs-port-agent";
const LASTING: &str = "/var/lib/ovs-port-agent";
const SOCKET: &str = "/run/docker/plugins/ovs-agent.sock";

/// Valid in every file of ours that is JSON, so that nothing but the link itself can be refused.
const THEIRS: &str = "{}\n";

fn plant_theirs() {
    fs::create_dir_all(DIRECTORY).unwrap();
    fs::write(FILE, THEIRS).unwrap();
    fs::set_permissions(FILE, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(DIRECTORY, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [FILE, DIRECTORY] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
}

/// Nothing of it was touched.
#[track_caller]
fn untouched(what: &str) {
    assert_eq!(fs::read_to_string(FILE).unwrap(), THEIRS, "{what}");
    for (path, mode) in [(FILE, 0o644), (DIRECTORY, 0o755)] {
        let now = fs::symlink_metadata(path).unwrap();
        assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (mode, 65534, 65534), "{what}");
    }
    assert_eq!(fs::read_dir(DIRECTORY).unwrap().count(), 0, "{what}");
    assert!(fs::symlink_metadata(MISSING).is_err(), "{what}");
}

/// Every file and directory below `top`, it too.
fn everything(top: &Path, all: &mut BTreeSet<PathBuf>) {
    all.insert(top.to_owned());
    let Ok(entries) = fs::read_dir(top) else { return };
    entries.for_each(|entry| everything(&entry.unwrap().path(), all));
}

/// A link in the place of whatever is at `path`, which comes back when this is dropped.
struct Planted {
    path: PathBuf,
    aside: PathBuf,
}

impl Planted {
    fn at(path: &Path, target: &str) -> Self {
        let mount = ["/run", "/var/lib", "/etc"].iter().find(|mount| path.starts_with(mount));
        let aside = Path::new(mount.unwrap()).join("aside");
        fs::rename(path, &aside).ok();
        symlink(target, path).unwrap();
        Self { path: path.to_owned(), aside }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let link = fs::symlink_metadata(&self.path).is_ok_and(|there| there.is_symlink());
        if link {
            fs::remove_file(&self.path).unwrap();
        }
        // Put aside by whoever came across it.
        fs::remove_file(self.path.with_extension("lost")).ok();
        if !self.path.exists() && self.aside.exists() {
            fs::rename(&self.aside, &self.path).unwrap();
        } else if self.aside.is_dir() {
            fs::remove_dir_all(&self.aside).unwrap();
        } else {
            fs::remove_file(&self.aside).ok();
        }
    }
}

/// The names to plant at, once `made` are what a call leaves: those, and what each is while it is
/// being written.
fn names(made: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let new = |path: &PathBuf| PathBuf::from(format!("{}.new", path.display()));
    let being = made.iter().filter(|path| path.is_file()).map(new);
    let sockets = |path: &&PathBuf| path.extension().is_none_or(|end| end != "sock");
    made.iter().filter(sockets).cloned().chain(being).collect()
}

#[test]
fn no_call_of_the_plugin_follows_a_link() {
    let host = Host::new();
    host.write("/etc/network/interfaces", "auto lo\niface lo inet loopback\n");
    host.port_agent().run("up");
    plant_theirs();
    let (plugin, conf, web) = (host.plugin(), lab(None), host.container("web"));
    plugin.add(&web, &conf).success();
    let mut made = BTreeSet::new();
    everything(Path::new(STATE), &mut made);
    everything(Path::new(LASTING), &mut made);
    assert!(made.len() > 8, "{made:?}");
    plugin.del(&web, &conf).success();
    let mut names = names(&made);
    for more in ["ledger.spool", "unshown", "freed"] {
        names.push(Path::new(STATE).join(more));
    }
    names.push(Path::new(LASTING).join("ledger.jsonl.torn"));
    names.push(Path::new(LASTING).join("ledger.jsonl.1"));
    names.push("/etc/network/.interfaces.ovs-port-agent.new".into());
    // The directory of the ledger may be a link: the configuration names it.
    names.retain(|name| name != Path::new(LASTING));
    let (mut refused, mut passed) = (0, 0);
    for name in &names {
        for target in [FILE, MISSING, DIRECTORY] {
            let what = format!("{} -> {target}", name.display());
            let planted = Planted::at(name, target);
            let added = plugin.add(&web, &conf);
            untouched(&format!("ADD, {what}: {}", added.output));
            if added.ok() {
                passed += 1;
            } else {
                refused += 1;
                let message = added.json["msg"].as_str().unwrap();
                assert!(message.contains("it is a symbolic link"), "{what}: {message}");
            }
            let deleted = plugin.del(&web, &conf);
            untouched(&format!("DEL, {what}: {}", deleted.output));
            drop(planted);
            plugin.del(&web, &conf).success();
            assert_eq!(host.vsctl("list-ports ovsbr1"), "", "{what}");
        }
    }
    assert!(refused > 9 && passed > 9, "{refused} refused, {passed} passed by");
    // Whatever was planted, it is as it was.
    plugin.add(&web, &conf).success();
    plugin.check(&web, &with_result(&plugin.add(&web, &conf).success())).success();
    plugin.del(&web, &conf).success();
}

fn with_result(result: &serde_json::Value) -> serde_json::Value {
    let mut conf = lab(None);
    conf["prevResult"] = result.clone();
    conf
}

#[test]
fn the_agent_follows_no_link() {
    let host = Host::new();
    let socket = format!("{STATE}/metrics.sock");
    host.config(&format!("metrics_listen = \"unix:{socket}\"\n"));
    plant_theirs();
    let first = start(&host);
    let (plugin, conf, web) = (host.plugin(), lab(Some(8080)), host.container("web"));
    plugin.add(&web, &conf).success();
    let mut made = BTreeSet::new();
    everything(Path::new(STATE), &mut made);
    first.terminate(SOON);
    // All of them write one log.
    let refusals = |words| first.log().matches(words).count();
    let mut names = names(&made);
    names.retain(|name| name.starts_with(format!("{STATE}/ports/")));
    assert!(!names.is_empty(), "{made:?}");
    for file in ["control.sock", "control.new", "metrics.sock"] {
        names.push(Path::new(STATE).join(file));
    }
    for name in &names {
        for target in [FILE, MISSING] {
            let what = format!("{} -> {target}", name.display());
            let planted = Planted::at(name, target);
            let is_metrics = name.ends_with("metrics.sock");
            let words = if is_metrics {
                "what is there is a symbolic link; remove it"
            } else {
                "symbolic link"
            };
            let before = refusals(words);
            let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
            let served = || !is_metrics && host.port_agent().output("status").ok();
            // Without its directory it ends.
            poll(&what, SOON, || (refusals(words) > before || served()).then_some(()));
            if is_metrics {
                assert!(fs::symlink_metadata(name).unwrap().is_symlink(), "{what}");
            }
            untouched(&what);
            if agent.alive() {
                agent.terminate(SOON);
            }
            untouched(&what);
            drop(planted);
        }
    }
    let agent = start(&host);
    plugin.del(&web, &conf).success();
    agent.terminate(SOON);
}

#[test]
fn the_docker_driver_follows_no_link() {
    let host = Host::new();
    host.port_agent().run("up");
    plant_theirs();
    let driver = host.docker_driver();
    let id = driver.ok("IpamDriver.RequestPool", &pool("10.77.0.0/24"))["PoolID"].clone();
    let id = id.as_str().unwrap().to_owned();
    driver.stop();
    let docker = Path::new(LASTING).join("docker");
    for (name, refused) in [
        (PathBuf::from(SOCKET), true),
        (docker.join("pools"), true),
        (docker.join("networks"), true),
        (docker.join("endpoints"), true),
        (docker.join(format!("pools/{id}.json")), false),
        (docker.join(format!("pools/{id}.json.new")), false),
    ] {
        for target in [FILE, MISSING, DIRECTORY] {
            let what = format!("{} -> {target}", name.display());
            let planted = Planted::at(&name, target);
            if refused {
                let ended = Command::new(host.plugin().path().with_file_name("ovs-agent-docker"));
                let ended = ended.deadline(SOON).output();
                assert!(!ended.ok() && !ended.timed_out, "{what}: {ended}");
                assert!(ended.stderr.contains("a symbolic link"), "{what}: {ended}");
                assert!(ended.stderr.contains(name.to_str().unwrap()), "{what}: {ended}");
            } else {
                let driver = host.docker_driver();
                // dockerd's start writes every pool anew; one that is a link costs itself alone.
                driver.ok("Plugin.Activate", &serde_json::Value::Null);
                let other = driver.ok("IpamDriver.RequestPool", &pool("10.78.0.0/24"));
                driver.ok(
                    "IpamDriver.ReleasePool",
                    &serde_json::json!({ "PoolID": other["PoolID"] }),
                );
                driver.stop();
            }
            untouched(&what);
            drop(planted);
        }
    }
    let driver = host.docker_driver();
    driver.ok("IpamDriver.ReleasePool", &serde_json::json!({ "PoolID": id }));
    driver.stop();
}

#[test]
fn a_socket_path_that_is_a_file_of_somebody_stays() {
    let host = Host::new();
    host.port_agent().run("up");
    plant_theirs();
    let driver = Command::new(host.plugin().path().with_file_name("ovs-agent-docker"));
    let ended = driver.args(["--socket", FILE]).deadline(SOON).output();
    assert!(!ended.ok() && ended.stderr.contains("what is there is no socket"), "{ended}");
    host.config(&format!("metrics_listen = \"unix:{FILE}\"\n"));
    let agent = Daemon::start("ovs-port-agent", host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("what is there is no socket"));
    agent.terminate(SOON);
    untouched("a file where a socket is to be");
}
