//! What an attachment is known by.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::name::IfName;

/// Which attachment: (network, container id, interface name), as CNI 0.4.0 keys state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Network name.
    pub network: String,
    /// Container id.
    pub container: String,
    /// Interface name in the container.
    pub ifname: IfName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.ifname)
    }
}

impl Key {
    /// The name of its files in the state directory: a digest, since a key may hold anything.
    pub(crate) fn file_name(&self) -> String {
        let hash = Sha256::digest(self.to_string().as_bytes());
        hex::encode(&hash[..16]) + ".json"
    }
}
