//! What a call of Podman can fail with: one sentence each, all Podman shows.

use std::io;

use ipnet::IpNet;
use shared::error::{Fault, Kind};
use shared::name::IfName;
use shared::{attachment, config};

use crate::{addresses, fields, network, rootless};

/// Everything a call can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// stdin could not be read.
    #[error("cannot read stdin")]
    Stdin(#[source] io::Error),
    /// stdin is no JSON.
    #[error("stdin is no JSON")]
    Json {
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// stdin is JSON, but no object.
    #[error("stdin is {value}, expected a JSON object")]
    NoObject {
        /// What it is.
        value: String,
    },
    /// setup without its argument.
    #[error("setup is missing the path of the container's network namespace")]
    NoNetns,
    /// No root, no switch.
    #[error(transparent)]
    Rootless(#[from] rootless::Error),
    /// A value.
    #[error(transparent)]
    Field(#[from] fields::Error),
    /// The network does not fit this host.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// `--ip`.
    #[error(transparent)]
    Addresses(#[from] addresses::Error),
    /// An IPAM driver that is not offered.
    #[error("ipam driver \"{driver}\" is not offered")]
    IpamDriver {
        /// Its name.
        driver: String,
    },
    /// Subnets that nobody would hand out.
    #[error("subnet {subnet} is given, but addresses are switched off (none)")]
    Unused {
        /// The first.
        subnet: IpNet,
    },
    /// Podman hands out addresses only of subnets it knows.
    #[error("ipam driver \"host-local\" is given without a subnet")]
    NoSubnet,
    /// `--internal` on a pool that leads outside.
    #[error("the network is internal, but the pool of {bridge} leads outside")]
    InternalPool {
        /// The bridge.
        bridge: IfName,
    },
    /// A place without a pool.
    #[error("{bridge} has no pool of addresses here, and the network has no subnet")]
    NoPool {
        /// The bridge.
        bridge: IfName,
    },
    /// The host configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] attachment::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Stdin(_) => Kind::System,
            Self::IpamDriver { .. } => Kind::Unsupported,
            Self::Rootless(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Field(error) => error.kind(),
            Self::Config(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            _ => Kind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Stdin(_) | Self::Json { .. } | Self::NoObject { .. } | Self::NoNetns => {
                return None;
            }
            Self::Rootless(error) => return error.hint(),
            Self::Field(fields::Error::Unknown { similar: None, .. }) => {
                "remove it; docs/podman.md lists the options"
            }
            Self::Field(error) => return error.hint(),
            Self::Network(network::Error::NoBridge) => "say -o bridge=NAME",
            Self::Network(network::Error::LanWithoutRange { .. }) => {
                "say --ip-range with a range that no DHCP server and no other host uses"
            }
            Self::Network(network::Error::TaggedOnly { .. }) => {
                "say -o vlan=ID -o vlan_mode=native-untagged, or leave --subnet out"
            }
            Self::Network(network::Error::NatWithoutGateway { .. }) => {
                "leave -o nat out, or --internal and -o gateway=none"
            }
            Self::Network(network::Error::Overlap { .. }) => {
                "leave --ipam-driver out to get addresses of that pool, or choose another subnet"
            }
            Self::Network(error) => return error.hint(),
            Self::Addresses(_) => "ask for an address of the subnets, or leave --ip out",
            Self::IpamDriver { .. } => {
                "leave --ipam-driver out for addresses of the host's pools, or say none and let \
                 the container ask a DHCP server itself"
            }
            Self::Unused { .. } => "leave the subnet out, or do not say none",
            Self::NoSubnet => "add --subnet, or leave --ipam-driver out",
            Self::InternalPool { .. } => "add --subnet, and -o vlan to keep it apart",
            Self::NoPool { .. } => "create it with --subnet (one that exists is removed first)",
            Self::Config(error) => return error.hint(),
            Self::Engine(error) => return error.hint(),
        };
        Some(text.to_owned())
    }
}
