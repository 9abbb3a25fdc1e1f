//! Against the kernel, in private namespaces: these tests need root and fail without.

use std::net::IpAddr;
use std::panic;
use std::thread;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::mac::Mac;
use crate::name::IfName;
use crate::netns::Netns;

/// Runs `test` on a thread of its own in a namespace of its own.
fn private<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("the test needs root");
            test()
        });
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// A namespace that lives as long as it is held.
fn container() -> Netns {
    private(|| Netns::current().unwrap())
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac() -> Mac {
    "0a:58:0a:c8:00:05".parse().unwrap()
}

/// A veth `host` here with its peer `eth0` in `netns`; the indices of both.
fn plug(netlink: &mut Netlink, netns: &Netns, host: &str) -> (u32, u32, Inside) {
    let veth = Veth {
        host: &name(host),
        peer: &name("eth0"),
        netns: Some(netns),
        peer_mac: mac(),
        mtu: 1400,
    };
    let index = netlink.create_veth(&veth).unwrap();
    let mut inside = Inside::visit(netns).unwrap();
    let peer = inside.netlink.link(&name("eth0")).unwrap().unwrap().index;
    (index, peer, inside)
}

#[test]
fn a_pair_is_made_and_removed() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        let end = host.link(&name("veth-web")).unwrap().unwrap();
        assert_eq!(host.link_by_index(index).unwrap(), Some(end.clone()));
        assert!(end.up && end.kind == "veth" && end.group == HOST_END_GROUP && end.mtu == 1400);
        assert_eq!((end.index, end.peer_index, end.master), (index, Some(peer), None));
        assert_eq!(end.mac.unwrap().bytes()[0], 0xfe);
        let far = inside.netlink.link_by_index(peer).unwrap().unwrap();
        assert_eq!((far.mac, far.mtu, far.up, far.group), (Some(mac()), 1400, false, 0));
        assert!(host.delete_link(index).unwrap());
        assert!(!host.delete_link(index).unwrap());
        assert_eq!(host.link(&name("veth-web")).unwrap(), None);
        assert_eq!(inside.netlink.link(&name("eth0")).unwrap(), None);
    });
}

#[test]
fn a_taken_name_is_told_apart() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let _held = plug(&mut host, &netns, "veth-a");
        let mut again = |host_end: &str, peer: &str| {
            let veth = Veth {
                host: &name(host_end),
                peer: &name(peer),
                netns: Some(&netns),
                peer_mac: mac(),
                mtu: 1500,
            };
            host.create_veth(&veth).unwrap_err().to_string()
        };
        assert_eq!(again("veth-a", "eth1"), "link veth-a exists already");
        assert_eq!(again("veth-b", "eth0"), "link eth0 in the container exists already");
        assert_eq!(host.link(&name("veth-b")).unwrap(), None);
    });
}

#[test]
fn a_container_is_configured_in_one_send() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        let addresses = [net("10.1.0.5/24"), net("fd00:1::5/64")];
        let mut metered = Route::new(net("10.9.0.0/16"), Some(ip("10.1.0.1")));
        metered.mtu = Some(1300);
        metered.advmss = Some(1200);
        metered.priority = Some(77);
        metered.table = Some(1000);
        let routes = [
            Route::new(net("0.0.0.0/0"), Some(ip("10.1.0.1"))),
            Route::new(net("::/0"), Some(ip("fd00:1::1"))),
            // Its next hop is on the link only by the route after it.
            Route::new(net("10.3.0.0/16"), Some(ip("10.2.0.1"))),
            Route::new(net("10.2.0.1/32"), None),
            // Its next hop is on the link by nothing but the request.
            Route::new(net("10.4.0.0/16"), Some(ip("192.0.2.1"))),
            Route::new(net("fd00:4::/64"), Some(ip("fd00:5::1"))),
            Route::new(net("fd00:6::/64"), Some(ip("fe80::1"))),
            metered,
        ];
        for _ in 0..2 {
            inside.netlink.configure(peer, &addresses, &routes).unwrap();
        }
        let link = inside.netlink.link_by_index(peer).unwrap().unwrap();
        assert!(link.up && link.mtu == 1400);
        assert!(inside.netlink.link_by_index(1).unwrap().unwrap().up);
        let found = inside.netlink.addresses(peer).unwrap();
        assert!(addresses.iter().all(|a| found.contains(a)), "{found:?}");
        assert_eq!(found.len(), 3, "two of ours and a link-local one: {found:?}");
        let installed = inside.netlink.routes(None).unwrap();
        for route in &routes {
            let one = installed.iter().find(|i| i.route == *route);
            let one = one.unwrap_or_else(|| panic!("{route:?} is not in {installed:#?}"));
            assert_eq!((one.oif, one.protocol, one.unreachable), (Some(peer), PROTOCOL, false));
        }
        // The kernel's own routes to the subnets.
        for subnet in ["10.1.0.0/24", "fd00:1::/64"] {
            assert!(installed.iter().any(|i| i.route.dst == net(subnet) && i.protocol == 2));
        }
        let tables: Vec<_> = inside.netlink.routes(Some(1000)).unwrap();
        assert_eq!(tables.len(), 1);
        assert_eq!(inside.netlink.routes(Some(4711)).unwrap(), []);
        assert!(host.delete_link(index).unwrap());
    });
}

