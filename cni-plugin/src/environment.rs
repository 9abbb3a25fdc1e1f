//! The `CNI_*` variables: a runtime's call, checked as far as its verb needs them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use shared::name::IfName;

use crate::version::Version;

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Plug in.
    Add,
    /// Unplug.
    Del,
    /// Is it as it was made?
    Check,
    /// Remove what the runtime no longer knows.
    Gc,
    /// Would an ADD succeed?
    Status,
    /// Which versions?
    Version,
}

impl Verb {
    /// The value of `CNI_COMMAND`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    /// The first version that has it.
    pub(crate) fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// The variables it cannot do without. STATUS needs `CNI_PATH` only to ask an IPAM plugin.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }
}

/// What is wrong with the variables.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// Some are missing or empty.
    #[error("required env variables [{}] missing", names.join(","))]
    Missing {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// No such verb.
    #[error("CNI_COMMAND is \"{value}\", expected ADD, DEL, CHECK, GC, STATUS or VERSION")]
    Verb {
        /// What was given.
        value: String,
    },
    /// A value that cannot be used.
    #[error("{name} is \"{value}\", expected {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// The verb.
    pub(crate) verb: Verb,
    /// `CNI_CONTAINERID`; empty where the verb has none.
    pub(crate) container: String,
    /// `CNI_IFNAME`.
    pub(crate) ifname: Option<IfName>,
    /// `CNI_NETNS`, as the runtime wrote it.
    pub(crate) netns: Option<String>,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    /// `CNI_PATH`.
    pub(crate) path: String,
    /// Whether the plugin's own namespace may be the container's (`CNI_NETNS_OVERRIDE`).
    pub(crate) netns_override: bool,
}

impl Environment {
    /// Reads the variables through `get`; `None` without `CNI_COMMAND` (nobody called a plugin).
    ///
    /// An empty variable is a missing one: runtimes export all of them always.
    pub(crate) fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Error> {
        let text = |name: &'static str| -> Result<Option<String>, Error> {
            match get(name).filter(|value| !value.is_empty()).map(OsString::into_string) {
                None => Ok(None),
                Some(Ok(text)) => Ok(Some(text)),
                Some(Err(bytes)) => Err(Error::Value {
                    name,
                    value: bytes.to_string_lossy().into_owned(),
                    expected: "UTF-8",
                }),
            }
        };
        let Some(command) = text("CNI_COMMAND")? else { return Ok(None) };
        let verb = Verb::from_text(&command).ok_or(Error::Verb { value: command })?;
        let missing: Vec<_> = verb
            .needs()
            .iter()
            .copied()
            .filter(|name| get(name).is_none_or(|value| value.is_empty()))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Missing { names: missing });
        }
        let wants = |name| verb.needs().contains(&name);
        let mut container = String::new();
        let mut ifname = None;
        if wants("CNI_CONTAINERID") {
            container = text("CNI_CONTAINERID")?.unwrap_or_default();
            if !is_identifier(&container) {
                return Err(Error::Value {
                    name: "CNI_CONTAINERID",
                    value: container,
                    expected: "letters, digits, \"_\", \".\" or \"-\", a letter or digit first",
                });
            }
            let name = text("CNI_IFNAME")?.unwrap_or_default();
            ifname = Some(name.parse().map_err(|_| Error::Value {
                name: "CNI_IFNAME",
                value: name,
                expected: "1 to 15 letters, digits, \"_\", \".\" or \"-\", a letter or digit first",
            })?);
        }
        let netns = text("CNI_NETNS")?;
        Ok(Some(Self {
            verb,
            container,
            ifname,
            netns,
            args: text("CNI_ARGS")?.unwrap_or_default(),
            path: text("CNI_PATH")?.unwrap_or_default(),
            netns_override: matches!(text("CNI_NETNS_OVERRIDE")?.as_deref(), Some("1" | "true")),
        }))
    }

    /// The directories of `CNI_PATH`, in order.
    pub(crate) fn plugin_dirs(&self) -> impl Iterator<Item = &Path> {
        self.path.split(':').filter(|dir| !dir.is_empty()).map(Path::new)
    }

    /// `CNI_NETNS` as a path.
    pub(crate) fn netns_path(&self) -> Option<PathBuf> {
        self.netns.as_ref().map(PathBuf::from)
    }
}

