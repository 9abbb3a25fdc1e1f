//! The publisher: holds the published ports of the host's containers.
//!
//! Each is bound here, which is how a conflict shows at once. What nftables does not send on
//! (loopback, interfaces without forwarding) arrives at these sockets and is carried to the
//! container by [`tcp`] or [`udp`].

mod door;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use shared::attachment::{self, Record};
use shared::error::sentence;
use shared::key::Key;
use shared::publish::{
    Error, Holder, PortMapping, Publication, PublishedPort, Request, Target, check,
};
use shared::{nat, network, state};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use self::door::{Door, Opened, Restoring};
use super::Agent;
use crate::Failure;

/// Between two tries to open what another program has.
const RETRY: Duration = Duration::from_secs(5);

/// Between two looks whether what is held is what is on record, when nothing was heard.
const PATROL: Duration = Duration::from_secs(60);

/// From a change of the switch to the look at what it means for published ports: whoever plugs a
/// container in or out tells us of its ports a moment later.
const SETTLED: Duration = Duration::from_secs(2);

/// All that is published.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    held: Mutex<BTreeMap<Key, Holding>>,
}

/// What is held for one attachment.
#[derive(Debug)]
struct Holding {
    publication: Publication,
    /// The name people know the container by.
    name: String,
    /// Why a port is not held, port by port.
    doors: Vec<(PortMapping, Result<Vec<Serving>, String>)>,
}

impl Holding {
    /// Gives its ports back: they are free when this returns.
    async fn close(self) {
        for serving in self.doors.into_iter().filter_map(|(_, door)| door.ok()).flatten() {
            serving.close().await;
        }
    }

    /// Whether it has one of these ports already.
    fn meets(&self, wanted: &[PortMapping]) -> bool {
        self.publication.ports.iter().any(|port| wanted.iter().any(|other| port.meets(other)))
    }

    /// Whether it is what is asked for, and whole.
    fn serves(&self, wanted: &[PortMapping], targets: &[Target], holder: Holder) -> bool {
        let ports = &self.publication.ports;
        self.publication.holder == holder
            && ports.len() == wanted.len()
            && self.publication.targets == targets
            && self.doors.iter().all(|(_, door)| door.is_ok())
            && ports.iter().zip(wanted).all(|(settled, asked)| asked.settles_as(settled))
    }
}

/// A bound socket and what serves it; dropped, both end soon.
#[derive(Debug)]
struct Serving(JoinHandle<()>);

