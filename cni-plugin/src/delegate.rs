//! IPAM plugins: found in `CNI_PATH`, run with the runtime's variables, under a deadline.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use shared::error::{Fault, Kind};

use crate::environment::{Environment, Verb};
use crate::fields::lookup;
use crate::version::Version;

/// How long an IPAM plugin may take. The dhcp plugin alone retries for up to a minute; kubelet
/// gives a sandbox four.
const DEADLINE: Duration = Duration::from_secs(90);

/// Longest answer in bytes: as much as a runtime may hand to us.
const LONGEST: u64 = 4 << 20;

/// How long a plugin that is just being replaced (ETXTBSY) is tried again; libcni waits as long.
const BUSY_DEADLINE: Duration = Duration::from_secs(1);

/// What can go wrong with an IPAM plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Its type is no file name.
    #[error("ipam.type is \"{kind}\", expected the name of a plugin in CNI_PATH")]
    Type {
        /// What was given.
        kind: String,
    },
    /// It would be ourselves.
    #[error("ipam.type is \"{kind}\", this very plugin, expected an IPAM plugin")]
    Itself {
        /// What was given.
        kind: String,
    },
    /// It is not installed.
    #[error("ipam plugin \"{kind}\" is not in CNI_PATH ({path})")]
    NotFound {
        /// Its type.
        kind: String,
        /// `CNI_PATH`.
        path: String,
    },
    /// The system would not run it.
    #[error("cannot {action} ipam plugin {}", program.display())]
    Run {
        /// "start", "read from".
        action: &'static str,
        /// Its file.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("ipam plugin \"{kind}\" did not finish {verb} within {} s and was killed", waited.as_secs_f32())]
    Timeout {
        /// Its type.
        kind: String,
        /// What it was asked.
        verb: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// It said no.
    #[error("ipam plugin \"{kind}\" failed {verb}: {msg}")]
    Failed {
        /// Its type.
        kind: String,
        /// What it was asked.
        verb: &'static str,
        /// Its code.
        code: u64,
        /// Its message.
        msg: String,
        /// Its details.
        details: String,
    },
    /// What it printed is no result.
    #[error("ipam plugin \"{kind}\" answered {verb} with no result: {why}")]
    Garbage {
        /// Its type.
        kind: String,
        /// What it was asked.
        verb: &'static str,
        /// What was seen.
        why: String,
    },
}

impl Error {
    /// The plugin's own code, if it is the plugin that failed.
    pub(crate) fn code(&self) -> Option<u64> {
        match self {
            Self::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Type { .. } | Self::Itself { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::Missing,
            Self::Timeout { .. } => Kind::Unavailable,
            Self::Run { .. } | Self::Failed { .. } | Self::Garbage { .. } => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => {
                Some("install it (containernetworking-plugins), or leave ipam out".to_owned())
            }
            Self::Failed { details, .. } if !details.is_empty() => Some(details.clone()),
            _ => None,
        }
    }
}

/// Which attachment an IPAM plugin is asked about: its `CNI_*` variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// `CNI_CONTAINERID`.
    pub(crate) container: &'a str,
    /// `CNI_IFNAME`.
    pub(crate) ifname: &'a str,
    /// `CNI_NETNS`.
    pub(crate) netns: &'a str,
    /// `CNI_ARGS`.
    pub(crate) args: &'a str,
}

impl<'a> Subject<'a> {
    /// The attachment this call is about.
    pub(crate) fn of(call: &'a Environment) -> Self {
        Self {
            container: &call.container,
            ifname: call.ifname.as_ref().map_or("", |name| name.as_str()),
            netns: call.netns.as_deref().unwrap_or_default(),
            args: &call.args,
        }
    }
}

/// One IPAM plugin that is installed.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    kind: &'a str,
    program: PathBuf,
    path: &'a str,
    deadline: Duration,
}

impl<'a> Delegate<'a> {
    /// Finds `kind` in `CNI_PATH`. A type with a slash would run any file of the host.
    pub(crate) fn find(
        kind: &'a str,
        own_type: Option<&str>,
        call: &'a Environment,
    ) -> Result<Self, Error> {
        if kind.contains(['/', '\0']) || matches!(kind, "" | "." | "..") {
            return Err(Error::Type { kind: kind.to_owned() });
        }
        if own_type == Some(kind) {
            return Err(Error::Itself { kind: kind.to_owned() });
        }
        let found = call.plugin_dirs().map(|dir| dir.join(kind)).find(|file| file.is_file());
        match found {
            Some(program) => Ok(Self { kind, program, path: &call.path, deadline: DEADLINE }),
            None => Err(Error::NotFound { kind: kind.to_owned(), path: call.path.clone() }),
        }
    }

