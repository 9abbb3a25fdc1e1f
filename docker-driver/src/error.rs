//! Why a call of Docker cannot be answered.

use std::io;
use std::path::PathBuf;

use shared::error::{Fault, Kind};
use shared::{address, attachment, network, publish, state};

/// Why a call fails. Docker shows the text to its user as it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A retry of Docker after a broken connection: the body of the first try is lost.
    #[error("the request has no body, as when docker repeats a call whose connection broke")]
    Empty,
    /// Not what Docker sends.
    #[error("cannot read the request")]
    Malformed {
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// A field of the request.
    #[error("{field} \"{value}\" {problem}")]
    Field {
        /// "Pool", "-o vlan".
        field: String,
        /// What was given.
        value: String,
        /// What is wrong with it, or what was expected.
        problem: String,
        /// The way out.
        hint: String,
    },
    /// Understood, but not to be had.
    #[error("{what}")]
    Refused {
        /// What, and why.
        what: String,
        /// The way out.
        hint: String,
    },
    /// An id that nothing is known of.
    #[error("{what} {id} is not known")]
    Unknown {
        /// "network", "endpoint", "address pool".
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The call took too long.
    #[error("{call} did not end within {seconds} s")]
    Timeout {
        /// Which.
        call: String,
        /// The deadline.
        seconds: u64,
    },
    /// A panic in the handler.
    #[error("{call} broke off")]
    Broken {
        /// Which.
        call: String,
    },
    /// dockerd's own API.
    #[error("dockerd cannot be asked at {}: {problem}", socket.display())]
    Dockerd {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A state file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A state file.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] attachment::Error),
    /// A network of the engine.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The address pools.
    #[error(transparent)]
    Address(#[from] address::Error),
    /// Published ports.
    #[error(transparent)]
    Publish(#[from] publish::Error),
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn field(field: &str, value: &str, problem: &str, hint: &str) -> Self {
        Self::Field {
            field: field.to_owned(),
            value: value.to_owned(),
            problem: problem.to_owned(),
            hint: hint.to_owned(),
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Empty | Self::Malformed { .. } | Self::Field { .. } => Kind::Invalid,
            Self::Refused { .. } => Kind::Unsupported,
            Self::Unknown { .. } => Kind::Missing,
            Self::Timeout { .. } => Kind::Busy,
            Self::Dockerd { .. } => Kind::Unavailable,
            Self::Broken { .. } | Self::Write { .. } => Kind::System,
            Self::State(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Address(error) => error.kind(),
            Self::Publish(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::Timeout { .. } => Some("run the docker command again".to_owned()),
            Self::Field { hint, .. } | Self::Refused { hint, .. } => Some(hint.clone()),
            Self::Unknown { what: "network" | "address pool", .. } => {
                Some("remove the network with \"docker network rm\" and create it anew".to_owned())
            }
            Self::State(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::Address(error) => error.hint(),
            Self::Publish(error) => error.hint(),
            Self::Unknown { .. }
            | Self::Malformed { .. }
            | Self::Broken { .. }
            | Self::Dockerd { .. }
            | Self::Write { .. } => None,
        }
    }
}
