//! The built binaries, run as a caller runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Command, Output, PATH};
use crate::container::Container;

/// How a missing or outdated binary is made.
const BUILD: &str = "cargo build --workspace (./run test does)";

/// A CNI plugin: `ovs-agent`, unless made otherwise.
#[derive(Debug, Clone)]
pub struct Plugin {
    path: PathBuf,
    env: BTreeMap<String, String>,
    deadline: Duration,
}

/// What the plugin answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The process: status, stdout, stderr, time.
    pub output: Output,
    /// Its stdout as JSON; `Null` if it printed nothing.
    pub json: Value,
}

/// The host's agent `ovs-port-agent`.
#[derive(Debug, Clone)]
pub struct PortAgent {
    path: PathBuf,
}

impl Plugin {
    pub(crate) fn find() -> Self {
        Self::at(binary("ovs-agent"))
    }

    /// Some other plugin, to be called in the same way.
    pub fn at(path: PathBuf) -> Self {
        let env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("CNI_PATH".to_owned(), "/opt/cni/bin:/usr/lib/cni".to_owned()),
        ]);
        Self { path, env, deadline: Duration::from_secs(60) }
    }

    /// Where the binary is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets an environment variable of its calls; the environment is otherwise what a runtime
    /// gives: `PATH` and the `CNI_` ones.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs one verb for a container id, a namespace path and an interface, any of them empty
    /// (then the variable is not set), with a network configuration on stdin.
    pub fn call(&self, verb: &str, id: &str, netns: &str, ifname: &str, conf: &Value) -> Reply {
        self.call_raw(verb, id, netns, ifname, conf.to_string().into_bytes())
    }

    /// As [`Plugin::call`], with any bytes on stdin.
    pub fn call_raw(
        &self,
        verb: &str,
        id: &str,
        netns: &str,
        ifname: &str,
        stdin: Vec<u8>,
    ) -> Reply {
        let mut command = Command::new(&self.path).no_env().stdin(stdin).deadline(self.deadline);
        for (key, value) in &self.env {
            command = command.env(key, value);
        }
        for (key, value) in [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", ifname),
        ] {
            if !value.is_empty() {
                command = command.env(key, value);
            }
        }
        Reply::new(command.output())
    }

    /// ADD of `eth0`; the container's name is its id.
    pub fn add(&self, container: &Container, conf: &Value) -> Reply {
        self.on("ADD", container, conf)
    }

    /// CHECK of `eth0`; the container's name is its id.
    pub fn check(&self, container: &Container, conf: &Value) -> Reply {
        self.on("CHECK", container, conf)
    }

    /// DEL of `eth0`; the container's name is its id.
    pub fn del(&self, container: &Container, conf: &Value) -> Reply {
        self.on("DEL", container, conf)
    }

    fn on(&self, verb: &str, container: &Container, conf: &Value) -> Reply {
        let netns = container.path().display().to_string();
        self.call(verb, container.name(), &netns, "eth0", conf)
    }
}

impl Reply {
    fn new(output: Output) -> Self {
        let text = output.stdout.trim();
        let json = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(text).unwrap_or_else(|error| {
                panic!("the plugin's stdout is not JSON: {error}\n{output}")
            })
        };
        Self { output, json }
    }

    /// The result; panics unless the call succeeded.
    #[track_caller]
    pub fn success(self) -> Value {
        assert!(self.output.ok(), "{}", self.output);
        self.json
    }

    /// The error; panics unless the call failed with a CNI error object (code and msg).
    #[track_caller]
    pub fn failure(self) -> Value {
        assert!(!self.output.ok(), "expected a failure: {}", self.output);
        assert!(
            self.json["code"].is_u64() && self.json["msg"].is_string(),
            "the error is not a CNI error object: {}",
            self.output
        );
        self.json
    }

    /// Whether the call succeeded.
    pub fn ok(&self) -> bool {
        self.output.ok()
    }
}

impl PortAgent {
    pub(crate) fn find() -> Self {
        Self { path: binary("ovs-port-agent") }
    }

    /// Where the binary is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A call with these arguments, blanks between them.
    pub fn command(&self, args: &str) -> Command {
        Command::new(&self.path).args(args.split_whitespace()).deadline(Duration::from_secs(60))
    }

    /// Runs it; panics unless it succeeds. Returns its stdout.
    pub fn run(&self, args: &str) -> String {
        self.command(args).run()
    }

    /// Runs it, whatever its end.
    pub fn output(&self, args: &str) -> Output {
        self.command(args).output()
    }
}

/// Where this executable is. Asked before the thread leaves the machine's mounts: in a chroot the
/// kernel has no good name for it afterwards.
pub(crate) fn own() -> &'static Path {
    static OWN: OnceLock<PathBuf> = OnceLock::new();
    OWN.get_or_init(|| std::env::current_exe().expect("the executable has a path"))
}

/// Finds a binary of this build: beside the test executable or one directory up.
pub(crate) fn binary(name: &str) -> PathBuf {
    let own = own();
    let path =
        own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    let path = path.unwrap_or_else(|| {
        panic!("no binary {name} near {}: build it with {BUILD}", own.display())
    });
    if let Some(source) = newer_source(&path) {
        panic!("{} is older than {source}: build it with {BUILD}", path.display());
    }
    path
}

/// A source of the binary, from the list that cargo leaves beside it, changed since.
fn newer_source(path: &Path) -> Option<String> {
    let built = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    let list = fs::read_to_string(path.with_extension("d")).ok()?;
    let sources = list.split_once(": ")?.1.split_whitespace();
    let newer = |source: &&str| {
        fs::metadata(source).and_then(|meta| meta.modified()).is_ok_and(|time| time > built)
    };
    sources.into_iter().find(newer).map(str::to_owned)
}