/// Container ids and network names (CNI 1.1.0, "Parameters"): `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The program that called us, as its process is named: "containerd", "crio", "podman"; `None` if
/// it is outside our process id namespace.
pub(crate) fn caller() -> io::Result<Option<String>> {
    let path = format!("/proc/{}/comm", std::os::unix::process::parent_id());
    match std::fs::read_to_string(path) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<Environment>, Error> {
        Environment::read(|name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    const FULL: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "web-1"),
        ("CNI_NETNS", "/run/netns/web"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin::/usr/lib/cni"),
        ("CNI_ARGS", ""),
    ];

    fn with(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        FULL.iter().map(|&(n, v)| (n, if n == name { value } else { v })).collect()
    }

    #[test]
    fn a_full_call_is_read() {
        let call = read(&FULL).unwrap().unwrap();
        assert_eq!(call.verb, Verb::Add);
        assert_eq!(call.container, "web-1");
        assert_eq!(call.netns.as_deref(), Some("/run/netns/web"));
        assert_eq!(
            call.plugin_dirs().collect::<Vec<_>>(),
            [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]
        );
        assert!(!call.netns_override);
    }

    #[test]
    fn no_command_is_no_call() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("CNI_COMMAND", "")]).unwrap().is_none());
    }

    #[test]
    fn all_missing_variables_go_into_one_error_and_empty_is_missing() {
        let vars = [("CNI_COMMAND", "ADD"), ("CNI_PATH", "/x"), ("CNI_NETNS", "")];
        assert_eq!(
            read(&vars).unwrap_err().to_string(),
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
        );
    }

    #[test]
    fn each_verb_asks_only_for_what_it_needs() {
        for (verb, names) in [
            ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
            ("GC", "CNI_PATH"),
        ] {
            let error = read(&[("CNI_COMMAND", verb)]).unwrap_err().to_string();
            assert_eq!(error, format!("required env variables [{names}] missing"), "{verb}");
        }
        for verb in ["STATUS", "VERSION"] {
            assert!(read(&[("CNI_COMMAND", verb)]).is_ok(), "{verb}");
        }
        // libcni's dummies for VERSION are no names, and nobody looks at them.
        let dummy = [("CNI_COMMAND", "VERSION"), ("CNI_IFNAME", "a/b"), ("CNI_NETNS", "dummy")];
        assert!(read(&dummy).is_ok());
    }

    #[test]
    fn hostile_names_are_refused() {
        for id in ["-web", ".web", "a/b", "../x", "a b", "a\n", "é"] {
            let error = read(&with("CNI_CONTAINERID", id)).unwrap_err();
            assert!(matches!(error, Error::Value { name: "CNI_CONTAINERID", .. }), "{id}");
        }
        for name in [".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            let error = read(&with("CNI_IFNAME", name)).unwrap_err();
            assert!(matches!(error, Error::Value { name: "CNI_IFNAME", .. }), "{name}");
        }
        assert!(matches!(read(&with("CNI_COMMAND", "add")), Err(Error::Verb { .. })));
    }

    #[test]
    fn the_override_is_read_as_libcni_reads_it() {
        for (value, expected) in [("1", true), ("true", true), ("0", false), ("yes", false)] {
            let mut vars = FULL.to_vec();
            vars.push(("CNI_NETNS_OVERRIDE", value));
            assert_eq!(read(&vars).unwrap().unwrap().netns_override, expected, "{value}");
        }
    }
}
