//! The plugin `ovs-agent`: one call, from a network on stdin to one JSON document on stdout. With
//! `CNI_*` variables it is a CNI plugin; with a verb as its first argument one of netavark, which
//! is Podman's.
//!
//! stdout is protocol: it is written once, here. Logs go to stderr, and only when something is odd.

mod add;
mod addresses;
mod args;
mod call;
mod check;
mod compat;
mod del;
mod delegate;
mod environment;
mod error;
mod fields;
mod gc;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
mod log;
mod memo;
mod netavark;
mod netconf;
mod network;
mod ports;
mod request;
mod result;
mod rootless;
mod status;
mod stdin;
mod subnet;
mod version;
mod vlan;

use std::io;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::netconf::Envelope;
use crate::version::Version;

const ABOUT: &str = "\
ovs-agent plugs containers into Open vSwitch bridges. It is a CNI plugin: a container runtime
calls it with CNI_* variables and a network configuration on stdin. Podman 5 calls it through
netavark, with a verb as its argument (docs/podman.md).

Try it by hand on a host where \"ovs-port-agent up\" has been run:

  ip netns add demo
  echo '{\"cniVersion\": \"1.0.0\", \"name\": \"demo\", \"type\": \"ovs-agent\"}' |
    CNI_COMMAND=ADD CNI_CONTAINERID=demo CNI_NETNS=/run/netns/demo CNI_IFNAME=eth0 \\
    CNI_PATH=/opt/cni/bin ovs-agent
  ip netns exec demo ping 10.200.0.1

The same with CNI_COMMAND=DEL unplugs it. Install it as /opt/cni/bin/ovs-agent; what a network
configuration may say is in docs/cni.md.
";

/// One call: reads variables, arguments and stdin, writes stdout.
pub fn main() -> ExitCode {
    // Nothing else sets one.
    let _ = tracing::subscriber::set_global_default(log::Log::default());
    match Environment::read(|name| std::env::var_os(name)) {
        Ok(Some(environment)) => plugin(&environment),
        Ok(None) => {
            let mut args = std::env::args_os().skip(1);
            let verb = args.next();
            match verb.and_then(|verb| netavark::Verb::from_text(verb.to_str()?)) {
                Some(verb) => netavark::run(verb, args.next()),
                None => by_hand(),
            }
        }
        Err(error) => fail(&error.into(), Version::LATEST),
    }
}

/// A call by a runtime.
fn plugin(environment: &Environment) -> ExitCode {
    if environment.verb == Verb::Version {
        let versions = Version::texts();
        let latest = Version::LATEST.as_str();
        return print(&json!({"cniVersion": latest, "supportedVersions": versions}));
    }
    let envelope = stdin::read().map_err(Error::Stdin).and_then(|text| Ok(Envelope::parse(&text)?));
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(error) => return fail(&error, Version::LATEST),
    };
    let version = envelope.version().unwrap_or(Version::LATEST);
    match rootless::refuse() {
        Ok(()) => {}
        // Nothing can have been plugged in, and Podman deletes after every failure.
        Err(rootless::Error::Podman) if environment.verb == Verb::Del => return ExitCode::SUCCESS,
        Err(error) => return fail(&error.into(), version),
    }
    let done = match environment.verb {
        Verb::Add => return add(environment, envelope, version),
        Verb::Del => del::run(environment, envelope),
        Verb::Check => check::run(environment, envelope),
        Verb::Gc => gc::run(environment, envelope),
        Verb::Status => status::run(environment, envelope),
        Verb::Version => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, version),
    }
}

/// ADD. A result that nobody could receive is undone: the runtime does not know of it.
fn add(environment: &Environment, envelope: Envelope, version: Version) -> ExitCode {
    let result = match add::run(environment, envelope.clone()) {
        Ok(result) => result,
        Err(error) => return fail(&error, version),
    };
    let code = print(&result);
    if code != ExitCode::SUCCESS
        && let Err(error) = del::run(environment, envelope)
    {
        tracing::error!("cannot undo the ADD: {}", shared::error::chain(&error));
    }
    code
}

/// No runtime: somebody wants to know what this is.
fn by_hand() -> ExitCode {
    let about = match std::env::args().nth(1).as_deref() {
        Some("--help" | "-h") => return write(io::stdout(), ABOUT),
        Some("--version" | "-V") => {
            return write(io::stdout(), &format!("ovs-agent {}\n", env!("CARGO_PKG_VERSION")));
        }
        _ => format!("{ABOUT}\nCNI versions: {}\n", Version::texts().join(", ")),
    };
    write(io::stderr(), &about)
}

fn fail(error: &Error, version: Version) -> ExitCode {
    // If even the error cannot be delivered, the exit code is all there is.
    let _ = print(&error.document(version));
    ExitCode::FAILURE
}

fn print(document: &Value) -> ExitCode {
    write(io::stdout(), &format!("{document}\n"))
}

fn write(mut to: impl io::Write, text: &str) -> ExitCode {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}
