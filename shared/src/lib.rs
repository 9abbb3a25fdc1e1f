//! The engine of ovs-agent: plugs containers into Open vSwitch bridges.
//!
//! Synchronous, one noun per file. It never prints, exits, reads argv or the environment: a front
//! end turns its raw input into one validated request, calls the engine, and turns one error
//! ([`error::Fault`]) into its own protocol's error.

pub mod address;
pub mod attachment;
pub mod config;
pub mod control;
pub mod doctor;
pub mod error;
pub mod file;
mod hex;
pub mod interfaces;
pub mod journal;
pub mod key;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
pub mod ledger;
pub mod link;
pub mod lock;
pub mod mac;
pub mod name;
pub mod nat;
pub mod netns;
pub mod network;
pub mod news;
pub mod ovsdb;
pub mod publish;
pub mod socket;
pub mod state;
pub mod status;
pub mod vlan;
