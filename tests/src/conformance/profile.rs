//! A plugin as its profile says it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Makes an interface.
    Interface,
    /// Brings the loopback interface up.
    Loopback,
    /// Hands out addresses, called by other plugins.
    Ipam,
}

/// How to put a plugin to work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is for.
    pub kind: Kind,
    /// A configuration that works, without `cniVersion`, `name` and `type`.
    pub config: Map<String, Value>,
    /// What it can do that not every plugin can: "addresses" (gives addresses of its own pool),
    /// "check" (looks at what is there).
    #[serde(default)]
    pub provides: Vec<String>,
    /// Whether it needs Open vSwitch.
    #[serde(default)]
    pub switch: bool,
    /// A shell script that makes the host ready; the plugin's directory is in its `PATH`.
    #[serde(default)]
    pub prepare: String,
    /// Directories whose files are claims on something: addresses, attachments.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Cases it is known to fail, each with the line that says who is wrong.
    #[serde(default)]
    pub deviations: BTreeMap<String, String>,
}

impl Profile {
    /// Reads one.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let said = |error: String| format!("cannot read the profile {}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| said(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| said(error.to_string()))
    }
}
