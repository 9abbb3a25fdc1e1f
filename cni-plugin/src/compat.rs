//! What makes a configuration written for ovs-cni work with only `type` changed: its flat file and
//! the keys that are its own.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use shared::ovsdb::Endpoint;

use crate::fields::{Error, Fields, lookup};

/// Where ovs-cni looks for its flat file after `configuration_path`; the first that exists counts.
const FLAT_FILES: [&str; 2] =
    ["/etc/kubernetes/cni/net.d/ovs.d/ovs.conf", "/etc/cni/net.d/ovs.d/ovs.conf"];

/// Longest flat file in bytes: as much as a runtime may hand to us.
const LONGEST: u64 = 4 << 20;

/// The bridge of a port that OVN manages, when the configuration names none.
pub(crate) const OVN_BRIDGE: &str = "br-int";

/// How long to wait for ovs-vswitchd when the configuration says nothing.
pub(crate) const LINK_DEADLINE: Duration = Duration::from_secs(10);

/// Defaults of ovs-cni: `link_state_check_retries` and `link_state_check_interval` in milliseconds.
const CHECK_RETRIES: u64 = 5;
const CHECK_INTERVAL: u64 = 600;

/// The flat file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlatFileError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It holds no JSON object.
    #[error("{} is no JSON object", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense, if it is JSON at all.
        source: Option<serde_json::Error>,
    },
}

/// Merges the flat file into what `config` leaves open.
pub(crate) fn merge_flat_file(config: &mut Map<String, Value>) -> Result<(), FlatFileError> {
    let named = lookup(config, "configuration_path").and_then(Value::as_str);
    let named = named.filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = named.into_iter().collect();
    candidates.extend(FLAT_FILES.map(PathBuf::from));
    let Some(path) = candidates.into_iter().find(|path| path.exists()) else { return Ok(()) };
    merge(config, read_flat_file(&path)?);
    Ok(())
}

fn read_flat_file(path: &Path) -> Result<Map<String, Value>, FlatFileError> {
    let garbage = |source| FlatFileError::Garbage { path: path.to_owned(), source };
    let text =
        read(path).map_err(|source| FlatFileError::Read { path: path.to_owned(), source })?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(garbage(None)),
        Err(error) => Err(garbage(Some(error))),
    }
}

/// A link is followed, as a file of the user's; a device or a pipe would never end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

/// Takes from `defaults` what is absent or zero in `config`, as ovs-cni does.
fn merge(config: &mut Map<String, Value>, defaults: Map<String, Value>) {
    for (key, value) in defaults {
        if lookup(config, &key).is_some_and(|own| !is_zero(own)) {
            continue;
        }
        config.retain(|own, _| !own.eq_ignore_ascii_case(&key));
        config.insert(key, value);
    }
}

/// The zero values of Go.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The keys that only ovs-cni configurations have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// `socket_file`.
    pub(crate) ovsdb: Option<Endpoint>,
    /// `link_state_check_retries` × `link_state_check_interval`.
    pub(crate) link_deadline: Duration,
    /// `interface_type`, as the row of the Interface has it.
    pub(crate) interface_type: String,
}

/// Reads them.
pub(crate) fn keys(fields: &mut Fields<'_>) -> Result<Keys, Error> {
    let ovsdb = match fields.text("socket_file")? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let expected = "unix:/path, /path or tcp:address:port";
            fields.wrong("socket_file", &Value::from(text), expected)
        })?),
    };
    let retries = fields.number("link_state_check_retries", &(0..=1000))?;
    let interval = fields.number("link_state_check_interval", &(0..=60_000))?;
    fields.text("configuration_path")?;
    if let Some(device) = fields.text("deviceID")? {
        return Err(Error::Unsupported {
            field: fields.path("deviceID"),
            value: device.to_owned(),
            hint: "leave deviceID out to get a veth; hardware offload is not offered",
        });
    }
    let interface_type = interface_type(fields)?;
    Ok(Keys { ovsdb, link_deadline: link_deadline(retries, interval), interface_type })
}

/// ovs-cni sleeps `interval` up to `retries` times. At least a second, at most a minute: a runtime
/// gives up after four.
fn link_deadline(retries: Option<u64>, interval: Option<u64>) -> Duration {
    if retries.unwrap_or(0) == 0 && interval.unwrap_or(0) == 0 {
        return LINK_DEADLINE;
    }
    let given = |value: Option<u64>, default| value.filter(|v| *v > 0).unwrap_or(default);
    let millis = given(retries, CHECK_RETRIES) * given(interval, CHECK_INTERVAL);
    Duration::from_millis(millis.clamp(1000, 60_000))
}

