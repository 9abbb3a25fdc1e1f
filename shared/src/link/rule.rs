//! Policy routing rules.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::object::{Object, RTM_NEWRULE};
use super::socket::{Request, Verb};
use super::{Error, Netlink, PROTOCOL};

/// linux/fib_rules.h.
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;

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
            found.extend(objects.iter().filter_map(read));
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
fn read(object: &Object) -> Option<Rule> {
    // struct fib_rule_hdr: family, two prefix lengths, TOS, table, padding, action, flags.
    let (header, attributes) = object.split::<12>(RTM_NEWRULE)?;
    let [family, _, src_len, _, table, ..] = *header;
    let mut from = super::route::unspecified(family)?;
    let mut table = u32::from(table);
    let (mut priority, mut suppress_prefixlen, mut ours) = (0, None, false);
    for attribute in attributes {
        match attribute.kind {
            FRA_SRC => from = attribute.ip()?,
            FRA_PRIORITY => priority = attribute.number()?,
            FRA_TABLE => table = attribute.number()?,
            FRA_PROTOCOL => ours = attribute.value == [PROTOCOL],
            // The kernel says -1 for none.
            FRA_SUPPRESS_PREFIXLEN => {
                suppress_prefixlen = attribute.number().filter(|length| *length != u32::MAX);
            }
            _ => {}
        }
    }
    let from = IpNet::new(from, src_len).ok()?;
    ours.then_some(Rule { from, priority, table, suppress_prefixlen })
}
