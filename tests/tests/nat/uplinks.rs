//! Traffic leaves by the right uplink under its address, or not at all.

use super::*;

#[test]
fn traffic_leaves_under_the_uplinks_address() {
    let host = host();
    let before = host.snapshot();
    {
        let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
        let made = host.snapshot();
        let container = network(&host, "ovsbr1", 1);
        let inside = host.snapshot();
        silent(&container, INTERNET);
        let segments = [segment("ovsbr1", 1, Uplink::Default)];
        assert!(apply(&segments));
        reaches_internet(&container, &wire);
        assert_eq!(nat::missing(&segments[0]).unwrap(), None);

        // Again: nothing is written.
        let written = host.sh("nft --handle list ruleset");
        assert!(!apply(&segments));
        assert_eq!(host.sh("nft --handle list ruleset"), written);

        // A connection goes on through a change of the table.
        let stream = container.connect(INTERNET, rig::ECHO_PORT).unwrap();
        let second = network(&host, "vlan20", 2);
        assert!(apply(&[segments[0].clone(), segment("vlan20", 2, Uplink::Default)]));
        echo(&stream);
        reaches_internet(&second, &wire);
        assert!(apply(&segments));
        echo(&stream);
        silent(&second, INTERNET);
        host.ip("link delete vlan20");
        drop((stream, second));

        assert!(remove());
        assert!(!remove());
        assert_same(&inside, &host.snapshot());
        silent(&container, INTERNET);
        host.ip("link delete ovsbr1");
        drop(container);
        assert_same(&made, &host.snapshot());
        host.ip("link delete eth0");
    }
    assert_same(&before, &host.snapshot());
}

#[test]
fn a_named_uplink_carries_the_traffic_or_nothing_does() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    // A VPN client's two halves of the internet, and strict reverse path checks.
    host.ip(&format!("route add 0.0.0.0/1 via {} dev usb0", usb.gateway()));
    host.ip(&format!("route add 128.0.0.0/1 via {} dev usb0", usb.gateway()));
    host.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done");
    let container = network(&host, "ovsbr1", 1);
    let made = routes(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Named(name("wlan0")))];
    assert!(apply(&segments));
    assert!(!apply(&segments));
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&container, &wifi);
    // The host itself, and what is on it, stays within reach.
    assert!(container.ping(ip("10.200.1.1")));

    // The LAN of the other wire is not the named uplink either.
    let leaked = || forwarded(&usb);
    let none = leaked();
    unreachable(&container, usb.gateway());
    unreachable(&container, usb.gateway6());

    // Without default routes there, nothing goes, and least of all elsewhere.
    host.ip("route delete default dev wlan0");
    host.ip("-6 route delete default dev wlan0");
    let mut netlink = Netlink::open().unwrap();
    assert!(routing::sync(&mut netlink, &segments).unwrap());
    assert!(!routing::sync(&mut netlink, &segments).unwrap());
    unreachable(&container, INTERNET);
    unreachable(&container, INTERNET6);
    assert!(container.ping(wifi.gateway()), "its LAN is there all the same");
    assert_eq!(leaked(), none, "nothing from the subnet came out of usb0");

    // The routes come back, one of them over a next hop no subnet contains.
    host.ip(&format!("route add default via {} dev wlan0 onlink metric 600", wifi.gateway()));
    host.ip(&format!("-6 route add default via {} dev wlan0 metric 600", wifi.gateway6()));
    assert!(routing::sync(&mut netlink, &segments).unwrap());
    reaches_internet(&container, &wifi);

    // The interface goes down: the kernel takes its routes away.
    host.ip("link set wlan0 down");
    unreachable(&container, INTERNET);
    host.ip("link set wlan0 up");
    host.ip(&format!("route add default via {} dev wlan0 metric 600", wifi.gateway()));
    host.ip(&format!("address replace {}/64 dev wlan0 nodad", wifi.address6()));
    host.ip(&format!("-6 route add default via {} dev wlan0 metric 600", wifi.gateway6()));
    assert!(apply(&segments));
    reaches_internet(&container, &wifi);
    assert_eq!(leaked(), none);

    // And back to the default: the better route wins again.
    assert!(apply(&[segment("ovsbr1", 1, Uplink::Default)]));
    reaches_internet(&container, &usb);
    assert!(remove());
    // The test itself has put routes in another order.
    assert_eq!(routes(&host), made);
}

/// Routes and policy rules of the host, sorted; link-local addresses and the kernel's own table
/// `local` come when they like.
fn routes(host: &Host) -> Vec<String> {
    let text = host.sh("for f in -4 -6; do ip $f rule; ip $f route show table all; done");
    let lines =
        text.lines().filter(|line| !line.contains("fe80::") && !line.contains(" table local "));
    let mut lines: Vec<String> =
        lines.map(|line| line.trim_end().replace(" linkdown", "")).collect();
    lines.sort_unstable();
    lines
}

/// Packets of the subnets of segments which the router behind a wire has seen.
fn forwarded(wire: &Wire) -> String {
    let router = wire.router();
    if !router.try_exec("nft list table inet seen").ok() {
        router.exec(
            "nft 'table inet seen { chain in { type filter hook prerouting priority -500; \
             ip saddr 10.200.0.0/16 counter; ip6 saddr fd00:200::/32 counter; \
             ip daddr 203.0.113.1 counter; ip6 daddr 2001:db8:ffff::1 counter; }; }'",
        );
    }
    router.exec("nft list table inet seen")
}

#[test]
fn an_uplink_may_come_later() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let (one, two) = (network(&host, "ovsbr1", 1), network(&host, "vlan20", 2));
    let segments =
        [segment("ovsbr1", 1, Uplink::Named(name("wlan0"))), segment("vlan20", 2, Uplink::Default)];
    assert!(apply(&segments));
    reaches_internet(&two, &usb);
    unreachable(&one, INTERNET);
    unreachable(&one, INTERNET6);
    assert_eq!(nat::missing(&segments[0]).unwrap(), Some(nat::Lack::Uplink(name("wlan0"))));

    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    assert!(apply(&segments));
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&one, &wifi);
    reaches_internet(&two, &usb);
}
