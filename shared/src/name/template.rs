//! The template of port names, `veth-{container}-eth{index}`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::{IfName, MAX_LEN, is_legal};
use crate::error::{Fault, Kind};

const CONTAINER: &str = "{container}";
const INDEX: &str = "{index}";

/// Fewest characters a template must leave for the container at a two-digit index: three base-36
/// characters are 46656 names, and the salt finds a free one among them.
const MIN_ROOM: usize = 3;

/// Digits an index takes when a template is judged: nobody gives one container 100 interfaces.
const INDEX_DIGITS: usize = 2;

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A naming template such as `veth-{container}-eth{index}`, checked when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    before: String,
    between: String,
    after: String,
    container_first: bool,
}

/// Why a text is no naming template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A placeholder is absent.
    #[error("naming template \"{template}\" has no {placeholder}: {why}")]
    Absent {
        /// The template.
        template: String,
        /// The placeholder.
        placeholder: &'static str,
        /// What would go wrong without it.
        why: &'static str,
    },
    /// A placeholder is there twice.
    #[error("naming template \"{template}\" has {placeholder} twice, expected once")]
    Twice {
        /// The template.
        template: String,
        /// The placeholder.
        placeholder: &'static str,
    },
    /// A placeholder nobody knows, or a brace without its partner.
    #[error(
        "naming template \"{template}\" has the unknown placeholder \"{placeholder}\", expected {{container}} and {{index}}"
    )]
    Placeholder {
        /// The template.
        template: String,
        /// From the brace on.
        placeholder: String,
    },
    /// A character no interface name may have, or may not begin with.
    #[error("naming template \"{template}\" has {character:?}{place}, expected {expected}")]
    Character {
        /// The template.
        template: String,
        /// The character.
        character: char,
        /// " first" or "".
        place: &'static str,
        /// The characters allowed there.
        expected: &'static str,
    },
    /// A digit between container and index touches the index.
    #[error(
        "naming template \"{template}\" has the digit {digit:?} next to {{index}}, where interfaces 1 and 1{digit} would read alike"
    )]
    Digit {
        /// The template.
        template: String,
        /// The digit.
        digit: char,
    },
    /// The literal text is too long.
    #[error(
        "naming template \"{template}\" leaves {room} characters for {{container}}, expected at least 3: an interface name has 15 bytes at most, {literal} of them are literal text here and 2 a two-digit {{index}}"
    )]
    TooLong {
        /// The template.
        template: String,
        /// Bytes of literal text.
        literal: usize,
        /// Bytes left.
        room: usize,
    },
}

impl Fault for TemplateError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooLong { .. } => format!(
                "shorten the text around the placeholders to {} characters in all, as \"veth-{{container}}-eth{{index}}\" does",
                MAX_LEN - INDEX_DIGITS - MIN_ROOM
            ),
            Self::Digit { .. } => "put a letter, \"-\", \"_\" or \".\" beside {index}".to_owned(),
            _ => "write a template such as \"veth-{container}-eth{index}\"".to_owned(),
        })
    }
}

impl Template {
    /// The name of interface number `index` of `container`. `salt` 0 is the first choice; each
    /// further salt gives another name for the same interface.
    ///
    /// The container's id appears as it is if it fits, else as a digest that fills the room. The
    /// index can be read back from the name, so no two indexes ever share one; only an index so
    /// large that fewer than three characters are left is folded into the digest.
    pub fn render(&self, container: &str, index: u32, salt: u32) -> IfName {
        let digits = index.to_string();
        let room = (MAX_LEN - self.literal()).saturating_sub(digits.len());
        let (id, digits) = if room < MIN_ROOM {
            let room = MAX_LEN - self.literal() - INDEX_DIGITS;
            (self.digest(container, Some(index), salt, room), format!("{:02}", index % 100))
        } else if salt == 0 && self.takes(container, room) {
            (container.to_owned(), digits)
        } else {
            (self.digest(container, None, salt, room), digits)
        };
        let (first, second) = if self.container_first { (id, digits) } else { (digits, id) };
        IfName(format!("{}{first}{}{second}{}", self.before, self.between, self.after))
    }

    fn literal(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Whether `container` can stand in the name as it is.
    fn takes(&self, container: &str, room: usize) -> bool {
        let bytes = container.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
            return false;
        };
        let starts_name = self.container_first && self.before.is_empty();
        let beside_index = if self.container_first { last } else { first };
        bytes.len() <= room
            && bytes.iter().copied().all(is_legal)
            && (!starts_name || first.is_ascii_alphanumeric())
            && !(self.between.is_empty() && beside_index.is_ascii_digit())
    }

