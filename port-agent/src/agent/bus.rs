//! The D-Bus service `dev.ovs.PortAgent1`: anyone may look, only root may change anything.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use shared::attachment::PluggedPort;
use shared::name::IfName;
use shared::status;
use shared::vlan::VlanId;
use zbus::message::Header;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, OwnedVariant, Variant, connection};

use super::Agent;
use super::refusal::Refusal;
use crate::Failure;
use crate::interface::hand_request;

/// Its name in the log and in the service's status.
pub(crate) const PART: &str = "bus";

/// The name on the system bus.
const NAME: &str = "dev.ovs.PortAgent1";

/// The object that has all of it.
const PATH: &str = "/dev/ovs/PortAgent1";

/// One thing said with names: `a{sv}`.
type Dictionary = HashMap<&'static str, Variant<'static>>;

/// Serves until the agent stops or the bus goes away.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let connection = connection::Builder::system()
        .serve_at(PATH, Service { agent: Arc::clone(&agent) })
        // Another holder of the name keeps it, and we keep ours.
        .allow_name_replacements(false)
        .replace_existing_names(false)
        .name(NAME)
        .build()
        .await
        .map_err(|error| not_there(&error))?;
    tracing::info!("serving {NAME} on the system bus");
    agent.health.well(PART);
    // Whatever changes from here on is told.
    let mut picture = agent.picture.subscribe();
    let mut troubles = agent.health.subscribe();
    let mut known = picture.borrow_and_update().clone();
    let service = connection
        .object_server()
        .interface::<_, Service>(PATH)
        .await
        .map_err(|error| not_there(&error))?;
    loop {
        tokio::select! {
            () = connection.closed() => {
                return Err(Failure::Work("the system bus went away".to_owned()));
            }
            () = agent.stopped() => break,
            Ok(()) = picture.changed() => {
                let now = picture.borrow_and_update().clone();
                // What is there when the agent starts is no news.
                if let (Some(known), Some(now)) = (&known, &now) {
                    tell_ports(service.signal_emitter(), &known.ports, &now.ports).await;
                }
                known = now;
            }
            Ok(()) = troubles.changed() => tell_health(&service).await,
        }
    }
    connection.graceful_shutdown().await;
    Ok(())
}

/// Why nobody hears us, and what to do.
fn not_there(error: &zbus::Error) -> Failure {
    let (what, hint) = match error {
        zbus::Error::NameTaken => (
            format!("the name {NAME} is taken on the system bus"),
            format!("see who has it: busctl status {NAME}"),
        ),
        zbus::Error::FDO(refused) if matches!(**refused, zbus::fdo::Error::AccessDenied(_)) => (
            format!("the system bus does not let us have the name {NAME}: {refused}"),
            "install conf/dev.ovs.PortAgent1.conf in /etc/dbus-1/system.d and reload dbus: \
             systemctl reload dbus"
                .to_owned(),
        ),
        other => (
            format!("the system bus cannot be reached: {other}"),
            "start it: systemctl start dbus".to_owned(),
        ),
    };
    Failure::Work(format!("{what}; {hint}"))
}

/// Tells what came and what went. A port that is another attachment's by now did both.
async fn tell_ports(
    emitter: &SignalEmitter<'_>,
    before: &BTreeMap<IfName, PluggedPort>,
    now: &BTreeMap<IfName, PluggedPort>,
) {
    for old in before.values().filter(|old| now.get(&old.port) != Some(*old)) {
        let (port, bridge) = (old.port.as_str(), old.bridge.as_str());
        said(Service::port_removed(emitter, port, bridge, &old.key.container).await);
    }
    for new in now.values().filter(|new| before.get(&new.port) != Some(*new)) {
        let (port, bridge) = (new.port.as_str(), new.bridge.as_str());
        said(Service::port_added(emitter, port, bridge, &new.key.container).await);
    }
}

async fn tell_health(service: &InterfaceRef<Service>) {
    let emitter = service.signal_emitter();
    let object = service.get().await;
    said(object.health_changed(emitter).await);
    said(object.healthy_changed(emitter).await);
}

/// A signal that cannot be sent is of a connection that is about to be found closed.
fn said(sent: zbus::Result<()>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a signal was not sent");
    }
}

/// The object.
struct Service {
    agent: Arc<Agent>,
}

#[zbus::interface(name = "dev.ovs.PortAgent1")]
impl Service {
    /// Whether anybody is there: "pong".
    #[zbus(out_args("answer"))]
    async fn ping(&self) -> String {
        "pong".to_owned()
    }

