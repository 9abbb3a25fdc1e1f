//! What every verb begins with: configuration, arguments and engine of one call.

use std::path::Path;

use serde_json::{Map, Value};
use shared::attachment::{Engine, Key};
use shared::config::{Config, DEFAULT_PATH, SYSFS};
use shared::netns::Netns;
use shared::ovsdb::Endpoint;

use crate::args::Args;
use crate::delegate::Delegate;
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::fields::lookup;
use crate::netconf::{Envelope, NetConf};
use crate::network::{self, Place};
use crate::version::Version;

/// A call whose configuration is valid: ADD, CHECK and STATUS refuse any other.
pub(crate) struct Call<'a> {
    /// The variables.
    pub(crate) environment: &'a Environment,
    /// stdin with the flat file merged in.
    pub(crate) envelope: Envelope,
    /// The configuration.
    pub(crate) conf: NetConf,
    /// `CNI_ARGS`.
    pub(crate) args: Args,
    /// The engine.
    pub(crate) engine: Engine,
    /// Bridge and source of addresses.
    pub(crate) place: Place,
}

impl<'a> Call<'a> {
    /// Reads and validates everything. Touches nothing but files to read.
    pub(crate) fn read(
        environment: &'a Environment,
        mut envelope: Envelope,
    ) -> Result<Self, Error> {
        let version = gate(environment.verb, &envelope)?;
        let name = envelope.name()?.to_owned();
        envelope.merge_flat_file()?;
        let conf = NetConf::read(&envelope, version, &name)?;
        let args = Args::parse(&environment.args)?;
        let engine = engine(conf.compat.ovsdb.clone())?;
        let ovn = args.ovn_port.is_some() || conf.ovn_port.is_some();
        let place = network::settle(&conf, ovn, engine.config())?;
        Ok(Self { environment, envelope, conf, args, engine, place })
    }

    /// Which attachment.
    pub(crate) fn key(&self) -> Result<Key, Error> {
        key(self.environment, &self.conf.name)
    }

    /// `CNI_NETNS`.
    pub(crate) fn sandbox(&self) -> &str {
        self.environment.netns.as_deref().unwrap_or_default()
    }

    /// The IPAM plugin, if there is one.
    pub(crate) fn delegate(&self) -> Result<Option<Delegate<'_>>, Error> {
        match &self.place.source {
            network::Source::Plugin(kind) => {
                let own = own_type(&self.envelope.raw);
                Ok(Some(Delegate::find(kind, own, self.environment)?))
            }
            network::Source::Nobody | network::Source::Pool(_) => Ok(None),
        }
    }
}

/// `type` of the configuration: ourselves.
pub(crate) fn own_type(config: &Map<String, Value>) -> Option<&str> {
    lookup(config, "type").and_then(Value::as_str)
}

/// The attachment of a call.
pub(crate) fn key(environment: &Environment, network: &str) -> Result<Key, Error> {
    let ifname = environment
        .ifname
        .clone()
        .ok_or_else(|| crate::environment::Error::Missing { names: vec!["CNI_IFNAME"] })?;
    let container = environment.container.clone();
    Ok(Key { network: network.to_owned(), container, ifname })
}

/// The version of the configuration, if that version has the verb.
pub(crate) fn gate(verb: Verb, envelope: &Envelope) -> Result<Version, Error> {
    let version = envelope.version()?;
    if version < verb.since() {
        return Err(Error::Gate { verb, version });
    }
    Ok(version)
}

/// The engine of this host, or of the ovsdb-server that the network names.
pub(crate) fn engine(ovsdb: Option<Endpoint>) -> Result<Engine, Error> {
    let mut config = Config::load(Path::new(DEFAULT_PATH), Path::new(SYSFS))?;
    if let Some(ovsdb) = ovsdb {
        config.ovsdb = ovsdb;
    }
    Ok(Engine::new(config))
}

/// Refuses the plugin's own namespace before anything is done to it, and one that is not there.
pub(crate) fn guard_netns(environment: &Environment) -> Result<(), Error> {
    let path = environment.netns_path().unwrap_or_default();
    let netns = Netns::open(&path)?;
    if !environment.netns_override && netns.id() == Netns::current()?.id() {
        return Err(Error::OwnNetns { path: path.display().to_string() });
    }
    Ok(())
}
