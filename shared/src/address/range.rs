//! Which addresses of a subnet can be given out.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Error, Subnet};

/// Whether two subnets share an address.
pub fn overlaps(one: IpNet, other: IpNet) -> bool {
    let (one, other) = (one.trunc(), other.trunc());
    one.contains(&other) || other.contains(&one)
}

/// The addresses a pool gives out, as numbers; empty if `first` is above `last`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    net: IpNet,
    pub(super) first: u128,
    pub(super) last: u128,
    gateway: Option<u128>,
}

impl Range {
    /// Every usable address of the subnet, or of its range.
    pub(super) fn of(subnet: &Subnet) -> Result<Self, Error> {
        let net = subnet.net.trunc();
        let (mut first, mut last) = usable(net);
        if let Some((from, to)) = subnet.range {
            if !net.contains(&from) || !net.contains(&to) || from > to {
                return Err(Error::Range { first: from, last: to, subnet: net });
            }
            first = first.max(number(from));
            last = last.min(number(to));
        }
        let gateway = subnet.gateway.filter(|gateway| net.contains(gateway)).map(number);
        Ok(Self { net, first, last, gateway })
    }

    /// Whether a requested address can be given; else why not.
    pub(super) fn admit(&self, ip: IpAddr) -> Result<(), Error> {
        let (first, last) = usable(self.net);
        let number = number(ip);
        let why = if !self.net.contains(&ip) {
            "it lies outside the subnet"
        } else if self.gateway == Some(number) {
            "it is the gateway"
        } else if number < first && ip.is_ipv4() {
            "it is the network address"
        } else if number < first {
            "it is the anycast address of the subnet's routers"
        } else if number > last {
            "it is the broadcast address"
        } else if !self.contains(number) {
            "it lies outside the range"
        } else {
            return Ok(());
        };
        Err(Error::NotInPool { ip, subnet: self.net, why })
    }

    /// Whether this address is given out.
    pub(super) fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number) && self.gateway != Some(number)
    }

    /// How many there are, capped at `u64::MAX`.
    pub(super) fn size(&self) -> u64 {
        let Some(span) = self.last.checked_sub(self.first) else {
            return 0;
        };
        let gateway =
            u128::from(self.gateway.is_some_and(|at| (self.first..=self.last).contains(&at)));
        u64::try_from(span + 1 - gateway).unwrap_or(u64::MAX)
    }

    /// The address of a number in this subnet.
    pub(super) fn ip(&self, number: u128) -> IpAddr {
        match self.net {
            IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// "first-last" for a reader.
    pub(super) fn text(&self) -> String {
        if self.first > self.last {
            return "no usable address".to_owned();
        }
        format!("{}-{}", self.ip(self.first), self.ip(self.last))
    }
}

/// An address as a number.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// First and last host address. A point-to-point /31 or /127 and a single /32 or /128 are used
/// whole (RFC 3021, RFC 6164); else IPv4 loses network and broadcast, IPv6 the routers' anycast
/// address (RFC 4291 section 2.6.1).
fn usable(net: IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    match net {
        _ if net.max_prefix_len() - net.prefix_len() < 2 => (first, last),
        IpNet::V4(_) => (first + 1, last - 1),
        // Not the very last of all numbers: a successor always exists.
        IpNet::V6(_) => (first + 1, last.min(u128::MAX - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(net: &str, range: Option<(&str, &str)>, gateway: Option<&str>) -> Subnet {
        Subnet {
            net: net.parse().unwrap(),
            range: range.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap())),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        }
    }

    #[test]
    fn what_is_no_host_is_left_out() {
        for (net, range, gateway, size, text) in [
            ("10.0.0.0/24", None, Some("10.0.0.1"), 253, "10.0.0.1-10.0.0.254"),
            ("10.0.0.77/24", None, None, 254, "10.0.0.1-10.0.0.254"),
            ("10.0.0.0/30", None, Some("10.0.0.1"), 1, "10.0.0.1-10.0.0.2"),
            ("10.0.0.0/31", None, Some("10.0.0.0"), 1, "10.0.0.0-10.0.0.1"),
            ("10.0.0.7/32", None, None, 1, "10.0.0.7-10.0.0.7"),
            ("fd00::/126", None, Some("fd00::1"), 2, "fd00::1-fd00::3"),
            ("fd00::/127", None, Some("fd00::"), 1, "fd00::-fd00::1"),
            ("fd00::5/128", None, None, 1, "fd00::5-fd00::5"),
            ("10.0.0.0/24", Some(("10.0.0.0", "10.0.0.9")), None, 9, "10.0.0.1-10.0.0.9"),
            ("10.0.0.0/24", Some(("10.0.0.250", "10.0.0.255")), None, 5, "10.0.0.250-10.0.0.254"),
            ("10.0.0.0/24", Some(("10.0.0.255", "10.0.0.255")), None, 0, "no usable address"),
            ("fd00::/64", None, None, u64::MAX, "fd00::1-fd00::ffff:ffff:ffff:ffff"),
        ] {
            let range = Range::of(&subnet(net, range, gateway)).unwrap();
            assert_eq!((range.size(), range.text().as_str()), (size, text), "{net}");
        }
        let everything = Range::of(&subnet("::/0", None, None)).unwrap();
        assert_eq!(everything.size(), u64::MAX);
    }

    #[test]
    fn a_range_must_lie_in_its_subnet() {
        for (from, to) in
            [("10.0.1.1", "10.0.1.2"), ("10.0.0.9", "10.0.0.1"), ("10.0.0.9", "fd00::1")]
        {
            let error = Range::of(&subnet("10.0.0.0/24", Some((from, to)), None)).unwrap_err();
            assert!(error.to_string().contains(&format!("{from}-{to}")), "{error}");
        }
    }

    #[test]
    fn a_requested_address_is_refused_with_the_reason() {
        let range = Some(("10.0.0.5", "10.0.0.9"));
        let v4 = Range::of(&subnet("10.0.0.0/24", range, Some("10.0.0.6"))).unwrap();
        for (ip, why) in [
            ("10.0.1.5", "outside the subnet"),
            ("fd00::1", "outside the subnet"),
            ("10.0.0.6", "the gateway"),
            ("10.0.0.0", "the network address"),
            ("10.0.0.255", "the broadcast address"),
            ("10.0.0.10", "outside the range"),
        ] {
            let error = v4.admit(ip.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(ip) && error.contains(why), "{error}");
        }
        v4.admit("10.0.0.9".parse().unwrap()).unwrap();
        let v6 = Range::of(&subnet("fd00::/64", None, None)).unwrap();
        assert!(v6.admit("fd00::".parse().unwrap()).unwrap_err().to_string().contains("anycast"));
        v6.admit("fd00::ffff:ffff:ffff:ffff".parse().unwrap()).unwrap();
    }

    #[test]
    fn overlap_is_sharing_an_address() {
        for (one, other, shared) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.1.2.3/24", "10.1.2.200/25", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("0.0.0.0/0", "::/0", false),
            ("fd00::/64", "fd00::5/128", true),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlaps(one, other), shared, "{one} {other}");
            assert_eq!(overlaps(other, one), shared, "{one} {other}");
        }
    }
}
