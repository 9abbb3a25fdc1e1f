//! One port of a container, and where on the host it is reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, MOST};

/// What speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The reverse of [`Protocol::number`]; SCTP (132) is not served.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// No protocol of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected tcp or udp")]
pub struct NoProtocol;

impl FromStr for Protocol {
    type Err = NoProtocol;

    /// In any case of letters, as runtimes write it.
    fn from_str(text: &str) -> Result<Self, NoProtocol> {
        let named = |protocol: &Self| text.eq_ignore_ascii_case(&protocol.to_string());
        [Self::Tcp, Self::Udp].into_iter().find(named).ok_or(NoProtocol)
    }
}

/// One port of a container, and where on the host it is reached. A range is several of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address on the host: `None` is every one of both families, 0.0.0.0 and :: every one of
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The port on the host; 0 is any free one.
    pub host_port: u16,
    /// If above `host_port`, the first free one from there to here is taken.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_port_end: u16,
    /// The port in the container.
    pub container_port: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde wants")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

impl PortMapping {
    /// The same, on one port of the host.
    #[must_use]
    pub fn at(self, host_port: u16) -> Self {
        Self { host_port, host_port_end: 0, ..self }
    }

    /// Whether `settled` is what became of this.
    pub fn settles_as(&self, settled: &Self) -> bool {
        let port = settled.host_port;
        let fits = match (self.host_port, self.host_port_end) {
            (0, _) => true,
            (first, last) => (first..=last.max(first)).contains(&port),
        };
        fits && self.at(port) == settled.at(port)
    }

    /// Whether two settled mappings want one port of one address.
    pub fn meets(&self, other: &Self) -> bool {
        let family = |ip: IpAddr| ip.is_ipv4();
        let same_address = match (self.host_ip, other.host_ip) {
            (None, _) | (_, None) => true,
            (Some(one), Some(two)) => {
                family(one) == family(two)
                    && (one == two || one.is_unspecified() || two.is_unspecified())
            }
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address
    }
}

/// As people write it: `8080:80/tcp`, `127.0.0.1:8080:80/tcp`, `[::1]:53:53/udp`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.host_port))?,
            None => write!(f, "{}", self.host_port)?,
        }
        if self.host_port_end > self.host_port {
            write!(f, "-{}", self.host_port_end)?;
        }
        write!(f, ":{}/{}", self.container_port, self.protocol)
    }
}

/// Refuses what nobody could serve.
pub fn check(ports: &[PortMapping]) -> Result<(), Error> {
    if ports.len() > MOST {
        return Err(Error::TooMany { count: ports.len() });
    }
    for mapping in ports {
        let invalid = |problem| Err(Error::Invalid { mapping: *mapping, problem });
        if mapping.container_port == 0 {
            return invalid("the container's port is 0, expected 1 to 65535");
        }
        let end = mapping.host_port_end;
        if end != 0 && (end < mapping.host_port || mapping.host_port == 0) {
            return invalid("the last host port is below the first");
        }
        let multicast = |ip: IpAddr| ip.is_multicast();
        if mapping.host_ip.is_some_and(multicast) {
            return invalid("the host's address is a multicast one, expected one of this host");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(ip: Option<&str>, host_port: u16, host_port_end: u16) -> PortMapping {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortMapping {
            protocol: Protocol::Tcp,
            host_ip,
            host_port,
            host_port_end,
            container_port: 80,
        }
    }

    #[test]
    fn mappings_read_as_people_write_them() {
        for (ip, first, last, text) in [
            (None, 8080, 0, "8080:80/tcp"),
            (Some("127.0.0.1"), 8080, 8080, "127.0.0.1:8080:80/tcp"),
            (Some("::1"), 8080, 8090, "[::1]:8080-8090:80/tcp"),
            (None, 0, 0, "0:80/tcp"),
        ] {
            assert_eq!(mapping(ip, first, last).to_string(), text);
        }
        assert_eq!("UDP".parse(), Ok(Protocol::Udp));
        assert_eq!("sctp".parse::<Protocol>(), Err(NoProtocol));
        assert_eq!(Protocol::from_number(132), None);
    }

    #[test]
    fn what_meets_shares_protocol_port_and_an_address() {
        let any = mapping(None, 80, 0);
        let v4 = mapping(Some("0.0.0.0"), 80, 0);
        let (one, two) = (mapping(Some("10.0.0.1"), 80, 0), mapping(Some("10.0.0.2"), 80, 0));
        let v6 = mapping(Some("::"), 80, 0);
        for (a, b, meet) in [
            (any, v4, true),
            (any, v6, true),
            (v4, v6, false),
            (v4, one, true),
            (one, two, false),
            (one, one, true),
            (v6, one, false),
            (any, any.at(81), false),
            (any, PortMapping { protocol: Protocol::Udp, ..any }, false),
        ] {
            assert_eq!((a.meets(&b), b.meets(&a)), (meet, meet), "{a} {b}");
        }
    }

    #[test]
    fn a_settled_mapping_is_known_by_what_it_was_asked_as() {
        let (any, range, one) = (mapping(None, 0, 0), mapping(None, 80, 90), mapping(None, 85, 0));
        assert!([any, range, one].iter().all(|asked| asked.settles_as(&one)));
        assert!(!range.settles_as(&one.at(91)) && !one.settles_as(&one.at(84)));
        let elsewhere = PortMapping { host_ip: Some([0; 4].into()), ..one };
        let inside = PortMapping { container_port: 81, ..one };
        assert!(!any.settles_as(&elsewhere) && !any.settles_as(&inside));
    }

    #[test]
    fn impossible_mappings_are_refused() {
        let good = mapping(None, 8000, 8010);
        assert!(check(&[good, good.at(0)]).is_ok());
        let refused = |mapping: PortMapping| check(&[mapping]).unwrap_err().to_string();
        assert_eq!(
            refused(PortMapping { container_port: 0, ..good }),
            "published port 8000-8010:0/tcp: the container's port is 0, expected 1 to 65535"
        );
        assert!(refused(mapping(None, 8010, 8000)).ends_with("is below the first"));
        assert!(refused(mapping(Some("224.0.0.1"), 80, 0)).contains("multicast"));
        assert!(matches!(check(&vec![good; MOST + 1]), Err(Error::TooMany { .. })));
    }

    #[test]
    fn a_mapping_travels_as_it_is() {
        for mapping in [mapping(None, 80, 0), mapping(Some("::1"), 0, 0), mapping(None, 80, 90)] {
            let text = serde_json::to_string(&mapping).unwrap();
            assert_eq!(serde_json::from_str::<PortMapping>(&text).unwrap(), mapping, "{text}");
        }
    }
}
