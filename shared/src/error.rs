//! What every error of the engine tells a front end: its kind, and what to do next.
//!
//! House rule for texts: lower case, no full stop, never the text of the source again; field,
//! value, what was expected. [`chain`] joins an error with its sources in one place.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// What went wrong, seen by the caller. Each front end maps this once to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request or the configuration says something impossible.
    Invalid,
    /// Understood, but not offered.
    Unsupported,
    /// A thing the request names does not exist (bridge, namespace, uplink).
    Missing,
    /// A thing exists already, or belongs to somebody else.
    Conflict,
    /// No address or name is left.
    Exhausted,
    /// A service is down or does not answer (ovsdb-server, ovs-vswitchd).
    Unavailable,
    /// Somebody else is at work on the same thing; the same call may succeed later.
    Busy,
    /// What is there is not what was recorded (CHECK).
    Broken,
    /// The system refused: file, netlink, permission.
    System,
}

/// An error that knows its kind and its way out.
pub trait Fault: Error {
    /// How the caller should treat it.
    fn kind(&self) -> Kind;

    /// The next step for the user, as an imperative sentence, if there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The error and all its sources on one line, outermost first. What it quotes may come from anybody:
/// see [`one_line`].
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    one_line(text)
}

/// Which of the `known` names the writer of `name` may have meant, if one is near.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, known), *known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// [`chain`] with the hint behind a semicolon: one line that says what happened and what to do.
pub fn sentence(fault: &dyn Fault) -> String {
    let text = chain(&fault);
    match fault.hint() {
        Some(hint) => format!("{text}; {}", one_line(hint)),
        None => text,
    }
}

/// `text` with every character escaped that would end a line or steer a terminal: an error quotes
/// what it was given, and must not write a line of its own into a log.
pub fn one_line(text: String) -> String {
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(odd) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if odd(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_quotes_a_newline_stays_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("pair \"{0}\"")]
        struct Quoting(&'static str);

        impl Fault for Quoting {
            fn kind(&self) -> Kind {
                Kind::Invalid
            }

            fn hint(&self) -> Option<String> {
                Some(self.0.to_owned())
            }
        }

        let error = Quoting("a\nERROR b\u{1b}[2J\u{2028}ä");
        let quoted = "a\\nERROR b\\u{1b}[2J\\u{2028}ä";
        assert_eq!(chain(&error), format!("pair \"{quoted}\""));
        assert_eq!(sentence(&error), format!("pair \"{quoted}\"; {quoted}"));
    }
}
