//! The options a user gives with `-o`, all of them strings.

use serde::Deserialize;
use serde_json::Value;
use shared::error::nearest;
use shared::name::IfName;
use shared::publish::{self, PortMapping, Protocol};
use shared::vlan::VlanId;

use crate::error::Error;
use crate::message::{DOCKERS_OWN, GENERIC, Options, PORT_MAP};

/// Least MTU that carries IPv4 (RFC 791) and the kernel's most.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// SCTP's number (IANA protocol numbers), which Docker publishes and we do not.
const SCTP: u8 = 132;

/// What Docker's own drivers call the MTU.
const DOCKERS_MTU: &str = "com.docker.network.driver.mtu";

/// The names of [`NetworkOptions`].
const OPTIONS: [&str; 4] = ["bridge", "vlan", "mtu", "nat"];

/// `docker network create -o`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct NetworkOptions {
    pub(crate) bridge: Option<IfName>,
    pub(crate) vlan: Option<VlanId>,
    pub(crate) mtu: Option<u32>,
    pub(crate) nat: Option<bool>,
}

impl NetworkOptions {
    /// Reads the `-o` map out of the options of a network.
    pub(crate) fn read(options: &Options) -> Result<Self, Error> {
        let mut read = Self::default();
        let Some(generic) = options.get(GENERIC).and_then(Value::as_object) else {
            return Ok(read);
        };
        for (name, value) in generic {
            let text = text(value);
            let wrong = |problem: &str, hint: &str| {
                Error::field(&format!("-o {name}"), &text, problem, hint)
            };
            match name.as_str() {
                "bridge" => {
                    let name = text.parse().map_err(|_| {
                        wrong("is no bridge name", "write the name as \"ovs-vsctl list-br\" does")
                    })?;
                    read.bridge = Some(name);
                }
                "vlan" => {
                    let vlan = text.parse().ok().and_then(|id: u64| VlanId::try_from(id).ok());
                    read.vlan = Some(vlan.ok_or_else(|| {
                        wrong("is no VLAN: expected 0 (untagged) to 4094", "write -o vlan=30")
                    })?);
                }
                "mtu" | DOCKERS_MTU => read.mtu = Some(mtu(&format!("-o {name}"), &text)?),
                "nat" => {
                    read.nat = Some(match text.as_str() {
                        "true" => true,
                        "false" => false,
                        _ => return Err(wrong("is neither true nor false", "write -o nat=false")),
                    });
                }
                _ => {
                    let problem = "is an option that this driver does not have";
                    return Err(wrong(problem, &meant(name, &OPTIONS)));
                }
            }
        }
        Ok(read)
    }
}

/// `--driver-opt` of an endpoint: only an MTU of its own.
pub(crate) fn endpoint_mtu(options: &Options) -> Result<Option<u32>, Error> {
    let mut found = None;
    for (name, value) in options {
        let field = format!("driver-opt {name}");
        match name.as_str() {
            "mtu" | DOCKERS_MTU => found = Some(mtu(&field, &text(value))?),
            own if own.starts_with(DOCKERS_OWN) => {}
            _ => {
                let problem = "is a driver option that endpoints do not have";
                return Err(Error::field(&field, &text(value), problem, &meant(name, &["mtu"])));
            }
        }
    }
    Ok(found)
}

/// `-p`: one port of the container and where on the host it shall be reached, as libnetwork's
/// `PortBinding` says it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    proto: u8,
    port: u16,
    #[serde(rename = "HostIP", default)]
    host_ip: String,
    /// 0 is any free one.
    #[serde(default)]
    host_port: u16,
    /// The last of a range to choose from.
    #[serde(default)]
    host_port_end: u16,
}

/// The ports to be published.
pub(crate) fn ports(options: &Options) -> Result<Vec<PortMapping>, Error> {
    let Some(value) = options.get(PORT_MAP).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let bindings =
        Vec::<Binding>::deserialize(value).map_err(|source| Error::Malformed { source })?;
    let ports: Vec<_> = bindings.iter().map(mapping).collect::<Result<_, _>>()?;
    publish::check(&ports)?;
    Ok(ports)
}

fn mapping(binding: &Binding) -> Result<PortMapping, Error> {
    let wrong = |value: &str, problem, hint| Error::field("-p", value, problem, hint);
    let protocol = Protocol::from_number(binding.proto).ok_or_else(|| {
        let name =
            if binding.proto == SCTP { "sctp".to_owned() } else { binding.proto.to_string() };
        let hint = "publish it as tcp or udp, or reach the container by its own address";
        wrong(
            &format!("{}/{name}", binding.port),
            "is of a protocol that cannot be published",
            hint,
        )
    })?;
    let host_ip =
        match binding.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                wrong(text, "is no address of the host", "write -p 127.0.0.1:8080:80")
            })?),
        };
    Ok(PortMapping {
        protocol,
        host_ip,
        host_port: binding.host_port,
        host_port_end: binding.host_port_end,
        container_port: binding.port,
    })
}

