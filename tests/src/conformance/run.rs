//! Puts a plugin before the cases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::answer;
use super::case::{Call, Case, Expect, Fact, Parallel, Step};
use super::picture::{self, Picture};
use super::profile::{Kind, Profile};
use crate::command::{Command, Output, PATH};
use crate::container::Container;
use crate::host::Host;

/// Where Debian and everybody else keep plugins.
const CNI_PATH: &str = "/opt/cni/bin:/usr/lib/cni";

/// A namespace that is not there.
const NOWHERE: &str = "/run/netns/gone";

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As the specification wants it.
    Passed,
    /// Not so, one sentence each.
    Failed(Vec<String>),
    /// Not so, as the profile knows; with its line.
    Deviates(String),
    /// It says nothing about this plugin: the reason.
    Apart(String),
}

/// A case and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Name of the case.
    pub case: String,
    /// What it is about.
    pub about: String,
    /// The sentence it holds the plugin to.
    pub spec: String,
    /// The end.
    pub verdict: Verdict,
}

/// A plugin on a private host.
#[derive(Debug)]
pub struct Suite {
    plugin: PathBuf,
    profile: Profile,
    versions: Vec<String>,
    /// Containers so far: each case has its own.
    used: usize,
    host: Host,
}

impl Suite {
    /// Makes the host ready and plugs one container in and out: what a network's first container
    /// makes, and its last leaves, is no leak.
    ///
    /// # Errors
    /// One sentence: then nothing can be said about the plugin.
    pub fn new(plugin: &Path, profile: Profile) -> Result<Self, String> {
        let host = if profile.switch { Host::new() } else { Host::bare() };
        let dir = plugin.parent().unwrap_or(Path::new("/")).display();
        let prepared = host.try_sh(&format!("PATH={dir}:$PATH\n{}", profile.prepare));
        if !prepared.ok() {
            return Err(format!("the profile's preparation failed: {prepared}"));
        }
        let mut this =
            Self { plugin: plugin.to_owned(), profile, versions: Vec::new(), used: 0, host };
        let said = this.command("VERSION").stdin(r#"{"cniVersion":"1.0.0"}"#).output();
        let answer: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let all = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
        let known = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        let known = known.into_iter().filter(|version| all.iter().any(|one| one == version));
        this.versions = known.map(str::to_owned).collect();
        if this.versions.is_empty() {
            return Err(format!("no version that this suite knows is supported: {said}"));
        }
        this.warm()?;
        Ok(this)
    }

    /// Versions it supports of those that this suite knows, oldest first.
    pub fn versions(&self) -> &[String] {
        &self.versions
    }

    fn warm(&mut self) -> Result<(), String> {
        let case = Case {
            name: "warm".to_owned(),
            about: String::new(),
            spec: String::new(),
            kinds: Vec::new(),
            needs: Vec::new(),
            since: None,
            every_version: false,
            steps: Vec::new(),
        };
        let version = self.versions[self.versions.len() - 1].clone();
        let mut stage = Stage::new(self, &case, &version);
        for verb in ["ADD", "DEL"] {
            let call = Call {
                verb: verb.to_owned(),
                container: "one".to_owned(),
                ifname: "eth0".to_owned(),
                environment: BTreeMap::new(),
                config: Map::new(),
                stdin: None,
                expect: if verb == "ADD" { Expect::Result } else { Expect::Silence },
            };
            stage.call(&call);
        }
        let wrong = stage.wrong;
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("a plain ADD and DEL: {}", wrong.join("; ")))
        }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let verdict = match self.apart(case) {
            Some(why) => Verdict::Apart(why),
            None => self.judge(case),
        };
        Outcome {
            case: case.name.clone(),
            about: case.about.clone(),
            spec: case.spec.clone(),
            verdict,
        }
    }

    fn apart(&self, case: &Case) -> Option<String> {
        if !case.kinds.is_empty() && !case.kinds.contains(&self.profile.kind) {
            return Some("another kind of plugin".to_owned());
        }
        if let Some(need) = case.needs.iter().find(|need| !self.profile.provides.contains(need)) {
            return Some(format!("it does not offer {need:?}"));
        }
        self.fitting(case)
            .is_empty()
            .then(|| format!("from version {} on", case.since.as_deref().unwrap_or("?")))
    }

    /// Versions to run a case with.
    fn fitting(&self, case: &Case) -> Vec<String> {
        let since = case.since.as_deref().unwrap_or("0");
        // All are of one digit each, so their order as texts is their order.
        let fitting = self.versions.iter().filter(|version| version.as_str() >= since);
        let fitting: Vec<_> = fitting.cloned().collect();
        let newest = fitting.len().saturating_sub(1);
        if case.every_version { fitting } else { fitting[newest..].to_vec() }
    }

    fn judge(&mut self, case: &Case) -> Verdict {
        let mut wrong = Vec::new();
        for version in self.fitting(case) {
            let mut stage = Stage::new(self, case, &version);
            stage.play();
            wrong.extend(stage.wrong.into_iter().map(|line| format!("{version}: {line}")));
        }
        match (wrong.is_empty(), self.profile.deviations.get(&case.name)) {
            (true, None) => Verdict::Passed,
            (true, Some(_)) => {
                Verdict::Failed(vec!["listed as a deviation, but it passes".to_owned()])
            }
            (false, Some(line)) => Verdict::Deviates(line.clone()),
            (false, None) => Verdict::Failed(wrong),
        }
    }

    fn command(&self, verb: &str) -> Command {
        Command::new(&self.plugin)
            .no_env()
            .env("PATH", PATH)
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", CNI_PATH)
    }

    /// The name under which a runtime would find it.
    fn kind(&self) -> String {
        self.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// One case under way.
struct Stage<'a> {
    suite: &'a Suite,
    case: &'a Case,
    version: &'a str,
    containers: BTreeMap<String, Container>,
    /// Answers of ADD, by container and interface.
    results: BTreeMap<(String, String), Value>,
    number: usize,
    host: Picture,
    inside: Picture,
    wrong: Vec<String>,
}

