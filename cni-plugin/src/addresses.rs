//! Requested addresses, merged from every place a runtime may write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use shared::address::Subnet;

/// An address a user asked for, with or without the length of its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requested {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The prefix length, if it was written.
    pub(crate) length: Option<u8>,
}

impl FromStr for Requested {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, length: None });
        }
        let net: IpNet = text.parse().map_err(drop)?;
        Ok(Self { ip: net.addr(), length: Some(net.prefix_len()) })
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            Some(length) => write!(f, "{}/{length}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

/// Why requested addresses cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// In none of the subnets.
    #[error("requested address {address} is in no subnet of this network ({subnets})")]
    Outside {
        /// What was asked for.
        address: Requested,
        /// What there is.
        subnets: String,
    },
    /// Its prefix length is not that of the subnet.
    #[error("requested address {address} is in {subnet}, which has another prefix length")]
    Length {
        /// What was asked for.
        address: Requested,
        /// The subnet.
        subnet: IpNet,
    },
    /// A second one for the same subnet.
    #[error("requested addresses {first} and {second} are both in {subnet}, which gives one each")]
    Twice {
        /// The first.
        first: IpAddr,
        /// The second.
        second: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// The network gives no addresses at all.
    #[error("address {address} was requested, but this network gives no addresses")]
    NoSubnets {
        /// What was asked for.
        address: Requested,
    },
}

/// The requested addresses without repetitions (podman network reload sends each twice), at most
/// one in each of `subnets`.
pub(crate) fn settle(requested: &[Requested], subnets: &[Subnet]) -> Result<Vec<IpAddr>, Error> {
    let mut settled: Vec<(IpAddr, IpNet)> = Vec::new();
    for &address in requested {
        if subnets.is_empty() {
            return Err(Error::NoSubnets { address });
        }
        let Some(subnet) = subnets.iter().find(|subnet| subnet.net.contains(&address.ip)) else {
            let nets: Vec<_> = subnets.iter().map(|subnet| subnet.net.to_string()).collect();
            return Err(Error::Outside { address, subnets: nets.join(", ") });
        };
        // A host length (/32, /128) says nothing of the subnet.
        let host = if address.ip.is_ipv4() { 32 } else { 128 };
        if address.length.is_some_and(|length| length != subnet.net.prefix_len() && length != host)
        {
            return Err(Error::Length { address, subnet: subnet.net });
        }
        match settled.iter().find(|(_, net)| *net == subnet.net) {
            Some((ip, _)) if *ip == address.ip => {}
            Some((first, _)) => {
                let (first, second) = (*first, address.ip);
                return Err(Error::Twice { first, second, subnet: subnet.net });
            }
            None => settled.push((address.ip, subnet.net)),
        }
    }
    Ok(settled.into_iter().map(|(ip, _)| ip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(nets: &[&str]) -> Vec<Subnet> {
        nets.iter()
            .map(|net| Subnet { net: net.parse().unwrap(), range: None, gateway: None })
            .collect()
    }

    fn wanted(texts: &[&str]) -> Vec<Requested> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn repetitions_with_and_without_length_are_one() {
        let subnets = subnets(&["10.9.0.0/24", "fd00::/64"]);
        let wanted = wanted(&["10.9.0.5", "10.9.0.5/24", "10.9.0.5/32", "fd00::5/64"]);
        let ips: Vec<IpAddr> = vec!["10.9.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(settle(&wanted, &subnets), Ok(ips));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let subnets = subnets(&["10.9.0.0/24"]);
        let error = |texts: &[&str]| settle(&wanted(texts), &subnets).unwrap_err().to_string();
        assert_eq!(
            error(&["10.8.0.5"]),
            "requested address 10.8.0.5 is in no subnet of this network (10.9.0.0/24)"
        );
        assert_eq!(
            error(&["10.9.0.5/16"]),
            "requested address 10.9.0.5/16 is in 10.9.0.0/24, which has another prefix length"
        );
        assert_eq!(
            error(&["10.9.0.5", "10.9.0.6"]),
            "requested addresses 10.9.0.5 and 10.9.0.6 are both in 10.9.0.0/24, which gives one each"
        );
        assert_eq!(
            settle(&wanted(&["10.9.0.5"]), &[]).unwrap_err().to_string(),
            "address 10.9.0.5 was requested, but this network gives no addresses"
        );
    }
}
