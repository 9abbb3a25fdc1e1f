//! The configuration as it stands in the file: which keys there are and of what type.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;
use crate::error::nearest;

/// A value and where it stands; `None` if the file does not have it.
pub(super) type Given<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) bridge_name: Given<String>,
    pub(super) interfaces_path: Given<String>,
    pub(super) include_prefixes: Option<Vec<Spanned<String>>>,
    pub(super) debounce_ms: Given<i64>,
    pub(super) managed_block_tag: Given<String>,
    pub(super) naming_template: Given<String>,
    pub(super) enable_rename: Option<bool>,
    pub(super) ledger_path: Given<String>,
    pub(super) ledger_sync: Given<String>,
    pub(super) ovsdb_socket: Given<String>,
    pub(super) state_dir: Given<String>,
    pub(super) docker_vlans: Given<String>,
    pub(super) metrics_listen: Given<String>,
    pub(super) network_manager: Given<String>,
    pub(super) protect_rules: Option<bool>,
    pub(super) bridge: Given<Vec<Spanned<RawBridge>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBridge {
    pub(super) name: Given<String>,
    pub(super) mode: Given<String>,
    pub(super) uplink: Given<String>,
    pub(super) address: Given<String>,
    pub(super) addresses: Given<Vec<Spanned<String>>>,
    pub(super) gateway: Given<String>,
    pub(super) mtu: Given<i64>,
    pub(super) datapath_type: Given<String>,
}

/// The text of a configuration file, to say where in it something is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// Reads the keys.
    pub(super) fn read(&self) -> Result<Raw, Error> {
        toml::from_str(self.text).map_err(|error| self.explain(&error))
    }

    /// Something is wrong with the value of `key` that stands at `span`.
    pub(super) fn value(
        &self,
        key: &str,
        span: Range<usize>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        let subject = format!("{key} = {}", self.excerpt(span.clone()));
        self.error(span, subject, problem, hint)
    }

    /// Something is wrong at `span`, called `subject`.
    pub(super) fn error(
        &self,
        span: Range<usize>,
        subject: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Error::Invalid {
            file: self.file.to_owned(),
            line: self.line(&span),
            column: before[line_start..].chars().count() + 1,
            subject: subject.into(),
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    /// The line `span` begins on, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
    }

    /// What stands at `span`, on one line and not too long.
    fn excerpt(&self, span: Range<usize>) -> String {
        const LONGEST: usize = 60;
        let text = self.text.get(span).unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match text.char_indices().nth(LONGEST) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    }

    /// Says in our words what the TOML reader found.
    fn explain(&self, error: &toml::de::Error) -> Error {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim().replace('\n', ", ");
        if let Some(names) = message.strip_prefix("unknown field ") {
            let mut names = names.split('`').skip(1).step_by(2);
            let key = names.next().unwrap_or_default();
            let known: Vec<_> = names.collect();
            return self.error(span, key, "unknown key", suggestion(key, &known));
        }
        let Some(key) = key_at(self.text, &span) else {
            let line = self.text.lines().nth(self.line(&span) - 1).unwrap_or_default();
            let start = self.text.get(..span.start).and_then(|text| text.rfind('\n'));
            let start = start.map_or(0, |at| at + 1);
            let subject = self.excerpt(start..start + line.len());
            let hint = if message.starts_with("duplicate") {
                "remove one of the two"
            } else {
                "write lines of key = value as TOML has them, texts in \"double quotes\""
            };
            return self.error(span, subject, message, hint);
        };
        let expected = match message.rsplit_once("expected ").map(|(_, expected)| expected) {
            Some("a string") => "expected a text",
            Some("i64" | "an integer") => "expected a whole number",
            Some("a boolean") => "expected true or false",
            Some("a sequence") => "expected a list",
            _ => &message,
        };
        let hint = match expected {
            "expected a text" => format!("write {key} = \"…\""),
            "expected a list" if key == "bridge" => "write [[bridge]], in double brackets".into(),
            "expected a list" => format!("write {key} = [\"…\"]"),
            "expected true or false" => format!("write {key} = true or {key} = false"),
            "expected a whole number" => {
                format!("write a number without quotes, such as {key} = 1500")
            }
            _ => "see the table of keys in docs/configuration.md".into(),
        };
        self.value(&key, span, expected, hint)
    }
}

/// The key whose value stands at `span`, if the text is TOML at all.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    fn within(value: &DeValue<'_>, span: &Range<usize>) -> Option<String> {
        match value {
            DeValue::Table(table) => in_table(table, span),
            DeValue::Array(list) => list.iter().find_map(|item| within(item.get_ref(), span)),
            _ => None,
        }
    }
    fn in_table(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
        table.iter().find_map(|(key, value)| {
            within(value.get_ref(), span).or_else(|| {
                let place = value.span();
                (place.start <= span.start && span.end <= place.end)
                    .then(|| key.get_ref().to_string())
            })
        })
    }
    in_table(DeTable::parse(text).ok()?.get_ref(), span)
}

/// What the writer of an unknown key may have meant.
fn suggestion(key: &str, known: &[&str]) -> String {
    if let Some(name) = nearest(key, known) {
        return format!("did you mean {name}?");
    }
    let in_bridge = known.contains(&"mode");
    let elsewhere = |other: &str| {
        toml::from_str::<Raw>(other).is_err_and(|error| !error.message().starts_with("unknown"))
    };
    // Asked of the types themselves: a known key is refused for its value, not its name.
    if in_bridge && elsewhere(&format!("{key:?} = 1979-05-27")) {
        return format!("move {key} above the first [[bridge]]");
    }
    if !in_bridge && elsewhere(&format!("[[bridge]]\n{key:?} = 1979-05-27")) {
        return format!("move {key} into a [[bridge]] section");
    }
    format!("remove it, or use one of {}", known.join(", "))
}
