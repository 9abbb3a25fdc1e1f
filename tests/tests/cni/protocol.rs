//! The wire: variables, versions, error documents, stdout.

use rig::{Command, Host};
use serde_json::{Value, json};

use crate::{after, conf, host, ip, versioned};

/// The variables of a plain ADD.
fn vars(host: &Host, netns: &str) -> Command {
    Command::new(host.plugin().path())
        .no_env()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", "web")
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .env("CNI_ARGS", "")
}

fn error(command: Command, stdin: &str) -> (u64, String, String) {
    let output = command.stdin(stdin).output();
    assert_eq!(output.status.code(), Some(1), "{output}");
    let error: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {output}");
    });
    assert!(error["cniVersion"].is_string(), "{output}");
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    (error["code"].as_u64().unwrap(), text("msg"), text("details"))
}

#[test]
fn version_is_answered_without_reading_stdin() {
    let host = Host::bare();
    let output = Command::new("sh")
        .args(["-c", "sleep 20 | exec \"$0\"", host.plugin().path().to_str().unwrap()])
        .env("CNI_COMMAND", "VERSION")
        .env("CNI_NETNS", "dummy")
        .env("CNI_IFNAME", "dummy")
        .env("CNI_PATH", "dummy")
        .deadline(std::time::Duration::from_secs(25))
        .output();
    let reply: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        reply,
        json!({
            "cniVersion": "1.1.0",
            "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        })
    );
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let host = Host::bare();
    let bare = || Command::new(host.plugin().path()).no_env();
    let output = bare().output().success();
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("CNI versions: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{output}");
    let help = bare().args(["--help"]).output().success();
    assert!(help.stdout.contains("CNI_COMMAND=ADD"), "{help}");
    let version = bare().args(["--version"]).output().success();
    assert!(version.stdout.starts_with("ovs-agent "), "{version}");
}

#[test]
fn bad_calls_are_refused_with_the_code_of_the_specification() {
    let host = Host::bare();
    let web = host.container("web");
    let netns = web.path().display().to_string();
    let call = || vars(&host, &netns);
    let good = conf(json!({})).to_string();

    let missing = Command::new(host.plugin().path())
        .no_env()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", "")
        .env("CNI_PATH", "/usr/lib/cni");
    assert_eq!(
        error(missing, &good),
        (
            4,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing".to_owned(),
            String::new()
        )
    );
    assert_eq!(error(call().env("CNI_COMMAND", "PLUG"), &good).0, 4);
    assert_eq!(error(call().env("CNI_CONTAINERID", "../x"), &good).0, 4);
    assert_eq!(error(call().env("CNI_IFNAME", "a/b"), &good).0, 4);
    assert_eq!(error(call().env("CNI_ARGS", "IP"), &good).0, 4);
    assert_eq!(
        error(call().env("CNI_ARGS", "FOO=1"), &good).2,
        "remove it, or add IgnoreUnknown=1"
    );
    for garbage in ["", "{", "[]", "\"net\"", "{} {}"] {
        assert_eq!(error(call(), garbage).0, 6, "{garbage}");
    }
    let (code, msg, _) = error(call(), r#"{"cniVersion": "1.0.0", "type": "ovs-agent"}"#);
    assert_eq!((code, msg.as_str()), (7, "missing network name"));
    let (code, msg, details) = error(call(), &versioned("9.9.9", json!({})).to_string());
    assert_eq!((code, msg.as_str()), (1, "incompatible CNI versions"));
    assert!(details.contains("\"9.9.9\"") && details.contains("\"1.1.0\""), "{details}");
    // No version means 0.1.0.
    assert_eq!(error(call(), r#"{"name": "net", "type": "ovs-agent"}"#).0, 1);
    let (code, msg, details) = error(call(), &conf(json!({"brigde": "br0"})).to_string());
    assert_eq!(code, 2);
    assert_eq!(msg, "unknown key brigde (value \"br0\")");
    assert_eq!(details, "did you mean \"bridge\"?");
    assert_eq!(error(call(), &conf(json!({"mtu": 1})).to_string()).0, 7);
    assert_eq!(error(call(), &conf(json!({"deviceID": "0000:03:00.1"})).to_string()).0, 2);
    let (code, msg, _) = error(call().env("CNI_NETNS", "/run/netns/none"), &good);
    assert_eq!((code, msg.as_str()), (8, "network namespace /run/netns/none does not exist"));
    assert_eq!(error(call().env("CNI_NETNS", "/etc/passwd"), &good).0, 8);
}

#[test]
fn verbs_that_a_version_does_not_have_are_refused() {
    let host = Host::bare();
    for (verb, too_old) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let reply = host.plugin().call(verb, "web", "/x", "eth0", &versioned(too_old, json!({})));
        let error = reply.failure();
        assert_eq!(error["code"], 1);
        assert_eq!(error["msg"], format!("config version does not allow {verb}"));
    }
}

/// `CNI_NETNS` may point at the host itself by a slip: nothing may be done then.
#[test]
fn its_own_namespace_is_refused_before_anything_is_done() {
    let host = host();
    let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), rig_tid());
    let before = host.snapshot();
    let l2 = conf(json!({"ipam": {}}));
    let error = host.plugin().call("ADD", "web", &own, "eth0", &l2).failure();
    assert_eq!(error["code"], 8);
    rig::assert_same(&before, &host.snapshot());
    let meant = host.plugin().env("CNI_NETNS_OVERRIDE", "1");
    let result = meant.call("ADD", "web", &own, "eth0", &l2).success();
    assert_eq!(result["interfaces"][1]["sandbox"], own);
    meant.call("DEL", "web", &own, "eth0", &l2).success();
    rig::assert_same(&before, &host.snapshot());
}

fn rig_tid() -> i32 {
    nix::unistd::gettid().as_raw()
}

#[test]
fn each_version_gets_a_result_in_its_own_form() {
    let host = host();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let web = host.container("web");
        let conf = versioned(version, json!({"dns": {"nameservers": ["9.9.9.9"]}}));
        let result = host.plugin().add(&web, &conf).success();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["dns"], json!({"nameservers": ["9.9.9.9"]}));
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 2);
        assert!(interfaces[0].get("sandbox").is_none());
        assert_eq!(interfaces[1]["name"], "eth0");
        assert_eq!(interfaces[1]["sandbox"], web.path().to_str().unwrap());
        let newest = version == "1.1.0";
        for interface in interfaces {
            assert_eq!(interface.get("mtu").is_some(), newest, "{result}");
        }
        let mac: Vec<String> = web.mac("eth0").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(interfaces[1]["mac"], mac.join(":"));
        for (index, family) in ["4", "6"].iter().enumerate() {
            let entry = &result["ips"][index];
            assert_eq!(entry["interface"], 1);
            let old = version.starts_with("0.");
            assert_eq!(entry.get("version").and_then(Value::as_str), old.then_some(*family));
        }
        assert_eq!(result["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.200.0.1"}));
        assert_eq!(result["routes"][1]["dst"], "::/0");
        if version != "0.3.0" && version != "0.3.1" {
            let silent = host.plugin().check(&web, &after(&conf, &result));
            assert_eq!(silent.output.stdout, "");
            silent.success();
        }
        let silent = host.plugin().del(&web, &conf);
        assert_eq!(silent.output.stdout, "", "{}", silent.output);
        silent.success();
        web.remove();
    }
}

