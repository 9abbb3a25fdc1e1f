//! What the keys must say for a host to work: from raw values to a [`Config`].

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::Spanned;

use super::raw::{Given, Raw, RawBridge, Source};
use super::{Bridge, Config, Error, Listen, Mode, NAT, NetworkManager, Uplink};
use crate::address::overlaps;
use crate::error::Fault;
use crate::ledger;
use crate::name::IfName;
use crate::vlan::VlanId;

/// Longest wait for a storm of link events, in milliseconds.
const MAX_DEBOUNCE: i64 = 60_000;

/// Longest tag in bytes: it stands in a comment line of a file people read.
const MAX_TAG: usize = 64;

/// Least MTU that carries IPv4 (RFC 791) and IPv6 (RFC 8200 section 5), and the kernel's most.
const MTU_V4: i64 = 68;
const MTU_V6: i64 = 1280;
const MTU_MAX: i64 = 65_535;

/// A section, with where its parts stand.
struct Draft {
    bridge: Bridge,
    name: Range<usize>,
    uplink: Option<(IfName, Range<usize>)>,
    addresses: Vec<(IpNet, Range<usize>)>,
    gateway: Option<(IpAddr, Range<usize>)>,
}

impl Draft {
    fn is_direct(&self) -> bool {
        matches!(self.bridge.mode, Mode::Direct { .. })
    }
}

/// What is wrong with a value, and the way out.
type Problem = (String, String);

fn problem(what: impl Into<String>, hint: impl Into<String>) -> Problem {
    (what.into(), hint.into())
}

