//! Texts from input as errors show them: on one line, without what a terminal obeys, and of bounded length.

/// The most characters of a name or a value that an error shows.
pub(crate) const MAX_NAME: usize = 80;
/// The most characters of a longer text, such as a field's path or a parser's reason.
pub(crate) const MAX_TEXT: usize = 400;

/// A name or a value, escaped and shortened to [`MAX_NAME`].
pub(crate) fn name(text: &str) -> String {
    shorten(text, MAX_NAME)
}

/// A text, escaped and shortened to `limit` characters.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).map(escape).collect();
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

/// A text in quotes, shortened to [`MAX_NAME`].
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("\"{}…\"", text[..end].escape_debug()),
        None => format!("{text:?}"),
    }
}

fn escape(character: char) -> String {
    match character {
        '"' | '\'' | '\\' => character.to_string(),
        _ => character.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_texts_cut() {
        assert_eq!(name("a\u{1b}[31mb\n\"c\" é"), "a\\u{1b}[31mb\\n\"c\" é");
        assert_eq!(name(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        assert_eq!(name(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(quoted(&"é".repeat(81)), format!("\"{}…\"", "é".repeat(80)));
        assert_eq!(quoted("a\t"), "\"a\\t\"");
    }
}
