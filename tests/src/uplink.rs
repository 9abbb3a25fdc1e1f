//! An interface that plays a physical one, with a LAN and an internet behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::command::poll;
use crate::container::Container;
use crate::host::Host;
use crate::traffic::EchoServer;

/// An address of the played internet (TEST-NET-3, RFC 5737), reached through every uplink.
pub const INTERNET: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// The same for IPv6 (RFC 3849).
pub const INTERNET6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));

/// An interface of the host whose other end is a router: `198.18.N.1/24` and
/// `2001:db8:N::1/64` on the LAN, [`INTERNET`] behind it, echo servers on all of them.
///
/// The router has no route to anything but its LAN: what reaches it from another subnet without
/// NAT gets no answer.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    number: u8,
    router: Container,
    _server: EchoServer,
}

impl Uplink {
    pub(crate) fn new(host: &Host, name: &str, number: u8) -> Self {
        assert!((1..=250).contains(&number), "uplink number {number}: expected 1 to 250");
        let router = host.container(&format!("lan-{name}"));
        host.ip(&format!("link add {name} type veth peer name lan0 netns lan-{name}"));
        // A host that has long been up: no address of its wire is tentative any more.
        let no_wait =
            |interface: &str| format!("echo 0 >/proc/sys/net/ipv6/conf/{interface}/dad_transmits");
        host.sh(&no_wait(name));
        router.exec(&no_wait("lan0"));
        router.ip("link set lan0 up");
        router.ip(&format!("address add 198.18.{number}.1/24 dev lan0"));
        router.ip(&format!("address add 2001:db8:{number}::1/64 dev lan0 nodad"));
        router.ip(&format!("address add {INTERNET}/32 dev lo"));
        router.ip(&format!("address add {INTERNET6}/128 dev lo nodad"));
        // What comes off a wire has its checksums in it.
        router.exec("ethtool -K lan0 tx off");
        host.ip(&format!("link set {name} up"));
        // On a busy machine the kernel notices the carrier late, and only then does it add the
        // link-local address: a change that no test made.
        let own = format!("-o -6 address show dev {name} scope link -tentative");
        poll(&format!("no link-local address on {name}"), Duration::from_secs(10), || {
            (!host.ip(&own).is_empty()).then_some(())
        });
        let server = router.echo_server();
        Self { name: name.to_owned(), number, router, _server: server }
    }

    /// Its name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The router's namespace.
    pub fn router(&self) -> &Container {
        &self.router
    }

    /// The router's address on the LAN.
    pub fn gateway(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 18, self.number, 1))
    }

    /// The router's IPv6 address on the LAN.
    pub fn gateway6(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, self.segment(), 0, 0, 0, 0, 1))
    }

    /// The address that [`Uplink::addressed`] gives the host.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 18, self.number, 2))
    }

    /// The IPv6 address that [`Uplink::addressed`] gives the host.
    pub fn address6(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, self.segment(), 0, 0, 0, 0, 2))
    }

    /// Gives the host's end its addresses.
    #[must_use]
    pub fn addressed(self, host: &Host) -> Self {
        host.ip(&format!("address add {}/24 dev {}", self.address(), self.name));
        host.ip(&format!("address add {}/64 dev {} nodad", self.address6(), self.name));
        self
    }

    /// Gives the host default routes through it, IPv4 and IPv6, of this metric.
    #[must_use]
    pub fn routed(self, host: &Host, metric: u32) -> Self {
        for gateway in [self.gateway(), self.gateway6()] {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            host.ip(&format!(
                "{family} route add default via {gateway} dev {} metric {metric}",
                self.name
            ));
        }
        self
    }

    /// `number` written in decimal digits where IPv6 reads hexadecimal ones.
    fn segment(&self) -> u16 {
        u16::from_str_radix(&self.number.to_string(), 16).expect("decimal digits")
    }
}