    /// `room` characters of base 36 that stand for `container`. The one that touches the index is
    /// a letter, or the index could not be read back.
    fn digest(&self, container: &str, index: Option<u32>, salt: u32, room: usize) -> String {
        let mut hash = Sha256::new();
        hash.update(salt.to_be_bytes());
        if let Some(index) = index {
            hash.update(index.to_be_bytes());
        }
        hash.update(container.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        let mut rest = u128::from_be_bytes(bytes);
        let letter = match (self.between.is_empty(), self.container_first) {
            (false, _) => None,
            (true, true) => room.checked_sub(1),
            (true, false) => Some(0),
        };
        (0..room)
            .map(|at| {
                let base = if Some(at) == letter { 26 } else { 36 };
                let digit = usize::try_from(rest % base).unwrap_or(0);
                rest /= base;
                char::from(ALPHABET[digit])
            })
            .collect()
    }
}

impl Default for Template {
    /// `veth-{container}-eth{index}`.
    fn default() -> Self {
        Self {
            before: "veth-".to_owned(),
            between: "-eth".to_owned(),
            after: String::new(),
            container_first: true,
        }
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let template = || text.to_owned();
        let find = |placeholder: &'static str, why| {
            let at = text.find(placeholder).ok_or_else(|| TemplateError::Absent {
                template: template(),
                placeholder,
                why,
            })?;
            if text[at + placeholder.len()..].contains(placeholder) {
                return Err(TemplateError::Twice { template: template(), placeholder });
            }
            Ok((at, at + placeholder.len()))
        };
        let strange = text.replacen(CONTAINER, "", 1).replacen(INDEX, "", 1);
        if let Some(at) = strange.find(['{', '}']) {
            let rest = &strange[at..];
            if !rest.starts_with(CONTAINER) && !rest.starts_with(INDEX) {
                let end = rest.find('}').map_or(rest.len(), |close| close + 1);
                let placeholder = rest[..end].to_owned();
                return Err(TemplateError::Placeholder { template: template(), placeholder });
            }
        }
        let container = find(CONTAINER, "every container would get the same name")?;
        let index = find(INDEX, "two interfaces of one container would get the same name")?;
        let container_first = container.0 < index.0;
        let (first, second) = if container_first { (container, index) } else { (index, container) };
        let parts = Self {
            before: text[..first.0].to_owned(),
            between: text[first.1..second.0].to_owned(),
            after: text[second.1..].to_owned(),
            container_first,
        };
        let bad = |character, place, expected| TemplateError::Character {
            template: template(),
            character,
            place,
            expected,
        };
        for part in [&parts.before, &parts.between, &parts.after] {
            if let Some(character) = part.chars().find(|c| !u8::try_from(*c).is_ok_and(is_legal)) {
                return Err(bad(character, "", "letters, digits, \"_\", \".\" and \"-\""));
            }
        }
        if let Some(character) = parts.before.chars().next().filter(|c| !c.is_ascii_alphanumeric())
        {
            return Err(bad(character, " first", "a letter or digit first"));
        }
        let mut between = parts.between.chars();
        let beside_index = if container_first { between.next_back() } else { between.next() };
        if let Some(digit) = beside_index.filter(char::is_ascii_digit) {
            return Err(TemplateError::Digit { template: template(), digit });
        }
        let literal = parts.literal();
        let room = MAX_LEN.saturating_sub(literal + INDEX_DIGITS);
        if room < MIN_ROOM {
            return Err(TemplateError::TooLong { template: template(), literal, room });
        }
        Ok(parts)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) =
            if self.container_first { (CONTAINER, INDEX) } else { (INDEX, CONTAINER) };
        write!(f, "{}{first}{}{second}{}", self.before, self.between, self.after)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::error::sentence;

    const USERS: &str = "veth-{container}-eth{index}";

    fn template(text: &str) -> Template {
        text.parse().unwrap()
    }

    #[test]
    fn a_short_id_is_kept_and_a_long_one_fills_the_room() {
        let template = template(USERS);
        assert_eq!(Template::default(), template);
        assert_eq!(template.render("web", 0, 0).as_str(), "veth-web-eth0");
        assert_eq!(template.render("web-1", 0, 0).as_str(), "veth-web-1-eth0");
        assert_eq!(template.render("web", 12, 0).as_str(), "veth-web-eth12");
        for (id, index, salt) in
            [("c0ffee4eva", 0, 0), ("web", 0, 1), ("web/1", 0, 0), ("", 3, 0), ("wëb", 0, 0)]
        {
            let name = template.render(id, index, salt);
            assert_eq!(name.as_str().len(), MAX_LEN, "{name}");
            assert!(name.as_str().starts_with("veth-"), "{name}");
            assert!(name.as_str().ends_with(&format!("-eth{index}")), "{name}");
        }
    }

    #[test]
    fn names_are_the_same_in_every_version() {
        // Ports outlive an upgrade: a new version must find the names of the old one.
        assert_eq!(template(USERS).render("c0ffee4eva", 0, 0).as_str(), "veth-fvysq-eth0");
        assert_eq!(template(USERS).render("c0ffee4eva", 0, 1).as_str(), "veth-ywhfq-eth0");
    }