    /// Asks for addresses. `config` is brought to a version the plugin speaks, and stays so.
    pub(crate) fn add(
        &self,
        config: &mut Map<String, Value>,
        subject: Subject<'_>,
    ) -> Result<Map<String, Value>, Error> {
        let answer = self.speak(Verb::Add, config, subject)?.unwrap_or_default();
        match serde_json::from_slice(&answer) {
            Ok(Value::Object(result)) => Ok(result),
            Ok(_) => Err(self.garbage(Verb::Add, "no JSON object")),
            Err(error) => Err(self.garbage(Verb::Add, &error.to_string())),
        }
    }

    /// Asks anything that has no result. A plugin that is too old for GC or STATUS cannot be asked:
    /// that is no failure.
    pub(crate) fn ask(
        &self,
        verb: Verb,
        config: &Map<String, Value>,
        subject: Subject<'_>,
    ) -> Result<(), Error> {
        self.speak(verb, &mut config.clone(), subject).map(drop)
    }

    /// Runs the plugin; if it does not know the version of `config`, once more with the newest it
    /// does. `None` if no such version has the verb. GC and STATUS are rare, and old plugins take
    /// them for nonsense: there the version is asked first.
    fn speak(
        &self,
        verb: Verb,
        config: &mut Map<String, Value>,
        subject: Subject<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        if verb.since() > Version::V1_0_0
            && self.common_version(subject)?.is_none_or(|version| version < verb.since())
        {
            return Ok(None);
        }
        match self.run(verb, config, subject) {
            Err(error) if error.code() == Some(1) => {
                let Some(version) = self.common_version(subject)? else { return Err(error) };
                if version < verb.since() {
                    return Ok(None);
                }
                config.retain(|key, _| !key.eq_ignore_ascii_case("cniVersion"));
                config.insert("cniVersion".to_owned(), version.as_str().into());
                self.run(verb, config, subject).map(Some)
            }
            other => other.map(Some),
        }
    }

    /// The newest version both sides speak.
    fn common_version(&self, subject: Subject<'_>) -> Result<Option<Version>, Error> {
        let Value::Object(question) = json!({"cniVersion": Version::LATEST.as_str()}) else {
            return Ok(None);
        };
        let answer = self.run(Verb::Version, &question, subject)?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| self.garbage(Verb::Version, &error.to_string()))?;
        let versions = answer.as_object().and_then(|map| lookup(map, "supportedVersions"));
        let versions = versions.and_then(Value::as_array).into_iter().flatten();
        Ok(versions.filter_map(|text| Version::from_text(text.as_str()?)).max())
    }

    /// Runs the plugin once; its stdout on success.
    fn run(
        &self,
        verb: Verb,
        config: &Map<String, Value>,
        subject: Subject<'_>,
    ) -> Result<Vec<u8>, Error> {
        let stdin =
            serde_json::to_vec(config).map_err(|error| self.garbage(verb, &error.to_string()))?;
        let mut child = self.start(verb, subject)?;
        let (sender, receiver) = mpsc::channel();
        if let Some(mut pipe) = child.stdin.take() {
            // A plugin that never reads must not hold us up; one that ends early is no error.
            std::thread::spawn(move || drop(pipe.write_all(&stdin)));
        }
        if let Some(mut pipe) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let read = pipe.by_ref().take(LONGEST + 1).read_to_end(&mut text);
                // The pipe is closed before anybody waits for the plugin's end: one that would go
                // on for ever ends by that.
                drop(pipe);
                drop(sender.send(read.map(|_| text)));
            });
        }
        let start = Instant::now();
        let received = receiver.recv_timeout(self.deadline);
        let status =
            wait(&mut child, start, self.deadline).map_err(|e| self.system("wait for", e))?;
        let (Ok(received), Some(status)) = (received, status) else {
            return Err(Error::Timeout {
                kind: self.kind.to_owned(),
                verb: verb.as_str(),
                waited: self.deadline,
            });
        };
        let text = received.map_err(|source| self.system("read from", source))?;
        if text.len() as u64 > LONGEST {
            return Err(self.garbage(verb, &format!("it is longer than {LONGEST} bytes")));
        }
        if status.success() {
            return Ok(text);
        }
        Err(self.failure(verb, &text, &status.to_string()))
    }

    fn start(&self, verb: Verb, subject: Subject<'_>) -> Result<Child, Error> {
        let start = Instant::now();
        loop {
            let spawned = Command::new(&self.program)
                .env("CNI_COMMAND", verb.as_str())
                .env("CNI_CONTAINERID", subject.container)
                .env("CNI_IFNAME", subject.ifname)
                .env("CNI_NETNS", subject.netns)
                .env("CNI_ARGS", subject.args)
                .env("CNI_PATH", self.path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // What it starts is killed with it.
                .process_group(0)
                .spawn();
            match spawned {
                Err(error)
                    if error.kind() == ErrorKind::ExecutableFileBusy
                        && start.elapsed() < BUSY_DEADLINE =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other.map_err(|source| self.system("start", source)),
            }
        }
    }

    fn failure(&self, verb: Verb, stdout: &[u8], status: &str) -> Error {
        let said: Option<Value> = serde_json::from_slice(stdout).ok();
        let said = said.as_ref().and_then(Value::as_object);
        let text = |key| said.and_then(|map| lookup(map, key)?.as_str()).unwrap_or_default();
        let code = said.and_then(|map| lookup(map, "code")?.as_u64());
        Error::Failed {
            kind: self.kind.to_owned(),
            verb: verb.as_str(),
            code: code.filter(|code| *code > 0).unwrap_or(999),
            msg: if text("msg").is_empty() { status.to_owned() } else { text("msg").to_owned() },
            details: text("details").to_owned(),
        }
    }

    fn garbage(&self, verb: Verb, why: &str) -> Error {
        Error::Garbage { kind: self.kind.to_owned(), verb: verb.as_str(), why: why.to_owned() }
    }

    fn system(&self, action: &'static str, source: io::Error) -> Error {
        Error::Run { action, program: self.program.clone(), source }
    }
}

