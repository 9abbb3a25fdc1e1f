//! The conformance suite, put before our plugin and before Debian's.

use std::path::{Path, PathBuf};

use rig::Command;

/// Runs the suite as a user does; panics with its report unless every case is as it should be.
fn conforms(plugin: &Path) {
    let said = Command::new(env!("CARGO_BIN_EXE_ovs-agent-conformance"))
        .args([Path::new("--plugin"), plugin])
        .deadline(std::time::Duration::from_secs(300))
        .output();
    println!("{}", said.stdout);
    assert!(said.ok(), "{said}");
    let passed = said.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(passed > 20, "{said}");
}

/// The suite finds out a plugin that only says it had done something.
#[test]
fn a_liar_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (plugin, profile) = (dir.path().join("liar"), dir.path().join("liar.json"));
    let script = r#"#!/bin/sh
        case $CNI_COMMAND in
        VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
        ADD) echo "{\"cniVersion\": \"1.0.0\", \"interfaces\": [
            {\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}]}" ;;
        esac"#;
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&profile, r#"{"kind": "interface", "config": {}}"#).unwrap();
    let said = Command::new(env!("CARGO_BIN_EXE_ovs-agent-conformance"))
        .args([Path::new("--plugin"), &plugin, Path::new("--profile"), &profile])
        .deadline(std::time::Duration::from_secs(120))
        .output();
    assert!(!said.ok(), "{said}");
    for line in [
        "FAILED    add-and-del",
        "container one: no interface eth0",
        "FAILED    interface-exists",
        "FAILED    stdin-garbage",
        "FAILED    add-without-any-variable",
        "FAILED    version-unknown",
        "ok        del-of-nothing",
    ] {
        assert!(said.stdout.contains(line), "no {line:?} in {said}");
    }
}

fn debian(name: &str) -> PathBuf {
    let path = Path::new("/usr/lib/cni").join(name);
    let hint = "apt-get install containernetworking-plugins (./run test does)";
    assert!(path.exists(), "no {}: {hint}", path.display());
    path
}

#[test]
fn ovs_agent() {
    let built = Path::new(env!("CARGO_BIN_EXE_ovs-agent-conformance"));
    conforms(&built.parent().unwrap().join("ovs-agent"));
}

#[test]
fn bridge() {
    conforms(&debian("bridge"));
}

#[test]
fn macvlan() {
    conforms(&debian("macvlan"));
}

#[test]
fn host_local() {
    conforms(&debian("host-local"));
}

#[test]
fn loopback() {
    conforms(&debian("loopback"));
}
