//! What a batch declares: all of it is there afterwards, or nothing has changed.

use nix::libc;

use super::attribute::Attributes;
use super::expression::{Expression, value};
use super::socket::InstalledTable;

/// NFTNL_UDATA_RULE_COMMENT and NFTNL_UDATA_TABLE_COMMENT (libnftnl/udata.h): both 0.
pub(super) const COMMENT: u8 = 0;
/// Longest comment nft shows (NFTNL_UDATA_COMMENT_MAXLEN), less its final NUL.
const COMMENT_MAX: usize = 127;
/// nft's number for the type of an interface name; only nft reads it.
const TYPE_IFNAME: u32 = 41;
/// Elements in one message: an attribute is at most 64 KiB long.
const ELEMENTS: usize = 500;
/// Length of an interface name in a register (IFNAMSIZ).
const IFNAMSIZ: usize = 16;

/// NFT_TABLE_F_OWNER (Linux 5.12) and NFT_TABLE_F_PERSIST (6.9).
pub(super) const TABLE_OWNER: u32 = 2;
pub(super) const TABLE_PERSIST: u32 = 4;

/// The address family of a table (NFPROTO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
}

impl Family {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// Who may change a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Anybody.
    Free,
    /// Anybody, since its owner is gone; and it can have an owner again.
    Orphan,
    /// The socket that declares it so, for as long as that is open; then it is an orphan.
    Owned,
}

impl Hold {
    /// As it is; one that is not there is free.
    pub fn of(table: Option<&InstalledTable>) -> Self {
        match table {
            Some(table) if table.orphan => Self::Orphan,
            Some(table) if table.owner.is_some() => Self::Owned,
            _ => Self::Free,
        }
    }
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// "filter" or "nat".
    pub kind: &'static str,
    /// NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING.
    pub number: i32,
    /// Lower sees packets earlier (NF_IP_PRI_*).
    pub priority: i32,
}

/// A chain. One that hangs on a hook lets pass what it does not decide about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hangs; a chain without is only jumped to.
    pub hook: Option<Hook>,
}

/// A set of interface names that cannot be changed once a rule uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// The interfaces.
    pub interfaces: Vec<String>,
}

/// A map from one value of registers to another. Its elements come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: &'static str,
    /// What a key is made of.
    pub key: &'static [Field],
    /// What a value is made of.
    pub data: &'static [Field],
}

/// A part of a key or value, as nft numbers its types. It fills whole registers of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A protocol number (6 is TCP).
    Protocol,
    /// A port.
    Port,
}

impl Field {
    /// nft's number for the type; only nft reads it.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    /// In bytes.
    fn length(self) -> u32 {
        if self == Self::Ipv6 { 16 } else { 4 }
    }

    /// Type and length of several one after the other (nft: 6 bits of the type for each).
    fn joined(fields: &[Self]) -> (u32, u32) {
        let kind = fields.iter().fold(0, |kind, field| kind << 6 | field.number());
        (kind, fields.iter().map(|field| field.length()).sum())
    }
}

/// One element of a map: key and value as the registers hold them.
pub type Element = (Vec<u8>, Vec<u8>);

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its chain.
    pub chain: &'static str,
    /// What nft shows behind it; the name we know it by.
    pub comment: String,
    /// What it does.
    pub expressions: Vec<Expression>,
}

/// One message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Subsystem and NFT_MSG_* or another subsystem's number.
    pub(super) kind: i32,
    /// Besides NLM_F_REQUEST.
    pub(super) flags: i32,
    pub(super) family: u8,
    pub(super) attributes: Vec<u8>,
    /// What to call it when it fails.
    pub(super) subject: String,
}

/// Messages for one table.
#[derive(Debug, Clone)]
pub struct Batch {
    family: Family,
    table: String,
    pub(super) messages: Vec<Message>,
}

impl Batch {
    /// An empty batch for a table.
    pub fn new(family: Family, table: &str) -> Self {
        Self { family, table: table.to_owned(), messages: Vec::new() }
    }

    /// Declares the table; one that exists must be held so, or an orphan to become owned, and keeps
    /// its comment.
    pub fn add_table(&mut self, comment: &str, hold: Hold) {
        let flags = match hold {
            Hold::Free => 0,
            Hold::Orphan => TABLE_PERSIST,
            Hold::Owned => TABLE_OWNER | TABLE_PERSIST,
        };
        // NFTA_TABLE_NAME 1, FLAGS 2, USERDATA 6
        let attributes = Attributes::default()
            .text(1, &self.table)
            .number(2, flags)
            .bytes(6, &userdata(comment));
        let subject = format!("table {}", self.table);
        self.push(libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, attributes, subject);
    }

    /// Removes the table and all that is in it.
    pub fn delete_table(&mut self) {
        let attributes = Attributes::default().text(1, &self.table);
        let subject = format!("the removal of table {}", self.table);
        self.push(libc::NFT_MSG_DELTABLE, 0, attributes, subject);
    }

    /// Adds a chain.
    pub fn add_chain(&mut self, chain: Chain) {
        // NFTA_CHAIN_TABLE 1, NAME 3, HOOK 4, POLICY 5, TYPE 7; NFTA_HOOK_HOOKNUM 1, PRIORITY 2
        let mut attributes = Attributes::default().text(1, &self.table).text(3, chain.name);
        if let Some(hook) = chain.hook {
            let place = Attributes::default()
                .number(1, hook.number.cast_unsigned())
                .number(2, hook.priority.cast_unsigned());
            attributes = attributes
                .nested(4, &place)
                .number(5, libc::NF_ACCEPT.cast_unsigned())
                .text(7, hook.kind);
        }
        let subject = format!("chain {}", chain.name);
        self.push(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, attributes, subject);
    }

