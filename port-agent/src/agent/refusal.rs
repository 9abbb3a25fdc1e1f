//! What a refused D-Bus call is answered with: a name that programs can tell apart, and a sentence.

use shared::error::{Fault, Kind, sentence};
use zbus::DBusError;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use crate::Failure;

/// A call that was not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    name: &'static str,
    text: String,
}

impl Refusal {
    /// The call itself makes no sense.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self { name: name(Kind::Invalid), text: text.into() }
    }

    /// The caller may not do this.
    pub(crate) fn denied(text: impl Into<String>) -> Self {
        Self { name: "org.freedesktop.DBus.Error.AccessDenied", text: text.into() }
    }

    /// The engine could not do it.
    pub(crate) fn fault(fault: &dyn Fault) -> Self {
        Self { name: name(fault.kind()), text: sentence(fault) }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { name: name(Kind::System), text: failure.to_string() }
    }
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Self {
        Self { name: name(Kind::System), text: error.to_string() }
    }
}

/// The D-Bus name of a kind of error: the well-known one where there is one.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "org.freedesktop.DBus.Error.InvalidArgs",
        Kind::Unsupported => "org.freedesktop.DBus.Error.NotSupported",
        Kind::Exhausted => "org.freedesktop.DBus.Error.LimitsExceeded",
        Kind::System => "org.freedesktop.DBus.Error.Failed",
        Kind::Missing => "dev.ovs.PortAgent1.Error.NotFound",
        Kind::Conflict => "dev.ovs.PortAgent1.Error.Conflict",
        Kind::Unavailable => "dev.ovs.PortAgent1.Error.Unavailable",
        Kind::Busy => "dev.ovs.PortAgent1.Error.Busy",
        Kind::Broken => "dev.ovs.PortAgent1.Error.Broken",
    }
}

impl DBusError for Refusal {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name).build(&self.text)
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_legal_name_of_its_own() {
        let kinds = [
            Kind::Invalid,
            Kind::Unsupported,
            Kind::Missing,
            Kind::Conflict,
            Kind::Exhausted,
            Kind::Unavailable,
            Kind::Busy,
            Kind::Broken,
            Kind::System,
        ];
        let names: std::collections::BTreeSet<_> = kinds.map(name).into();
        assert_eq!(names.len(), kinds.len());
        for name in names {
            ErrorName::try_from(name).unwrap();
        }
        for (refusal, expected) in [
            (Refusal::invalid("x"), "org.freedesktop.DBus.Error.InvalidArgs"),
            (Refusal::denied("x"), "org.freedesktop.DBus.Error.AccessDenied"),
            (Refusal::from(Failure::Work("x".into())), "org.freedesktop.DBus.Error.Failed"),
        ] {
            assert_eq!(refusal.name().as_str(), expected);
            assert_eq!(refusal.description(), Some("x"));
        }
    }

    #[test]
    fn a_fault_is_told_with_its_way_out() {
        let error = shared::config::Error::Missing { path: "/etc/x".into() };
        let refusal = Refusal::fault(&error);
        assert_eq!(refusal.name, "dev.ovs.PortAgent1.Error.NotFound");
        assert!(refusal.text.contains("/etc/x; "), "{}", refusal.text);
    }
}