pub(super) fn config(raw: &Raw, source: Source<'_>, sysfs: &Path) -> Result<Config, Error> {
    let mut config = Config::default();
    let path = |key, given: &Given<String>, field: &mut PathBuf| {
        value(source, key, given, |text| absolute(text)).map(|path| set(field, path))
    };
    path("interfaces_path", &raw.interfaces_path, &mut config.interfaces_path)?;
    path("ledger_path", &raw.ledger_path, &mut config.ledger_path)?;
    path("state_dir", &raw.state_dir, &mut config.state_dir)?;
    if config.ledger_path == config.interfaces_path {
        let span = span(&raw.ledger_path).or(span(&raw.interfaces_path)).unwrap_or(0..0);
        let same = "ledger_path and interfaces_path are the same file";
        return Err(source.value("ledger_path", span, same, "give the ledger a file of its own"));
    }
    let tag = value(source, "managed_block_tag", &raw.managed_block_tag, |text| tag(text))?;
    set(&mut config.managed_block_tag, tag);
    let template = value(source, "naming_template", &raw.naming_template, |text| {
        text.parse().map_err(|error| fault(&error))
    })?;
    set(&mut config.naming_template, template);
    let sync = value(source, "ledger_sync", &raw.ledger_sync, |text| match text.as_str() {
        "agent" => Ok(ledger::Sync::Agent),
        "always" => Ok(ledger::Sync::Always),
        _ => Err(one_of("ledger_sync", &["agent", "always"])),
    })?;
    set(&mut config.ledger_sync, sync);
    let ovsdb = value(source, "ovsdb_socket", &raw.ovsdb_socket, |text| {
        text.parse().map_err(|error| fault(&error))
    })?;
    set(&mut config.ovsdb, ovsdb);
    let debounce = value(source, "debounce_ms", &raw.debounce_ms, |ms| {
        u64::try_from(*ms).ok().filter(|_| *ms <= MAX_DEBOUNCE).ok_or_else(|| {
            let expected = format!("expected 0 to {MAX_DEBOUNCE} milliseconds");
            problem(expected, "write debounce_ms = 500")
        })
    })?;
    set(&mut config.debounce_ms, debounce);
    set(&mut config.enable_rename, raw.enable_rename);

    let vlans = value(source, "docker_vlans", &raw.docker_vlans, |text| vlans(text))?;
    set(&mut config.docker_vlans, vlans);
    set(&mut config.protect_rules, raw.protect_rules);

    let manager =
        value(source, "network_manager", &raw.network_manager, |text| match text.as_str() {
            "ignore" => Ok(NetworkManager::Ignore),
            "mirror" => Ok(NetworkManager::Mirror),
            _ => Err(one_of("network_manager", &["ignore", "mirror"])),
        })?;
    set(&mut config.network_manager, manager);

    config.metrics = value(source, "metrics_listen", &raw.metrics_listen, |text| listen(text))?;

    let name = value(source, "bridge_name", &raw.bridge_name, |text| interface(text))?;
    match &raw.bridge {
        None => {
            if let Some(name) = name {
                if name.as_str() == NAT {
                    let problem = "the NAT bridge has this name when no [[bridge]] is configured";
                    let hint =
                        "choose another name, or describe the bridges in [[bridge]] sections";
                    let span = span(&raw.bridge_name).unwrap_or(0..0);
                    return Err(source.value("bridge_name", span, problem, hint));
                }
                config.bridges[0].name = name.clone();
                config.bridge_name = name;
            }
        }
        Some(sections) => {
            let drafts = sections
                .get_ref()
                .iter()
                .map(|section| draft(section, source, sysfs))
                .collect::<Result<Vec<_>, _>>()?;
            names(&drafts, source)?;
            subnets(&drafts, source)?;
            gateways(&drafts, source)?;
            uplinks(&drafts, source)?;
            config.bridges = drafts.into_iter().map(|draft| draft.bridge).collect();
            let names: Vec<_> = config.bridges.iter().map(|bridge| &bridge.name).collect();
            let first = config.direct_bridge().or(config.bridges.first());
            config.bridge_name = match (name, first) {
                (Some(name), _) if names.contains(&&name) => name,
                (Some(name), Some(_)) => {
                    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
                    let expected =
                        format!("no [[bridge]] has this name, expected {}", names.join(" or "));
                    let hint = format!("add a [[bridge]] section with name = \"{name}\"");
                    let span = span(&raw.bridge_name).unwrap_or(0..0);
                    return Err(source.value("bridge_name", span, expected, hint));
                }
                (None, Some(first)) => first.name.clone(),
                (_, None) => {
                    let hint = "remove the line: without it there are two bridges";
                    let problem = "expected at least one bridge";
                    return Err(source.value("bridge", sections.span(), problem, hint));
                }
            };
        }
    }
    match &raw.include_prefixes {
        Some(given) => config.include_prefixes = prefixes(given, &config.bridges, source)?,
        // Nobody asked for these: where one would take a bridge, it is none.
        None => config.include_prefixes.retain(|text| claimed(text, &config.bridges).is_none()),
    }
    Ok(config)
}

