//! What a verb can fail with, and the one table from there to the codes of the specification.

use std::io;

use serde_json::{Value, json};
use shared::error::{Fault, Kind, chain, one_line};
use shared::{attachment, config, netns, ovsdb};

use crate::environment::Verb;
use crate::version::Version;
use crate::{addresses, args, compat, delegate, environment, fields, netconf, network, rootless};

/// Everything a call can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The variables.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] args::Error),
    /// No root, no switch.
    #[error(transparent)]
    Rootless(#[from] rootless::Error),
    /// stdin could not be read.
    #[error("cannot read the network configuration from stdin")]
    Stdin(#[source] io::Error),
    /// The process that called could not be asked for its name.
    #[error("cannot tell which program calls")]
    Caller(#[source] io::Error),
    /// GC by a process that this one cannot see: whose attachments may go is unknown.
    #[error("cannot tell whose attachments GC may remove: its caller is in another pid namespace")]
    Nameless,
    /// stdin holds no usable configuration.
    #[error(transparent)]
    Envelope(#[from] netconf::EnvelopeError),
    /// A version that has no such verb.
    #[error("config version does not allow {}", verb.as_str())]
    Gate {
        /// The verb.
        verb: Verb,
        /// The version of the configuration.
        version: Version,
    },
    /// The flat file of ovs-cni.
    #[error(transparent)]
    FlatFile(#[from] compat::FlatFileError),
    /// A key of the configuration.
    #[error(transparent)]
    Field(#[from] fields::Error),
    /// The configuration does not fit this host.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Requested addresses.
    #[error(transparent)]
    Addresses(#[from] addresses::Error),
    /// CHECK without a previous result.
    #[error("prevResult is missing, expected the result of ADD")]
    NoPrevious,
    /// A namespace that cannot be used.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The plugin's own namespace was given as the container's.
    #[error("CNI_NETNS is {path}, the plugin's own network namespace, expected the container's")]
    OwnNetns {
        /// The path.
        path: String,
    },
    /// The host configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] attachment::Error),
    /// An IPAM plugin.
    #[error(transparent)]
    Delegate(#[from] delegate::Error),
    /// An IPAM plugin gave no address.
    #[error("ipam plugin \"{kind}\" gave no address")]
    NoAddress {
        /// Its type.
        kind: String,
    },
    /// An ADD failed, and so did its undoing.
    #[error("{}; and it could not be undone: {}", chain(cause), chain(left))]
    NotReleased {
        /// Why the ADD failed.
        cause: Box<Self>,
        /// Why something is left.
        left: Box<Self>,
    },
    /// STATUS: an ADD would fail.
    #[error("not ready")]
    NotReady(#[source] Box<Self>),
    /// GC went on past these.
    #[error("{} of the attachments could not be collected: {}", failed.len(), failed.join("; "))]
    Collect {
        /// One sentence each.
        failed: Vec<String>,
    },
}

/// Codes of the specification (CNI 1.1.0, "Error"), and our own from 100.
mod code {
    pub(super) const INCOMPATIBLE_VERSION: u64 = 1;
    pub(super) const UNSUPPORTED_FIELD: u64 = 2;
    pub(super) const UNKNOWN_CONTAINER: u64 = 3;
    pub(super) const INVALID_ENVIRONMENT: u64 = 4;
    pub(super) const IO_FAILURE: u64 = 5;
    pub(super) const DECODING_FAILURE: u64 = 6;
    pub(super) const INVALID_CONFIG: u64 = 7;
    /// In upstream's code, not in the specification.
    pub(super) const INVALID_NETNS: u64 = 8;
    pub(super) const TRY_AGAIN_LATER: u64 = 11;
    pub(super) const NOT_AVAILABLE: u64 = 50;
    pub(super) const DEGRADED: u64 = 51;
    pub(super) const MISSING: u64 = 100;
    pub(super) const CONFLICT: u64 = 101;
    pub(super) const EXHAUSTED: u64 = 102;
    pub(super) const BROKEN: u64 = 103;
}

/// The engine's kinds in the codes of the specification.
fn code_of(kind: Kind) -> u64 {
    match kind {
        Kind::Invalid => code::INVALID_CONFIG,
        Kind::Unsupported => code::UNSUPPORTED_FIELD,
        Kind::Missing => code::MISSING,
        Kind::Conflict => code::CONFLICT,
        Kind::Exhausted => code::EXHAUSTED,
        Kind::Unavailable | Kind::Busy => code::TRY_AGAIN_LATER,
        Kind::Broken => code::BROKEN,
        Kind::System => code::IO_FAILURE,
    }
}

impl Error {
    /// The code of the specification.
    pub(crate) fn code(&self) -> u64 {
        match self {
            Self::Envelope(netconf::EnvelopeError::Version { .. }) | Self::Gate { .. } => {
                code::INCOMPATIBLE_VERSION
            }
            Self::Environment(_) | Self::Args(_) => code::INVALID_ENVIRONMENT,
            Self::Stdin(_) | Self::Caller(_) | Self::Nameless => code::IO_FAILURE,
            Self::Envelope(
                netconf::EnvelopeError::Json { .. } | netconf::EnvelopeError::NoObject { .. },
            )
            | Self::FlatFile(compat::FlatFileError::Garbage { .. }) => code::DECODING_FAILURE,
            Self::Envelope(_) | Self::NoPrevious | Self::Addresses(_) | Self::NoAddress { .. } => {
                code::INVALID_CONFIG
            }
            Self::FlatFile(compat::FlatFileError::Read { .. }) => code::IO_FAILURE,
            Self::Netns(_) | Self::OwnNetns { .. } => code::INVALID_NETNS,
            Self::Engine(attachment::Error::Unknown { .. }) => code::UNKNOWN_CONTAINER,
            Self::Engine(attachment::Error::Netns(_)) => code::INVALID_NETNS,
            Self::Rootless(error) => code_of(error.kind()),
            Self::Field(error) => code_of(error.kind()),
            Self::Network(error) => code_of(error.kind()),
            Self::Config(error) => code_of(error.kind()),
            Self::Engine(error) => code_of(error.kind()),
            Self::Delegate(error) => error.code().unwrap_or_else(|| code_of(error.kind())),
            Self::NotReleased { cause, .. } => cause.code(),
            Self::NotReady(cause) => cause.status_code(),
            Self::Collect { .. } => code::IO_FAILURE,
        }
    }

    /// The code of STATUS: containers that are plugged in suffer when the switch itself does not
    /// work; a full pool or a silent database is felt by new ones only.
    fn status_code(&self) -> u64 {
        match self {
            Self::Engine(
                attachment::Error::Vswitchd(_)
                | attachment::Error::Ovsdb(ovsdb::Error::NoBridge { .. }),
            ) => code::DEGRADED,
            Self::Delegate(error) => match error.code() {
                Some(code @ (code::NOT_AVAILABLE | code::DEGRADED)) => code,
                _ => code::NOT_AVAILABLE,
            },
            _ => code::NOT_AVAILABLE,
        }
    }

    /// What to do about it, or what else is known.
    fn details(&self) -> String {
        let hint = match self {
            Self::Envelope(netconf::EnvelopeError::Version { wanted }) => {
                Some(format!("config is \"{wanted}\", plugin supports {:?}", Version::texts()))
            }
            Self::Gate { version, .. } => Some(format!("config is \"{version}\"")),
            Self::Envelope(_)
            | Self::Environment(_)
            | Self::Stdin(_)
            | Self::Caller(_)
            | Self::FlatFile(_) => None,
            Self::Args(args::Error::Unknown { .. }) => {
                Some("remove it, or add IgnoreUnknown=1".to_owned())
            }
            Self::Nameless => Some(
                "call the plugin from the pid namespace of the runtime, or set \"disableGC\": true \
                 in the network's file"
                    .to_owned(),
            ),
            Self::Args(_) | Self::NoAddress { .. } | Self::Collect { .. } => None,
            Self::Rootless(error) => error.hint(),
            Self::Field(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::Addresses(_) => {
                Some("ask for an address of the subnets, or leave it to the pool".to_owned())
            }
            Self::NoPrevious => Some("a runtime passes it on by itself".to_owned()),
            Self::Netns(error) => error.hint(),
            Self::OwnNetns { .. } => {
                Some("set CNI_NETNS_OVERRIDE=1 if that is really meant".to_owned())
            }
            Self::Config(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Delegate(error) => error.hint(),
            Self::NotReleased { cause, .. } | Self::NotReady(cause) => Some(cause.details()),
        };
        hint.unwrap_or_default()
    }

    /// The error document of the specification.
    pub(crate) fn document(&self, version: Version) -> Value {
        json!({
            "cniVersion": version.as_str(),
            "code": self.code(),
            "msg": chain(self),
            "details": one_line(self.details()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: Kind) -> fields::Error {
        match kind {
            Kind::Unsupported => fields::Error::Unknown {
                field: "brigde".to_owned(),
                value: "1".to_owned(),
                similar: Some("bridge"),
            },
            _ => fields::Error::Missing { field: "dst".to_owned(), expected: "a subnet" },
        }
    }

    fn key() -> attachment::Key {
        attachment::Key {
            network: "net".to_owned(),
            container: "web".to_owned(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    #[test]
    fn every_kind_has_its_code() {
        for (kind, code) in [
            (Kind::Unsupported, 2),
            (Kind::System, 5),
            (Kind::Invalid, 7),
            (Kind::Unavailable, 11),
            (Kind::Busy, 11),
            (Kind::Missing, 100),
            (Kind::Conflict, 101),
            (Kind::Exhausted, 102),
            (Kind::Broken, 103),
        ] {
            assert_eq!(code_of(kind), code, "{kind:?}");
        }
    }

    #[test]
    fn every_error_has_the_code_of_the_specification() {
        let envelope = netconf::Envelope::parse;
        let bare = envelope(b"{}").unwrap();
        let no_bridge =
            || attachment::Error::Ovsdb(ovsdb::Error::NoBridge { bridge: "br0".to_owned() });
        let failed = |code| delegate::Error::Failed {
            kind: "x".to_owned(),
            verb: "STATUS",
            code,
            msg: String::new(),
            details: String::new(),
        };
        let ready = |error: Error| Error::NotReady(Box::new(error));
        let netns = || netns::Error::Missing { path: "/x".into() };
        let table: Vec<(Error, u64)> = vec![
            (bare.version().unwrap_err().into(), 1),
            (Error::Gate { verb: Verb::Gc, version: Version::V1_0_0 }, 1),
            (field(Kind::Unsupported).into(), 2),
            (attachment::Error::Unknown { key: key() }.into(), 3),
            (environment::Error::Missing { names: vec!["CNI_IFNAME"] }.into(), 4),
            (args::Error::Pair { pair: "x".to_owned() }.into(), 4),
            (Error::Stdin(io::ErrorKind::TimedOut.into()), 5),
            (Error::Caller(io::ErrorKind::PermissionDenied.into()), 5),
            (Error::Nameless, 5),
            (envelope(b"{").unwrap_err().into(), 6),
            (envelope(b"[]").unwrap_err().into(), 6),
            (bare.name().unwrap_err().into(), 7),
            (field(Kind::Invalid).into(), 7),
            (Error::NoPrevious, 7),
            (network::Error::NoBridge.into(), 7),
            (Error::OwnNetns { path: "/x".to_owned() }, 8),
            (netns().into(), 8),
            (attachment::Error::Netns(netns()).into(), 8),
            (no_bridge().into(), 100),
            (failed(42).into(), 42),
            (ready(no_bridge().into()), 51),
            (ready(failed(51).into()), 51),
            (ready(failed(999).into()), 50),
            (ready(field(Kind::Invalid).into()), 50),
            (
                Error::NotReleased {
                    cause: Box::new(no_bridge().into()),
                    left: Box::new(Error::NoPrevious),
                },
                100,
            ),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn the_document_names_version_error_and_way_out() {
        let error = Error::from(field(Kind::Unsupported));
        assert_eq!(
            error.document(Version::V1_0_0),
            json!({
                "cniVersion": "1.0.0", "code": 2,
                "msg": "unknown key brigde (value 1)",
                "details": "did you mean \"bridge\"?",
            })
        );
        let error = Error::from(netconf::EnvelopeError::Version { wanted: "9.9.9".to_owned() });
        assert_eq!(
            error.document(Version::LATEST)["details"],
            "config is \"9.9.9\", plugin supports [\"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]"
        );
    }
}