impl Serving {
    /// Ends both.
    async fn close(mut self) {
        self.0.abort();
        // It ends by being aborted.
        drop((&mut self.0).await);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves until the agent stops: takes up what is on record, and keeps to the record.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let mut picture = agent.picture.subscribe();
    loop {
        let well = agent.publisher.patrol(&agent).await?;
        tokio::select! {
            () = sleep(if well { PATROL } else { RETRY }) => continue,
            Ok(()) = picture.changed() => {}
            () = agent.stopped() => return Ok(()),
        }
        tokio::select! {
            () = sleep(SETTLED) => {}
            () = agent.stopped() => return Ok(()),
        }
        picture.mark_unchanged();
    }
}

/// Where a DEL could not wait for us, its address is free now. What cannot be freed the collector
/// finds.
async fn settle(agent: &Arc<Agent>, key: Key) {
    let freed = agent.call(move |agent| agent.engine.release_withdrawn(&key));
    if let Err(error) = freed.await {
        tracing::warn!(error = %sentence(&error), "an address stays taken for now");
    }
}

impl Publisher {
    /// Publishes, in place of all that was published for the attachment before.
    pub(crate) async fn publish(
        &self,
        agent: &Arc<Agent>,
        request: Request,
    ) -> Result<Vec<PortMapping>, attachment::Error> {
        let mut held = self.held.lock().await;
        check(&request.ports)?;
        let key = request.key;
        let record = agent.engine.record(&key)?.filter(|record| record.complete);
        let record = record.ok_or_else(|| attachment::Error::Unknown { key: key.clone() })?;
        // A container is told about its ports once for each of its networks.
        let elsewhere = |wanted: &PortMapping| {
            held.values().any(|holding| {
                let other = &holding.publication;
                other.key.container == key.container
                    && other.key != key
                    && other.ports.iter().any(|port| wanted.settles_as(port))
            })
        };
        let mut wanted = request.ports;
        wanted.retain(|mapping| !elsewhere(mapping));
        let targets = if wanted.is_empty() { Vec::new() } else { targets(&record)? };
        if request.holder == Holder::Runtime {
            refuse_unreached(&wanted, &targets)?;
        }
        if let Some(holding) =
            held.get(&key).filter(|holding| holding.serves(&wanted, &targets, request.holder))
        {
            return Ok(holding.publication.ports.clone());
        }
        // Its own ports are free for it.
        self.drop_held(agent, &mut held, &key).await?;
        if wanted.is_empty() {
            self.forget(agent, &key).await?;
            return Ok(wanted);
        }
        // Docker's containers are named after they were started.
        for holding in held.values_mut().filter(|holding| holding.meets(&wanted)) {
            if let Ok(Some(record)) = agent.engine.record(&holding.publication.key) {
                holding.name = record.name().to_owned();
            }
        }
        let opened = match open(&held, &wanted, request.holder) {
            Ok(opened) => opened,
            Err(error) => {
                self.forget(agent, &key).await?;
                return Err(error.into());
            }
        };
        let ports: Vec<_> = opened.iter().map(|opened| opened.settled).collect();
        let relays = opened.iter().filter_map(|opened| opened.relay).collect();
        let holder = request.holder;
        let publication =
            Publication { key: key.clone(), ports: ports.clone(), targets, holder, relays };
        let written = publication.clone();
        let noted = agent.call(move |agent| {
            let state = agent.engine.state();
            state.prepare()?;
            state::write(&Publication::path(&state, &written.key), &written)?;
            sync(agent)?;
            if let Err(error) = nat::ports::take_up(&written) {
                // Who calls for the first time is served all the same.
                tracing::warn!(error = %sentence(&error), "who has been calling has to pause");
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            self.forget(agent, &key).await?;
            return Err(error);
        }
        let serve = |opened: Opened| {
            let served = serve_all(opened.doors, &publication, opened.settled);
            (opened.settled, served.map_err(|error| sentence(&error)))
        };
        let doors = opened.into_iter().map(serve).collect();
        held.insert(key, Holding { name: record.name().to_owned(), doors, publication });
        Ok(ports)
    }

    /// Publishes nothing of an attachment any more.
    pub(crate) async fn withdraw(
        &self,
        agent: &Arc<Agent>,
        key: Key,
    ) -> Result<(), attachment::Error> {
        let mut held = self.held.lock().await;
        self.drop_held(agent, &mut held, &key).await?;
        self.forget(agent, &key).await?;
        settle(agent, key).await;
        Ok(())
    }

    /// Holds nothing of an attachment any more. Its elements in the table stay until the caller
    /// has them made what is on record.
    async fn drop_held(
        &self,
        agent: &Arc<Agent>,
        held: &mut BTreeMap<Key, Holding>,
        key: &Key,
    ) -> Result<(), attachment::Error> {
        let Some(holding) = held.remove(key) else { return Ok(()) };
        let publication = holding.publication.clone();
        holding.close().await;
        agent
            .call(move |agent| {
                state::remove(&Publication::path(&agent.engine.state(), &publication.key))?;
                sync(agent)?;
                Ok(nat::ports::cut(&publication).map_err(network::Error::from)?)
            })
            .await
    }

    /// Everything published, and how it fares.
    pub(crate) async fn list(&self) -> Vec<PublishedPort> {
        let held = self.held.lock().await;
        let of = |holding: &Holding| {
            let key = holding.publication.key.clone();
            let each = holding.doors.iter().map(move |(mapping, door)| PublishedPort {
                key: key.clone(),
                mapping: *mapping,
                trouble: door.as_ref().err().cloned(),
            });
            each.collect::<Vec<_>>()
        };
        held.values().flat_map(of).collect()
    }

    /// Takes the file and the elements of an attachment away.
    async fn forget(&self, agent: &Arc<Agent>, key: &Key) -> Result<(), attachment::Error> {
        let key = key.clone();
        agent
            .call(move |agent| {
                state::remove(&Publication::path(&agent.engine.state(), &key))?;
                sync(agent)
            })
            .await
    }

    /// Makes what is held what is on record: what nobody told us of, and what another program had.
    /// False if not all of it can be held.
    async fn patrol(&self, agent: &Arc<Agent>) -> Result<bool, Failure> {
        let mut held = self.held.lock().await;
        let found = agent.call(|agent| {
            let (publications, unreadable) = agent.engine.publications()?;
            let mut records = BTreeMap::new();
            for publication in &publications {
                if let Some(record) = agent.engine.record(&publication.key)? {
                    records.insert(publication.key.clone(), record);
                }
            }
            Ok::<_, attachment::Error>((publications, records, unreadable))
        });
        let (publications, records, unreadable) = found.await.map_err(Failure::new)?;
        for error in &unreadable {
            tracing::error!(error = %sentence(error), "published ports are lost");
        }
        let mut changed = false;
        let on_record = |key: &Key| publications.iter().any(|other| other.key == *key);
        let gone: Vec<_> = held.keys().filter(|key| !on_record(key)).cloned().collect();
        for key in gone {
            self.drop_held(agent, &mut held, &key).await.map_err(Failure::new)?;
        }
        for publication in publications {
            let Some(record) = records.get(&publication.key) else {
                // DEL was here while we were not.
                self.drop_held(agent, &mut held, &publication.key).await.map_err(Failure::new)?;
                self.forget(agent, &publication.key).await.map_err(Failure::new)?;
                let key = publication.key.clone();
                let cut = agent.call(move |_| nat::ports::cut(&publication)).await;
                cut.map_err(|error| Failure::new(network::Error::from(error)))?;
                settle(agent, key).await;
                continue;
            };
            let same = held.get(&publication.key).is_some_and(|h| h.publication == publication);
            let well = |holding: &Holding| holding.doors.iter().all(|(_, door)| door.is_ok());
            if !same {
                if let Some(holding) = held.remove(&publication.key) {
                    holding.close().await;
                }
                let holding = take_up(&held, publication.clone(), record);
                self.note(agent, &holding, &publication).await?;
                held.insert(publication.key, holding);
                changed = true;
            } else if let Some(holding) = held.remove(&publication.key) {
                let holding = if well(&holding) { holding } else { retry(&held, holding) };
                changed |= self.note(agent, &holding, &publication).await?;
                held.insert(publication.key, holding);
            }
        }
        if changed {
            agent.call(sync).await.map_err(Failure::new)?;
        }
        Ok(self.report(agent, &held))
    }

    /// Writes down where relays are now, if that is not what is on record.
    async fn note(
        &self,
        agent: &Arc<Agent>,
        holding: &Holding,
        on_record: &Publication,
    ) -> Result<bool, Failure> {
        if holding.publication == *on_record {
            return Ok(false);
        }
        let publication = holding.publication.clone();
        let written = agent.call(move |agent| {
            state::write(&Publication::path(&agent.engine.state(), &publication.key), &publication)
        });
        written.await.map_err(Failure::new)?;
        Ok(true)
    }

    /// True if all is held.
    fn report(&self, agent: &Agent, held: &BTreeMap<Key, Holding>) -> bool {
        let troubles: Vec<_> = held
            .values()
            .flat_map(|holding| &holding.doors)
            .filter_map(|(_, door)| door.as_ref().err())
            .take(3)
            .map(String::as_str)
            .collect();
        if troubles.is_empty() {
            agent.health.well("publisher");
        } else {
            agent.health.trouble("publisher", troubles.join("; "));
        }
        troubles.is_empty()
    }
}

/// Makes the maps of our table hold what is on record.
fn sync(agent: &Agent) -> Result<(), attachment::Error> {
    let done = agent.rules.writer().sync(&agent.engine.state());
    done.map(drop).map_err(|error| network::Error::from(error).into())
}

/// Opens every port of a request, or none.
fn open(
    held: &BTreeMap<Key, Holding>,
    wanted: &[PortMapping],
    holder: Holder,
) -> Result<Vec<Opened>, Error> {
    let mut all: Vec<Opened> = Vec::new();
    for mapping in wanted {
        let taken = |settled: &PortMapping| {
            if all.iter().any(|other| other.settled.meets(settled)) {
                return Err(Error::Twice { mapping: *mapping });
            }
            refuse_taken(held, settled)
        };
        all.push(door::open(mapping, holder, Restoring::No, taken)?);
    }
    Ok(all)
}

fn refuse_taken(held: &BTreeMap<Key, Holding>, settled: &PortMapping) -> Result<(), Error> {
    for holding in held.values() {
        if let Some(other) = holding.publication.ports.iter().find(|other| other.meets(settled)) {
            return Err(Error::Taken {
                mapping: *settled,
                holder: holding.name.clone(),
                held: *other,
            });
        }
    }
    Ok(())
}

/// Opens what another agent had opened before us: as much of it as can be.
fn take_up(held: &BTreeMap<Key, Holding>, publication: Publication, record: &Record) -> Holding {
    let name = record.name().to_owned();
    let ports = publication.ports.clone();
    let doors = ports.into_iter().map(|mapping| (mapping, Err(String::new()))).collect();
    retry(held, Holding { publication, name, doors })
}

/// Opens what could not be opened before.
fn retry(held: &BTreeMap<Key, Holding>, mut holding: Holding) -> Holding {
    for (mapping, door) in &mut holding.doors {
        if door.is_ok() {
            continue;
        }
        let taken = |settled: &PortMapping| refuse_taken(held, settled);
        let publication = &mut holding.publication;
        *door = door::open(mapping, publication.holder, Restoring::Yes, taken)
            .and_then(|opened| {
                publication.relays.retain(|relay| relay.mapping != *mapping);
                publication.relays.extend(opened.relay);
                serve_all(opened.doors, publication, *mapping)
            })
            .map_err(|error| sentence(&error));
    }
    holding
}

fn serve_all(
    doors: Vec<Door>,
    publication: &Publication,
    mapping: PortMapping,
) -> Result<Vec<Serving>, Error> {
    let serve = |door: Door| door.serve(publication, mapping.container_port);
    doors
        .into_iter()
        .map(serve)
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Socket { mapping, source })
}

/// Where what arrives in a family is carried to: the container's address of that family, if it has
/// one.
fn destination(publication: &Publication, v4: bool, port: u16) -> SocketAddr {
    let target = publication.target(v4).or_else(|| publication.target(!v4));
    let any = IpAddr::from([0; 4]);
    SocketAddr::new(target.map_or(any, |target| target.ip), port)
}

/// Where the ports of an attachment lead: its first address of each family.
fn targets(record: &Record) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    for address in &record.addresses {
        let ip = address.address.addr();
        if targets.iter().any(|target| target.ip.is_ipv4() == ip.is_ipv4()) {
            continue;
        }
        let routed = address.gateway.is_some_and(is_ours);
        if !routed && !address.address.contains(&towards(ip)) {
            return Err(Error::Apart { ip });
        }
        targets.push(Target { ip, routed });
    }
    if targets.is_empty() {
        return Err(Error::NoAddress { key: record.key.clone() });
    }
    Ok(targets)
}

/// Refuses what would end in a socket of Podman's, which never answers: it has bound the port, and
/// the rules send on only what leads behind this host.
fn refuse_unreached(wanted: &[PortMapping], targets: &[Target]) -> Result<(), Error> {
    let beyond = |mapping: &PortMapping| !mapping.host_ip.is_some_and(|ip| ip.is_loopback());
    if let Some(first) = targets.first()
        && targets.iter().all(|target| !target.routed)
        && wanted.iter().any(beyond)
    {
        return Err(Error::Beside { ip: first.ip });
    }
    Ok(())
}

/// Whether an address is one of this host: only then can it be bound.
fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// The address of the host from which `ip` would be talked to; unspecified if from none.
fn towards(ip: IpAddr) -> IpAddr {
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // Connecting a UDP socket sends nothing; any port will do (discard, RFC 863).
    let connected = UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| {
        socket.connect(SocketAddr::new(ip, 9))?;
        socket.local_addr()
    });
    connected.map_or(any, |address| address.ip())
}
