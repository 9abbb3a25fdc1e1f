//! Against the kernel, in private namespaces: these tests need root and fail without.

mod frames;

use std::fs;
use std::net::IpAddr;
use std::panic;
use std::process::Command;
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

/// A link with IPv6 addresses, on a wire with a router.
const IPV6: Ipv6 = Ipv6 { addresses: true, no_router: false };

fn mac() -> Mac {
    "0a:58:0a:c8:00:05".parse().unwrap()
}

/// A veth `host` here with its peer `eth0` in `netns`; the indices of both.
fn plug(netlink: &mut Netlink, netns: &Netns, host: &str) -> (u32, u32, Inside) {
    let veth = Veth {
        host: &name(host),
        peer: &name("eth0"),
        netns: Some(netns),
        host_mac: mac().raised(),
        peer_mac: mac(),
        mtu: 1400,
    };
    netlink.create_veth(&veth).unwrap();
    netlink.silence(veth.host).unwrap();
    assert_eq!(super::mtu(veth.host).unwrap(), Some(1400));
    let index = netlink.link(veth.host).unwrap().unwrap().index;
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
                host_mac: mac().raised(),
                peer_mac: mac(),
                mtu: 1500,
            };
            host.create_veth(&veth).unwrap_err().to_string()
        };
        assert_eq!(again("veth-a", "eth1"), "link veth-a exists already");
        assert_eq!(again("veth-b", "eth0"), "link eth0 in the container exists already");
        assert_eq!(host.link(&name("veth-b")).unwrap(), None);
        assert_eq!(super::mtu(&name("veth-b")).unwrap(), None);
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

#[test]
fn ipv6_is_switched_on_where_the_runtime_switched_it_off() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let off = || {
            let default =
                sysctl::Sysctl::new(sysctl::Family::Ipv6, &name("default"), "disable_ipv6");
            assert!(default.ensure("1").unwrap());
            assert!(!default.ensure("1").unwrap());
        };
        netns.enter(off).unwrap();
        let (_, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        assert!(inside.netlink.configure(peer, &[net("fd00:1::5/64")], &[]).is_err());
        let mut inside = Inside::visit_link(&netns, &name("eth0"), IPV6).unwrap();
        inside.netlink.configure(peer, &[net("fd00:1::5/64")], &[]).unwrap();
        assert!(inside.netlink.addresses(peer).unwrap().contains(&net("fd00:1::5/64")));
    });
}

#[test]
fn settings_of_dotted_names_are_reached() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let _held = plug(&mut host, &netns, "enp2s0.100");
        let forwarding =
            |link: &str| sysctl::Sysctl::new(sysctl::Family::Ipv4, &name(link), "forwarding");
        assert_eq!(forwarding("enp2s0.100").read().unwrap(), "0");
        forwarding("enp2s0.100").write("1").unwrap();
        assert_eq!(forwarding("enp2s0.100").read().unwrap(), "1");
        assert_eq!(forwarding("lo").read().unwrap(), "0");
        assert!(matches!(forwarding("nowhere").read(), Err(Error::Missing { .. })));
        assert!(matches!(forwarding("lo").write("many"), Err(Error::System { .. })));
    });
}

