//! What the two ends of a pair send.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::link::LinkAttribute;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use super::*;

/// Every frame that arrives at or leaves the links of the calling thread's namespace.
struct Listener(OwnedFd);

impl Listener {
    fn open() -> Self {
        let all = SockProtocol::EthAll;
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
        let wait = nix::sys::time::TimeVal::new(0, 300_000);
        setsockopt(&fd, sockopt::ReceiveTimeout, &wait).unwrap();
        Self(fd)
    }

    /// What was heard until it was silent for 0.3 seconds.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok(length) = nix::unistd::read(&self.0, &mut buffer) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

#[test]
fn the_host_end_is_silent() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        host.set_up(1, true).unwrap();
        let (index, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        let listener = netns.enter(Listener::open).unwrap();
        inside.netlink.configure(peer, &[net("10.1.0.5/24")], &[]).unwrap();
        // The host holds the address the container asks for, but on another link.
        assert!(host.add_address(1, net("10.1.0.1/32")).unwrap());
        let ask = || {
            let socket = UdpSocket::bind("10.1.0.5:0").unwrap();
            socket.send_to(b"?", "10.1.0.1:9").unwrap();
        };
        netns.enter(ask).unwrap();
        thread::sleep(Duration::from_millis(1500));
        let from_host = |frame: &Vec<u8>| frame[6] == 0xfe;
        let frames = listener.frames();
        assert!(!frames.is_empty());
        assert!(!frames.iter().any(from_host), "{frames:x?}");
        assert_eq!(inside.netlink.neighbour(peer, ip("10.1.0.1")).unwrap(), None);
        assert_eq!(host.addresses(index).unwrap(), []);

        // Without the setting the host does answer, with the wrong MAC.
        let deaf = LinkAttribute::AfSpecUnspec(vec![device::ipv4_conf(19, 0)]);
        host.ask(device::change(index, vec![deaf])).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let wrong = loop {
            netns.enter(ask).unwrap();
            thread::sleep(Duration::from_millis(50));
            match inside.netlink.neighbour(peer, ip("10.1.0.1")).unwrap() {
                Some(mac) => break mac,
                None => assert!(Instant::now() < deadline),
            }
        };
        assert_eq!(wrong.bytes()[0], 0xfe);
    });
}

#[test]
fn addresses_are_announced() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let veth = Veth {
            host: &name("veth-web"),
            host_mac: mac().raised(),
            peer: &name("eth0"),
            netns: Some(&netns),
            peer_mac: mac(),
            mtu: 1500,
        };
        host.create_veth(&veth).unwrap();
        let mut inside = Inside::visit_link(&netns, &name("eth0"), IPV6).unwrap();
        let peer = inside.netlink.link(&name("eth0")).unwrap().unwrap().index;
        let addresses = [net("10.1.0.5/24"), net("10.1.0.6/24"), net("fd00:1::5/64")];
        inside.netlink.configure(peer, &addresses, &[]).unwrap();
        let listener = Listener::open();
        inside.netlink.announce(peer, mac()).unwrap();
        let frames = listener.frames();
        for last in [5, 6] {
            // ARP with equal sender and target address, from the container's MAC to everybody.
            let found = frames.iter().any(|f| {
                f[..6] == [0xff; 6]
                    && f[6..12] == mac().bytes()
                    && f[12..14] == [8, 6]
                    && f[28..32] == [10, 1, 0, last]
                    && f[38..42] == [10, 1, 0, last]
            });
            assert!(found, "{frames:x?}");
        }
        // ICMPv6 neighbour advertisement (136) for the IPv6 address.
        let target: [u8; 16] = "fd00:1::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let found = frames.iter().any(|f| {
            f[12..14] == [0x86, 0xdd] && f.len() >= 78 && f[54] == 136 && f[62..78] == target
        });
        assert!(found, "{frames:x?}");
        let link = inside.netlink.link_by_index(peer).unwrap().unwrap();
        assert_eq!((link.mac, link.up), (Some(mac()), true));
    });
}

#[test]
fn a_probe_frame_arrives() {
    private(|| {
        let (mut host, netns) = (Netlink::open().unwrap(), container());
        let (_, peer, mut inside) = plug(&mut host, &netns, "veth-web");
        inside.netlink.configure(peer, &[], &[]).unwrap();
        let listener = Listener::open();
        let to: Mac = "02:00:5e:10:00:01".parse().unwrap();
        probe::send(&netns, peer, to).unwrap();
        let found = listener.frames().into_iter().any(|f| {
            f.len() == 60
                && f[..6] == to.bytes()
                && f[6..12] == mac().bytes()
                && f[12..14] == probe::ETHERTYPE.to_be_bytes()
        });
        assert!(found);
        assert!(matches!(probe::send(&netns, 4711, to), Err(Error::System { .. })));
    });
}