#[test]
fn ipv6_addresses_are_usable_at_once() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (_, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        inside.netlink.configure(peer, &[net("fd00:1::5/64")], &[]).unwrap();
        netns
            .enter(|| std::net::UdpSocket::bind("[fd00:1::5]:0").map(drop))
            .unwrap()
            .expect("the address is tentative");
    });
}

#[test]
fn the_failing_step_is_named() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (_, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        let mut bad = Route::new(net("10.9.0.0/16"), Some(ip("10.1.0.1")));
        bad.scope = Some(254);
        let error = inside.netlink.configure(peer, &[net("10.1.0.5/24")], &[bad]).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.starts_with("cannot create route 10.9.0.0/16 via 10.1.0.1: "), "{text}");
        assert!(text.contains("(kernel: "), "{text}");
        let error = host.set_mtu(4711, 1500).unwrap_err();
        assert_eq!(error.to_string(), "link 4711 does not exist");
    });
}

#[test]
fn links_change_and_are_listed() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, _, _inside) = plug(&mut host, &netns, "veth-web");
        host.set_up(index, false).unwrap();
        host.set_mtu(index, 1280).unwrap();
        host.set_mac(index, mac()).unwrap();
        let links = host.links().unwrap();
        let link = links.iter().find(|l| l.index == index).unwrap();
        assert_eq!((link.up, link.mtu, link.mac), (false, 1280, Some(mac())));
        assert!(links.iter().any(|l| l.name.as_str() == "lo"));
    });
}

#[test]
fn addresses_come_and_go() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, _, _inside) = plug(&mut host, &netns, "veth-web");
        for address in [net("10.1.0.1/24"), net("fd00:1::1/64")] {
            assert!(host.add_address(index, address).unwrap());
            assert!(!host.add_address(index, address).unwrap());
            assert!(host.addresses(index).unwrap().contains(&address));
            assert_eq!(host.addresses(1).unwrap(), []);
        }
        assert!(matches!(host.add_address(index, net("fd00:1::1/48")), Err(Error::Exists { .. })));
        for address in [net("10.1.0.1/24"), net("fd00:1::1/64")] {
            assert!(host.delete_address(index, address).unwrap());
            assert!(!host.delete_address(index, address).unwrap());
        }
    });
}

#[test]
fn tx_checksum_offload_is_switched() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (_, _, inside) = plug(&mut host, &netns, "veth-web");
        let eth0 = name("eth0");
        assert!(inside.tx_checksum(&eth0).unwrap());
        inside.set_tx_checksum(&eth0, false).unwrap();
        assert!(!inside.tx_checksum(&eth0).unwrap());
        inside.set_tx_checksum(&eth0, true).unwrap();
        assert!(inside.tx_checksum(&eth0).unwrap());
        let error = inside.set_tx_checksum(&name("eth9"), false).unwrap_err();
        assert_eq!(error.to_string(), "link eth9 does not exist");
        // A device that cannot: lo computes no checksums.
        assert!(matches!(inside.set_tx_checksum(&name("lo"), false), Err(Error::System { .. })));
    });
}