/// Checks one value, if it is given.
fn value<R, T>(
    source: Source<'_>,
    key: &str,
    given: &Given<R>,
    read: impl FnOnce(&R) -> Result<T, Problem>,
) -> Result<Option<T>, Error> {
    let Some(given) = given else { return Ok(None) };
    read(given.get_ref())
        .map(Some)
        .map_err(|(problem, hint)| source.value(key, given.span(), problem, hint))
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

fn span<T>(given: &Given<T>) -> Option<Range<usize>> {
    given.as_ref().map(Spanned::span)
}

fn fault(fault: &dyn Fault) -> Problem {
    (fault.to_string(), fault.hint().unwrap_or_default())
}

fn one_of(key: &str, words: &[&str]) -> Problem {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let expected = format!("expected {}", words.join(" or "));
    problem(expected, format!("write {key} = {}", words[0]))
}

fn interface(text: &str) -> Result<IfName, Problem> {
    text.parse().map_err(|error: crate::name::NameError| {
        problem(error.to_string(), "write a name as `ip link` shows it")
    })
}

/// `first-last`, both VLANs that can be tagged.
fn vlans(text: &str) -> Result<(VlanId, VlanId), Problem> {
    let end = |text: &str| VlanId::try_from(text.trim().parse::<u64>().ok()?).ok();
    let ends = text.split_once('-').and_then(|(first, last)| Some((end(first)?, end(last)?)));
    ends.filter(|(first, last)| *first > VlanId::UNTAGGED && first <= last).ok_or_else(|| {
        problem(
            "expected first-last, two VLANs from 1 to 4094, lowest first",
            "write docker_vlans = \"3000-3999\"",
        )
    })
}

/// Metrics tell who runs what: they stay on this host.
fn listen(text: &str) -> Result<Listen, Problem> {
    let hint = "write metrics_listen = \"unix:/run/ovs-port-agent/metrics.sock\", or \
                \"127.0.0.1:9479\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Listen::Unix(absolute(path)?));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => {
            Err(problem(format!("{} is no loopback address", address.ip()), hint))
        }
        Ok(address) if address.port() > 0 => Ok(Listen::Loopback(address)),
        _ => Err(problem("expected unix:/path or a loopback address with a port", hint)),
    }
}

fn absolute(text: &str) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') || text.contains(char::is_control) {
        let expected = "expected an absolute path without control characters";
        return Err(problem(expected, "begin the path with \"/\""));
    }
    if text.ends_with('/') || text.split('/').any(|part| part == "." || part == "..") {
        let expected = "expected a path that neither ends in \"/\" nor has \".\" or \"..\" in it";
        return Err(problem(expected, "write the path out"));
    }
    Ok(text.into())
}

fn tag(text: &str) -> Result<String, Problem> {
    let fits = (1..=MAX_TAG).contains(&text.len()) && text.trim() == text;
    // A backslash at its end would glue the next line to the comment (interfaces(5)).
    if !fits || text.contains(|c: char| c.is_control() || c == '\\') {
        let expected = format!(
            "expected one line of 1 to {MAX_TAG} bytes without control characters, backslashes or blanks at its ends"
        );
        return Err(problem(expected, "write managed_block_tag = \"ovs-port-agent\""));
    }
    Ok(text.to_owned())
}

fn prefixes(
    given: &[Spanned<String>],
    bridges: &[Bridge],
    source: Source<'_>,
) -> Result<Vec<String>, Error> {
    let key = "include_prefixes";
    for prefix in given {
        let wrong = |problem: String, hint: &str| source.value(key, prefix.span(), problem, hint);
        let text = prefix.get_ref();
        if text.parse::<IfName>().is_err() {
            let expected = "expected the beginning of an interface name: 1 to 15 letters, digits, \"_\", \".\" or \"-\", a letter or digit first";
            return Err(wrong(expected.to_owned(), "write a prefix such as \"veth\""));
        }
        if let Some((what, name)) = claimed(text, bridges) {
            let problem = format!("the {what} {name} begins so, and is no container's");
            return Err(wrong(problem, "write a longer prefix, or leave it out"));
        }
    }
    Ok(given.iter().map(|prefix| prefix.get_ref().clone()).collect())
}

/// The first bridge or uplink whose name begins with `prefix`.
fn claimed<'a>(prefix: &str, bridges: &'a [Bridge]) -> Option<(&'static str, &'a IfName)> {
    let names = bridges.iter().flat_map(|bridge| {
        let uplink = match &bridge.mode {
            Mode::Direct { uplink, .. } => uplink.as_ref(),
            Mode::Nat { uplink: Uplink::Named(uplink), .. } => Some(uplink),
            Mode::Nat { uplink: Uplink::Default, .. } => None,
        };
        [Some(("bridge", &bridge.name)), uplink.map(|name| ("uplink", name))]
    });
    names.flatten().find(|(_, name)| name.as_str().starts_with(prefix))
}