#[test]
fn a_well_meant_call_is_silent_on_stderr() {
    let host = host();
    let web = host.container("web");
    let reply = host.plugin().add(&web, &conf(json!({})));
    assert_eq!(reply.output.stderr, "");
    reply.success();
}

/// A runtime that went away cannot know of the attachment: it must not stay.
#[test]
fn a_result_that_nobody_receives_is_undone() {
    let host = host();
    let before = host.snapshot();
    let web = host.container("web");
    let script = format!(
        "printf '%s' '{}' | CNI_COMMAND=ADD CNI_CONTAINERID=web CNI_NETNS={} CNI_IFNAME=eth0 \
         CNI_PATH=/usr/lib/cni {} > /dev/full",
        conf(json!({})),
        web.path().display(),
        host.plugin().path().display()
    );
    assert!(!host.try_sh(&script).ok());
    web.remove();
    rig::assert_same(&before, &host.snapshot());
}

#[test]
fn behind_another_plugin_its_result_is_kept() {
    let host = host();
    let web = host.container("web");
    web.ip("link add dummy0 type veth peer name dummy1");
    let sandbox = web.path().display().to_string();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "dummy0", "mac": "02:00:00:00:00:09", "sandbox": sandbox}],
        "ips": [{"interface": 0, "address": "10.77.0.2/24"}],
        "dns": {"nameservers": ["10.77.0.1"]},
    });
    let result = host.plugin().add(&web, &after(&conf(json!({})), &previous)).success();
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(ip(&result, 1).to_string(), "10.200.0.2");
    assert_eq!(result["dns"], previous["dns"]);
    host.plugin().check(&web, &after(&conf(json!({})), &result)).success();
}
