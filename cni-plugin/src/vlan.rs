//! `vlan`, `vlan_mode` and `trunk`: the VLANs of the port.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::vlan::{PortVlan, VlanId, VlanMode};

use crate::fields::{Error, Fields, shown};

const MODES: [VlanMode; 5] = [
    VlanMode::Access,
    VlanMode::Trunk,
    VlanMode::NativeTagged,
    VlanMode::NativeUntagged,
    VlanMode::Dot1qTunnel,
];

/// Reads the three keys. Without any of them the port carries untagged frames only.
///
/// `vlan` beside `trunk` without `vlan_mode` is ignored with a warning: that is what ovs-cni makes
/// of it, and its configurations must go on working.
pub(crate) fn read(fields: &mut Fields<'_>) -> Result<PortVlan, Error> {
    let tag = fields.number("vlan", &(0..=4094))?.and_then(|id| VlanId::try_from(id).ok());
    let trunks = trunks(fields)?;
    let mode = match fields.text("vlan_mode")? {
        None => None,
        Some(text) => {
            Some(MODES.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
                let names = MODES.map(VlanMode::as_str).join(", ");
                fields.wrong("vlan_mode", &Value::from(text), format_args!("one of {names}"))
            })?)
        }
    };
    let Some(mode) = mode else {
        return Ok(match (tag, trunks.is_empty()) {
            (None, true) => PortVlan::untagged(),
            (Some(tag), true) => PortVlan::access(tag),
            (tag, false) => {
                if let Some(tag) = tag {
                    tracing::warn!(
                        "vlan {tag} is ignored beside trunk, as in ovs-cni; for a native VLAN say \
                         \"vlan_mode\": \"native-untagged\""
                    );
                }
                PortVlan { mode: VlanMode::Trunk, tag: None, trunks }
            }
        });
    };
    let refuse = |key: &str, expected: &str| Error::Value {
        field: fields.path(key),
        value: "given".to_owned(),
        expected: format!("{expected} with vlan_mode {}", mode.as_str()),
    };
    match mode {
        VlanMode::Trunk if tag.is_some() => Err(refuse("vlan", "no vlan")),
        VlanMode::Access | VlanMode::Dot1qTunnel if !trunks.is_empty() => {
            Err(refuse("trunk", "no trunk"))
        }
        VlanMode::Trunk => Ok(PortVlan { mode, tag: None, trunks }),
        _ if tag.is_none() => Err(Error::Missing {
            field: fields.path("vlan"),
            expected: "the access or native VLAN, from 0 to 4094",
        }),
        _ => Ok(PortVlan { mode, tag, trunks }),
    }
}

