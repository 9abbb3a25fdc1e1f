//! The floor: the least a process can do to plug a namespace into a bridge, with raw system calls
//! and no checks. The bench divides by it; nothing else uses it.
//!
//! `attach-floor add NETNS PORT IFNAME ADDRESS PREFIX GATEWAY BRIDGE SOCKET` · `attach-floor del PORT BRIDGE SOCKET`

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sched::{CloneFlags, setns};

/// `AF_INET` as the one byte it is in netlink's structures.
const IPV4: u8 = 2;

/// VETH_INFO_PEER (linux/veth.h).
const VETH_INFO_PEER: u16 = 1;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["add", netns, port, ifname, address, prefix, gateway, bridge, socket] => {
            let to = Ipv4Addr::octets;
            let address = to(&address.parse().unwrap());
            let gateway = to(&gateway.parse().unwrap());
            add(netns, port, ifname, address, prefix.parse().unwrap(), gateway, bridge, socket);
        }
        ["del", port, bridge, socket] => del(port, bridge, socket),
        _ => panic!(
            "floor add NETNS PORT IFNAME ADDRESS PREFIX GATEWAY BRIDGE SOCKET, or floor del PORT BRIDGE SOCKET"
        ),
    }
}

#[expect(clippy::too_many_arguments, reason = "the words of the command line")]
fn add(
    netns: &str,
    port: &str,
    ifname: &str,
    address: [u8; 4],
    prefix: u8,
    gateway: [u8; 4],
    bridge: &str,
    socket: &str,
) {
    let netns = File::open(netns).unwrap();
    let mut request = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    request.ifinfo(0, libc::IFF_UP as u32);
    request.text(libc::IFLA_IFNAME, port);
    let info = request.open(libc::IFLA_LINKINFO);
    request.text(libc::IFLA_INFO_KIND, "veth");
    let data = request.open(libc::IFLA_INFO_DATA);
    let peer = request.open(VETH_INFO_PEER);
    request.ifinfo(0, 0);
    request.text(libc::IFLA_IFNAME, ifname);
    request.bytes(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    request.close(peer);
    request.close(data);
    request.close(info);
    exchange(&netlink(), vec![request]);

    let mut ovsdb = UnixStream::connect(socket).unwrap();
    write!(
        ovsdb,
        r#"{{"id":1,"method":"transact","params":["Open_vSwitch",{{"op":"insert","table":"Interface","row":{{"name":"{port}"}},"uuid-name":"i"}},{{"op":"insert","table":"Port","row":{{"name":"{port}","interfaces":["named-uuid","i"]}},"uuid-name":"p"}},{{"op":"mutate","table":"Bridge","where":[["name","==","{bridge}"]],"mutations":[["ports","insert",["named-uuid","p"]]]}}]}}{{"id":2,"method":"monitor_cond","params":["Open_vSwitch",null,{{"Interface":[{{"columns":["ofport"],"where":[["name","==","{port}"]]}}]}}]}}"#
    )
    .unwrap();

    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    let inside = netlink();
    let index = nix::net::if_::if_nametoindex(ifname).unwrap();
    let mut lo = Message::new(libc::RTM_NEWLINK, 0);
    lo.ifinfo(1, libc::IFF_UP as u32);
    let mut assign = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE);
    assign.raw(&[IPV4, prefix, 0, 0]);
    assign.raw(&index.to_ne_bytes());
    assign.bytes(libc::IFA_LOCAL, &address);
    assign.bytes(libc::IFA_ADDRESS, &address);
    let mut up = Message::new(libc::RTM_NEWLINK, 0);
    up.ifinfo(index, libc::IFF_UP as u32);
    let mut route = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE);
    // struct rtmsg: family, dst_len, src_len, tos, table main, protocol static, scope, type
    route.raw(&[IPV4, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    route.bytes(libc::RTA_GATEWAY, &gateway);
    exchange(&inside, vec![lo, assign, up, route]);

    wait(&mut ovsdb, |text| {
        text.match_indices("\"ofport\":")
            .any(|(at, key)| text[at + key.len()..].starts_with(|c: char| c.is_ascii_digit()))
    });
}

fn del(port: &str, bridge: &str, socket: &str) {
    let mut ovsdb = UnixStream::connect(socket).unwrap();
    write!(
        ovsdb,
        r#"{{"id":1,"method":"transact","params":["Open_vSwitch",{{"op":"select","table":"Port","where":[["name","==","{port}"]],"columns":["_uuid"]}}]}}"#
    )
    .unwrap();
    let text = wait(&mut ovsdb, |text| text.contains("\"id\":1") && text.ends_with('}'));
    let uuid = text.split('"').find(|word| word.len() == 36).unwrap();
    write!(
        ovsdb,
        r#"{{"id":2,"method":"transact","params":["Open_vSwitch",{{"op":"mutate","table":"Bridge","where":[["name","==","{bridge}"]],"mutations":[["ports","delete",["uuid","{uuid}"]]]}},{{"op":"delete","table":"Port","where":[["_uuid","==",["uuid","{uuid}"]]]}}]}}"#
    )
    .unwrap();
    wait(&mut ovsdb, |text| text.contains("\"id\":2"));
    let mut request = Message::new(libc::RTM_DELLINK, 0);
    request.ifinfo(0, 0);
    request.text(libc::IFLA_IFNAME, port);
    exchange(&netlink(), vec![request]);
}

/// Reads until what has come satisfies `enough`.
fn wait(stream: &mut UnixStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut buffer = [0; 65536];
    while !enough(&text) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "ovsdb-server hung up after: {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

fn netlink() -> File {
    // SAFETY: plain system calls; the descriptor is owned from here on.
    unsafe {
        let fd = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        );
        assert!(fd >= 0);
        File::from(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends all in one go and waits for every acknowledgement.
fn exchange(mut socket: &File, messages: Vec<Message>) {
    let count = messages.len();
    let all: Vec<u8> = messages.into_iter().flat_map(Message::finish).collect();
    socket.write_all(&all).unwrap();
    let mut seen = 0;
    let mut buffer = [0; 65536];
    while seen < count {
        let length = socket.read(&mut buffer).unwrap();
        let mut at = 0;
        while at < length {
            let word =
                |o: usize| i32::from_ne_bytes(buffer[at + o..at + o + 4].try_into().unwrap());
            let error = word(16);
            assert!(error == 0, "netlink: {}", std::io::Error::from_raw_os_error(-error));
            seen += 1;
            at += usize::try_from(word(0)).unwrap().next_multiple_of(4);
        }
    }
}

/// One rtnetlink request, built byte by byte.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap();
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// struct ifinfomsg
    fn ifinfo(&mut self, index: u32, flags: u32) {
        self.raw(&[0; 4]);
        self.raw(&index.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap();
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.raw(value);
        self.close(start);
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap();
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}