/// Checks one section by itself.
fn draft(section: &Spanned<RawBridge>, source: Source<'_>, sysfs: &Path) -> Result<Draft, Error> {
    let raw = section.get_ref();
    let missing = |key: &str, subject: String, hint: String| {
        source.error(section.span(), subject, format!("{key} is missing"), hint)
    };
    let Some(name) = value(source, "name", &raw.name, |text| interface(text))? else {
        return Err(missing("name", "[[bridge]]".into(), "write name = \"ovsbr0\"".into()));
    };
    let subject = || format!("[[bridge]] {name}");
    let direct = value(source, "mode", &raw.mode, |text| match text.as_str() {
        "direct" => Ok(true),
        "nat" => Ok(false),
        _ => Err(one_of("mode", &["direct", "nat"])),
    })?;
    let Some(direct) = direct else {
        let hint =
            "write mode = \"direct\" (on the wire) or mode = \"nat\" (internal, masqueraded)";
        return Err(missing("mode", subject(), hint.into()));
    };
    let addresses = addresses(raw, direct, source)?;
    if !direct && addresses.is_empty() {
        let hint = "write addresses = [\"10.200.0.1/24\"], the gateway its containers use";
        return Err(missing("addresses", subject(), hint.into()));
    }
    let v6 = addresses.iter().any(|(address, _)| matches!(address, IpNet::V6(_)));
    let least = if v6 { MTU_V6 } else { MTU_V4 };
    let mtu = value(source, "mtu", &raw.mtu, |mtu| {
        u32::try_from(*mtu).ok().filter(|_| (least..=MTU_MAX).contains(mtu)).ok_or_else(|| {
            let reason = if v6 { ", as IPv6 needs" } else { "" };
            let expected = format!("expected {least} to {MTU_MAX} bytes{reason}");
            problem(expected, "write mtu = 1500, or leave it out")
        })
    })?;
    let datapath_type = value(source, "datapath_type", &raw.datapath_type, |text| {
        if matches!(text.as_str(), "system" | "netdev") {
            return Ok(text.clone());
        }
        let (expected, _) = one_of("datapath_type", &["system", "netdev"]);
        Err(problem(expected, "leave it out: the type that works on this host is found"))
    })?;
    let gateway = value(source, "gateway", &raw.gateway, |text| gateway(text, direct, &addresses))?
        .zip(span(&raw.gateway));
    let uplink = match &raw.uplink {
        Some(text) if direct || text.get_ref() != "default" => {
            value(source, "uplink", &raw.uplink, |text| uplink(text, direct, sysfs))?
                .map(|uplink| (uplink, text.span()))
        }
        _ => None,
    };
    let port = uplink.as_ref().map(|(name, _)| name.clone());
    let nets = addresses.iter().map(|(address, _)| *address).collect();
    let mode = if direct {
        Mode::Direct {
            uplink: port,
            addresses: nets,
            gateway: gateway.as_ref().map(|(gateway, _)| *gateway),
        }
    } else {
        Mode::Nat { addresses: nets, uplink: port.map_or(Uplink::Default, Uplink::Named) }
    };
    Ok(Draft {
        bridge: Bridge { name, mtu, datapath_type, mode },
        name: span(&raw.name).unwrap_or(0..0),
        uplink,
        addresses,
        gateway,
    })
}

fn uplink(text: &str, direct: bool, sysfs: &Path) -> Result<IfName, Problem> {
    if direct && text == "default" {
        let expected = "expected the name of a wired interface on a direct bridge";
        return Err(problem(expected, "name it, or write mode = \"nat\""));
    }
    let name = interface(text)?;
    let device = sysfs.join("class/net").join(name.as_str());
    let wireless = ["wireless", "phy80211"].iter().any(|entry| device.join(entry).exists());
    if direct && wireless {
        return Err(problem(
            "a wireless interface cannot be bridged: 802.11 carries frames of one MAC alone",
            "write mode = \"nat\", which shares it",
        ));
    }
    Ok(name)
}

