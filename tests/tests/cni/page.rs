//! docs/cni.md does what it says.

use rig::Host;
use serde_json::Value;

use crate::host;

/// The fenced blocks of that language.
fn blocks(host: &Host, language: &str) -> Vec<String> {
    let page = host.shipped("docs/cni.md");
    let fence = format!("```{language}\n");
    let texts = page.split(&fence).skip(1);
    texts.map(|text| text.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_session_works_as_printed() {
    let host = host();
    host.install_plugin();
    let before = host.snapshot();
    let session = &blocks(&host, "sh")[0];
    let output = host.sh(&format!("mkdir /run/session; cd /run/session\n{session}"));
    assert!(output.contains("\"address\":\"10.200.0.2/24\""), "{output}");
    assert!(output.contains("0% packet loss"), "{output}");
    assert!(output.contains("\nveth-demo-eth0\n"), "{output}");
    rig::assert_same(&before, &host.snapshot());
}

/// A configuration is judged before the namespace, which is not there.
#[test]
fn every_configuration_is_valid() {
    let host = host();
    let blocks = blocks(&host, "json");
    assert!(!blocks.is_empty());
    for block in blocks {
        let conf: Value = serde_json::from_str(&block).unwrap_or_else(|e| panic!("{e}: {block}"));
        let error = host.plugin().call("ADD", "web", "/run/netns/none", "eth0", &conf).failure();
        assert_eq!(error["code"], 8, "{error}");
    }
}
