//! What must hold for any config.toml.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::{Bridge, Config, Error, Listen, Mode, NetworkManager, Uplink};
use crate::error::sentence;
use crate::ledger;
use laws::one_line;

const FILE: &str = "/etc/ovs-port-agent/config.toml";

/// A configuration that is taken can be written out and read again as the same; its bridges are
/// apart from each other. One that is refused is refused in one line that names a place in the file.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = |text: &str| Config::parse(text, Path::new(FILE), Path::new("/nonexistent"));
    match read(text) {
        Ok(config) => {
            apart(&config);
            let written = written(&config);
            match read(&written) {
                Ok(again) => assert_eq!(again, config, "{written}"),
                Err(error) => panic!("{}\n{written}", sentence(&error)),
            }
        }
        Err(error) => {
            one_line(&sentence(&error));
            let Error::Invalid { line, column, hint, .. } = &error else {
                panic!("{error} is not about the text")
            };
            assert!(!hint.is_empty(), "{error}");
            let lines: Vec<_> = text.split('\n').collect();
            let length = lines.get(line - 1).map(|line| line.chars().count());
            assert!(length.is_some_and(|length| *column <= length + 1), "{error}");
        }
    }
}

fn apart(config: &Config) {
    assert!(!config.bridges.is_empty());
    let names: BTreeSet<_> = config.bridges.iter().map(|bridge| &bridge.name).collect();
    assert_eq!(names.len(), config.bridges.len());
    assert!(names.contains(&config.bridge_name));
    let subnets: Vec<_> = config.subnets().collect();
    for (at, (bridge, net)) in subnets.iter().enumerate() {
        for (other, first) in &subnets[..at] {
            let same = bridge.name == other.name && net == first;
            assert!(same || !crate::address::overlaps(*net, *first), "{net} {first}");
        }
    }
    let mut families = BTreeSet::new();
    for bridge in &config.bridges {
        if let Mode::Direct { gateway: Some(gateway), addresses, .. } = &bridge.mode {
            assert!(families.insert(gateway.is_ipv4()), "{gateway}");
            assert!(addresses.iter().any(|net| net.contains(gateway) && net.addr() != *gateway));
        }
    }
}

/// The file that says all of `config`.
fn written(config: &Config) -> String {
    let mut text = String::new();
    let mut pair = |key: &str, value: toml::Value| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    };
    let path = |path: &Path| toml::Value::from(path.display().to_string());
    pair("bridge_name", config.bridge_name.as_str().into());
    pair("interfaces_path", path(&config.interfaces_path));
    pair("include_prefixes", config.include_prefixes.clone().into());
    pair("debounce_ms", i64::try_from(config.debounce_ms).unwrap_or(i64::MAX).into());
    pair("managed_block_tag", config.managed_block_tag.as_str().into());
    pair("naming_template", config.naming_template.to_string().into());
    pair("enable_rename", config.enable_rename.into());
    pair("ledger_path", path(&config.ledger_path));
    let sync = if config.ledger_sync == ledger::Sync::Always { "always" } else { "agent" };
    pair("ledger_sync", sync.into());
    pair("ovsdb_socket", config.ovsdb.to_string().into());
    pair("state_dir", path(&config.state_dir));
    let (first, last) = config.docker_vlans;
    pair("docker_vlans", format!("{first}-{last}").into());
    match &config.metrics {
        None => {}
        Some(Listen::Unix(socket)) => {
            pair("metrics_listen", format!("unix:{}", socket.display()).into());
        }
        Some(Listen::Loopback(address)) => pair("metrics_listen", address.to_string().into()),
    }
    let mirror = config.network_manager == NetworkManager::Mirror;
    pair("network_manager", if mirror { "mirror" } else { "ignore" }.into());
    pair("protect_rules", config.protect_rules.into());
    config.bridges.iter().for_each(|bridge| section(&mut text, bridge));
    text
}

fn section(text: &mut String, bridge: &Bridge) {
    let mut line = |key: &str, value: toml::Value| {
        let _ = writeln!(text, "{key} = {value}");
    };
    let (mode, uplink, gateway) = match &bridge.mode {
        Mode::Direct { uplink, gateway, .. } => ("direct", uplink.clone(), *gateway),
        Mode::Nat { uplink: Uplink::Named(name), .. } => ("nat", Some(name.clone()), None),
        Mode::Nat { uplink: Uplink::Default, .. } => ("nat", None, None),
    };
    line("[[bridge]]\nname", bridge.name.as_str().into());
    line("mode", mode.into());
    let addresses: Vec<_> = bridge.addresses().iter().map(ToString::to_string).collect();
    line("addresses", addresses.into());
    if let Some(uplink) = uplink {
        line("uplink", uplink.as_str().into());
    }
    if let Some(gateway) = gateway {
        line("gateway", gateway.to_string().into());
    }
    if let Some(mtu) = bridge.mtu {
        line("mtu", i64::from(mtu).into());
    }
    if let Some(datapath) = &bridge.datapath_type {
        line("datapath_type", datapath.as_str().into());
    }
}
