//! A LAN that outlives the host on it: a router with an internet behind it, other hosts, a cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::container::Container;
use crate::host::Host;
use crate::traffic::EchoServer;
use crate::uplink::{INTERNET, INTERNET6};

/// A LAN behind one interface of a [`crate::Machine`]: addresses `PREFIX.0/24` and
/// `2001:db8:N::/64`, a router at `.1` and `::1` with [`INTERNET`] behind it. It has no route to
/// anything but its LAN.
#[derive(Debug)]
pub struct Lan {
    interface: &'static str,
    prefix: [u8; 3],
    number: u16,
    /// Ends before its namespace does.
    _server: EchoServer,
    router: Container,
}

impl Lan {
    pub(crate) fn new(host: &Host, interface: &'static str, prefix: [u8; 3], number: u16) -> Self {
        let router = host.container(&format!("lan-{interface}"));
        router.exec("echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits");
        router.ip("link add lan0 address 52:54:00:aa:00:01 type bridge forward_delay 0");
        router.ip("link set lan0 up");
        let [a, b, c] = prefix;
        router.ip(&format!("address add {a}.{b}.{c}.1/24 dev lan0"));
        router.ip(&format!("address add 2001:db8:{number:x}::1/64 dev lan0 nodad"));
        router.ip(&format!("address add {INTERNET}/32 dev lo"));
        router.ip(&format!("address add {INTERNET6}/128 dev lo nodad"));
        router.exec("ethtool -K lan0 tx off");
        let server = router.echo_server();
        Self { interface, prefix, number, _server: server, router }
    }

    /// Plugs a cable in: its far end is the interface, in that network namespace.
    pub(crate) fn plug(&self, netns: &Container) {
        let (interface, number) = (self.interface, self.number);
        self.router.ip(&format!(
            "link add cable type veth peer name {interface} address 52:54:00:00:00:{number:02x} \
             netns {}",
            netns.name()
        ));
        // What comes off a wire has its checksums in it.
        self.router.exec("ethtool -K cable tx off; ip link set cable master lan0 up");
    }

    /// Pulls the cable out, if it is plugged in.
    pub(crate) fn unplug(&self) {
        self.router.exec("ip link del cable 2>/dev/null || true");
    }

    /// The machine's interface on this LAN.
    pub fn interface(&self) -> &str {
        self.interface
    }

    /// The router's namespace.
    pub fn router(&self) -> &Container {
        &self.router
    }

    /// The address of host number `host` (1 is the router).
    pub fn address(&self, host: u8) -> IpAddr {
        let [a, b, c] = self.prefix;
        IpAddr::V4(Ipv4Addr::new(a, b, c, host))
    }

    /// Its IPv6 address.
    pub fn address6(&self, host: u8) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, self.number, 0, 0, 0, 0, host.into()))
    }

    /// Another host on the LAN, its default routes through the router.
    pub fn peer(&self, host: &Host, name: &str, number: u8) -> Container {
        let peer = host.container(name);
        peer.exec("echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits");
        self.router.ip(&format!("link add p{number} type veth peer name eth0 netns {name}"));
        self.router
            .exec(&format!("ethtool -K p{number} tx off; ip link set p{number} master lan0 up"));
        peer.exec("ethtool -K eth0 tx off; ip link set eth0 up");
        for (address, length, router) in [
            (self.address(number), 24, self.address(1)),
            (self.address6(number), 64, self.address6(1)),
        ] {
            peer.ip(&format!("address add {address}/{length} dev eth0"));
            let family = if address.is_ipv4() { "-4" } else { "-6" };
            peer.ip(&format!("{family} route add default via {router}"));
        }
        peer
    }
}