/// `trunk`: `[{"id": 42}, {"minID": 1000, "maxID": 1010}]`.
fn trunks(fields: &mut Fields<'_>) -> Result<BTreeSet<VlanId>, Error> {
    let mut trunks = BTreeSet::new();
    let path = fields.path("trunk");
    for (index, item) in fields.list("trunk")?.iter().enumerate() {
        let mut entry = Fields::of(format!("{path}[{index}]"), item)?;
        let id = entry.number("id", &(0..=4094))?;
        let min = entry.number("minID", &(1..=4094))?;
        let max = entry.number("maxID", &(1..=4094))?;
        let range = match (min, max) {
            (Some(min), Some(max)) if min <= max => Some(min..=max),
            (None, None) => None,
            _ => {
                return Err(Error::Value {
                    field: format!("{path}[{index}]"),
                    value: shown(item),
                    expected: "both minID and maxID, minID not above maxID".to_owned(),
                });
            }
        };
        entry.finish()?;
        if id.is_none() && range.is_none() {
            return Err(Error::Value {
                field: format!("{path}[{index}]"),
                value: shown(item),
                expected: "an id, or minID and maxID".to_owned(),
            });
        }
        let ids = id.into_iter().chain(range.into_iter().flatten());
        trunks.extend(ids.filter_map(|id| VlanId::try_from(id).ok()));
    }
    Ok(trunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn vlan(value: &Value) -> Result<PortVlan, Error> {
        let mut fields = Fields::of("", value).unwrap();
        let vlan = read(&mut fields)?;
        fields.finish()?;
        Ok(vlan)
    }

    fn shows(value: &Value) -> String {
        vlan(value).unwrap().to_string()
    }

    #[test]
    fn nothing_given_is_untagged_only() {
        assert_eq!(vlan(&json!({})).unwrap(), PortVlan::untagged());
        assert_eq!(vlan(&json!({"trunk": [], "vlan": null})).unwrap(), PortVlan::untagged());
    }

    #[test]
    fn every_mode_of_open_vswitch_can_be_said() {
        assert_eq!(shows(&json!({"vlan": 100})), "100");
        assert_eq!(shows(&json!({"vlan": 0})), "0");
        assert_eq!(shows(&json!({"vlan": 5, "vlan_mode": "access"})), "5");
        assert_eq!(
            shows(&json!({"trunk": [{"id": 42}, {"minID": 10, "maxID": 12}, {"id": 11}]})),
            "trunk 10,11,12,42"
        );
        assert_eq!(shows(&json!({"vlan_mode": "trunk"})), "trunk all");
        assert_eq!(
            shows(&json!({"vlan_mode": "native-untagged", "vlan": 7, "trunk": [{"id": 8}]})),
            "native-untagged 7 trunk 8"
        );
        assert_eq!(shows(&json!({"vlan_mode": "native-tagged", "vlan": 7})), "native-tagged 7");
        assert_eq!(shows(&json!({"vlan_mode": "dot1q-tunnel", "vlan": 7})), "dot1q-tunnel 7");
    }

    #[test]
    fn an_ovs_cni_trunk_wins_over_vlan() {
        assert_eq!(
            shows(&json!({"vlan": 100, "trunk": [{"id": 100}, {"id": 200}]})),
            "trunk 100,200"
        );
    }

    #[test]
    fn what_ovs_cni_drops_in_silence_is_an_error() {
        for (bad, text) in [
            (
                json!({"trunk": [{"minID": 0, "maxID": 5}]}),
                "trunk[0].minID is 0, expected a whole number from 1 to 4094",
            ),
            (
                json!({"trunk": [{"id": 1}, {"minID": 5}]}),
                "trunk[1] is {\"minID\":5}, expected both minID and maxID, minID not above maxID",
            ),
            (
                json!({"trunk": [{"minID": 9, "maxID": 5}]}),
                "trunk[0] is {\"maxID\":5,\"minID\":9}, expected both minID and maxID, minID not above maxID",
            ),
            (json!({"trunk": [{}]}), "trunk[0] is {}, expected an id, or minID and maxID"),
            (json!({"trunk": [42]}), "trunk[0] is 42, expected an object"),
            (json!({"vlan": 4095}), "vlan is 4095, expected a whole number from 0 to 4094"),
            (json!({"vlan": -1}), "vlan is -1, expected a whole number from 0 to 4094"),
            (json!({"vlan": "100"}), "vlan is \"100\", expected a whole number from 0 to 4094"),
            (
                json!({"vlan_mode": "native"}),
                "vlan_mode is \"native\", expected one of access, trunk, native-tagged, native-untagged, dot1q-tunnel",
            ),
            (
                json!({"vlan_mode": "access"}),
                "vlan is missing, expected the access or native VLAN, from 0 to 4094",
            ),
            (
                json!({"vlan_mode": "access", "vlan": 1, "trunk": [{"id": 2}]}),
                "trunk is given, expected no trunk with vlan_mode access",
            ),
            (
                json!({"vlan_mode": "trunk", "vlan": 1}),
                "vlan is given, expected no vlan with vlan_mode trunk",
            ),
        ] {
            assert_eq!(vlan(&bad).unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_trunk_carries_exactly_what_it_lists(
            ids in proptest::collection::vec(0u64..=4094, 0..8),
            ranges in proptest::collection::vec((1u64..=4094, 0u64..50), 0..4),
        ) {
            let mut expected: BTreeSet<u64> = ids.iter().copied().collect();
            let mut list: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
            for (min, more) in ranges {
                let max = (min + more).min(4094);
                expected.extend(min..=max);
                list.push(json!({"minID": min, "maxID": max}));
            }
            prop_assume!(!list.is_empty());
            let port = vlan(&json!({"trunk": list})).unwrap();
            prop_assert_eq!(port.mode, VlanMode::Trunk);
            let carried: BTreeSet<u64> = port.trunks.into_iter().map(u64::from).collect();
            prop_assert_eq!(carried, expected);
        }
    }
}
