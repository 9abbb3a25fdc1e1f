//! What others change, own or get wrong.

use super::*;

#[test]
fn what_somebody_takes_away_is_named_and_comes_back() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let other = segment("vlan20", 2, Uplink::Named(name("eth0")));
    assert!(nat::missing(&segments[0]).unwrap().is_some());
    assert!(apply(&segments));
    let lacking = nat::missing(&other).unwrap().unwrap();
    assert_eq!(lacking.to_string(), "nftables rule \"vlan20: masquerade 10.200.2.0/24\"");

    let whole = host.sh("nft list ruleset");
    for (chain, comment) in
        [("srcnat", "ovsbr1: masquerade fd00:200:1::/64"), ("leaving", "isolation")]
    {
        let handle = host.sh(&format!(
            "nft -a list chain inet {} {chain} | sed -n 's,.*\"{comment}\" # handle ,,p'",
            table::NAME
        ));
        host.sh(&format!("nft delete rule inet {} {chain} handle {handle}", table::NAME));
        let lacking = nat::missing(&segments[0]).unwrap();
        assert_eq!(lacking, Some(nat::Lack::Rule(comment.to_owned())));
        assert!(apply(&segments));
        assert_eq!(host.sh("nft list ruleset"), whole);
    }
    // Something of somebody's in our table goes, too.
    host.sh(&format!("nft insert rule inet {} leaving accept", table::NAME));
    assert!(apply(&segments));
    assert_eq!(host.sh("nft list ruleset"), whole);
    // A set in use cannot be changed.
    let opened = format!("nft delete element inet {} gateways '{{ ovsbr1 }}'", table::NAME);
    assert!(!host.try_sh(&opened).ok());

    host.sh("nft flush ruleset");
    assert!(nat::missing(&segments[0]).unwrap().is_some());
    assert!(apply(&segments));
    assert_eq!(host.sh("nft list ruleset"), whole);
    reaches_internet(&container, &wire);

    let rule = "rule add from 10.9.0.0/24 lookup main priority 5100";
    host.ip(rule);
    assert!(remove());
    assert!(host.ip("rule").contains("10.9.0.0/24"), "a rule of somebody else's stays");
}

#[test]
fn a_table_in_other_hands_is_left_to_them() {
    let host = host();
    let _container = network(&host, "ovsbr1", 1);
    let segments = [segment("ovsbr1", 1, Uplink::Default)];
    let own = format!("add table inet {} {{ flags owner; }}", table::NAME);
    host.sh(&format!("(echo '{own}'; sleep 600) | nft -i >/dev/null 2>&1 &"));
    rig::poll("the owned table", Duration::from_secs(5), || {
        host.sh("nft list tables").contains(table::NAME).then_some(())
    });
    let before = settings(&host);
    let error = nat::apply(&state(), &segments).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{}", sentence(&error));
    assert_eq!(settings(&host), before, "no forwarding without rules");
}

#[test]
fn a_gateway_that_is_gone_is_in_nobodys_way() {
    let host = host();
    let wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let container = network(&host, "ovsbr1", 1);
    let segments = [segment("ovsbr9", 9, Uplink::Default), segment("ovsbr1", 1, Uplink::Default)];
    assert!(apply(&segments));
    assert!(!apply(&segments));
    reaches_internet(&container, &wire);
    assert!(nat::plan(&state(), &segments).is_ok());
    assert!(remove());
}

#[test]
fn impossible_plans_are_refused_by_name() {
    let host = host();
    let _wire = host.uplink("eth0", 1).addressed(&host).routed(&host, 100);
    let _container = network(&host, "ovsbr1", 1);
    let one = segment("ovsbr1", 1, Uplink::Default);
    let refusal = |segments: &[Segment]| {
        let error = nat::apply(&state(), segments).unwrap_err();
        (error.kind(), sentence(&error))
    };
    let cases = [
        (
            vec![one.clone(), one.clone()],
            Kind::Invalid,
            "segment ovsbr1: interface ovsbr1 is the gateway of another segment too",
        ),
        (
            vec![one.clone(), segment("vlan20", 1, Uplink::Default)],
            Kind::Invalid,
            "segment vlan20: subnet 10.200.1.0/24 overlaps a subnet of another segment",
        ),
        (
            vec![Segment { uplink: Uplink::Named(name("ovsbr1")), ..one.clone() }],
            Kind::Invalid,
            "segment ovsbr1: uplink ovsbr1 is the gateway of a segment",
        ),
        (
            vec![Segment { subnets: vec!["0.0.0.0/0".parse().unwrap()], ..one.clone() }],
            Kind::Invalid,
            "segment ovsbr1: subnet 0.0.0.0/0 covers the internet",
        ),
    ];
    for (segments, kind, text) in cases {
        let (found, said) = refusal(&segments);
        assert!(found == kind && said.starts_with(text), "{found:?}: {said}");
    }
    assert_eq!(host.sh("nft list ruleset"), "");
    assert_eq!(host.sh(&format!("ls {STATE}")), "attachments\nnetworks\nports\n");
}
