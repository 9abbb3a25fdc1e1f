//! Ports to publish, as runtimes write them: `portMappings` of CNI, `port_mappings` of netavark.

use serde_json::Value;
use shared::publish::{MOST, PortMapping, Protocol};

use crate::fields::{AN_ADDRESS, Error, Fields, shown};

/// The keys of one entry.
pub(crate) struct Names {
    list: &'static str,
    host_ip: &'static str,
    host_port: &'static str,
    container_port: &'static str,
    protocol: &'static str,
    /// How many ports from the two on.
    range: &'static str,
}

/// CNI's (CONVENTIONS.md, "portMappings"); it has no ranges.
pub(crate) const CNI: Names = Names {
    list: "portMappings",
    host_ip: "hostIP",
    host_port: "hostPort",
    container_port: "containerPort",
    protocol: "protocol",
    range: "range",
};

/// Netavark's.
pub(crate) const NETAVARK: Names = Names {
    list: "port_mappings",
    host_ip: "host_ip",
    host_port: "host_port",
    container_port: "container_port",
    protocol: "protocol",
    range: "range",
};

/// Reads the list; an entry without a host port asks for nothing, as kubelet sends them.
pub(crate) fn read(fields: &mut Fields<'_>, names: &Names) -> Result<Vec<PortMapping>, Error> {
    let path = fields.path(names.list);
    let mut ports = Vec::new();
    for (index, item) in fields.list(names.list)?.iter().enumerate() {
        let mut entry = Fields::of(format!("{path}[{index}]"), item)?;
        let host_port = number(&mut entry, names.host_port)?;
        let container_port = number(&mut entry, names.container_port)?;
        let host_ip = entry.parsed(names.host_ip, AN_ADDRESS)?;
        let protocols = protocols(&mut entry, names.protocol)?;
        let range = number(&mut entry, names.range)?.max(1);
        if host_port == 0 {
            continue;
        }
        let top = host_port.max(container_port);
        if container_port == 0 || u32::from(top) + u32::from(range) - 1 > u32::from(u16::MAX) {
            return Err(Error::Value {
                field: format!("{path}[{index}]"),
                value: shown(item),
                expected: "ports from 1 to 65535".to_owned(),
            });
        }
        // Before they are written out: some bytes can name 65535 ports.
        if ports.len() + protocols.len() * usize::from(range) > MOST {
            return Err(Error::Value {
                field: format!("{path}[{index}]"),
                value: shown(item),
                expected: format!("at most {MOST} ports for one container"),
            });
        }
        for protocol in protocols {
            ports.extend((0..range).map(|step| PortMapping {
                protocol,
                host_ip,
                host_port: host_port + step,
                host_port_end: 0,
                container_port: container_port + step,
            }));
        }
    }
    Ok(ports)
}

fn number(entry: &mut Fields<'_>, key: &'static str) -> Result<u16, Error> {
    let number = entry.number(key, &(0..=u64::from(u16::MAX)))?.unwrap_or_default();
    Ok(u16::try_from(number).unwrap_or_default())
}

/// Podman may write "tcp,udp"; nothing is TCP.
fn protocols(entry: &mut Fields<'_>, key: &'static str) -> Result<Vec<Protocol>, Error> {
    let text = entry.text(key)?.unwrap_or("tcp");
    let parse = |word: &str| {
        word.trim().parse::<Protocol>().map_err(|_| Error::Unsupported {
            field: entry.path(key),
            value: shown(&Value::from(text)),
            hint: "publish tcp and udp ports only",
        })
    };
    text.split(',').map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn ports(names: &Names, list: Value) -> Result<Vec<String>, Error> {
        let map = Map::from_iter([(names.list.to_owned(), list)]);
        let ports = read(&mut Fields::new("", &map), names)?;
        Ok(ports.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_runtimes_write_is_read() {
        // containerd's, whose Go structs have no JSON names.
        let list = json!([
            {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
            {"HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "127.0.0.1"},
            {"HostPort": 0, "ContainerPort": 9, "Protocol": "tcp", "HostIP": ""},
        ]);
        assert_eq!(ports(&CNI, list).unwrap(), ["8080:80/tcp", "127.0.0.1:53:5353/udp"]);
        let list = json!([{"container_port": 80, "host_ip": "::1", "host_port": 8080,
                           "protocol": "tcp,udp", "range": 2}]);
        assert_eq!(
            ports(&NETAVARK, list).unwrap(),
            ["[::1]:8080:80/tcp", "[::1]:8081:81/tcp", "[::1]:8080:80/udp", "[::1]:8081:81/udp"]
        );
        assert!(ports(&NETAVARK, Value::Null).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |entry: Value| ports(&CNI, json!([entry])).unwrap_err().to_string();
        assert_eq!(
            refused(json!({"hostPort": 80, "containerPort": 80, "protocol": "sctp"})),
            "portMappings[0].protocol (\"sctp\") is not supported yet"
        );
        assert_eq!(
            refused(json!({"hostPort": 80000, "containerPort": 80})),
            "portMappings[0].hostPort is 80000, expected a whole number from 0 to 65535"
        );
        assert!(refused(json!({"hostPort": 80})).ends_with("expected ports from 1 to 65535"));
        let far = json!({"hostPort": 65535, "containerPort": 80, "range": 2});
        assert!(refused(far).ends_with("expected ports from 1 to 65535"));
        assert!(
            refused(json!({"hostPort": 80, "containerPort": 80, "hostIP": "x"})).contains("hostIP")
        );
    }

    #[test]
    fn some_bytes_cannot_fill_the_memory_with_ports() {
        let wide = json!({"host_port": 1, "container_port": 1, "range": 16000});
        assert_eq!(ports(&NETAVARK, json!([wide])).unwrap().len(), 16000);
        let error = ports(&NETAVARK, json!([wide, wide])).unwrap_err().to_string();
        assert!(error.starts_with("port_mappings[1] is {"), "{error}");
        assert!(error.ends_with("expected at most 16384 ports for one container"), "{error}");
        let many = "tcp,".repeat(100_000) + "tcp";
        let wide = json!({"host_port": 1, "container_port": 1, "protocol": many});
        assert!(ports(&NETAVARK, json!([wide])).is_err());
    }
}
