//! A writer of nf_tables netlink: tables, sets, base and plain chains, rules, in one atomic batch;
//! and the little reading that tells whether they are still there.
//!
//! Own because no crate writes masquerade rules without a C library or an `nft` process per call
//! (docs/decisions/006-own-nftables-writer.md). Numbers are those of linux/netfilter/nf_tables.h
//! unless said otherwise; integers travel in network byte order.

mod attribute;
mod batch;
mod conntrack;
mod expression;
mod socket;

pub use batch::{Batch, Chain, Element, Family, Field, Hold, Hook, Map, Rule, Set, padded};
pub use conntrack::{Connection, Sent};
pub use expression::{Comparison, Ct, Expression, Meta, Verdict};
pub use socket::{InstalledRule, InstalledTable, Socket};

use std::io;

/// The attributes 1, 2 and 3 of a message, where they are texts: the names in it.
pub(super) fn message_texts(body: &[u8]) -> [Option<String>; 3] {
    [1, 2, 3].map(|kind| attribute::text(body, kind))
}

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process owns the table (`flags owner`).
    #[error("another process owns what {subject} would change")]
    Owned {
        /// What was written.
        subject: String,
    },
    /// The kernel has no code for it.
    #[error("the kernel does not support {subject}")]
    Unsupported {
        /// What was written.
        subject: String,
    },
    /// Nobody answered.
    #[error("no answer from nf_tables to: {action}")]
    Timeout {
        /// What was asked.
        action: String,
    },
    /// Anything else the kernel or the socket said.
    #[error("nf_tables: cannot {action}")]
    System {
        /// What was asked, as an infinitive.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}
