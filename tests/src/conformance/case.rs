//! A case as its file says it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::profile::Kind;

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Name of its file.
    #[serde(skip)]
    pub name: String,
    /// What it is about, one line.
    pub about: String,
    /// The sentence of the specification that it holds a plugin to, quoted.
    pub spec: String,
    /// Kinds of plugins that it applies to; all if empty.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// What a plugin's profile must offer (`provides`).
    #[serde(default)]
    pub needs: Vec<String>,
    /// Oldest version of the specification with this.
    #[serde(default)]
    pub since: Option<String>,
    /// Run with every version that the plugin supports, not only with the newest.
    #[serde(default)]
    pub every_version: bool,
    /// What happens, in this order.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The plugin is called.
    Call(Box<Call>),
    /// As many calls at once, each for a container of its own, all of which must succeed.
    Parallel(Parallel),
    /// A shell script in container "one".
    Inside(String),
    /// The namespace of a container goes away.
    Remove(String),
    /// What must be seen now.
    See(Vec<Fact>),
}

/// One call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub verb: String,
    /// Which container: its id and its namespace.
    #[serde(default = "one")]
    pub container: String,
    /// `CNI_IFNAME`.
    #[serde(default = "eth0")]
    pub ifname: String,
    /// Variables that differ from a proper call's; `null` unsets one.
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
    /// Keys that differ from the profile's configuration; `null` removes one. The text "$result"
    /// is what the last ADD of this container and interface answered, "$attachment" names both.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// stdin as it stands, in place of a configuration.
    #[serde(default)]
    pub stdin: Option<String>,
    /// The answer.
    pub expect: Expect,
}

/// Many ADDs at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// `CNI_COMMAND`.
    pub verb: String,
    /// Containers "one" to "nine", as many.
    pub containers: Vec<String>,
    /// The answer of each.
    pub expect: Expect,
}

/// The answer that is wanted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// Success without a word on stdout.
    Silence,
    /// Success with a result of the configuration's version.
    Result,
    /// Success with the versions it supports.
    Versions,
    /// An error document.
    Error {
        /// One of these codes; any if empty.
        #[serde(default)]
        code: Vec<u64>,
        /// Words that `msg` or `details` must hold.
        #[serde(default)]
        names: Vec<String>,
        /// Keys that the document must have beside `code` and `msg`.
        #[serde(default)]
        keys: Vec<String>,
    },
    /// Either end is conforming; what counts is what is seen afterwards.
    Any,
}

/// What must be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// Container "one" has what the last result for `eth0` says: interface, MAC, addresses, routes.
    Plugged,
    /// The same of container "two".
    TwoPlugged,
    /// Every address that was given so far in this case was given once.
    AddressesDiffer,
    /// Container "one" as it was when the case began.
    ContainerAsBefore,
    /// The host as it was when the case began.
    HostAsBefore,
}

fn one() -> String {
    "one".to_owned()
}

fn eth0() -> String {
    "eth0".to_owned()
}

impl Case {
    /// Every case below a directory, by name.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn all(dir: &Path) -> Result<Vec<Self>, String> {
        let entries =
            fs::read_dir(dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
        let mut cases = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let read = |path: &Path| -> Result<Self, String> {
                let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
                serde_json::from_str(&text).map_err(|error| error.to_string())
            };
            let mut case =
                read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            case.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(case);
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }
}
