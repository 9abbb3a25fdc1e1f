//! The versions of the CNI specification the plugin speaks.

use std::fmt;

/// A version of the specification; later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Same wire format as 0.3.1; configurations written for ovs-cni still name it.
    V0_3_0,
    /// Several interfaces and addresses in a result.
    V0_3_1,
    /// CHECK, `prevResult` on DEL.
    V0_4_0,
    /// No `ips[].version` any more.
    V1_0_0,
    /// GC, STATUS, more fields in results.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub(crate) const LATEST: Self = Self::V1_1_0;

    /// The text in `cniVersion`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that very text: the specification knows no compatible neighbours.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// All of them as text.
    pub(crate) fn texts() -> [&'static str; 5] {
        Self::ALL.map(Self::as_str)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_text_is_a_version() {
        assert_eq!(Version::from_text("1.0.0"), Some(Version::V1_0_0));
        for other in ["", "1.0", "1.0.1", "1.0.0 ", "v1.0.0", "0.1.0", "0.2.0", "9.9.9"] {
            assert_eq!(Version::from_text(other), None, "{other}");
        }
        assert!(Version::V0_4_0 < Version::V1_1_0);
    }
}
