//! What a verb can fail with, and the one table from there to the codes of the specification.

use std::io;

use serde_json::{Value, json};
use shared::error::{Fault, Kind, chain};
use shared::{attachment, config, netns, ovsdb};

use crate::environment::Verb;
use crate::version::Version;
use crate::{addresses, args, compat, delegate, environment, fields, netconf, network};

/// Everything a call can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The variables.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] args::Error),
    /// stdin could not be read.
    #[error("cannot read the network configuration from stdin")]
    Stdin(#[source] io::Error),
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
        cause: Box<Error>,
        /// Why something is left.
        left: Box<Error>,
    },
    /// STATUS: an ADD would fail.
    #[error("not ready")]
    NotReady(#[source] Box<Error>),
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
            Self::Stdin(_) => code::IO_FAILURE,
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
            Self::Envelope(_) | Self::Environment(_) | Self::Stdin(_) | Self::FlatFile(_) => None,
            Self::Args(args::Error::Unknown { .. }) => {
                Some("remove it, or add IgnoreUnknown=1".to_owned())
            }
            Self::Args(_) | Self::NoAddress { .. } | Self::Collect { .. } => None,
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
            "details": self.details(),
        })
    }
}