/// Waits for the end of a child whose output has ended, until the deadline; then kills it and
/// returns `None`.
fn wait(child: &mut Child, start: Instant, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= deadline {
            if let Ok(group) = i32::try_from(child.id()) {
                killpg(Pid::from_raw(group), Signal::SIGKILL)?;
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs `script` as an IPAM plugin that has `deadline`.
    fn add(script: &str, deadline: Duration, config: &Value) -> Result<Map<String, Value>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fake");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let delegate = Delegate { kind: "fake", program, path: "/x", deadline };
        let subject = Subject { container: "web", ifname: "eth0", netns: "/n", args: "A=1" };
        delegate.add(&mut config.as_object().unwrap().clone(), subject)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn one_that_hangs_is_killed_at_the_deadline() {
        for script in ["exec sleep 60", "exec >&-; sleep 60"] {
            let start = Instant::now();
            let error = add(script, Duration::from_millis(300), &json!({})).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn one_that_reads_nothing_holds_nobody_up() {
        let config = json!({"name": "x".repeat(1 << 20)});
        assert_eq!(add("echo '{}'", LONG, &config).unwrap(), Map::new());
    }

    #[test]
    fn one_that_never_stops_talking_is_cut_off() {
        let start = Instant::now();
        let error = add("exec yes", LONG, &json!({})).unwrap_err();
        assert!(error.to_string().contains("longer than 4194304 bytes"), "{error}");
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn it_gets_the_variables_and_the_configuration() {
        let script = r#"read -r conf
            printf '{"conf": %s, "vars": "%s"}' "$conf" \
              "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS $CNI_PATH""#;
        let answer = add(script, LONG, &json!({"name": "net"})).unwrap();
        assert_eq!(answer["vars"], "ADD web eth0 /n A=1 /x");
        assert_eq!(answer["conf"], json!({"name": "net"}));
    }

    #[test]
    fn one_that_is_too_old_is_asked_in_its_own_version() {
        let script = r#"conf=$(cat)
            case "$CNI_COMMAND $conf" in
            VERSION*) echo '{"SupportedVersions": ["0.1.0", "0.4.0", "9.0.0"]}' ;;
            *'"0.4.0"'*) echo '{"asked": "0.4.0"}' ;;
            *) echo '{"code": 1, "msg": "too new"}'; exit 1 ;;
            esac"#;
        let answer = add(script, LONG, &json!({"CniVersion": "1.1.0"})).unwrap();
        assert_eq!(answer["asked"], "0.4.0");
    }
}
