//! The verbs of the doors, and what each is by nature.

use std::fmt;

/// A verb of one of the doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its door names it")]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Setup,
    Teardown,
    Create,
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    DeleteEndpoint,
    Join,
    Leave,
    RequestAddress,
    ReleaseAddress,
    Up,
    Down,
    Collect,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Setup,
        Self::Teardown,
        Self::Create,
        Self::CreateNetwork,
        Self::DeleteNetwork,
        Self::CreateEndpoint,
        Self::DeleteEndpoint,
        Self::Join,
        Self::Leave,
        Self::RequestAddress,
        Self::ReleaseAddress,
        Self::Up,
        Self::Down,
        Self::Collect,
    ];

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "cni-add",
            Self::Del => "cni-del",
            Self::Check => "cni-check",
            Self::Gc => "cni-gc",
            Self::Setup => "netavark-setup",
            Self::Teardown => "netavark-teardown",
            Self::Create => "netavark-create",
            Self::CreateNetwork => "docker-create-network",
            Self::DeleteNetwork => "docker-delete-network",
            Self::CreateEndpoint => "docker-create-endpoint",
            Self::DeleteEndpoint => "docker-delete-endpoint",
            Self::Join => "docker-join",
            Self::Leave => "docker-leave",
            Self::RequestAddress => "docker-request-address",
            Self::ReleaseAddress => "docker-release-address",
            Self::Up => "up",
            Self::Down => "down",
            Self::Collect => "gc",
        }
    }

    /// The verb of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it works on a host that is up.
    pub(super) fn needs_bridges(self) -> bool {
        !matches!(self, Self::Up | Self::Down)
    }

    /// Whether it is a call to the Docker driver.
    pub(super) fn is_docker(self) -> bool {
        self.method().is_some()
    }

    pub(super) fn method(self) -> Option<&'static str> {
        Some(match self {
            Self::CreateNetwork => "NetworkDriver.CreateNetwork",
            Self::DeleteNetwork => "NetworkDriver.DeleteNetwork",
            Self::CreateEndpoint => "NetworkDriver.CreateEndpoint",
            Self::DeleteEndpoint => "NetworkDriver.DeleteEndpoint",
            Self::Join => "NetworkDriver.Join",
            Self::Leave => "NetworkDriver.Leave",
            Self::RequestAddress => "IpamDriver.RequestAddress",
            Self::ReleaseAddress => "IpamDriver.ReleaseAddress",
            _ => return None,
        })
    }

    /// How many containers are plugged in when it has succeeded.
    pub(super) fn plugged(self) -> usize {
        match self {
            Self::Add | Self::Check | Self::Setup | Self::Join => 1,
            _ => 0,
        }
    }

    /// Whether a failure leaves nothing at once: netavark never undoes a setup that failed.
    pub(super) fn undoes_itself(self) -> bool {
        matches!(self, Self::Add | Self::Setup | Self::Create)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