    /// The ports of ours in the switch: name, bridge, VLANs.
    #[zbus(out_args("ports"))]
    async fn list_ports(&self) -> Result<Vec<(String, String, String)>, Refusal> {
        let found = self.agent.work(|agent| agent.engine.plugged()).await?;
        let found = found.map_err(|error| Refusal::fault(&error))?;
        Ok(found
            .into_iter()
            .map(|port| (port.port.to_string(), port.bridge.to_string(), port.vlan.to_string()))
            .collect())
    }

    /// Plugs an interface of the host in, as "ovs-port-agent attach" does; returns its port.
    /// Options: "bridge" (s), "vlan" (q, 1 to 4094), "netns" (s, a name or a path).
    #[zbus(out_args("port"))]
    async fn add_port(
        &self,
        interface: String,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Refusal> {
        only_root(connection, &header, "plug an interface in").await?;
        let interface = name("interface", &interface)?;
        let options = Options::read(&options)?;
        let request = hand_request(
            self.agent.engine.config(),
            interface,
            options.bridge,
            options.vlan,
            options.netns,
            "dbus",
        );
        let done = self.agent.work(move |agent| agent.engine.attach_interface(&request)).await?;
        let record = done.map_err(|error| Refusal::fault(&error))?;
        tracing::info!(
            container = %record.key.container, port = %record.port,
            "plugged in over D-Bus"
        );
        Ok(record.port.to_string())
    }

    /// Unplugs an interface of the host, as "ovs-port-agent detach" does, by the name it has or
    /// had. Containers of a runtime are refused: the runtime unplugs them.
    async fn del_port(
        &self,
        interface: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Refusal> {
        only_root(connection, &header, "unplug an interface").await?;
        let interface = name("interface", &interface)?;
        let done = self.agent.work(move |agent| agent.engine.detach_interface(&interface)).await?;
        let record = done.map_err(|error| Refusal::fault(&error))?;
        tracing::info!(
            container = %record.key.container, port = %record.port,
            "unplugged over D-Bus"
        );
        Ok(())
    }

    /// What is plugged in, by whatever runtime.
    #[zbus(out_args("attachments"))]
    async fn attachments(&self) -> Result<Vec<Dictionary>, Refusal> {
        let status = self.agent.work(|agent| status::look(&agent.engine)).await?;
        Ok(status.attachments.into_iter().map(dictionary).collect())
    }

    /// The whole picture as JSON, as "ovs-port-agent status --json" prints it.
    #[zbus(out_args("json"))]
    async fn status(&self) -> Result<String, Refusal> {
        let status = self.agent.work(|agent| status::look(&agent.engine)).await?;
        serde_json::to_string(&status).map_err(|error| Failure::Work(error.to_string()).into())
    }

    /// A port of ours is in the switch that was not before.
    #[zbus(signal)]
    async fn port_added(
        emitter: &SignalEmitter<'_>,
        port: &str,
        bridge: &str,
        container: &str,
    ) -> zbus::Result<()>;

    /// A port of ours is no longer in the switch.
    #[zbus(signal)]
    async fn port_removed(
        emitter: &SignalEmitter<'_>,
        port: &str,
        bridge: &str,
        container: &str,
    ) -> zbus::Result<()>;

    /// Version of the agent.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// The bridges of the configuration.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn bridges(&self) -> Vec<String> {
        self.agent.engine.config().bridges.iter().map(|bridge| bridge.name.to_string()).collect()
    }

    /// The bridge that interfaces without one are plugged into.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn default_bridge(&self) -> String {
        self.agent.engine.config().bridge_name.to_string()
    }

    /// The parts of the agent that do not work, each with the reason.
    #[zbus(property)]
    async fn health(&self) -> HashMap<String, String> {
        let troubles = self.agent.health.subscribe();
        let troubles = troubles.borrow();
        troubles.iter().map(|(part, why)| ((*part).to_owned(), why.clone())).collect()
    }

    /// Whether every part works.
    #[zbus(property)]
    async fn healthy(&self) -> bool {
        self.agent.health.subscribe().borrow().is_empty()
    }
}

/// The options of `AddPort`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    bridge: Option<IfName>,
    vlan: Option<VlanId>,
    netns: Option<PathBuf>,
}

impl Options {
    fn read(given: &HashMap<String, OwnedVariant>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for (key, value) in given {
            let value: &Variant<'_> = value;
            match (key.as_str(), value) {
                ("bridge", Variant::Str(text)) => options.bridge = Some(name("bridge", text)?),
                ("netns", Variant::Str(text)) => options.netns = Some(text.as_str().into()),
                ("vlan", value) => options.vlan = Some(vlan(value)?),
                ("bridge" | "netns", _) => {
                    return Err(Refusal::invalid(format!("option \"{key}\" is no text (s)")));
                }
                _ => {
                    return Err(Refusal::invalid(format!(
                        "option \"{key}\" is not known, expected \"bridge\", \"vlan\" or \"netns\""
                    )));
                }
            }
        }
        Ok(options)
    }
}

