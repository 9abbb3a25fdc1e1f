//! A caller without the host's root: from a user namespace no switch of the host can be reached.

use std::ffi::OsString;

use nix::unistd::Uid;
use shared::error::{Fault, Kind};

/// Who cannot be served, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Podman, run by a plain user.
    #[error("rootless Podman cannot reach the host's Open vSwitch")]
    Podman,
    /// Anything else that a plain user runs.
    #[error("user {uid} cannot reach the host's Open vSwitch, which is root's")]
    User {
        /// The user.
        uid: Uid,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        Kind::Unsupported
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Podman => "run podman as root (sudo podman …)",
            Self::User { .. } => "run it as root",
        };
        Some(text.to_owned())
    }
}

/// Refuses a caller who is not the host's root.
pub(crate) fn refuse() -> Result<(), Error> {
    judge(Uid::effective(), std::env::var_os("_CONTAINERS_ROOTLESS_UID"))
}

/// Rootless Podman is root in a user namespace of its own, and says so to its children in
/// `_CONTAINERS_ROOTLESS_UID` (containers/storage, pkg/unshare).
fn judge(uid: Uid, marker: Option<OsString>) -> Result<(), Error> {
    match marker {
        Some(marker) if !marker.is_empty() && marker != "0" => Err(Error::Podman),
        _ if !uid.is_root() => Err(Error::User { uid }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_tells_podman_from_any_other() {
        let marker = |text: &str| Some(OsString::from(text));
        let (root, plain) = (Uid::from_raw(0), Uid::from_raw(1000));
        assert_eq!(judge(root, marker("1000")), Err(Error::Podman));
        assert_eq!(judge(plain, marker("1000")), Err(Error::Podman));
        assert_eq!(judge(plain, None), Err(Error::User { uid: plain }));
        for harmless in [None, marker(""), marker("0")] {
            assert_eq!(judge(root, harmless), Ok(()));
        }
    }
}