impl<'a> Stage<'a> {
    fn new(suite: &'a mut Suite, case: &'a Case, version: &'a str) -> Self {
        suite.used += 1;
        let number = suite.used;
        let suite = &*suite;
        let mut names = BTreeSet::from(["one".to_owned()]);
        for step in &case.steps {
            match step {
                Step::Call(call) => {
                    names.insert(call.container.clone());
                }
                Step::Parallel(all) => names.extend(all.containers.iter().cloned()),
                Step::Remove(name) => {
                    names.insert(name.clone());
                }
                Step::Inside(_) | Step::See(_) => {}
            }
        }
        let made: BTreeMap<_, _> = names
            .into_iter()
            .map(|name| {
                let container = suite.host.container(&format!("{name}-{number}"));
                if suite.profile.kind == Kind::Loopback {
                    container.ip("link set lo down");
                }
                (name, container)
            })
            .collect();
        let inside = Picture::of_container(&made["one"]);
        let host = Picture::of_host(&suite.host, &suite.profile.claims);
        Self {
            suite,
            case,
            version,
            containers: made,
            results: BTreeMap::new(),
            number,
            host,
            inside,
            wrong: Vec::new(),
        }
    }

    fn play(&mut self) {
        for step in &self.case.steps {
            match step {
                Step::Call(call) => self.call(call),
                Step::Parallel(all) => self.parallel(all),
                Step::Inside(script) => {
                    let done = self.containers["one"].try_exec(script);
                    if !done.ok() {
                        self.wrong.push(format!("in the container: {done}"));
                    }
                }
                Step::Remove(name) => {
                    if let Some(container) = self.containers.remove(name) {
                        container.remove();
                    }
                }
                Step::See(facts) => facts.iter().for_each(|fact| self.see(*fact)),
            }
        }
    }

    fn call(&mut self, call: &Call) {
        let output = self.command(call).output();
        self.heard(call, &output);
    }

    /// What the plugin is started with.
    fn command(&self, call: &Call) -> Command {
        let mut variables: BTreeMap<&str, Option<String>> = BTreeMap::from([
            ("CNI_CONTAINERID", Some(format!("{}-{}", call.container, self.number))),
            ("CNI_NETNS", Some(self.netns(&call.container))),
            ("CNI_IFNAME", Some(self.ifname(call))),
        ]);
        for (key, value) in &call.environment {
            variables.insert(key, value.clone());
        }
        let mut command = self.suite.command(&call.verb);
        for (key, value) in variables {
            if let Some(value) = value {
                command = command.env(key, value);
            }
        }
        let stdin = call.stdin.clone().unwrap_or_else(|| self.config(call).to_string());
        command.stdin(stdin)
    }

    fn netns(&self, container: &str) -> String {
        let path = self.containers.get(container).map(|one| one.path().display().to_string());
        path.unwrap_or_else(|| NOWHERE.to_owned())
    }

    /// A loopback plugin knows one interface.
    fn ifname(&self, call: &Call) -> String {
        match self.suite.profile.kind {
            Kind::Loopback if call.ifname == "eth0" => "lo".to_owned(),
            _ => call.ifname.clone(),
        }
    }

    fn config(&self, call: &Call) -> Value {
        let mut config = self.suite.profile.config.clone();
        config.insert("cniVersion".to_owned(), self.version.into());
        config.insert("name".to_owned(), "conformance".into());
        config.insert("type".to_owned(), self.suite.kind().into());
        for (key, value) in &call.config {
            match value {
                Value::Null => config.remove(key),
                value => config.insert(key.clone(), self.filled(value, call)),
            };
        }
        Value::Object(config)
    }