/// A VLAN, as whatever number a caller's language makes of it.
fn vlan(value: &Variant<'_>) -> Result<VlanId, Refusal> {
    let number = match value {
        Variant::U8(n) => Some(u64::from(*n)),
        Variant::U16(n) => Some(u64::from(*n)),
        Variant::U32(n) => Some(u64::from(*n)),
        Variant::U64(n) => Some(*n),
        Variant::I16(n) => u64::try_from(*n).ok(),
        Variant::I32(n) => u64::try_from(*n).ok(),
        Variant::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    };
    number
        .filter(|number| *number > 0)
        .and_then(|number| VlanId::try_from(number).ok())
        .ok_or_else(|| Refusal::invalid("option \"vlan\" is no VLAN from 1 to 4094 (q)"))
}

fn name(what: &str, text: &str) -> Result<IfName, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(format!("{what} \"{text}\": {error}")))
}

fn dictionary(attachment: status::AttachmentStatus) -> Dictionary {
    let status::AttachmentStatus {
        container,
        id,
        runtime,
        caller,
        network,
        ifname,
        bridge,
        vlan,
        port,
        addresses,
        mac,
        state,
        since,
        ..
    } = attachment;
    let texts = [
        ("Container", container),
        ("Id", id),
        ("Runtime", runtime),
        ("Caller", caller),
        ("Network", network),
        ("Interface", ifname),
        ("Bridge", bridge),
        ("Vlan", vlan),
        ("Port", port),
        ("Mac", mac),
        ("State", state),
    ];
    let mut dictionary: Dictionary =
        texts.into_iter().map(|(key, text)| (key, Variant::from(text))).collect();
    dictionary.insert("Addresses", Variant::from(addresses));
    dictionary.insert("Since", Variant::from(since));
    dictionary
}

/// The bus's policy says the same; a bus whose policy was loosened still does not let anybody in.
async fn only_root(connection: &Connection, header: &Header<'_>, act: &str) -> Result<(), Refusal> {
    const BUS: &str = "org.freedesktop.DBus";
    let sender = header
        .sender()
        .ok_or_else(|| Refusal::denied(format!("nobody may {act} without a name on the bus")))?;
    let answer = connection
        .call_method(
            Some(BUS),
            "/org/freedesktop/DBus",
            Some(BUS),
            "GetConnectionUnixUser",
            &sender.as_str(),
        )
        .await?;
    let uid: u32 = answer.body().deserialize()?;
    if uid == 0 {
        return Ok(());
    }
    let text = format!("only root may {act}, and you are user {uid}; call as root (sudo)");
    Err(Refusal::denied(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, Variant<'static>)]) -> Result<Options, Refusal> {
        let owned = given.iter().map(|(key, value)| {
            ((*key).to_owned(), OwnedVariant::try_from(value.clone()).unwrap())
        });
        Options::read(&owned.collect())
    }

    #[test]
    fn options_are_read_whatever_number_they_come_as() {
        assert_eq!(options(&[]).unwrap(), Options::default());
        for number in [Variant::U16(7), Variant::I32(7), Variant::U32(7), Variant::I64(7)] {
            let read = options(&[("vlan", number), ("bridge", Variant::from("br0"))]).unwrap();
            assert_eq!(read.vlan.unwrap().get(), 7);
            assert_eq!(read.bridge.unwrap().as_str(), "br0");
        }
        let read = options(&[("netns", Variant::from("web"))]).unwrap();
        assert_eq!(read.netns.unwrap(), PathBuf::from("web"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_was_expected() {
        use zbus::DBusError as _;
        for (key, value, expected) in [
            ("vlan", Variant::U16(0), "from 1 to 4094"),
            ("vlan", Variant::U16(4095), "from 1 to 4094"),
            ("vlan", Variant::I32(-1), "from 1 to 4094"),
            ("vlan", Variant::from("7"), "from 1 to 4094"),
            ("bridge", Variant::U16(1), "no text"),
            ("bridge", Variant::from("a name that is too long"), "bridge \"a name"),
            ("tag", Variant::U16(1), "expected \"bridge\", \"vlan\" or \"netns\""),
        ] {
            let refusal = options(&[(key, value)]).unwrap_err();
            assert!(refusal.description().unwrap().contains(expected), "{refusal:?}");
            assert_eq!(refusal.name().as_str(), "org.freedesktop.DBus.Error.InvalidArgs");
        }
    }
}