/// The addresses of a section, under either key.
fn addresses(
    raw: &RawBridge,
    direct: bool,
    source: Source<'_>,
) -> Result<Vec<(IpNet, Range<usize>)>, Error> {
    let (key, given): (_, Vec<_>) = match (&raw.address, &raw.addresses) {
        (Some(one), Some(_)) => {
            let problem = "the section has addresses too";
            let hint = "write all of them under addresses";
            return Err(source.value("address", one.span(), problem, hint));
        }
        (Some(one), None) => ("address", vec![one]),
        (None, Some(list)) => ("addresses", list.get_ref().iter().collect()),
        (None, None) => ("addresses", Vec::new()),
    };
    given
        .into_iter()
        .map(|text| {
            address(text.get_ref(), direct)
                .map(|address| (address, text.span()))
                .map_err(|(problem, hint)| source.value(key, text.span(), problem, hint))
        })
        .collect()
}

/// An address the host can have, with its prefix length.
fn address(text: &str, direct: bool) -> Result<IpNet, Problem> {
    let Ok(net) = text.parse::<IpNet>() else {
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("write \"{ip}/24\", with the length of its subnet"),
            Ok(IpAddr::V6(ip)) => format!("write \"{ip}/64\", with the length of its subnet"),
            Err(_) => "write an address such as \"10.200.0.1/24\"".to_owned(),
        };
        return Err(problem("expected an IP address and a prefix length", hint));
    };
    let ip = net.addr();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local {
        let expected = "expected an address that can be routed: not unspecified, loopback, link-local or multicast";
        return Err(problem(expected, "write a private one such as \"10.200.0.1/24\""));
    }
    let room = net.max_prefix_len() - net.prefix_len();
    if net.prefix_len() == 0 || (!direct && room < 2) {
        let longest = net.max_prefix_len() - 2;
        let expected =
            format!("expected a prefix length from 1 to {longest}, to have room for containers");
        return Err(problem(expected, format!("write \"{ip}/{}\"", longest.min(64) / 8 * 8)));
    }
    let network = ip == net.network();
    let broadcast = ip.is_ipv4() && ip == net.broadcast();
    if room >= 2 && (network || broadcast) {
        let what =
            if network { "the address of the subnet itself" } else { "its broadcast address" };
        let host = net.hosts().find(|host| *host != net.network());
        let hint = host.map_or_else(String::new, |host| {
            format!("write \"{host}/{}\", the first of its hosts", net.prefix_len())
        });
        return Err(problem(format!("expected the address of a host, this is {what}"), hint));
    }
    Ok(net)
}

fn gateway(
    text: &str,
    direct: bool,
    addresses: &[(IpNet, Range<usize>)],
) -> Result<IpAddr, Problem> {
    if !direct {
        let reason = "a NAT bridge has none: the host's own address on it is the gateway";
        return Err(problem(reason, "remove it"));
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(problem("expected an IP address", "write an address such as \"172.16.0.1\""));
    };
    let mine = || addresses.iter().filter(|(address, _)| address.addr().is_ipv4() == ip.is_ipv4());
    let Some((net, _)) = mine().find(|(address, _)| address.contains(&ip)) else {
        let subnets: Vec<_> = mine().map(|(address, _)| address.trunc().to_string()).collect();
        let (expected, hint) = if subnets.is_empty() {
            (
                "it is in no subnet: the bridge has no address of its kind".to_owned(),
                "write addresses = [\"…\"] too, or remove the gateway",
            )
        } else {
            (
                format!("it lies outside {}", subnets.join(" and ")),
                "write the router's address in that subnet",
            )
        };
        return Err(problem(expected, hint));
    };
    let room = net.max_prefix_len() - net.prefix_len();
    let no_host = room >= 2 && (ip == net.network() || (ip.is_ipv4() && ip == net.broadcast()));
    if no_host || mine().any(|(address, _)| address.addr() == ip) {
        let what = if no_host { "no host's address" } else { "the bridge's own address" };
        let hint = "write the router's address in that subnet";
        return Err(problem(format!("expected the address of another host, this is {what}"), hint));
    }
    Ok(ip)
}

