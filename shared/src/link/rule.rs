//! Policy routing rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Verb};
use super::{Error, Netlink, PROTOCOL};

/// One policy routing rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Source prefix (FRA_SRC).
    pub from: IpNet,
    /// FRA_PRIORITY.
    pub priority: u32,
    /// FRA_TABLE.
    pub table: u32,
    /// FRA_SUPPRESS_PREFIXLEN.
    pub suppress_prefixlen: Option<u32>,
}

impl Netlink {
    /// The policy rules of ours ([`PROTOCOL`]), both families.
    pub fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let objects = self.dump("policy rules", &RouteNetlinkMessage::GetRule(message))?;
            found.extend(objects.into_iter().filter_map(read));
        }
        Ok(found)
    }

    /// Adds a rule of ours; false if it was there.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<bool, Error> {
        let answer = self.ask(Request {
            verb: Verb::Create,
            subject: subject(rule),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            message: RouteNetlinkMessage::NewRule(message(rule)),
        });
        match answer {
            Ok(_) => Ok(true),
            Err(Error::Exists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a rule of ours; false if it was not there.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<bool, Error> {
        let answer = self.ask(Request {
            verb: Verb::Delete,
            subject: subject(rule),
            flags: 0,
            message: RouteNetlinkMessage::DelRule(message(rule)),
        });
        match answer {
            Ok(_) => Ok(true),
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn subject(rule: &Rule) -> String {
    format!("policy rule {} from {} to table {}", rule.priority, rule.from, rule.table)
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = super::route::family(rule.from.addr());
    message.header.src_len = rule.from.prefix_len();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    if rule.from.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Source(rule.from.network()));
    }
    message.attributes.extend(rule.suppress_prefixlen.map(RuleAttribute::SuppressPrefixLen));
    message
}

/// The rule the kernel describes, if it is ours.
fn read(object: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = object else { return None };
    let mut from = match message.header.family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let (mut priority, mut suppress_prefixlen, mut ours) = (0, None, false);
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => from = ip,
            RuleAttribute::Priority(number) => priority = number,
            RuleAttribute::Table(number) => table = number,
            RuleAttribute::Protocol(protocol) => ours = u8::from(protocol) == PROTOCOL,
            // The kernel says -1 for none.
            RuleAttribute::SuppressPrefixLen(length) => {
                suppress_prefixlen = Some(length).filter(|l| *l != u32::MAX);
            }
            _ => {}
        }
    }
    let from = IpNet::new(from, message.header.src_len).ok()?;
    ours.then_some(Rule { from, priority, table, suppress_prefixlen })
}
