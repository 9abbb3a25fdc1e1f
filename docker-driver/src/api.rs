//! What dockerd's own API knows and the driver's protocol never says: what people call containers and
//! networks, and which networks there are. Asked after a call, never within one, where dockerd holds
//! its locks.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::Error;

/// Where dockerd listens unless `DOCKER_HOST` says otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// Longest time for an answer. Nobody waits for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer in bytes; a container takes some two thousand.
const MAX_ANSWER: usize = 64 << 20;

/// A container on one network, as people call both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Id of the network.
    pub(crate) network: String,
    /// Id of the endpoint.
    pub(crate) endpoint: String,
    /// Name of the container.
    pub(crate) container: String,
    /// Name of the network.
    pub(crate) network_name: String,
}

/// The API of dockerd.
#[derive(Debug)]
pub(crate) struct Api {
    socket: PathBuf,
    client: Client<UnixConnector, Empty<Bytes>>,
}

/// One entry of `GET /networks` (Docker Engine API, "List networks").
#[derive(Debug, Deserialize)]
struct Network {
    #[serde(rename = "Id")]
    id: String,
}

/// One entry of `GET /containers/json` (Docker Engine API, "List containers").
#[derive(Debug, Deserialize)]
struct Container {
    #[serde(rename = "Names", default)]
    names: Vec<String>,
    #[serde(rename = "NetworkSettings", default)]
    settings: Settings,
}

#[derive(Debug, Default, Deserialize)]
struct Settings {
    #[serde(rename = "Networks", default)]
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(rename = "NetworkID", default)]
    network: String,
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
}

impl Api {
    /// The API that `DOCKER_HOST` names; `None` if that is no unix socket.
    pub(crate) fn at(docker_host: Option<&OsStr>) -> Option<Self> {
        let socket = match docker_host.map(|host| host.to_string_lossy()) {
            None => PathBuf::from(SOCKET),
            Some(host) if host.is_empty() => PathBuf::from(SOCKET),
            Some(host) => PathBuf::from(host.strip_prefix("unix://")?),
        };
        // No idle connection: dockerd may have been restarted when it is used again.
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(UnixConnector);
        Some(Self { socket, client })
    }

    /// Every running container on each of its networks.
    pub(crate) async fn containers(&self) -> Result<Vec<Named>, Error> {
        self.ask("/containers/json").await.map(named)
    }

    /// The ids of all networks, of every driver.
    pub(crate) async fn networks(&self) -> Result<BTreeSet<String>, Error> {
        let all: Vec<Network> = self.ask("/networks").await?;
        Ok(all.into_iter().map(|network| network.id).collect())
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let unavailable = |problem: String| Error::Dockerd { socket: self.socket.clone(), problem };
        let ask = async {
            let uri = hyperlocal::Uri::new(&self.socket, path);
            let answer = self.client.get(uri.into()).await.map_err(|e| unavailable(cause(&e)))?;
            if !answer.status().is_success() {
                return Err(unavailable(format!("it answers {}", answer.status())));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(|error| unavailable(error.to_string()))?.to_bytes())
        };
        let late = || unavailable(format!("no answer within {} s", DEADLINE.as_secs()));
        let body = timeout(DEADLINE, ask).await.map_err(|_| late())??;
        serde_json::from_slice(&body).map_err(|error| unavailable(error.to_string()))
    }
}

/// The innermost reason: the others only say that something failed.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

fn named(containers: Vec<Container>) -> Vec<Named> {
    let mut all = Vec::new();
    for container in containers {
        // "/web"; a link of another container adds "/other/alias".
        let mut names = container.names.iter().filter_map(|name| name.strip_prefix('/'));
        let Some(name) = names.find(|name| !name.contains('/')) else { continue };
        for (network_name, endpoint) in container.settings.networks {
            if !endpoint.endpoint.is_empty() {
                all.push(Named {
                    network: endpoint.network,
                    endpoint: endpoint.endpoint,
                    container: name.to_owned(),
                    network_name,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_has_one_name_on_all_its_networks() {
        let body = json!([
            {
                "Names": ["/other/alias", "/web"],
                "NetworkSettings": {"Networks": {
                    "front": {"NetworkID": "n1", "EndpointID": "e1", "IPAddress": "10.0.0.2"},
                    "back": {"NetworkID": "n2", "EndpointID": "e2"},
                    "not-yet": {"NetworkID": "n3", "EndpointID": ""},
                }},
            },
            {"Names": [], "NetworkSettings": {"Networks": {}}},
            {"Names": ["/bare"]},
        ]);
        let named = |network: &str, endpoint: &str, name: &str| Named {
            network: network.to_owned(),
            endpoint: endpoint.to_owned(),
            container: "web".to_owned(),
            network_name: name.to_owned(),
        };
        let all = super::named(serde_json::from_value(body).unwrap());
        assert_eq!(all, [named("n2", "e2", "back"), named("n1", "e1", "front")]);
    }

    #[test]
    fn docker_host_may_name_another_socket() {
        let socket = |host: Option<&str>| Api::at(host.map(OsStr::new)).map(|api| api.socket);
        assert_eq!(socket(None), Some(PathBuf::from(SOCKET)));
        assert_eq!(socket(Some("")), Some(PathBuf::from(SOCKET)));
        assert_eq!(socket(Some("unix:///run/other.sock")), Some("/run/other.sock".into()));
        assert_eq!(socket(Some("tcp://10.0.0.1:2375")), None);
    }
}
