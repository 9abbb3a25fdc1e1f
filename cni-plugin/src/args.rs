//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`, how Podman and CRI-O still hand over names, MAC and address.

use shared::attachment::record::Labels;
use shared::mac::Mac;

use crate::addresses::Requested;

/// What is wrong with `CNI_ARGS`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// Not one `=` in a pair.
    #[error("CNI_ARGS has \"{pair}\", expected one KEY=VALUE")]
    Pair {
        /// The pair.
        pair: String,
    },
    /// A key nobody knows, and `IgnoreUnknown` is not set.
    #[error("CNI_ARGS has the unknown key \"{key}\"")]
    Unknown {
        /// The key.
        key: String,
    },
    /// A value that cannot be used.
    #[error("CNI_ARGS has {key}={value}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
}

/// The pairs that mean something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `MAC`.
    pub(crate) mac: Option<Mac>,
    /// `IP`: one address, or several with commas (old Multus).
    pub(crate) ips: Vec<Requested>,
    /// `OvnPort`: name of a logical port of OVN, as ovs-cni takes it.
    pub(crate) ovn_port: Option<String>,
    /// Names of the pod.
    pub(crate) labels: Labels,
}

impl Args {
    /// Reads `CNI_ARGS`. Keys match in any case: the documentation of ovs-cni writes `mac=`, which
    /// a Go plugin would drop without a word. Empty pairs are skipped.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut pairs = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.contains('=') => {
                    pairs.push((key.trim(), value));
                }
                _ => return Err(Error::Pair { pair: pair.to_owned() }),
            }
        }
        let lenient = pairs.iter().any(|(key, value)| {
            key.eq_ignore_ascii_case("IgnoreUnknown") && matches!(*value, "1" | "true" | "True")
        });
        let mut args = Self::default();
        for (key, value) in pairs {
            let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match key.to_ascii_lowercase().as_str() {
                "mac" => args.mac = mac(value)?,
                "ip" => args.ips = ips(value)?,
                "ovnport" => args.ovn_port = text(),
                "k8s_pod_name" => args.labels.name = text(),
                "k8s_pod_namespace" => args.labels.namespace = text(),
                "k8s_pod_uid" => args.labels.pod_uid = text(),
                "ignoreunknown" | "k8s_pod_infra_container_id" => {}
                _ if lenient => {}
                _ => return Err(Error::Unknown { key: key.to_owned() }),
            }
        }
        Ok(args)
    }
}

fn mac(value: &str) -> Result<Option<Mac>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| Error::Value {
        key: "MAC",
        value: value.to_owned(),
        expected: crate::fields::A_MAC,
    })
}

fn ips(value: &str) -> Result<Vec<Requested>, Error> {
    value
        .split(',')
        .map(str::trim)
        .filter(|ip| !ip.is_empty())
        .map(|ip| {
            ip.parse().map_err(|_| Error::Value {
                key: "IP",
                value: value.to_owned(),
                expected: "an IP address, with or without a prefix length",
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_podman_sends_is_read() {
        let args =
            Args::parse("IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:5e:10:00:01;IP=10.9.0.5;FOO=x")
                .unwrap();
        assert_eq!(args.labels.name.as_deref(), Some("web"));
        assert_eq!(args.mac.unwrap().to_string(), "02:00:5e:10:00:01");
        assert_eq!(args.ips, ["10.9.0.5".parse().unwrap()]);
    }

    #[test]
    fn what_kubernetes_sends_is_read_in_any_order() {
        let text = "K8S_POD_UID=u-1;K8S_POD_NAME=web;IgnoreUnknown=true;\
                    K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_NAMESPACE=default";
        let labels = Args::parse(text).unwrap().labels;
        assert_eq!(labels.namespace.as_deref(), Some("default"));
        assert_eq!(labels.pod_uid.as_deref(), Some("u-1"));
    }

    #[test]
    fn the_spelling_of_the_ovs_cni_documentation_counts() {
        let args = Args::parse("mac=02:00:5e:10:00:01;ovnPort=port-1").unwrap();
        assert!(args.mac.is_some());
        assert_eq!(args.ovn_port.as_deref(), Some("port-1"));
    }

    #[test]
    fn several_addresses_come_with_commas() {
        let args = Args::parse("IP=10.1.0.5, fd00::5/64").unwrap();
        assert_eq!(args.ips, ["10.1.0.5".parse().unwrap(), "fd00::5/64".parse().unwrap()]);
    }

    #[test]
    fn unknown_keys_are_refused_unless_told_to_ignore_them() {
        assert_eq!(
            Args::parse("FOO=1").unwrap_err().to_string(),
            "CNI_ARGS has the unknown key \"FOO\""
        );
        assert!(Args::parse("FOO=1;IgnoreUnknown=true").is_ok());
        assert!(Args::parse("FOO=1;IgnoreUnknown=0").is_err());
    }

    #[test]
    fn a_pair_has_exactly_one_equals_sign() {
        for bad in ["MAC", "=1", "MAC=a=b", "IgnoreUnknown=1;X"] {
            assert!(matches!(Args::parse(bad), Err(Error::Pair { .. })), "{bad}");
        }
        assert_eq!(Args::parse(";MAC=;"), Ok(Args::default()));
    }

    #[test]
    fn bad_values_name_key_and_expectation() {
        assert_eq!(
            Args::parse("IP=10.1.0").unwrap_err().to_string(),
            "CNI_ARGS has IP=10.1.0, expected an IP address, with or without a prefix length"
        );
        assert!(Args::parse("MAC=01:00:5e:10:00:01").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9=;:,./ ]{0,60}") {
            drop(Args::parse(&text));
        }

        #[test]
        fn with_ignore_unknown_only_known_keys_can_be_wrong(
            key in "[A-Z]{4,8}", value in "[a-z0-9:/.]{0,12}",
        ) {
            prop_assume!(key != "IGNOREUNKNOWN" && key != "OVNPORT");
            prop_assert_eq!(
                Args::parse(&format!("IgnoreUnknown=1;{key}={value}")),
                Ok(Args::default())
            );
        }
    }
}
