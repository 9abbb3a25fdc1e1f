//! What the lines that are not ours say: which names they define, which they start.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

/// What is said elsewhere, in the file itself or in files it sources.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// Names with an `iface` stanza.
    defined: HashSet<Vec<u8>>,
    /// Names on an `auto` or `allow-…` line or in an `ovs_ports` list: ifup starts them.
    started: HashSet<Vec<u8>>,
    /// Every other word: a port named there might be started by a way we do not know.
    mentioned: HashSet<Vec<u8>>,
    /// Fixed beginnings of patterns (`auto /veth*`, `auto veth[1-9]`); empty matches every name.
    prefixes: HashSet<Vec<u8>>,
    /// Sourced files to be read.
    sourced: Vec<PathBuf>,
    /// Files read or to be read, links resolved: files may source each other in a circle.
    seen: HashSet<PathBuf>,
}

impl Foreign {
    /// Whether a bridge of that name needs no stanza of ours.
    pub(super) fn rules_bridge(&self, name: &[u8]) -> bool {
        self.defined.contains(name) || self.started.contains(name) || self.matches(name)
    }

    /// Whether a port of that name must not be shown: it is shown already, or ifup might start it.
    pub(super) fn rules_port(&self, name: &[u8]) -> bool {
        self.rules_bridge(name) || self.mentioned.contains(name)
    }

    /// Whether the user took that name over by starting it.
    pub(super) fn starts(&self, name: &[u8]) -> bool {
        self.started.contains(name)
    }

    /// Takes note of a stanza that turned out to be the user's.
    pub(super) fn define(&mut self, name: &[u8]) {
        self.defined.insert(name.to_vec());
    }

    fn matches(&self, name: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Reads lines of the file at `path`, and the files they source.
    pub(super) fn read<'a>(
        &mut self,
        path: &Path,
        lines: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), Error> {
        self.is_new(path);
        self.lines(path, lines);
        while let Some(sourced) = self.sourced.pop() {
            match fs::read(&sourced) {
                Ok(text) => self.lines(&sourced, text.split_inclusive(|b| *b == b'\n')),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Io { action: "read", path: sourced, source }),
            }
        }
        Ok(())
    }

    fn is_new(&mut self, path: &Path) -> bool {
        self.seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }

    fn lines<'a>(&mut self, path: &Path, lines: impl IntoIterator<Item = &'a [u8]>) {
        let mut pending = Vec::new();
        for line in lines {
            // A comment is not continued, and does not end a continued line either.
            if line.trim_ascii_start().starts_with(b"#") {
                continue;
            }
            if let Some(start) = line.strip_suffix(b"\n").unwrap_or(line).strip_suffix(b"\\") {
                pending.extend_from_slice(start);
                continue;
            }
            pending.extend_from_slice(line);
            self.statement(path, &pending);
            pending.clear();
        }
        self.statement(path, &pending);
    }

    fn statement(&mut self, path: &Path, line: &[u8]) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(key) = words.next() else { return };
        match key {
            b"iface" => {
                if let Some(name) = words.next() {
                    self.note(name, |all| &mut all.defined);
                }
                // `inherits other` mentions another one.
                words.for_each(|word| self.mention(word));
            }
            b"auto" | b"ovs_ports" | b"ovs-ports" => {
                words.for_each(|word| self.note(word, |all| &mut all.started));
            }
            _ if key.starts_with(b"allow-") => {
                words.for_each(|word| self.note(word, |all| &mut all.started));
            }
            b"source" => words.for_each(|word| self.source(path, word, |_| true)),
            b"source-directory" => words.for_each(|word| {
                self.source(path, &[word, b"/*"].concat(), is_directory_entry);
            }),
            _ => words.for_each(|word| self.mention(word)),
        }
    }

    fn mention(&mut self, word: &[u8]) {
        for part in word.split(|b| b"=,;\"'()".contains(b)) {
            self.mentioned.insert(part.to_vec());
        }
    }

    /// Notes one word of a list of names: a name, or a pattern of ifupdown (`/veth*`, `/veth*=name`,
    /// `mac/02:*`), of ifupdown2 (`veth[1-9]`, `all`) or of its templates (`veth${n}`).
    fn note(&mut self, word: &[u8], set: fn(&mut Self) -> &mut HashSet<Vec<u8>>) {
        // ifup reads the stanza named behind the `=`, not the interface's own.
        if let Some(at) = word.iter().position(|b| *b == b'=') {
            set(self).insert(word[at + 1..].to_vec());
            return;
        }
        let (value, pattern) = match word.iter().position(|b| *b == b'/') {
            // Matched by name.
            Some(0) => (&word[1..], true),
            // Matched by something of the interface that is not known here.
            Some(_) => (&b""[..], true),
            None => (word, false),
        };
        match value.iter().position(|b| b"*?[$/".contains(b)) {
            Some(at) => self.prefixes.insert(value[..at].to_vec()),
            None if value == b"all" => self.prefixes.insert(Vec::new()),
            None if pattern => self.prefixes.insert(value.to_vec()),
            None => set(self).insert(value.to_vec()),
        };
    }

    /// Queues what a `source` line names, relative to the directory of the file with that line.
    /// Words that only a shell could expand name nothing.
    fn source(&mut self, path: &Path, word: &[u8], wanted: fn(&Path) -> bool) {
        let Ok(word) = std::str::from_utf8(word) else { return };
        // To a shell two stars are one; here they would walk the whole tree.
        let mut word = word.to_owned();
        while word.contains("**") {
            word = word.replace("**", "*");
        }
        let pattern = path.parent().unwrap_or(Path::new("/")).join(word);
        let Some(pattern) = pattern.to_str() else { return };
        let options =
            glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let Ok(paths) = glob::glob_with(pattern, options) else { return };
        for sourced in paths.filter_map(Result::ok) {
            if sourced.is_file() && wanted(&sourced) && self.is_new(&sourced) {
                self.sourced.push(sourced);
            }
        }
    }
}

/// Names that `source-directory` takes: letters, digits, `_` and `-` (interfaces(5)).
fn is_directory_entry(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        name.as_encoded_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(b))
    })
}
