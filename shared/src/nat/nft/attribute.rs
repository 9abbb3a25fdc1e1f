//! Netlink attributes (type, length, value) as nf_tables nests them.

/// NLA_F_NESTED (linux/netlink.h).
const NESTED: u16 = 1 << 15;
/// NLA_TYPE_MASK: without the nested and byte order flags.
const TYPE: u16 = !(3 << 14);
const HEADER: usize = 4;

/// Attributes being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends raw bytes.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Appends a text with its final NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends an integer.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends what was written before.
    pub(super) fn raw_nested(self, kind: u16, inner: &[u8]) -> Self {
        self.bytes(kind | NESTED, inner)
    }

    /// Appends attributes inside an attribute.
    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Nothing we write comes near 64 KiB: names, numbers and expressions of one rule.
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
    }
}

/// The attributes of that kind, up to where the bytes make no sense.
pub(super) fn all(mut bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    let next = move || {
        let header = bytes.get(..HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let found = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some((found, value))
    };
    std::iter::from_fn(next).filter(move |(found, _)| *found == kind).map(|(_, v)| v)
}

/// The first attribute of that kind; `None` also where the bytes make no sense.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    all(bytes, kind).next()
}

/// An attribute's text, without its final NUL.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = find(bytes, kind)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    std::str::from_utf8(value).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_padded_to_four_bytes_and_lengths_are_not() {
        let bytes = Attributes::default().text(1, "ab").number(2, 7).into_bytes();
        assert_eq!(bytes, [7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 2, 0, 0, 0, 0, 7]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(name in "[a-z]{0,40}", number: u32, raw: Vec<u8>) {
            let inner = Attributes::default().bytes(9, &raw);
            let bytes =
                Attributes::default().text(1, &name).nested(2, &inner).number(3, number).into_bytes();
            prop_assert_eq!(text(&bytes, 1), Some(name));
            prop_assert_eq!(find(find(&bytes, 2).unwrap(), 9), Some(&raw[..]));
            prop_assert_eq!(find(&bytes, 3), Some(&number.to_be_bytes()[..]));
            prop_assert_eq!(find(&bytes, 4), None);
            let twice = [&bytes[..], &bytes[..]].concat();
            prop_assert_eq!(all(&twice, 3).count(), 2);
        }

        #[test]
        fn nonsense_is_read_without_a_panic(bytes: Vec<u8>, kind: u16) {
            prop_assert!(all(&bytes, kind).count() <= bytes.len());
            text(&bytes, kind);
        }
    }
}