    /// A value of a case with its placeholders filled in.
    fn filled(&self, value: &Value, call: &Call) -> Value {
        match value {
            Value::String(text) if text == "$result" => self
                .results
                .get(&(call.container.clone(), call.ifname.clone()))
                .cloned()
                .unwrap_or(Value::Null),
            Value::String(text) if text == "$attachment" => json!({
                "containerID": format!("{}-{}", call.container, self.number),
                "ifname": self.ifname(call),
            }),
            Value::Array(list) => list.iter().map(|one| self.filled(one, call)).collect(),
            other => other.clone(),
        }
    }

    fn heard(&mut self, call: &Call, output: &Output) {
        let at = format!("{} of {}/{}", call.verb, call.container, call.ifname);
        let document: Result<Value, _> = serde_json::from_str(output.stdout.trim());
        let mut wrong = Vec::new();
        if output.timed_out {
            wrong.push("it did not end".to_owned());
        }
        match (&call.expect, document) {
            (Expect::Any, document) => {
                if let (true, "ADD", Ok(result)) = (output.ok(), call.verb.as_str(), document) {
                    self.keep(call, result);
                }
            }
            (Expect::Silence, _) => {
                if !output.ok() || !output.stdout.trim().is_empty() {
                    wrong.push(format!("expected success and silence: {output}"));
                }
            }
            (_, Err(_)) => wrong.push(format!("stdout is no JSON document: {output}")),
            (Expect::Error { code, names, keys }, Ok(document)) => {
                if output.ok() {
                    wrong.push(format!("expected an error: {output}"));
                } else {
                    wrong.extend(answer::error(&document, code, names, keys));
                }
            }
            (_, Ok(_)) if !output.ok() => wrong.push(format!("expected success: {output}")),
            (Expect::Versions, Ok(document)) => wrong.extend(answer::versions(&document)),
            (Expect::Result, Ok(result)) => {
                let (ifname, netns) = (self.ifname(call), self.netns(&call.container));
                let kind = self.suite.profile.kind;
                wrong.extend(answer::result(&result, self.version, kind, &ifname, &netns));
                self.keep(call, result);
            }
        }
        self.wrong.extend(wrong.into_iter().map(|line| format!("{at}: {line}")));
    }

    fn keep(&mut self, call: &Call, result: Value) {
        self.results.insert((call.container.clone(), call.ifname.clone()), result);
    }

    fn parallel(&mut self, all: &Parallel) {
        let calls: Vec<_> = all
            .containers
            .iter()
            .map(|container| Call {
                verb: all.verb.clone(),
                container: container.clone(),
                ifname: "eth0".to_owned(),
                environment: BTreeMap::new(),
                config: Map::new(),
                stdin: None,
                expect: all.expect.clone(),
            })
            .collect();
        let outputs: Vec<_> = std::thread::scope(|scope| {
            let start = |call| {
                let command = self.command(call);
                scope.spawn(move || command.output())
            };
            let running: Vec<_> = calls.iter().map(start).collect();
            running.into_iter().map(|one| one.join().expect("the caller does not panic")).collect()
        });
        for (call, output) in calls.iter().zip(&outputs) {
            self.heard(call, output);
        }
    }

    fn see(&mut self, fact: Fact) {
        let wrong = match fact {
            Fact::Plugged => self.plugged("one"),
            Fact::TwoPlugged => self.plugged("two"),
            // Every container's loopback interface has the same.
            Fact::AddressesDiffer if self.suite.profile.kind == Kind::Loopback => Vec::new(),
            Fact::AddressesDiffer => {
                let all: Vec<_> = self.results.values().flat_map(picture::addresses).collect();
                let once: BTreeSet<_> = all.iter().collect();
                if once.len() == all.len() {
                    Vec::new()
                } else {
                    vec![format!("given twice: {all:?}")]
                }
            }
            Fact::ContainerAsBefore => {
                let now = Picture::of_container(&self.containers["one"]);
                changed("the container", &now.since(&self.inside))
            }
            Fact::HostAsBefore => {
                let now = Picture::of_host(&self.suite.host, &self.suite.profile.claims);
                changed("the host", &now.since(&self.host))
            }
        };
        self.wrong.extend(wrong);
    }

    fn plugged(&self, name: &str) -> Vec<String> {
        let ifname = match self.suite.profile.kind {
            Kind::Ipam => return Vec::new(),
            Kind::Loopback => "lo",
            Kind::Interface => "eth0",
        };
        let key = (name.to_owned(), "eth0".to_owned());
        let Some(result) = self.results.get(&key) else {
            return vec![format!("container {name} has no result")];
        };
        let missing = picture::missing(&self.containers[name], ifname, result);
        missing.into_iter().map(|what| format!("container {name}: {what}")).collect()
    }
}

fn changed(what: &str, difference: &str) -> Vec<String> {
    if difference.is_empty() {
        return Vec::new();
    }
    vec![format!("{what} is not as it was: {difference}")]
}
