//! Where one JSON object of a stream ends and the next begins: there is neither a length nor a
//! delimiter between them.

use serde_json::Value;

use super::wire::Failure;

/// The largest message taken, in bytes. Every port of a switch with 10 000 of them is about 5 MiB;
/// what is read of a message takes some twenty times its size in memory, if it is made for that.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Cuts a byte stream into JSON objects, however it is split. Pure: it does no input itself.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    limit: usize,
    /// How far `buffer` was looked at; what follows describes the byte at that place.
    seen: usize,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_limit(MAX_MESSAGE)
    }
}

impl Decoder {
    /// A decoder that refuses messages of more than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit, seen: 0, depth: 0, quoted: false, escaped: false }
    }

    /// Takes what the stream brought.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole object, `None` while it is incomplete. After an error the stream cannot be
    /// used any more: where the next object begins is not known.
    pub fn next_value(&mut self) -> Result<Option<Value>, Failure> {
        if self.depth == 0 {
            let blank = self.buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.buffer.drain(..blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => {
                    return Err(Failure::Broken(format!(
                        "a JSON object was expected, but byte 0x{other:02x} came"
                    )));
                }
            }
        }
        // Braces outside strings are enough to find the end of an object; whether it is JSON at
        // all is the parser's business.
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                b'{' if !self.quoted => self.depth += 1,
                b'}' if !self.quoted => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                let value = serde_json::from_slice(&self.buffer[..self.seen])
                    .map_err(|e| Failure::Broken(format!("a message is not JSON: {e}")))?;
                self.buffer.drain(..self.seen);
                self.seen = 0;
                return Ok(Some(value));
            }
            if self.seen >= self.limit {
                return Err(Failure::Broken(format!(
                    "a message has more than {} bytes",
                    self.limit
                )));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(decoder: &mut Decoder) -> Vec<Value> {
        let mut values = Vec::new();
        while let Some(value) = decoder.next_value().unwrap() {
            values.push(value);
        }
        values
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[{}\"\\\\\\[\\]]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn messages() -> impl Strategy<Value = Vec<Value>> {
        prop::collection::vec(
            prop::collection::btree_map(any::<String>(), json_value(), 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
            0..4,
        )
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_messages(messages in messages()) {
            let text: String = messages.iter().map(|m| format!("{m}\n ")).collect();
            let bytes = text.trim_end().as_bytes();
            for at in 0..=bytes.len() {
                let mut decoder = Decoder::default();
                let mut got = Vec::new();
                for part in [&bytes[..at], &bytes[at..]] {
                    decoder.feed(part);
                    got.extend(drain(&mut decoder));
                }
                prop_assert_eq!(&got, &messages);
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for byte in bytes {
                decoder.feed(&[*byte]);
                got.extend(drain(&mut decoder));
            }
            prop_assert_eq!(&got, &messages);
        }

        #[test]
        fn noise_ends_in_an_error_or_in_objects(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::with_limit(100);
            decoder.feed(&noise);
            while let Ok(Some(value)) = decoder.next_value() {
                prop_assert!(value.is_object());
            }
        }
    }

    #[test]
    fn what_is_no_object_or_too_large_is_refused() {
        for (text, said) in [
            ("[1]", "0x5b"),
            ("{\"a\":[}", "not JSON"),
            ("} {", "0x7d"),
            ("{\"a\":\"0123456789012345678901234567890123456789\"}", "more than 40 bytes"),
        ] {
            let mut decoder = Decoder::with_limit(40);
            decoder.feed(text.as_bytes());
            let error = decoder.next_value().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
