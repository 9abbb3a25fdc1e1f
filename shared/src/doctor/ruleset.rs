//! What `nft -j list ruleset` writes (libnftables-json(5)), as far as it concerns us.

use ipnet::IpNet;
use serde_json::Value;

use crate::nat::table::NAME;
use crate::nat::tagged::TAG;

/// The tables that iptables-nft writes; their rules are read from `iptables-save`.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// What others have written into nf_tables, the tables of iptables left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains on the way of forwarded packets that drop what no rule accepts.
    pub dropping: Vec<Dropping>,
    /// Rules that change the source of packets.
    pub masquerades: Vec<Masquerade>,
}

/// A base chain at the forward hook with the policy "drop".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropping {
    /// "ip", "ip6", "inet".
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether a rule in it accepts what our chain has marked.
    pub spares_us: bool,
}

/// A rule with `masquerade` or `snat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// "ip", "ip6", "inet".
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle: its number in the table.
    pub handle: u64,
    /// The source subnets it asks for; none if for all.
    pub sources: Vec<IpNet>,
}

impl Ruleset {
    /// Reads the JSON of nft. What is not understood is passed over.
    pub fn read(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text)
            .map_err(|error| format!("nft wrote something that is no JSON: {error}"))?;
        let mut ruleset = Self::default();
        let objects = json["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        for object in objects {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if let Some(chain) = object.get("chain") {
                let (family, table) = (text(&chain["family"]), text(&chain["table"]));
                let drops = chain["hook"] == "forward" && chain["policy"] == "drop";
                if drops && is_theirs(&family, &table) {
                    let chain = text(&chain["name"]);
                    ruleset.dropping.push(Dropping { family, table, chain, spares_us: false });
                }
            } else if let Some(rule) = object.get("rule") {
                let (family, table) = (text(&rule["family"]), text(&rule["table"]));
                if is_theirs(&family, &table) {
                    ruleset.rule(rule, family, table);
                }
            }
        }
        Ok(ruleset)
    }

    /// Chains come before their rules.
    fn rule(&mut self, rule: &Value, family: String, table: String) {
        let chain = rule["chain"].as_str().unwrap_or_default();
        if rule["comment"] == TAG {
            for dropping in &mut self.dropping {
                let same = dropping.chain == chain && dropping.table == table;
                dropping.spares_us |= same && dropping.family == family;
            }
        }
        let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let masquerades = |e: &Value| {
            e.get("masquerade").is_some() || e.get("snat").is_some_and(|s| !s.is_null())
        };
        if let Some(handle) = rule["handle"].as_u64()
            && expressions.iter().any(masquerades)
        {
            let sources = expressions.iter().flat_map(sources).collect();
            let chain = chain.to_owned();
            self.masquerades.push(Masquerade { family, table, chain, handle, sources });
        }
    }
}

/// Whether a table is neither ours nor one of iptables.
fn is_theirs(family: &str, table: &str) -> bool {
    table != NAME && !(matches!(family, "ip" | "ip6") && IPTABLES.contains(&table))
}

/// The subnets a `match` expression wants the source address to be in.
fn sources(expression: &Value) -> Vec<IpNet> {
    let wanted = &expression["match"];
    if wanted["left"]["payload"]["field"] != "saddr" || wanted["op"] == "!=" {
        return Vec::new();
    }
    let net = |value: &Value| -> Option<IpNet> {
        if let Some(text) = value.as_str() {
            return text.parse().ok().map(|ip: std::net::IpAddr| ip.into());
        }
        let prefix = value.get("prefix")?;
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
    };
    match wanted["right"]["set"].as_array() {
        Some(elements) => elements.iter().filter_map(net).collect(),
        None => net(&wanted["right"]).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_drop_and_rules_that_masquerade_are_found() {
        // As nft 1.0.6 wrote it.
        let text = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
                "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "mine", "name": "fwd", "handle": 1,
                "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"rule": {"family": "inet", "table": "mine", "chain": "fwd", "handle": 9,
                "comment": "ovs-agent", "expr": [{"accept": null}]}},
            {"rule": {"family": "inet", "table": "mine", "chain": "post", "handle": 5, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "right": {"prefix": {"addr": "10.200.0.0", "len": 24}}}},
                {"masquerade": null}]}},
            {"rule": {"family": "inet", "table": "ovs-agent", "chain": "srcnat", "handle": 6,
                "expr": [{"masquerade": null}]}}
        ]}"#;
        let ruleset = Ruleset::read(text).unwrap();
        let [dropping] = ruleset.dropping.as_slice() else { panic!("{ruleset:?}") };
        assert_eq!((dropping.chain.as_str(), dropping.spares_us), ("fwd", true));
        let [masquerade] = ruleset.masquerades.as_slice() else { panic!("{ruleset:?}") };
        assert_eq!(masquerade.handle, 5);
        assert_eq!(masquerade.sources, ["10.200.0.0/24".parse().unwrap()]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text: String) {
            drop(Ruleset::read(&text));
        }
    }
}
