//! Text that comes from somebody else, as it may be shown: it ends no line, and controls neither a
//! terminal nor the direction of the text around it.

use std::{borrow::Cow, fmt::Write};

/// Does a terminal obey this character, or does it change how others are shown?
pub fn controls(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The text with such characters escaped.
pub fn plain(text: &str) -> Cow<'_, str> {
    // Writing to a string cannot fail.
    escaped(text, |safe, c| {
        let _ = write!(safe, "{}", c.escape_default());
    })
}

/// A text of JSON with such characters escaped as JSON does it. In JSON they can only be in
/// strings, apart from line breaks between its parts.
pub fn plain_json(text: &str) -> Cow<'_, str> {
    escaped(text, |safe, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(safe, "\\u{unit:04x}");
        }
    })
}

fn escaped(text: &str, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(controls) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match controls(c) {
            true => write(&mut safe, c),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json() {
        let text = "{\"a\":\"b\u{9b}2J\u{202e}\u{e0001}\"}";
        let safe = plain_json(text);
        assert!(!safe.contains(controls), "{safe}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&safe), read(text));
    }

    #[test]
    fn what_controls_is_escaped_and_the_rest_is_as_it_was() {
        assert_eq!(plain("größe ✓ 名"), "größe ✓ 名");
        assert_eq!(plain("a\n\u{1b}[2J\u{9b}\u{202e}b"), "a\\n\\u{1b}[2J\\u{9b}\\u{202e}b");
    }
}
