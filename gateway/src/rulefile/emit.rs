//! YAML as it is written: short things on a line, long ones over several, and quotes wherever any reader needs them.

use super::node::{Kind, plain_kind};

/// Lines are no longer, if what is on them can be taken apart.
const WIDTH: usize = 110;

/// What is to be written.
pub(super) enum Out {
    /// A scalar, quoted where it has to be.
    Scalar(String),
    List(Vec<Out>),
    Map(Vec<(String, Out)>),
    /// A list of which each item begins on a line of its own.
    Lines(Vec<Out>),
    /// A mapping of which each key is on a line of its own. Keys are written as they are given.
    Block(Vec<(String, Out)>),
}

impl Out {
    /// A text of any kind.
    pub(super) fn text(text: &str) -> Out {
        Out::Scalar(quoted(text))
    }

    /// A list, or its only member.
    pub(super) fn some(values: impl IntoIterator<Item = Out>) -> Out {
        let mut values: Vec<Out> = values.into_iter().collect();
        match (values.len(), values.pop()) {
            (1, Some(value)) => value,
            (_, last) => {
                values.extend(last);
                Out::List(values)
            }
        }
    }

    /// On one line; `None` if it must be on several.
    pub(super) fn flow(&self) -> Option<String> {
        match self {
            Out::Scalar(text) => Some(text.clone()),
            Out::Lines(items) if !items.is_empty() => None,
            Out::Block(entries) if !entries.is_empty() => None,
            Out::List(items) | Out::Lines(items) => {
                Some(format!("[{}]", items.iter().map(Out::flow).collect::<Option<Vec<_>>>()?.join(", ")))
            }
            Out::Map(entries) | Out::Block(entries) => {
                let entry = |(key, value): &(String, Out)| Some(format!("{key}: {}", value.flow()?));
                Some(format!("{{{}}}", entries.iter().map(entry).collect::<Option<Vec<_>>>()?.join(", ")))
            }
        }
    }

    /// Writes it from the beginning of a line on.
    pub(super) fn emit(&self, out: &mut String, indent: usize) {
        match self {
            Out::Map(entries) | Out::Block(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    out.extend(std::iter::repeat_n(' ', indent));
                    out.push_str(key);
                    out.push(':');
                    value.emit_value(out, indent, indent + key.len() + 1);
                }
            }
            Out::List(items) | Out::Lines(items) if !items.is_empty() => {
                for item in items {
                    let start = out.len() + indent;
                    match item {
                        Out::Block(entries) if !entries.is_empty() => {
                            item.emit(out, indent + 2);
                            // The first key stands on the item's own line.
                            out.replace_range(start..=start, "-");
                        }
                        _ => {
                            out.extend(std::iter::repeat_n(' ', indent));
                            out.push('-');
                            item.emit_value(out, indent, indent + 1);
                        }
                    }
                }
            }
            _ => {
                out.extend(std::iter::repeat_n(' ', indent));
                out.push_str(&self.flow().unwrap_or_default());
                out.push('\n');
            }
        }
    }

    /// Writes it behind a key or a dash that ends at `column`.
    fn emit_value(&self, out: &mut String, indent: usize, column: usize) {
        let line = self.flow().filter(|line| column + 1 + line.len() <= WIDTH || matches!(self, Out::Scalar(_)));
        match line {
            Some(line) => {
                out.push(' ');
                out.push_str(&line);
                out.push('\n');
            }
            None => {
                out.push('\n');
                // A list's dashes may stand below its key.
                let within = if matches!(self, Out::List(_) | Out::Lines(_)) { indent } else { indent + 2 };
                self.emit(out, within);
            }
        }
    }
}

/// A text as YAML: plain where every reader of YAML 1.1 and 1.2 takes it for the same text, else in double quotes.
pub(super) fn quoted(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            // Breaks of lines, marks of byte order, and what has no shape: escaped, so that it is seen.
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", character as u32));
            }
            character if character.is_control() => quoted.push_str(&format!("\\u{:04x}", character as u32)),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    // Booleans and null of YAML 1.1.
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_./+()=@%- ".contains(&byte);
    is_address(text)
        || text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && !text.ends_with(' ')
            && text.bytes().all(inner)
            && plain_kind(text) == Kind::Text
            && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Whether it is written as IPv4 addresses, networks and ranges of ports are: nobody takes those for numbers.
fn is_address(text: &str) -> bool {
    let of = |byte: u8| byte.is_ascii_digit() || b"./-".contains(&byte);
    let begins = text.bytes().next().is_some_and(|first| first.is_ascii_digit());
    let (dots, dashes) = (text.matches('.').count(), text.matches('-').count());
    begins && text.bytes().all(of) && (dots >= 3 || dots == 0 && (dashes == 1 || text.contains('/'))) && dashes < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_where_a_reader_needs_them() {
        for plain in ["KUBE-SERVICES", "eth+", "10.0.0.0/8", "1024-65535", "anybody may read", "3/4", "_x", "a.b/c"] {
            assert_eq!(quoted(plain), plain);
        }
        for text in [
            "on",
            "No",
            "010",
            "1e3",
            "",
            " a",
            "a ",
            "- a",
            "a: b",
            "a #b",
            "2001:db8::/32",
            "~",
            "null",
            "1.5",
            "2001-12-14",
            "12:30",
            "*a",
            "&a",
            "!x",
            "[a]",
            "é",
            "a,b",
            "0x1F",
            "y",
            "_: x",
        ] {
            assert!(quoted(text).starts_with('"'), "{text}");
        }
        assert_eq!(quoted("a\n\"b\"\\\u{7}"), r#""a\n\"b\"\\\u0007""#);
    }

    #[test]
    fn long_things_are_taken_apart() {
        let list =
            |count| Out::Map(vec![("to".into(), Out::List((0..count).map(|_| Out::text("10.0.0.1")).collect()))]);
        let mut out = String::new();
        list(2).emit(&mut out, 2);
        assert_eq!(out, "  to: [10.0.0.1, 10.0.0.1]\n");
        out.clear();
        list(20).emit(&mut out, 2);
        assert_eq!(out.lines().count(), 21);
        assert!(out.starts_with("  to:\n  - 10.0.0.1\n"));
    }
}
