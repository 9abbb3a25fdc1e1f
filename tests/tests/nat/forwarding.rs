//! Settings of the kernel: changed where needed, set back exactly.

use super::*;

/// What was changed, one `file value` each.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    after.iter().filter(|line| !before.contains(line)).cloned().collect()
}

#[test]
fn forwarding_is_on_where_it_is_needed_and_back_afterwards() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let _other = host.uplink("eth1", 2).addressed(&host);
    let container = network(&host, "ovsbr1", 1);
    let before = settings(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    assert!(apply(&segments));
    let per_interface = [
        "ipv4/conf/eth0/forwarding 1",
        "ipv4/conf/ovsbr1/forwarding 1",
        "ipv6/conf/eth0/force_forwarding 1",
        "ipv6/conf/ovsbr1/force_forwarding 1",
        "ipv6/conf/ovsbr1/accept_ra 0",
    ];
    assert_eq!(changes(&before, &settings(&host)), per_interface);
    reaches_internet(&container, &wire);

    // Somebody resets one; CHECK sees it, the next apply repairs it and forgets nothing.
    host.sh("echo 0 > /proc/sys/net/ipv6/conf/ovsbr1/force_forwarding");
    let lacking = nat::missing(&segments[0]).unwrap();
    assert_eq!(lacking, Some(nat::Lack::Forwarding(name("ovsbr1"))));
    assert!(apply(&segments));
    assert_eq!(changes(&before, &settings(&host)), per_interface);

    // The default route moves: so does the setting.
    host.ip("route delete default");
    host.ip("route add default via 198.18.2.1");
    assert!(apply(&segments));
    assert!(!apply(&segments));
    assert_eq!(
        changes(&before, &settings(&host)),
        [
            "ipv4/conf/eth1/forwarding 1",
            "ipv4/conf/ovsbr1/forwarding 1",
            "ipv6/conf/eth0/force_forwarding 1",
            "ipv6/conf/ovsbr1/force_forwarding 1",
            "ipv6/conf/ovsbr1/accept_ra 0",
        ]
    );
    assert!(remove());
    assert_eq!(settings(&host), before);

    // What the user changes meanwhile is the user's, and so is an interface made anew.
    assert!(apply(&segments));
    host.sh("echo 2 > /proc/sys/net/ipv6/conf/ovsbr1/accept_ra");
    host.ip("link delete ovsbr1");
    drop(container);
    let _container = network(&host, "ovsbr1", 1);
    host.sh("echo 1 > /proc/sys/net/ipv4/conf/ovsbr1/forwarding");
    assert!(remove());
    assert_eq!(changes(&before, &settings(&host)), ["ipv4/conf/ovsbr1/forwarding 1"]);
}

#[test]
fn a_kernel_with_one_switch_for_ipv6_goes_on_listening_to_routers() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let other = host.uplink("eth1", 2).addressed(&host).routed(&host, 600);
    let container = network(&host, "ovsbr1", 1);
    host.sh("echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_ra");
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/eth1/forwarding");
    let before = settings(&host);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let apply = || nat::apply_as(&state(), &segments, Ipv6::Everywhere).unwrap();
    assert!(apply());
    assert!(!apply());
    assert_eq!(
        changes(&before, &settings(&host)),
        [
            "ipv4/conf/eth0/forwarding 1",
            "ipv4/conf/eth1/forwarding 1",
            "ipv4/conf/ovsbr1/forwarding 1",
            "ipv6/conf/all/forwarding 1",
            "ipv6/conf/default/forwarding 1",
            "ipv6/conf/eth0/forwarding 1",
            "ipv6/conf/lo/forwarding 1",
            "ipv6/conf/ovsbr1/forwarding 1",
            "ipv6/conf/default/accept_ra 2",
            "ipv6/conf/eth0/accept_ra 2",
            "ipv6/conf/lo/accept_ra 2",
            "ipv6/conf/ovsbr1/accept_ra 0",
        ]
    );
    assert_eq!(nat::missing(&segments[0]).unwrap(), None);
    reaches_internet(&container, &wire);
    // The whole host forwards IPv6 now, but not from one wire to another.
    other.router().ip(&format!("-6 route add 2001:db8:1::/64 via {}", other.address6()));
    wire.router().ip(&format!("-6 route add 2001:db8:2::/64 via {}", wire.address6()));
    wire.router().ip(&format!("-6 route add default via {}", wire.address6()));
    silent(other.router(), wire.gateway6());
    silent(wire.router(), other.gateway6());
    assert!(remove());
    assert_eq!(settings(&host), before);
}

#[test]
fn the_host_does_not_become_a_router_between_its_wires() {
    let host = host();
    let usb = host.uplink("usb0", 1).addressed(&host).routed(&host, 100);
    let wifi = host.uplink("wlan0", 2).addressed(&host).routed(&host, 600);
    let container = network(&host, "ovsbr1", 1);
    for (wire, other) in [(&usb, &wifi), (&wifi, &usb)] {
        wire.router().ip(&format!("route add {}/32 via {}", other.gateway(), wire.address()));
        wire.router().ip(&format!("-6 route add {}/128 via {}", other.gateway6(), wire.address6()));
    }
    silent(usb.router(), wifi.gateway());
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    assert!(apply(&segments));
    reaches_internet(&container, &usb);
    for (wire, other) in [(&usb, &wifi), (&wifi, &usb)] {
        silent(wire.router(), other.gateway());
        silent(wire.router(), other.gateway6());
    }
    // Unless its owner wants one.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    assert!(apply(&segments));
    usb.router().tcp_echo(wifi.gateway(), 1000).unwrap();
    wifi.router().tcp_echo(usb.gateway6(), 1000).unwrap();
    assert!(remove());
    usb.router().tcp_echo(wifi.gateway(), 1000).unwrap();
    wifi.router().tcp_echo(usb.gateway6(), 1000).unwrap();
}

#[test]
fn a_new_gateway_solicits_neighbours_at_once() {
    let host = Host::new();
    host.port_agent().run("up");
    let addresses = host.ip("-6 -o address show dev ovsbr1 scope link");
    assert!(addresses.contains("fe80::"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
}
