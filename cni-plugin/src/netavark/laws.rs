//! What must hold for anything Podman can say.
#![allow(clippy::unwrap_used, reason = "a law that does not hold must be heard")]

use std::path::Path;

use serde_json::{Map, Value};
use shared::attachment::Addressing;
use shared::config::Config;
use shared::error::sentence;

use super::error::Error;
use super::network::{Addresses, PodmanNetwork, part};
use super::{create, setup};
use crate::laws::{pools, published, route};

/// stdin of create, where it has no `network`, else of setup and teardown.
///
/// A network that `create` has edited is created from its options as the same, and set up in the same
/// place; what setup takes teardown finds; each refusal is one line.
pub fn netavark(data: &[u8]) {
    let Ok(Value::Object(input)) = serde_json::from_slice(data) else { return };
    let config = Config { state_dir: "/nonexistent".into(), ..Config::default() };
    created(&input, &config);
    let Ok(network) = part(&input, "network") else { return };
    created(network, &config);
    let call = match setup::Call::read(&input) {
        Ok(call) => call,
        Err(error) => return refused(&error),
    };
    assert_eq!(setup::key(&input).unwrap(), call.key);
    published(&call.ports);
    match call.request(&config, Path::new("/run/netns/law")) {
        Ok(request) => {
            request.routes.iter().for_each(route);
            if let Addressing::Pool { network, requested, .. } = &request.addressing {
                let inside = |ip| network.subnets.iter().any(|subnet| subnet.net.contains(ip));
                assert!(requested.iter().all(inside));
            }
        }
        Err(error) => refused(&error),
    }
}

fn created(network: &Map<String, Value>, config: &Config) {
    let edited = match create::run(network, config) {
        Ok(edited) => edited,
        Err(error) => return refused(&error),
    };
    let edited = edited.as_object().unwrap();
    let before = PodmanNetwork::read(network).unwrap();
    let after = PodmanNetwork::read(edited).unwrap();
    assert_eq!((&after.name, &after.vlan), (&before.name, &before.vlan));
    assert_eq!(after.dns, before.dns);
    after.routes.iter().for_each(route);
    pools(&after.place(config).unwrap());
    // Asked for a pool, Podman is told to hand out none itself: said by a user, that means no pool.
    let (mut asked, mut edited) = (edited.clone(), edited.clone());
    if after.addresses == Some(Addresses::Pool) {
        let spoken_of = |key: &str| key.eq_ignore_ascii_case("ipam_options");
        asked.retain(|key, _| !spoken_of(key));
        edited.retain(|key, _| key == "ipam_options" || !spoken_of(key));
    }
    match create::run(&asked, config) {
        Ok(again) => assert_eq!(again.as_object().unwrap(), &edited),
        Err(error) => panic!("{}", sentence(&error)),
    }
}

fn refused(error: &Error) {
    laws::one_line(&sentence(error));
}
