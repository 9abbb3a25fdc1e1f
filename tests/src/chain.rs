//! A network configuration list, run as a runtime's CNI library runs it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::binary::Plugin;
use crate::container::Container;

/// The plugins of one conflist: ours as built, the others Debian's.
#[derive(Debug, Clone)]
pub struct Chain {
    name: Value,
    version: Value,
    plugins: Vec<Value>,
    arguments: Map<String, Value>,
}

impl Chain {
    /// Reads a conflist.
    pub fn new(conflist: &str) -> Self {
        let list: Value = serde_json::from_str(conflist)
            .unwrap_or_else(|error| panic!("not a conflist: {error}\n{conflist}"));
        let plugins = list["plugins"].as_array().cloned();
        Self {
            name: list["name"].clone(),
            version: list["cniVersion"].clone(),
            plugins: plugins.unwrap_or_else(|| panic!("no plugins in {conflist}")),
            arguments: Map::new(),
        }
    }

    /// Adds a capability argument, for the plugins that declare the capability.
    #[must_use]
    pub fn argument(mut self, capability: &str, value: Value) -> Self {
        self.arguments.insert(capability.to_owned(), value);
        self
    }

    /// ADD of `eth0`, plugin by plugin; returns the last result. Panics with the first error.
    #[track_caller]
    pub fn add(&self, container: &Container) -> Value {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let conf = self.conf(plugin, &result);
            result = caller(plugin).add(container, &conf).success();
        }
        result
    }

    /// CHECK of `eth0`, plugin by plugin, against the result of ADD; the first error, if any.
    pub fn check(&self, container: &Container, result: &Value) -> Result<(), String> {
        for plugin in &self.plugins {
            let reply = caller(plugin).check(container, &self.conf(plugin, result));
            if !reply.ok() {
                return Err(reply.output.to_string());
            }
        }
        Ok(())
    }

    /// DEL of `eth0`, last plugin first. Panics with the first error.
    #[track_caller]
    pub fn del(&self, container: &Container, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            let _gone = caller(plugin).del(container, &self.conf(plugin, result)).success();
        }
    }

    /// What one plugin reads on stdin.
    fn conf(&self, plugin: &Value, previous: &Value) -> Value {
        let mut conf = plugin.clone();
        conf["name"] = self.name.clone();
        conf["cniVersion"] = self.version.clone();
        let mut arguments = self.arguments.clone();
        arguments.retain(|capability, _| plugin["capabilities"][capability] == true);
        if !arguments.is_empty() {
            conf["runtimeConfig"] = Value::Object(arguments);
        }
        if !previous.is_null() {
            conf["prevResult"] = previous.clone();
        }
        conf
    }
}

/// The binary of a plugin.
fn caller(plugin: &Value) -> Plugin {
    let name = plugin["type"].as_str().unwrap_or_else(|| panic!("no type in {plugin}"));
    if name == "ovs-agent" {
        return Plugin::find();
    }
    let path = PathBuf::from("/usr/lib/cni").join(name);
    assert!(
        Path::new(&path).is_file(),
        "no {}: apt-get install containernetworking-plugins (./run test does)",
        path.display()
    );
    Plugin::at(path)
}
