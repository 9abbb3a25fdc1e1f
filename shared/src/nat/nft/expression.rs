//! The expressions rules are made of. Each loads into, or tests, register 1, unless it says which
//! slot: register 1 is the slots 0 to 3, of 4 bytes each.

use nix::libc;

use super::attribute::Attributes;

/// A packet's property (NFT_META_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The packet mark.
    Mark,
    /// Name of the input interface, 16 bytes.
    IifName,
    /// Name of the output interface, 16 bytes.
    OifName,
    /// IPv4 or IPv6, one byte (NFPROTO_*).
    NfProto,
    /// Group of the input interface.
    IifGroup,
    /// `IFLA_INFO_KIND` of the input interface, 16 bytes; the rule does not match without one.
    IifKind,
    /// The same of the output interface.
    OifKind,
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::IifName => 6,
            Self::OifName => 7,
            Self::NfProto => 15,
            Self::IifGroup => 21,
            Self::IifKind => 26,
            Self::OifKind => 27,
        }
    }
}

/// What connection tracking says (NFT_CT_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ct {
    /// Bits of the state: see [`Ct::ESTABLISHED`].
    State,
    /// Bits of the connection's status (IPS_*): see [`Ct::DNAT`].
    Status,
}

impl Ct {
    /// NF_CT_STATE_BIT(IP_CT_ESTABLISHED).
    pub const ESTABLISHED: u32 = 2;
    /// NF_CT_STATE_BIT(IP_CT_RELATED).
    pub const RELATED: u32 = 4;
    /// IPS_DST_NAT (linux/netfilter/nf_conntrack_common.h).
    pub const DNAT: u32 = 32;

    fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Status => 2,
        }
    }
}

/// How a register is compared (NFT_CMP_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Is,
    /// Not equal.
    IsNot,
}