#[test]
fn routes_and_rules_of_ours_come_and_go() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, _, _inside) = plug(&mut host, &netns, "veth-web");
        for (subnet, own, gateway, everywhere) in [
            ("10.1.0.0/24", "10.1.0.1/24", "10.1.0.254", "0.0.0.0/0"),
            ("fd00:1::/64", "fd00:1::1/64", "fd00:1::fe", "::/0"),
        ] {
            assert!(host.add_address(index, net(own)).unwrap());
            let mut route = Route::new(net(everywhere), Some(ip(gateway)));
            route.table = Some(1000);
            let mut barred = Route::new(net(everywhere), None);
            barred.table = Some(1000);
            // Each replaces the other; a table has one default.
            for _ in 0..2 {
                host.replace_route(&barred, None).unwrap();
                let [one] = &host.routes(Some(1000)).unwrap()[..] else { panic!("not one") };
                assert_eq!((&one.route, one.oif, one.unreachable), (&barred, None, true));
                host.replace_route(&route, Some(index)).unwrap();
                let [one] = &host.routes(Some(1000)).unwrap()[..] else { panic!("not one") };
                assert_eq!((&one.route, one.oif, one.unreachable), (&route, Some(index), false));
            }
            assert!(host.delete_route(&route, Some(index)).unwrap());
            assert!(!host.delete_route(&route, Some(index)).unwrap());
            host.replace_route(&barred, None).unwrap();
            assert!(host.delete_route(&barred, None).unwrap());
            assert_eq!(host.routes(Some(1000)).unwrap(), []);
            // The kernel's route to the subnet is not ours to remove.
            assert!(!host.delete_route(&Route::new(net(subnet), None), Some(index)).unwrap());
            assert!(host.routes(None).unwrap().iter().any(|r| r.route.dst == net(subnet)));

            let to_table =
                Rule { from: net(subnet), priority: 200, table: 1000, suppress_prefixlen: None };
            let direct =
                Rule { priority: 100, table: 254, suppress_prefixlen: Some(0), ..to_table.clone() };
            for rule in [&to_table, &direct] {
                assert!(host.add_rule(rule).unwrap());
                assert!(!host.add_rule(rule).unwrap());
            }
            assert_eq!(host.rules().unwrap(), [direct.clone(), to_table.clone()]);
            for rule in [&to_table, &direct] {
                assert!(host.delete_rule(rule).unwrap());
                assert!(!host.delete_rule(rule).unwrap());
            }
            assert_eq!(host.rules().unwrap(), []);
        }
    });
}

#[test]
fn a_list_read_while_links_come_is_whole() {
    private(|| {
        let mut host = Netlink::open().unwrap();
        let pair = |netlink: &mut Netlink, number: u32| {
            let (host_end, peer) = (name(&format!("a{number}")), name(&format!("b{number}")));
            let veth = Veth {
                host: &host_end,
                host_mac: mac().raised(),
                peer: &peer,
                netns: None,
                peer_mac: mac(),
                mtu: 1500,
            };
            netlink.create_veth(&veth).unwrap();
            netlink.link(&host_end).unwrap().unwrap().index
        };
        let old: Vec<u32> = (0..60).map(|n| pair(&mut host, n)).collect();
        let here = Netns::current().unwrap();
        thread::scope(|scope| {
            let maker = scope.spawn(|| {
                here.enter(|| {
                    let mut own = Netlink::open().unwrap();
                    (60..160).map(|n| pair(&mut own, n)).count()
                })
                .unwrap()
            });
            let mut reads = 0;
            while !maker.is_finished() {
                let links = host.links().unwrap();
                assert!(old.iter().all(|index| links.iter().any(|l| l.index == *index)));
                reads += 1;
            }
            assert!(reads > 0);
        });
        // lo and both ends of each.
        assert_eq!(host.links().unwrap().len(), 1 + 2 * 160);
    });
}

#[test]
fn attaches_at_once_do_not_meet() {
    private(|| {
        let here = Netns::current().unwrap();
        thread::scope(|scope| {
            for number in 0..16 {
                let here = &here;
                scope.spawn(move || {
                    here.enter(|| {
                        let (mut host, netns) = (Netlink::open().unwrap(), container());
                        let (_, peer, mut inside) =
                            plug(&mut host, &netns, &format!("veth-{number}"));
                        let addresses = [net(&format!("10.1.0.{}/24", number + 1))];
                        inside.netlink.configure(peer, &addresses, &[]).unwrap();
                        let found = inside.netlink.addresses(peer).unwrap();
                        assert!(found.contains(&addresses[0]), "{found:?}");
                    })
                    .unwrap();
                });
            }
        });
    });
}

#[test]
fn no_descriptor_leaks() {
    private(|| {
        // A descriptor table of this thread's own: other tests open files meanwhile.
        unshare(CloneFlags::CLONE_FILES).unwrap();
        let count = || fs::read_dir("/proc/thread-self/fd").unwrap().count();
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let before = count();
        for round in 0..200 {
            let (index, peer, mut inside) = plug(&mut host, &netns, &format!("veth-{round}"));
            inside.netlink.configure(peer, &[net("10.1.0.5/24")], &[]).unwrap();
            assert!(host.delete_link(index).unwrap());
        }
        assert_eq!(count(), before);
    });
}

