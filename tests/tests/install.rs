//! `./run install` and `./run uninstall`, on a private host.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rig::{Command, Daemon, Host, Output, assert_same};
use serde_json::json;

/// Every file, directory and link the two could touch; content by size and time; the block in
/// the interfaces file comes and goes, so of that file only the size.
const TREE: &str = "find /etc /usr/local /usr/lib/cni /opt /var/lib /run/ovs-port-agent -xdev \
     \\( -type d -printf '%p %m %U:%G\\n' -o -printf '%p %m %U:%G %s %T@ %l\\n' \\) 2>/dev/null \
     | sed 's/^\\(.etc.network.interfaces .*\\) [0-9.]* $/\\1/' | sort";

fn run(host: &Host, args: &str) -> Output {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let plugin = host.plugin();
    let binaries = plugin.path().parent().unwrap();
    Command::new(checkout.join("run"))
        .args(args.split_whitespace())
        .env("OVS_AGENT_BINARIES", binaries)
        .deadline(Duration::from_secs(120))
        .output()
}

#[test]
fn uninstall_leaves_no_trace() {
    let host = Host::new();
    let tree = host.sh(TREE);
    let before = host.snapshot();
    let said = run(&host, "install").success().stderr;
    for file in [
        "/opt/cni/bin/ovs-agent",
        "/usr/lib/cni/ovs-agent",
        "/usr/local/libexec/netavark/ovs-agent",
        "/usr/local/sbin/ovs-port-agent",
        "/usr/local/sbin/ovs-agent-docker",
        "/etc/ovs-port-agent/config.toml",
        "/etc/cni/net.d/50-ovs-agent.conflist",
        "/etc/systemd/system/ovs-port-agent.service",
        "/etc/systemd/system/ovs-agent-docker.service",
        "/usr/local/share/man/man8/ovs-port-agent.8",
        "/usr/local/share/man/man8/ovs-port-agent-doctor.8",
        "/usr/local/share/bash-completion/completions/ovs-port-agent",
        "/usr/local/share/zsh/site-functions/_ovs-port-agent",
        "/usr/local/share/fish/vendor_completions.d/ovs-port-agent.fish",
        "/etc/dbus-1/system.d/dev.ovs.PortAgent1.conf",
        "/etc/NetworkManager/conf.d/90-ovs-agent.conf",
        "/etc/udev/rules.d/70-ovs-agent.rules",
        "/etc/systemd/network/70-ovs-agent.link",
        "/etc/systemd/network/70-ovs-agent.network",
    ] {
        assert!(Path::new(file).is_file(), "{file} is missing");
        assert!(said.contains(file), "{file} was not said: {said}");
    }
    // Twice is as good as once.
    let _again = run(&host, "install").success();
    // As systemd would: the agent is up, then stopped, which takes nothing down.
    let unit = host.sh("cat /etc/systemd/system/ovs-port-agent.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let (program, arguments) = start.and_then(|start| start.split_once(' ')).unwrap();
    let agent = Daemon::start("ovs-port-agent", Command::new(program).args([arguments]));
    agent.ready(Duration::from_secs(10), || agent.log().contains("the host is up"));
    agent.terminate(Duration::from_secs(10));
    let web = host.container("web");
    let conf = json!({"cniVersion": "1.0.0", "name": "lab", "type": "ovs-agent"});
    host.plugin().add(&web, &conf).success();
    let refused = run(&host, "uninstall");
    assert!(!refused.ok() && refused.stderr.contains("nothing was removed"), "{refused}");
    assert!(host.sh("ovs-port-agent status").contains("web"));
    host.plugin().del(&web, &conf).success();
    drop(web);
    let _done = run(&host, "uninstall").success();
    let left = host.sh(TREE);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let changed: Vec<_> = lines(&tree).symmetric_difference(&lines(&left)).cloned().collect();
    assert!(changed.is_empty(), "traces: {changed:#?}");
    assert_same(&before, &host.snapshot());
    let again = run(&host, "uninstall");
    assert!(!again.ok() && again.stderr.contains("nothing to uninstall"), "{again}");
}

#[test]
fn what_the_user_wrote_stays() {
    let host = Host::new();
    let plugins = Path::new("/opt/cni").exists();
    let config = "/etc/ovs-port-agent/config.toml";
    let mine = "bridge_name = \"mine0\"\n";
    host.config(mine);
    let said = run(&host, "install").success().stderr;
    assert!(said.contains(&format!("{config} (yours, kept)")), "{said}");
    let list = "/etc/cni/net.d/50-ovs-agent.conflist";
    host.sh(&format!("echo >>{list}"));
    let said = run(&host, "install").success().stderr;
    assert!(said.contains(&format!("{list} (changed by you, kept)")), "{said}");
    let said = run(&host, "uninstall").success().stderr;
    assert!(said.contains(&format!("kept: {list} (you changed it)")), "{said}");
    assert_eq!(std::fs::read_to_string(config).unwrap(), mine);
    assert!(Path::new(list).is_file());
    assert_eq!(Path::new("/opt/cni").exists(), plugins);
}

#[test]
fn a_destdir_is_filled_and_emptied() {
    let host = Host::bare();
    let before = host.sh(TREE);
    let _done = run(&host, "install /run/image").success();
    assert!(Path::new("/run/image/opt/cni/bin/ovs-agent").is_file());
    assert_eq!(host.sh(TREE), before, "a DESTDIR install touched the host");
    let _done = run(&host, "uninstall /run/image").success();
    assert_eq!(host.sh("find /run/image").trim(), "/run/image");
}
