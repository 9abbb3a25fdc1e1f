//! A network namespace that plays a container.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_rs::{NetNs, get_from_path};

use crate::command::{Command, Output, raw};
use crate::daemon::Daemon;
use crate::frame::RawSocket;
use crate::traffic::{self, ECHO_PORT, EchoServer};

/// A network namespace at `/run/netns/NAME`. Dropping it removes it; what runs inside ends with
/// the host.
#[derive(Debug)]
pub struct Container {
    name: String,
    path: PathBuf,
    netns: Option<NetNs>,
}

impl Container {
    pub(crate) fn new(name: &str) -> Self {
        let netns = NetNs::new(name)
            .unwrap_or_else(|error| panic!("cannot make network namespace {name}: {error}"));
        let path = Path::new("/run/netns").join(name);
        let this = Self { name: name.to_owned(), path, netns: Some(netns) };
        this.ip("link set lo up");
        this
    }

    /// The network namespace of a process that someone else started. Dropping it changes nothing.
    pub fn of_process(name: &str, pid: u32) -> Self {
        Self::at(name, PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// The network namespace that someone else keeps at `path`. Dropping it changes nothing.
    pub(crate) fn at(name: &str, path: PathBuf) -> Self {
        let netns = get_from_path(&path)
            .unwrap_or_else(|error| panic!("no network namespace of {name}: {error}"));
        Self { name: name.to_owned(), path, netns: Some(netns) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its namespace, as a runtime gives it in `CNI_NETNS`.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        Command::new(program).netns(raw(self.netns().file()))
    }

    /// Runs a shell script inside; panics unless it succeeds. Returns its stdout.
    pub fn exec(&self, script: &str) -> String {
        self.try_exec(script).success().stdout
    }

    /// Runs a shell script inside, whatever its end.
    pub fn try_exec(&self, script: &str) -> Output {
        self.command("sh").args(["-ec", script]).output()
    }

    /// Runs `ip` inside, arguments separated by blanks; panics unless it succeeds.
    pub fn ip(&self, args: &str) -> String {
        self.command("ip").args(args.split_whitespace()).run()
    }

    /// Starts a daemon inside.
    pub fn daemon(&self, name: &str, program: &str, args: &[&str]) -> Daemon {
        Daemon::start(name, self.command(program).args(args))
    }

    /// Does `work` on this thread inside the namespace: what it opens there stays there.
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.netns()
            .run(|_| work())
            .unwrap_or_else(|error| panic!("cannot work in {}: {error}", self.name))
    }

    /// Whether one ICMP echo request out of three gets its answer within a second.
    pub fn ping(&self, address: IpAddr) -> bool {
        self.command("ping")
            .args(["-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", &address.to_string()])
            .output()
            .ok()
    }

    /// Starts an echo server inside, TCP and UDP on [`ECHO_PORT`], every address.
    pub fn echo_server(&self) -> EchoServer {
        self.inside(|| EchoServer::start(&self.name))
    }

    /// Connects from inside, within three seconds.
    pub fn connect(&self, address: IpAddr, port: u16) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(address, port);
        self.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(3)))
    }

    /// Sends `bytes` of noise over TCP to the echo server at `address` and checks every byte that
    /// comes back.
    pub fn tcp_echo(&self, address: IpAddr, bytes: usize) -> std::io::Result<()> {
        traffic::tcp_exchange(self.connect(address, ECHO_PORT)?, bytes)
    }

    /// As [`Container::tcp_echo`], to another port: one that is published for an echo server.
    pub fn tcp_echo_port(&self, address: IpAddr, port: u16, bytes: usize) -> std::io::Result<()> {
        traffic::tcp_exchange(self.connect(address, port)?, bytes)
    }

    /// Opens a conversation with the echo server at `address`, to be gone on with later.
    pub fn stream(&self, address: IpAddr) -> std::io::Result<traffic::Stream> {
        traffic::Stream::new(self.connect(address, ECHO_PORT)?)
    }

    /// Sends a datagram to the echo server at `address` and checks what comes back.
    pub fn udp_echo(&self, address: IpAddr) -> std::io::Result<()> {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.inside(|| UdpSocket::bind(any))?;
        traffic::udp_exchange(&socket, SocketAddr::new(address, ECHO_PORT))
    }

    /// Asks the host at `address` who it is and from which address it saw the call.
    pub fn who_answers(&self, address: IpAddr) -> std::io::Result<(String, IpAddr)> {
        traffic::who_answers(self.connect(address, traffic::NAME_PORT)?)
    }

    /// Opens a raw socket on one of its interfaces.
    pub fn raw_socket(&self, interface: &str) -> RawSocket {
        self.inside(|| RawSocket::open(interface))
    }

    /// MAC address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.ip(&format!("-o link show dev {interface}"));
        let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let mac = mac.unwrap_or_else(|| panic!("no MAC address: {text}"));
        let bytes: Vec<u8> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC byte")).collect();
        bytes.try_into().expect("six bytes")
    }

    /// Removes the namespace now, as a runtime does before a late DEL.
    pub fn remove(mut self) {
        self.unmount();
    }

    fn unmount(&mut self) {
        if let Some(netns) = self.netns.take() {
            netns.remove().ok();
        }
    }

    fn netns(&self) -> &NetNs {
        self.netns.as_ref().expect("the namespace lives as long as the container")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.unmount();
    }
}
