//! The rig: private hosts for tests that need a real kernel and a real Open vSwitch.
//!
//! [`Host::new`] moves the calling test thread into namespaces of its own and starts an
//! ovsdb-server and an ovs-vswitchd there, at the default paths. Tests run side by side, none sees
//! the machine's interfaces, rules or files, and nothing survives one: not a failing assertion,
//! not a killed test runner. What is missing (root, Open vSwitch, a built binary) is a panic that
//! names the command which provides it; the rig never skips.

mod binary;
pub mod bus;
mod chain;
pub mod chart;
mod command;
pub mod conformance;
mod container;
mod daemon;
mod datagrams;
mod docker_driver;
mod dockerd;
mod frame;
mod host;
pub mod idle;
pub mod image;
mod isolation;
pub mod lab;
mod lan;
mod machine;
mod outage;
mod podman;
mod recovery;
mod snapshot;
pub mod soak;
pub mod sweep;
mod switch;
mod traffic;
mod uplink;

pub use binary::{Plugin, PortAgent, Reply};
pub use chain::Chain;
pub use command::{Command, Output, poll};
pub use container::Container;
pub use daemon::Daemon;
pub use datagrams::{Datagrams, Heard};
pub use docker_driver::DockerDriver;
pub use dockerd::Dockerd;
pub use frame::{Frame, RawSocket};
pub use host::Host;
pub use lab::Lab;
pub use lan::Lan;
pub use machine::Machine;
pub use outage::Probe;
pub use podman::Podman;
pub use recovery::{CONVERGED, Recovery, is_long, rounds};
pub use snapshot::{Snapshot, assert_same, assert_soon_same};
pub use switch::Switch;
pub use traffic::{
    ECHO_PORT, EchoServer, NAME_PORT, Stream, tcp_exchange, udp_exchange, who_answers,
};
pub use uplink::{INTERNET, INTERNET6, Uplink};
