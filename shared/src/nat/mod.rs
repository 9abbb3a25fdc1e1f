//! NAT, the guard of the host and the isolation of networks: one nftables table of ours, the
//! policy routes of named uplinks, per-interface forwarding, and the one tagged rule elsewhere.
