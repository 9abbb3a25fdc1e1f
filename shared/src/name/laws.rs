//! What must hold for any naming template and any container.

use super::{IfName, MAX_LEN, Template};
use crate::error::sentence;
use laws::one_line;

/// The first line is a template, the rest a container's id.
///
/// A template prints as it was read; every name it makes is a name, shows the index unless that is
/// huge, and is the same each time; no error has a second line.
pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (template, container) = text.split_once('\n').unwrap_or((&text, ""));
    name(template);
    name(container);
    let read: Template = match template.parse() {
        Ok(read) => read,
        Err(error) => return one_line(&sentence(&error)),
    };
    assert_eq!(read.to_string(), template);
    assert_eq!(read.to_string().parse(), Ok(read.clone()));
    for index in [0, 7, 10, 99, 100, 4_000_000_000] {
        let names: Vec<_> = (0..3).map(|salt| read.render(container, index, salt)).collect();
        for (salt, made) in names.iter().enumerate() {
            name(made.as_str());
            assert_eq!(made.as_str().parse(), Ok(made.clone()), "a name is a name");
            let again = read.render(container, index, u32::try_from(salt).unwrap_or(0));
            assert_eq!(&again, made);
            assert!(index > 99 || made.as_str().contains(&index.to_string()), "{made} {index}");
        }
        let other = read.render(container, index + 1, 0);
        assert_ne!(names[0], other, "two interfaces of one container");
    }
}

/// What is a name has 1 to 15 bytes and no character that a shell, a path or a terminal minds.
fn name(text: &str) {
    match text.parse::<IfName>() {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!((1..=MAX_LEN).contains(&text.len()));
            assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)));
            assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()));
        }
        Err(error) => one_line(&crate::error::chain(&error)),
    }
}
