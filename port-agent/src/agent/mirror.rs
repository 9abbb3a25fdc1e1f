//! What NetworkManager's users see of ours: each attached port as a connection `dyn-<port>` in
//! NetworkManager's memory, which it never brings up.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use shared::attachment::PluggedPort;
use zbus::{Connection, Message, OwnedVariant, Variant, connection};

use super::Agent;
use crate::Failure;

/// Its name in the log and in the service's status.
pub(crate) const PART: &str = "networkmanager";

/// NetworkManager's name on the system bus.
const NAME: &str = "org.freedesktop.NetworkManager";

/// The object that has all connections, and its interface.
const SETTINGS: (&str, &str) =
    ("/org/freedesktop/NetworkManager/Settings", "org.freedesktop.NetworkManager.Settings");

/// Interface of one connection.
const CONNECTION: &str = "org.freedesktop.NetworkManager.Settings.Connection";

/// Flags of `AddConnection2` (NMSettingsAddConnection2Flags): in memory only, never by itself.
const IN_MEMORY_NOT_STARTED: u32 = 0x2 | 0x20;

/// How long NetworkManager may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a connection says that it is ours, in its `user` section: the port, and what is behind it.
const PORT: &str = "ovs-agent.port";
const BEHIND: &str = "ovs-agent.attachment";

/// A connection as D-Bus carries it: section, key, value.
type Sections<V> = HashMap<String, HashMap<String, V>>;

/// What the connections of ours are: port, and what is behind it.
type Shown = BTreeMap<String, (String, Uuid)>;

/// NetworkManager's own name of a connection; object paths change when it is restarted.
type Uuid = String;

/// Serves until the agent stops; what it showed is gone then.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let mut picture = agent.picture.subscribe();
    let bus = connection::Builder::system()
        .method_timeout(PATIENCE)
        .build()
        .await
        .map_err(|error| Failure::Work(format!("the system bus cannot be reached: {error}")))?;
    let mut shown = found(&bus).await.map_err(|error| not_there(&error))?;
    loop {
        let now = picture.borrow_and_update().clone();
        // As long as nothing is known of the switch, what is shown stays.
        if let Some(now) = now {
            follow(&bus, &mut shown, now.ports.values())
                .await
                .map_err(|error| not_there(&error))?;
        }
        agent.health.well(PART);
        tokio::select! {
            () = bus.closed() => {
                return Err(Failure::Work("the system bus went away".to_owned()));
            }
            () = agent.stopped() => break,
            Ok(()) = picture.changed() => {}
        }
    }
    follow(&bus, &mut shown, [].iter()).await.map_err(|error| not_there(&error))?;
    bus.graceful_shutdown().await;
    Ok(())
}

fn not_there(error: &zbus::Error) -> Failure {
    Failure::Work(format!(
        "NetworkManager is not shown the ports: {error}; start it, or leave out \
         network_manager = \"mirror\""
    ))
}

/// The connections of ours that it has, from whatever life of the agent.
async fn found(bus: &Connection) -> zbus::Result<Shown> {
    let (path, interface) = SETTINGS;
    let answer = call(bus, path, interface, "ListConnections", &()).await?;
    let paths: Vec<zbus::OwnedObjectPath> = answer.body().deserialize()?;
    let mut shown = Shown::new();
    for path in paths {
        // One may have gone meanwhile.
        let Ok(answer) = call(bus, path.as_str(), CONNECTION, "GetSettings", &()).await else {
            continue;
        };
        let body = answer.body();
        let sections: Sections<OwnedVariant> = body.deserialize()?;
        if let Some((port, behind, uuid)) = ours(&sections) {
            shown.insert(port, (behind, uuid));
        }
    }
    Ok(shown)
}

/// Port, what is behind it, and the UUID, if the connection is one of ours.
fn ours(sections: &Sections<OwnedVariant>) -> Option<(String, String, Uuid)> {
    let data: HashMap<String, String> =
        sections.get("user")?.get("data")?.try_clone().ok()?.try_into().ok()?;
    let uuid: String =
        sections.get("connection")?.get("uuid")?.try_clone().ok()?.try_into().ok()?;
    Some((data.get(PORT)?.clone(), data.get(BEHIND)?.clone(), uuid))
}

/// Makes what it shows what there is.
async fn follow(
    bus: &Connection,
    shown: &mut Shown,
    ports: impl Iterator<Item = &PluggedPort>,
) -> zbus::Result<()> {
    let wanted: BTreeMap<_, _> = ports.map(|port| (port.port.to_string(), behind(port))).collect();
    let outdated: Vec<_> = shown
        .iter()
        .filter(|(port, (behind, _))| wanted.get(*port) != Some(behind))
        .map(|(port, (_, uuid))| (port.clone(), uuid.clone()))
        .collect();
    for (port, uuid) in outdated {
        remove(bus, &uuid).await?;
        shown.remove(&port);
    }
    for (port, behind) in wanted {
        if let Entry::Vacant(place) = shown.entry(port) {
            let uuid = add(bus, place.key(), &behind).await?;
            place.insert((behind, uuid));
        }
    }
    Ok(())
}

/// What is behind a port, in words: two ports of one name are the same if this is.
fn behind(port: &PluggedPort) -> String {
    format!("{} on {}, {}", port.key, port.bridge, port.vlan)
}

async fn add(bus: &Connection, port: &str, behind: &str) -> zbus::Result<Uuid> {
    let data = HashMap::from([(PORT, port), (BEHIND, behind)]);
    let id = format!("dyn-{port}");
    let disabled = || HashMap::from([("method", Variant::from("disabled"))]);
    let sections = HashMap::from([
        (
            "connection",
            HashMap::from([
                ("id", Variant::from(id)),
                ("type", Variant::from("generic")),
                ("interface-name", Variant::from(port)),
                ("autoconnect", Variant::from(false)),
            ]),
        ),
        ("user", HashMap::from([("data", Variant::from(data))])),
        ("ipv4", disabled()),
        ("ipv6", disabled()),
    ]);
    let (path, interface) = SETTINGS;
    let none = HashMap::<&str, Variant<'_>>::new();
    let body = (sections, IN_MEMORY_NOT_STARTED, none);
    let answer = call(bus, path, interface, "AddConnection2", &body).await?;
    let body = answer.body();
    let (made, _): (zbus::OwnedObjectPath, HashMap<String, OwnedVariant>) = body.deserialize()?;
    let answer = call(bus, made.as_str(), CONNECTION, "GetSettings", &()).await?;
    let body = answer.body();
    let sections: Sections<OwnedVariant> = body.deserialize()?;
    let uuid = ours(&sections).map(|(_, _, uuid)| uuid);
    uuid.ok_or_else(|| zbus::Error::Failure(format!("{made} is not the connection just made")))
}

async fn remove(bus: &Connection, uuid: &str) -> zbus::Result<()> {
    let (path, interface) = SETTINGS;
    let answer = match call(bus, path, interface, "GetConnectionByUuid", &uuid).await {
        Ok(answer) => answer,
        // Somebody was faster, or NetworkManager began anew.
        Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".InvalidConnection") => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let path: zbus::OwnedObjectPath = answer.body().deserialize()?;
    call(bus, path.as_str(), CONNECTION, "Delete", &()).await.map(drop)
}

async fn call<B>(
    bus: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> zbus::Result<Message>
where
    B: serde::ser::Serialize + zbus::zvariant::DynamicType,
{
    bus.call_method(Some(NAME), path, Some(interface), method, body).await
}
