//! An Ethernet address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A unicast Ethernet address, written `02:00:5e:10:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// A text that is no usable Ethernet address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{value}\" is not a unicast MAC address such as 02:00:5e:10:00:01")]
pub struct MacError {
    /// What was given.
    pub value: String,
}

impl Mac {
    /// A group address that no bridge forwards (IEEE 802.1Q table 8-1, reserved): where a probe
    /// frame goes that only the nearest switch shall see.
    pub const NEAREST_BRIDGE: Self = Self([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0f]);

    /// The address for an interface that carries `ip`: `0a:58` and the four bytes of an IPv4
    /// address (the convention of ovs-cni and OVN), or a hash of an IPv6 one. An address handed
    /// on to the next container keeps its MAC, so no neighbour cache goes stale.
    pub fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0x0a, 0x58, a, b, c, d])
            }
            IpAddr::V6(v6) => Self::from_hash(&v6.octets()),
        }
    }

    /// A stable, locally administered address for whatever `seed` names.
    pub fn from_hash(seed: &[u8]) -> Self {
        let hash = Sha256::digest(seed);
        Self([0x02, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }

    /// The same address with the highest locally administered first byte.
    #[must_use]
    pub fn raised(self) -> Self {
        let [_, a, b, c, d, e] = self.0;
        Self([0xfe, a, b, c, d, e])
    }

    /// Takes six bytes; the multicast bit and all zeroes are refused.
    pub fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The six bytes in wire order.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError { value: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *byte = Some(part)
                .filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(error)?;
        }
        if parts.next().is_some() {
            return Err(error());
        }
        Self::from_bytes(bytes).ok_or_else(error)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac: Mac = "02:00:5E:10:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:01");
    }

    #[test]
    fn what_is_no_unicast_address_is_refused() {
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "01:00:5e:10:00:01",
            "00:00:00:00:00:00",
            "0g:00:5e:10:00:01",
            "+2:00:5e:10:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_keeps_its_mac() {
        assert_eq!(Mac::from_ip("10.200.0.5".parse().unwrap()).to_string(), "0a:58:0a:c8:00:05");
        assert_eq!(
            Mac::from_ip("fd00::1".parse().unwrap()),
            Mac::from_ip("fd00::1".parse().unwrap())
        );
    }
}