/// The type must suit a veth: the host end exists before Open vSwitch sees it.
fn interface_type(fields: &mut Fields<'_>) -> Result<String, Error> {
    match fields.text("interface_type")? {
        None | Some("system") => Ok(String::new()),
        // ovs-cni documents "internal" as its default, though it leaves the column empty.
        Some("internal") => {
            tracing::warn!(
                "interface_type \"internal\" is taken as \"system\": the port is a veth"
            );
            Ok(String::new())
        }
        Some(kind @ ("afxdp" | "afxdp-nonpmd")) => Ok(kind.to_owned()),
        Some(other) => Err(Error::Unsupported {
            field: fields.path("interface_type"),
            value: other.to_owned(),
            hint: "leave it out, or say system, afxdp or afxdp-nonpmd",
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(value: &Value) -> Result<Keys, Error> {
        super::keys(&mut Fields::of("", value).unwrap())
    }

    #[test]
    fn the_flat_file_fills_only_what_is_open() {
        let flat = json!({"Bridge": "br-flat", "mtu": 9000, "vlan": 7, "trunk": [{"id": 1}]});
        let own = json!({"bridge": "", "mtu": 1400, "VLAN": null, "trunk": []});
        let (Value::Object(flat), Value::Object(mut own)) = (flat, own) else { unreachable!() };
        merge(&mut own, flat);
        assert_eq!(
            Value::Object(own),
            json!({"Bridge": "br-flat", "mtu": 1400, "vlan": 7, "trunk": [{"id": 1}]})
        );
    }

    #[test]
    fn the_named_flat_file_is_read_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ovs.conf");
        std::fs::write(&path, r#"{"socket_file": "/run/ovs.sock"}"#).unwrap();
        let Value::Object(mut own) = json!({"Configuration_Path": path}) else { unreachable!() };
        merge_flat_file(&mut own).unwrap();
        assert_eq!(own["socket_file"], "/run/ovs.sock");

        std::fs::write(&path, "[]").unwrap();
        let error = merge_flat_file(&mut own).unwrap_err().to_string();
        assert_eq!(error, format!("{} is no JSON object", path.display()));
    }

    #[test]
    fn a_flat_file_that_never_ends_is_no_file() {
        let Value::Object(mut own) = json!({"configuration_path": "/dev/zero"}) else {
            unreachable!()
        };
        let error = merge_flat_file(&mut own).unwrap_err();
        assert_eq!(shared::error::chain(&error), "cannot read /dev/zero: it is no regular file");
    }

    #[test]
    fn socket_file_takes_every_form_of_ovs_cni() {
        for (text, expected) in [
            ("unix:/var/run/openvswitch/db.sock", "unix:/var/run/openvswitch/db.sock"),
            ("/var/run/openvswitch/db.sock", "unix:/var/run/openvswitch/db.sock"),
            ("tcp:10.0.0.1:6640", "tcp:10.0.0.1:6640"),
            ("tcp:[::1]:6640", "tcp:[::1]:6640"),
        ] {
            let keys = keys(&json!({"socket_file": text})).unwrap();
            assert_eq!(keys.ovsdb.unwrap().to_string(), expected);
        }
        for bad in ["ssl:10.0.0.1:6640", "tcp:6640", "tcp:host:x", "db.sock", "unix:"] {
            assert!(keys(&json!({"socket_file": bad})).is_err(), "{bad}");
        }
        assert_eq!(keys(&json!({"socket_file": ""})).unwrap().ovsdb, None);
    }

    #[test]
    fn retries_times_interval_is_the_deadline() {
        for (value, millis) in [
            (json!({}), 10_000),
            (json!({"link_state_check_retries": 5, "link_state_check_interval": 1000}), 5000),
            (json!({"link_state_check_retries": 10}), 6000),
            (json!({"link_state_check_interval": 10}), 1000),
            (json!({"link_state_check_retries": 1000, "link_state_check_interval": 1000}), 60_000),
        ] {
            assert_eq!(keys(&value).unwrap().link_deadline, Duration::from_millis(millis));
        }
    }

    #[test]
    fn interface_type_must_suit_a_veth() {
        for (text, row) in [("", ""), ("system", ""), ("internal", ""), ("afxdp", "afxdp")] {
            assert_eq!(keys(&json!({"interface_type": text})).unwrap().interface_type, row);
        }
        assert!(keys(&json!({"interface_type": "dpdk"})).is_err());
    }

    #[test]
    fn a_device_id_is_not_supported_yet() {
        let error = keys(&json!({"deviceID": "0000:03:02.0"})).unwrap_err();
        assert_eq!(error.to_string(), "deviceID (0000:03:02.0) is not supported yet");
        assert!(keys(&json!({"deviceID": ""})).is_ok());
    }
}