/// Where a packet goes (NF_*, NFT_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Past this chain; others still see it.
    Accept,
    /// Gone.
    Drop,
    /// Through the chain and back.
    Jump(&'static str),
    /// Through the chain and not back.
    Goto(&'static str),
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a property of the packet.
    Meta(Meta),
    /// Stores the register as the packet's mark.
    SetMark,
    /// Loads bytes of the network header.
    Network {
        /// First byte.
        offset: u32,
        /// How many, at most 16.
        length: u32,
    },
    /// Loads a property of the connection.
    Ct(Ct),
    /// `register & mask ^ xor`; both of the register's length.
    Bitwise {
        /// The mask.
        mask: Vec<u8>,
        /// What is xored onto it.
        xor: Vec<u8>,
    },
    /// Goes on only if the register compares so.
    Compare(Comparison, Vec<u8>),
    /// Goes on only if the register is in the named set of this table, or is not.
    Lookup {
        /// The set.
        set: &'static str,
        /// Whether it must be in there.
        inside: bool,
    },
    /// Loads the protocol number into a slot, one byte.
    Protocol {
        /// The slot.
        slot: u32,
    },
    /// Loads the destination port of TCP or UDP into a slot, two bytes.
    DestinationPort {
        /// The slot.
        slot: u32,
    },
    /// Loads what kind of address the destination is to this host (RTN_*).
    DestinationType,
    /// Goes on only if the register is a key of the named map; loads its value.
    Map(&'static str),
    /// Destination NAT to the address in the register and the port in the slot behind it.
    Dnat {
        /// IPv6, else IPv4.
        v6: bool,
    },
    /// Source NAT to the output interface's address.
    Masquerade,
    /// Refused with "no route" (ICMP net unreachable, ICMPv6 no route).
    RejectNoRoute,
    /// The end of the rule.
    Verdict(Verdict),
}

const REGISTER: u32 = libc::NFT_REG_1.cast_unsigned();
/// NFT_REG32_00.
const SLOT: u32 = 8;
/// NFT_META_L4PROTO.
const META_PROTOCOL: u32 = 16;
/// NFT_FIB_RESULT_ADDRTYPE and NFTA_FIB_F_DADDR.
const FIB_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
/// NFT_NAT_DNAT.
const NAT_DNAT: u32 = 1;

impl Expression {
    /// NFTA_LIST_ELEM's content: name and data.
    pub(super) fn attributes(&self) -> Attributes {
        let none = Attributes::default();
        let (name, data) = match self {
            // NFTA_META_DREG 1, KEY 2, SREG 3
            Self::Meta(key) => ("meta", none.number(1, REGISTER).number(2, key.number())),
            Self::SetMark => ("meta", none.number(2, Meta::Mark.number()).number(3, REGISTER)),
            // NFTA_PAYLOAD_DREG 1, BASE 2, OFFSET 3, LEN 4
            Self::Network { offset, length } => (
                "payload",
                none.number(1, REGISTER)
                    .number(2, libc::NFT_PAYLOAD_NETWORK_HEADER.cast_unsigned())
                    .number(3, *offset)
                    .number(4, *length),
            ),
            // NFTA_CT_DREG 1, KEY 2
            Self::Ct(key) => ("ct", none.number(1, REGISTER).number(2, key.number())),
            // NFTA_BITWISE_SREG 1, DREG 2, LEN 3, MASK 4, XOR 5
            Self::Bitwise { mask, xor } => (
                "bitwise",
                none.number(1, REGISTER)
                    .number(2, REGISTER)
                    .number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX))
                    .nested(4, &value(mask))
                    .nested(5, &value(xor)),
            ),
            // NFTA_CMP_SREG 1, OP 2, DATA 3
            Self::Compare(comparison, with) => {
                let operation = match comparison {
                    Comparison::Is => libc::NFT_CMP_EQ,
                    Comparison::IsNot => libc::NFT_CMP_NEQ,
                };
                let data = none.number(1, REGISTER).number(2, operation.cast_unsigned());
                ("cmp", data.nested(3, &value(with)))
            }
            // NFTA_LOOKUP_SET 1, SREG 2, FLAGS 5 (NFT_LOOKUP_F_INV 1)
            Self::Lookup { set, inside } => {
                ("lookup", none.text(1, set).number(2, REGISTER).number(5, u32::from(!inside)))
            }
            Self::Protocol { slot } => {
                ("meta", none.number(1, SLOT + slot).number(2, META_PROTOCOL))
            }
            Self::DestinationPort { slot } => (
                "payload",
                none.number(1, SLOT + slot)
                    .number(2, libc::NFT_PAYLOAD_TRANSPORT_HEADER.cast_unsigned())
                    .number(3, 2)
                    .number(4, 2),
            ),
            // NFTA_FIB_DREG 1, RESULT 2, FLAGS 3
            Self::DestinationType => {
                ("fib", none.number(1, REGISTER).number(2, FIB_ADDRTYPE).number(3, FIB_DADDR))
            }
            // NFTA_LOOKUP_DREG 3
            Self::Map(map) => ("lookup", none.text(1, map).number(2, REGISTER).number(3, REGISTER)),
            // NFTA_NAT_TYPE 1, FAMILY 2, REG_ADDR_MIN 3, REG_PROTO_MIN 5
            Self::Dnat { v6 } => {
                let (family, port) = if *v6 { (10, SLOT + 4) } else { (2, SLOT + 1) };
                let data = none.number(1, NAT_DNAT).number(2, family);
                ("nat", data.number(3, REGISTER).number(5, port))
            }
            Self::Masquerade => ("masq", none),
            // NFTA_REJECT_TYPE 1, ICMP_CODE 2 (one byte)
            Self::RejectNoRoute => (
                "reject",
                none.number(1, libc::NFT_REJECT_ICMPX_UNREACH.cast_unsigned())
                    .bytes(2, &[libc::NFT_REJECT_ICMPX_NO_ROUTE.to_le_bytes()[0]]),
            ),
            // NFTA_IMMEDIATE_DREG 1, DATA 2; NFTA_DATA_VERDICT 2; NFTA_VERDICT_CODE 1, CHAIN 2
            Self::Verdict(verdict) => {
                let code = |code: i32| Attributes::default().number(1, code.cast_unsigned());
                let verdict = match verdict {
                    Verdict::Accept => code(libc::NF_ACCEPT),
                    Verdict::Drop => code(libc::NF_DROP),
                    Verdict::Jump(chain) => code(libc::NFT_JUMP).text(2, chain),
                    Verdict::Goto(chain) => code(libc::NFT_GOTO).text(2, chain),
                };
                let data = Attributes::default().nested(2, &verdict);
                let register = libc::NFT_REG_VERDICT.cast_unsigned();
                ("immediate", none.number(1, register).nested(2, &data))
            }
        };
        // NFTA_EXPR_NAME 1, DATA 2
        Attributes::default().text(1, name).nested(2, &data)
    }
}

/// NFTA_DATA_VALUE.
pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}