    /// Adds a set with its elements.
    pub fn add_set(&mut self, set: &Set) {
        // Unique within the batch is all the kernel asks of a set's id.
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        // NFTNL_UDATA_SET_KEYBYTEORDER 0, length 4: host order (1), for nft's listing only.
        let order: Vec<u8> = [0, 4].into_iter().chain(1_u32.to_ne_bytes()).collect();
        // NFTA_SET_TABLE 1, NAME 2, FLAGS 3, KEY_TYPE 4, KEY_LEN 5, ID 10, USERDATA 13
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, set.name)
            .number(3, libc::NFT_SET_CONSTANT.cast_unsigned())
            .number(4, TYPE_IFNAME)
            .number(5, u32::try_from(IFNAMSIZ).unwrap_or(u32::MAX))
            .number(10, id)
            .bytes(13, &order);
        let subject = format!("set {}", set.name);
        self.push(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, attributes, subject.clone());
        if set.interfaces.is_empty() {
            return;
        }
        let mut elements = Attributes::default();
        for interface in &set.interfaces {
            // NFTA_LIST_ELEM 1, NFTA_SET_ELEM_KEY 1
            let element = Attributes::default().nested(1, &value(&padded(interface)));
            elements = elements.nested(1, &element);
        }
        // NFTA_SET_ELEM_LIST_TABLE 1, SET 2, ELEMENTS 3, SET_ID 4
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, set.name)
            .nested(3, &elements)
            .number(4, id);
        self.push(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, attributes, subject);
    }

    /// Adds an empty map.
    pub fn add_map(&mut self, map: &Map) {
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let ((kind, length), (data_kind, data_length)) =
            (Field::joined(map.key), Field::joined(map.data));
        // NFTA_SET_DATA_TYPE 6, DATA_LEN 7; the others as in `add_set`
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, map.name)
            .number(3, libc::NFT_SET_MAP.cast_unsigned())
            .number(4, kind)
            .number(5, length)
            .number(6, data_kind)
            .number(7, data_length)
            .number(10, id);
        let subject = format!("map {}", map.name);
        self.push(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, attributes, subject);
    }

    /// Adds elements to a map.
    pub fn add_elements<'e>(&mut self, map: &str, elements: impl Iterator<Item = &'e Element>) {
        self.elements(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, map, elements);
    }

    /// Removes elements of a map, all of which must be there.
    pub fn delete_elements<'e>(&mut self, map: &str, elements: impl Iterator<Item = &'e Element>) {
        self.elements(libc::NFT_MSG_DELSETELEM, 0, map, elements);
    }

    fn elements<'e>(
        &mut self,
        kind: i32,
        flags: i32,
        map: &str,
        elements: impl Iterator<Item = &'e Element>,
    ) {
        let elements: Vec<_> = elements.collect();
        for some in elements.chunks(ELEMENTS) {
            let mut list = Attributes::default();
            for (key, data) in some {
                // NFTA_SET_ELEM_KEY 1, DATA 2
                let element = Attributes::default().nested(1, &value(key)).nested(2, &value(data));
                list = list.nested(1, &element);
            }
            let attributes =
                Attributes::default().text(1, &self.table).text(2, map).nested(3, &list);
            self.push(kind, flags, attributes, format!("elements of map {map}"));
        }
    }

    /// Whether it would do nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Appends a rule to its chain.
    pub fn add_rule(&mut self, rule: &Rule) {
        let mut expressions = Attributes::default();
        for expression in &rule.expressions {
            expressions = expressions.nested(1, &expression.attributes());
        }
        // NFTA_RULE_TABLE 1, CHAIN 2, EXPRESSIONS 4, USERDATA 7
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, rule.chain)
            .nested(4, &expressions)
            .bytes(7, &userdata(&rule.comment));
        let subject = format!("rule \"{}\"", rule.comment);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.push(libc::NFT_MSG_NEWRULE, flags, attributes, subject);
    }

    /// All bytes that say what is to be there, for a digest.
    pub fn content(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().map(|message| &message.attributes[..])
    }

    /// The same batch with this one's messages behind it.
    pub fn append(&mut self, other: Self) {
        self.messages.extend(other.messages);
    }

    fn push(&mut self, kind: i32, flags: i32, attributes: Attributes, subject: String) {
        let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | kind;
        let family = self.family.number();
        let attributes = attributes.into_bytes();
        self.messages.push(Message { kind, flags, family, attributes, subject });
    }
}

/// An interface name as registers hold it.
pub fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

/// A comment as nft writes it: kind, length, text with a final NUL.
fn userdata(comment: &str) -> Vec<u8> {
    let mut text: Vec<u8> = comment.bytes().take(COMMENT_MAX).collect();
    text.push(0);
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, length];
    bytes.extend(text);
    bytes
}

/// The comment in a rule's or a table's user data.
pub(super) fn comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return std::str::from_utf8(text).ok().map(str::to_owned);
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_come_back_and_are_cut_to_what_nft_shows() {
        assert_eq!(comment(&userdata("ovsbr1: x")).as_deref(), Some("ovsbr1: x"));
        assert_eq!(comment(&userdata(&"x".repeat(300))).map(|c| c.len()), Some(COMMENT_MAX));
        // Another entry first; then one that is cut short.
        assert_eq!(comment(&[1, 2, 9, 9, 0, 2, b'a', 0]).as_deref(), Some("a"));
        assert_eq!(comment(&[0, 9, b'a']), None);
        assert_eq!(comment(&[]), None);
    }

    #[test]
    fn names_fill_a_register() {
        assert_eq!(padded("ovsbr1"), b"ovsbr1\0\0\0\0\0\0\0\0\0\0");
    }
}
