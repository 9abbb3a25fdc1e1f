//! Podman 5: the plugin API 1.0.0 of netavark. A verb as the first argument, JSON on stdin, one
//! JSON document on stdout.

mod create;
mod error;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod network;
mod reply;
mod setup;
mod teardown;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use shared::config::{Config, DEFAULT_PATH, SYSFS};
use shared::error::sentence;

use self::error::Error;
use crate::{print, rootless, stdin, write};

/// The version of the API that is spoken here.
const API_VERSION: &str = "1.0.0";

/// What Podman wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Look at a new network, and edit it.
    Create,
    /// Plug in.
    Setup,
    /// Unplug.
    Teardown,
    /// Which versions?
    Info,
}

impl Verb {
    /// The verb, if it is one.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        match text {
            "create" => Some(Self::Create),
            "setup" => Some(Self::Setup),
            "teardown" => Some(Self::Teardown),
            "info" => Some(Self::Info),
            _ => None,
        }
    }
}

/// A call by netavark or Podman; `netns` is the argument behind the verb.
pub(crate) fn run(verb: Verb, netns: Option<OsString>) -> ExitCode {
    let done = match verb {
        Verb::Info => Ok(Some(info())),
        Verb::Create => guarded().and_then(|input| create::run(&input, &config()?)).map(Some),
        Verb::Setup => return setup(netns),
        // What a container left behind must go, whoever calls.
        Verb::Teardown => read().and_then(|input| teardown::run(&input)).map(|()| None),
    };
    match done {
        Ok(Some(document)) => print(&document),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Podman never undoes a setup that failed, so one whose answer nobody can read is undone here.
fn setup(netns: Option<OsString>) -> ExitCode {
    let input = match guarded() {
        Ok(input) => input,
        Err(error) => return fail(&error),
    };
    let done =
        netns.map(PathBuf::from).ok_or(Error::NoNetns).and_then(|netns| setup::run(&input, &netns));
    let code = match done {
        Ok(document) => print(&document),
        Err(error) => return fail(&error),
    };
    if code != ExitCode::SUCCESS
        && let Err(error) = teardown::run(&input)
    {
        tracing::error!("cannot undo the setup: {}", sentence(&error));
    }
    code
}

/// The host's configuration.
fn config() -> Result<Config, Error> {
    Ok(Config::load(Path::new(DEFAULT_PATH), Path::new(SYSFS))?)
}

fn info() -> Value {
    json!({"version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION})
}

/// stdin, unless Podman is rootless. A plain user has no other way to run this.
fn guarded() -> Result<Map<String, Value>, Error> {
    rootless::refuse().map_err(|_| rootless::Error::Podman)?;
    read()
}

fn read() -> Result<Map<String, Value>, Error> {
    let text = stdin::read().map_err(Error::Stdin)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(input)) => Ok(input),
        Ok(other) => Err(Error::NoObject { value: crate::fields::shown(&other) }),
        Err(source) => Err(Error::Json { source }),
    }
}

/// Podman refuses an answer with any other key beside `error`.
fn fail(error: &Error) -> ExitCode {
    // If even the error cannot be delivered, the exit code is all there is.
    let _ = write(io::stdout(), &format!("{}\n", json!({"error": sentence(error)})));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