fn mtu(field: &str, text: &str) -> Result<u32, Error> {
    text.parse().ok().filter(|mtu| MTU.contains(mtu)).ok_or_else(|| {
        let problem = "is no MTU: expected 68 to 65535 bytes";
        Error::field(field, text, problem, &format!("write {field}=1400"))
    })
}

/// What to write in place of an option that nobody knows.
fn meant(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("use {}, or leave it out", known.join(", ")),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(generic: Value) -> Options {
        Options::from([(GENERIC.to_owned(), generic)])
    }

    #[test]
    fn strings_become_values() {
        let given =
            options(json!({"bridge": "ovsbr0", "vlan": "30", "mtu": "1400", "nat": "false"}));
        let read = NetworkOptions::read(&given).unwrap();
        assert_eq!(read.bridge.unwrap().as_str(), "ovsbr0");
        assert_eq!(read.vlan.unwrap().get(), 30);
        assert_eq!((read.mtu, read.nat), (Some(1400), Some(false)));
        let docker = options(json!({DOCKERS_MTU: "9000"}));
        assert_eq!(NetworkOptions::read(&docker).unwrap().mtu, Some(9000));
        assert_eq!(NetworkOptions::read(&Options::new()).unwrap(), NetworkOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("vlan", "4095"),
            ("vlan", "-1"),
            ("vlan", ""),
            ("mtu", "67"),
            ("mtu", "big"),
            ("nat", "yes"),
            ("bridge", "a bridge"),
            ("vlna", "30"),
        ] {
            let error = NetworkOptions::read(&options(json!({name: value}))).unwrap_err();
            assert!(error.to_string().contains(&format!("-o {name} \"{value}\"")), "{error}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_told_the_right_one() {
        for (name, words) in [
            ("vlna", "did you mean vlan?"),
            ("VLAN", "did you mean vlan?"),
            ("brigde", "did you mean bridge?"),
            ("parent", "use bridge, vlan, mtu, nat, or leave it out"),
        ] {
            let error = NetworkOptions::read(&options(json!({name: "1"}))).unwrap_err();
            let said = shared::error::sentence(&error);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn an_endpoint_has_an_mtu_and_nothing_else() {
        let own = Options::from([
            ("com.docker.network.endpoint.exposedports".to_owned(), json!([])),
            ("mtu".to_owned(), json!("1280")),
        ]);
        assert_eq!(endpoint_mtu(&own).unwrap(), Some(1280));
        let other = Options::from([("vlan".to_owned(), json!("3"))]);
        assert!(endpoint_mtu(&other).unwrap_err().to_string().contains("driver-opt vlan"));
        let small = Options::from([("mtu".to_owned(), json!("12"))]);
        let said = shared::error::sentence(&endpoint_mtu(&small).unwrap_err());
        assert!(
            said.contains("driver-opt mtu \"12\"") && said.contains("write driver-opt mtu=1400")
        );
    }

    #[test]
    fn bindings_of_docker_are_ports_of_the_host() {
        let read = |bindings| ports(&Options::from([(PORT_MAP.to_owned(), bindings)]));
        assert!(read(json!([])).unwrap().is_empty() && read(Value::Null).unwrap().is_empty());
        assert!(ports(&Options::new()).unwrap().is_empty());
        let binding = |proto: u8, ip: &str, first: u16, last: u16| {
            json!({"Proto": proto, "IP": "", "Port": 80, "HostIP": ip, "HostPort": first,
                   "HostPortEnd": last})
        };
        let texts: Vec<_> = read(json!([
            binding(6, "", 8080, 8080),
            binding(17, "127.0.0.1", 53, 53),
            binding(6, "::1", 9000, 9010),
            binding(6, "", 0, 0),
        ]))
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
        assert_eq!(
            texts,
            ["8080:80/tcp", "127.0.0.1:53:80/udp", "[::1]:9000-9010:80/tcp", "0:80/tcp"]
        );
        let error = |binding| read(json!([binding])).unwrap_err().to_string();
        assert!(error(binding(132, "", 80, 80)).contains("-p \"80/sctp\" is of a protocol"));
        assert!(error(binding(6, "localhost", 80, 80)).contains("-p \"localhost\" is no address"));
        assert!(read(json!([{"Proto": "tcp"}])).is_err());
    }
}