#[test]
fn routes_of_others_are_read() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (index, _, _inside) = plug(&mut host, &netns, "veth-web");
        host.add_address(index, net("10.1.0.1/24")).unwrap();
        host.add_address(index, net("fd00:1::1/64")).unwrap();
        for arguments in [
            "route add 10.5.0.0/16 metric 7 nexthop via 10.1.0.2 nexthop via 10.1.0.3 weight 2",
            "route add fd00:5::/64 nexthop via fd00:1::2 nexthop via fd00:1::3",
            "route add 10.6.0.0/16 via inet6 fd00:1::4 proto static",
            "route add blackhole 10.7.0.0/16",
        ] {
            let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(done.success(), "ip {arguments}");
        }
        let installed = host.routes(None).unwrap();
        let gateways = |dst: &str| -> Vec<Option<IpAddr>> {
            let same = installed.iter().filter(|i| i.route.dst == net(dst));
            same.inspect(|i| assert_eq!(i.oif, Some(index))).map(|i| i.route.gw).collect()
        };
        assert_eq!(gateways("10.5.0.0/16"), [Some(ip("10.1.0.2")), Some(ip("10.1.0.3"))]);
        assert_eq!(gateways("fd00:5::/64"), [Some(ip("fd00:1::2")), Some(ip("fd00:1::3"))]);
        assert_eq!(gateways("10.6.0.0/16"), [Some(ip("fd00:1::4"))]);
        assert_eq!(gateways("10.7.0.0/16"), []);
        let metric = installed.iter().find(|i| i.route.dst == net("10.5.0.0/16")).unwrap();
        assert_eq!((metric.route.priority, metric.protocol), (Some(7), 3));
        // Not ours: it stays.
        let foreign = Route::new(net("10.6.0.0/16"), Some(ip("fd00:1::4")));
        assert!(!host.delete_route(&foreign, Some(index)).unwrap());
    });
}

#[test]
fn a_pair_without_ipv6_is_silenced_too() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        // Below 1280 bytes a link has no IPv6, and the kernel refuses to set it up.
        let veth = Veth {
            host: &name("veth-web"),
            host_mac: mac().raised(),
            peer: &name("eth0"),
            netns: Some(&netns),
            peer_mac: mac(),
            mtu: 1000,
        };
        host.create_veth(&veth).unwrap();
        host.silence(veth.host).unwrap();
        let arp_ignore =
            sysctl::Sysctl::new(sysctl::Family::Ipv4, &name("veth-web"), "arp_ignore").read();
        assert_eq!(arp_ignore.unwrap(), "8");
        assert_eq!(host.link(veth.host).unwrap().unwrap().mtu, 1000);
    });
}

#[test]
fn a_peer_may_stay_here() {
    private(|| {
        let mut host = Netlink::open().unwrap();
        let mut make = |host_end: &str| {
            let veth = Veth {
                host: &name(host_end),
                host_mac: mac().raised(),
                peer: &name("eth-docker"),
                netns: None,
                peer_mac: mac(),
                mtu: 1500,
            };
            host.create_veth(&veth)
        };
        make("veth-a").unwrap();
        assert_eq!(make("veth-b").unwrap_err().to_string(), "link eth-docker exists already");
        let peer = host.link(&name("eth-docker")).unwrap().unwrap();
        assert_eq!((peer.mac, peer.up, peer.group), (Some(mac()), false, 0));
    });
}

#[test]
fn a_pair_runs_once_both_ends_are_up() {
    use std::time::Duration;
    let second = Duration::from_secs(1);
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (_, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        let web = name("veth-web");
        let error = host.wait_running(&web, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        inside.netlink.configure(peer, &[], &[]).unwrap();
        host.wait_running(&web, second).unwrap();
        assert!(host.link(&web).unwrap().unwrap().running);
        let error = host.wait_running(&name("veth-none"), second).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    });
}