fn names(drafts: &[Draft], source: Source<'_>) -> Result<(), Error> {
    for (at, draft) in drafts.iter().enumerate() {
        if let Some(first) = drafts[..at].iter().find(|d| d.bridge.name == draft.bridge.name) {
            let problem = format!("line {} has a bridge of this name", source.line(&first.name));
            let hint = "join the two sections, or give one another name";
            return Err(source.value("name", draft.name.clone(), problem, hint));
        }
    }
    Ok(())
}

fn subnets(drafts: &[Draft], source: Source<'_>) -> Result<(), Error> {
    let all: Vec<_> = drafts
        .iter()
        .flat_map(|draft| draft.addresses.iter().map(move |address| (draft, address)))
        .collect();
    for (at, (draft, (net, span))) in all.iter().enumerate() {
        for (other, (first, place)) in &all[..at] {
            // On the wire a host may have several addresses in one subnet.
            let second = draft.is_direct()
                && draft.bridge.name == other.bridge.name
                && net.trunc() == first.trunc()
                && net != first;
            if overlaps(*net, *first) && !second {
                let problem = format!(
                    "its subnet {} overlaps {} of {} in line {}",
                    net.trunc(),
                    first.trunc(),
                    other.bridge.name,
                    source.line(place)
                );
                let hint = "give each bridge a subnet of its own";
                return Err(source.value("address", span.clone(), problem, hint));
            }
        }
    }
    Ok(())
}

/// The default routes out of all bridges have one metric, so there is one of each family.
fn gateways(drafts: &[Draft], source: Source<'_>) -> Result<(), Error> {
    let all: Vec<_> = drafts.iter().filter_map(|draft| draft.gateway.as_ref()).collect();
    for (at, (gateway, span)) in all.iter().enumerate() {
        let same = |(first, _): &&&(IpAddr, _)| first.is_ipv4() == gateway.is_ipv4();
        if let Some((_, first)) = all[..at].iter().find(same) {
            let family = if gateway.is_ipv4() { "IPv4" } else { "IPv6" };
            let problem =
                format!("line {} has the host's {family} gateway already", source.line(first));
            let hint = "keep the one that leads to the internet, and remove the other";
            return Err(source.value("gateway", span.clone(), problem, hint));
        }
    }
    Ok(())
}

fn uplinks(drafts: &[Draft], source: Source<'_>) -> Result<(), Error> {
    for (at, draft) in drafts.iter().enumerate() {
        let Some((uplink, span)) = &draft.uplink else { continue };
        let wrong =
            |problem: String, hint: &str| Err(source.value("uplink", span.clone(), problem, hint));
        if let Some(bridge) = drafts.iter().find(|other| other.bridge.name == *uplink) {
            // NAT out of a direct bridge that holds the host's address is a real set-up.
            if draft.is_direct() || !bridge.is_direct() || bridge.addresses.is_empty() {
                let problem = format!("it is the bridge of line {}", source.line(&bridge.name));
                return wrong(problem, "name an interface that is no bridge of ours");
            }
        }
        for other in &drafts[..at] {
            let Some((name, place)) = &other.uplink else { continue };
            // Any number of NAT bridges may share a way out.
            if name == uplink && (draft.is_direct() || other.is_direct()) {
                let (name, line) = (&other.bridge.name, source.line(place));
                let problem = format!("it is the uplink of {name} already, in line {line}");
                return wrong(
                    problem,
                    "an interface is the port of one bridge: use another, or NAT out of that bridge",
                );
            }
        }
    }
    Ok(())
}