    #[test]
    fn an_impossible_template_is_refused_with_the_way_out() {
        for (bad, expected) in [
            ("veth-{index}", "has no {container}: every container would get the same name"),
            ("veth-{container}", "has no {index}: two interfaces of one container"),
            ("", "has no {container}"),
            ("{container}{index}{container}", "has {container} twice"),
            ("{container}-{index}{index}", "has {index} twice"),
            ("{container}-{name}{index}", "unknown placeholder \"{name}\""),
            ("{Container}-{index}", "unknown placeholder \"{Container}\""),
            ("{container}-{index", "unknown placeholder \"{index\""),
            ("{container}}-{index}", "unknown placeholder \"}\""),
            ("{{container}-{index}", "unknown placeholder \"{-\""),
            ("veth {container}-{index}", "has ' ', expected letters"),
            ("veth/{container}-{index}", "has '/', expected letters"),
            ("é{container}-{index}", "has 'é', expected letters"),
            ("a{container}\n{index}", "has '\\n', expected letters"),
            ("-{container}-{index}", "has '-' first, expected a letter or digit first"),
            ("v{container}2{index}", "has the digit '2' next to {index}"),
            ("v{index}2{container}", "has the digit '2' next to {index}"),
            (
                "veth-{container}-ether{index}",
                "leaves 2 characters for {container}, expected at least 3: an interface name has 15 bytes at most, 11 of them are literal text here",
            ),
            ("a-very-long-prefix-{container}-{index}", "leaves 0 characters"),
        ] {
            let error = bad.parse::<Template>().unwrap_err();
            let text = sentence(&error);
            assert!(text.contains(expected), "{bad:?} gave {text:?}");
            let bad = crate::error::one_line(bad.to_owned());
            assert!(text.contains(&format!("naming template \"{bad}\"")), "{text:?}");
            assert!(error.hint().is_some());
            assert_eq!(error.kind(), Kind::Invalid);
        }
        // One more literal character would be refused.
        assert!("veth-{container}-ethe{index}".parse::<Template>().is_ok());
    }

    #[test]
    fn thousands_of_ids_with_one_prefix_get_their_own_names() {
        for text in [USERS, "veth-{container}-ethe{index}", "v{container}{index}"] {
            let template = template(text);
            let mut taken = BTreeSet::new();
            let mut most = 0;
            for n in 0..5000 {
                let id = format!("k8s_POD_frontend_default_{n:040}");
                let salt = (0..64).find(|salt| taken.insert(template.render(&id, 0, *salt)));
                most = most.max(salt.unwrap());
            }
            assert_eq!(taken.len(), 5000);
            assert!(most < 16, "{text}: {most} salts");
        }
    }

    /// Any template that parses, with its parts drawn so that most do.
    fn templates() -> impl Strategy<Value = Template> {
        ("([a-z0-9][a-z0-9_.-]{0,4})?", "[a-z0-9_.-]{0,4}", "[a-z0-9_.-]{0,3}", any::<bool>())
            .prop_filter_map("refused", |(before, between, after, container_first)| {
                let (first, second) =
                    if container_first { (CONTAINER, INDEX) } else { (INDEX, CONTAINER) };
                format!("{before}{first}{between}{second}{after}").parse().ok()
            })
    }

    /// Ids of every sort: digits (which could run into the index), hex, anything.
    fn ids() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{0,13}", "[0-9a-f]{64}", "[a-z0-9_.-]{0,14}", any::<String>()]
    }

    proptest! {
        #[test]
        fn text_round_trips(template in templates()) {
            prop_assert_eq!(template.to_string().parse::<Template>().unwrap(), template);
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            drop(text.parse::<Template>());
        }

        #[test]
        fn a_name_is_legal_and_always_the_same(
            template in templates(), id in ids(), index in any::<u32>(), salt in any::<u32>(),
        ) {
            let name = template.render(&id, index, salt);
            prop_assert_eq!(name.as_str().parse::<IfName>().unwrap(), name.clone());
            prop_assert_eq!(template.render(&id, index, salt), name);
        }

        #[test]
        fn two_indexes_never_share_a_name(
            template in templates(), id in ids(), other in ids(),
            (one, two) in (0..100u32, 0..100u32), (salt, second) in (0..3u32, 0..3u32),
        ) {
            prop_assume!(one != two);
            prop_assert_ne!(template.render(&id, one, salt), template.render(&other, two, second));
        }

        #[test]
        fn a_salt_gives_another_name(template in templates(), id in "[a-z]{20}") {
            let names: BTreeSet<_> = (0..20).map(|salt| template.render(&id, 0, salt)).collect();
            prop_assert!(names.len() >= 18, "{:?}", names);
        }
    }
}
