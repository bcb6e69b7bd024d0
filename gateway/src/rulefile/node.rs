//! YAML as a tree whose nodes know their lines.
//!
//! Scalars stay text: what a field is made of says what its text means, so that a chain may be called `on` and a prefix
//! `010`. Only whether a plain scalar is text, by YAML 1.2's core schema, is kept, for fields that must be.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options};

/// Deeper nesting than any rule file has; recursion stays bounded.
const MAX_DEPTH: usize = 32;
/// More nodes than the aliases of any sane file stand for: a file that multiplies itself is refused.
const MAX_ALIASED_NODES: usize = 1_000_000;

/// Where and why a text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    pub(super) line: u32,
    pub(super) reason: String,
}

/// A node with its line.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) line: u32,
    /// How deep it is nested within.
    height: usize,
    /// How many nodes it is, aliases followed.
    size: usize,
    pub(super) content: Content<'a>,
}

/// A key with its line.
#[derive(Clone, Debug)]
pub(super) struct Key<'a> {
    pub(super) line: u32,
    pub(super) text: Cow<'a, str>,
}

/// What a node is. Lists and mappings are shared with the aliases of them.
#[derive(Clone, Debug)]
pub(super) enum Content<'a> {
    Scalar(Cow<'a, str>, Kind),
    List(Rc<Vec<Node<'a>>>),
    Map(Rc<Vec<(Key<'a>, Node<'a>)>>),
}

/// What a scalar is to YAML 1.2's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    Text,
}

impl Kind {
    /// As a sentence about a scalar calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number => "a number",
            Kind::Text => "text",
        }
    }
}

impl<'a> Node<'a> {
    /// Whether nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(_, Kind::Null))
    }

    /// The value of a mapping that has this key and no other.
    pub(super) fn only(&self, key: &str) -> Option<&Node<'a>> {
        match &self.content {
            Content::Map(entries) => match &entries[..] {
                [(of, value)] if of.text == key => Some(value),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Reads all documents of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Node<'_>>, YamlError> {
    let options = options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { parser, anchors: HashMap::new(), aliased: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.parser.next_event().transpose().map_err(scan_error)? {
        match event {
            Event::DocumentStart(..) => reader.anchors.clear(),
            Event::StreamStart | Event::DocumentEnd | Event::StreamEnd => {}
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
    Ok(documents)
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    /// How many nodes aliases have stood for so far.
    aliased: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        let event = self.parser.next_event().transpose().map_err(scan_error)?;
        event.ok_or_else(|| YamlError { line: 0, reason: "the file ends too early".to_owned() })
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node<'a>, YamlError> {
        let line = line(span.start.line());
        let error = |reason: &str| YamlError { line, reason: reason.to_owned() };
        if depth > MAX_DEPTH {
            return Err(error("it is nested too deeply"));
        }
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar_kind(&text, style, tag.as_deref()).map_err(|reason| error(&reason))?;
                (anchor, Content::Scalar(text, kind))
            }
            Event::SequenceStart(_, anchor, tag) => {
                no_tag(tag.as_deref()).map_err(|reason| error(&reason))?;
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                no_tag(tag.as_deref()).map_err(|reason| error(&reason))?;
                (anchor, self.map(depth)?)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| error("an alias stands within itself"))?;
                self.aliased = self.aliased.saturating_add(node.size);
                if depth + node.height > MAX_DEPTH {
                    return Err(error("it is nested too deeply"));
                }
                if self.aliased > MAX_ALIASED_NODES {
                    return Err(error("its aliases stand for too many nodes"));
                }
                return Ok(node);
            }
            _ => return Err(error("a value was expected here")),
        };
        let (height, size) = match &content {
            Content::Scalar(..) => (0, 1),
            Content::List(nodes) => extent(nodes.iter()),
            Content::Map(entries) => extent(entries.iter().map(|(_, node)| node)),
        };
        let node = Node { line, height, size, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content<'a>, YamlError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(Rc::new(nodes))),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Content<'a>, YamlError> {
        let mut entries: Vec<(Key<'a>, Node<'a>)> = Vec::new();
        let mut lines: HashMap<Cow<'a, str>, u32> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Content::Map(Rc::new(entries)));
            }
            let key = self.node(event, span, depth + 1)?;
            let line = key.line;
            let text = match key.content {
                Content::Scalar(text, Kind::Text) => text,
                Content::Scalar(text, kind) => {
                    let reason = format!("the key {text} is {} to YAML; put it into quotes", kind.name());
                    return Err(YamlError { line, reason });
                }
                _ => return Err(YamlError { line, reason: "a key must be text".to_owned() }),
            };
            if let Some(first) = lines.insert(text.clone(), line) {
                let reason = format!("the key {text:?} stands twice in one mapping, first on line {first}");
                return Err(YamlError { line, reason });
            }
            let (event, span) = self.next()?;
            entries.push((Key { line, text }, self.node(event, span, depth + 1)?));
        }
    }
}

/// Height and size of what has these nodes within.
fn extent<'n, 'a: 'n>(nodes: impl Iterator<Item = &'n Node<'a>>) -> (usize, usize) {
    nodes.fold((1, 1), |(height, size), node| (height.max(node.height + 1), node.size.saturating_add(size)))
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

fn scan_error(error: ScanError) -> YamlError {
    YamlError { line: line(error.marker().line()), reason: error.info() }
}

fn no_tag(tag: Option<&Tag>) -> Result<(), String> {
    tag.map_or(Ok(()), |tag| Err(format!("the tag {tag} has no meaning here; take it out")))
}

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, String> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(plain_kind(text)),
        None => Ok(Kind::Text),
        Some(tag) if tag.core_suffix() == Some("str") => Ok(Kind::Text),
        tag => no_tag(tag).map(|()| Kind::Text),
    }
}

/// What a plain scalar is: YAML 1.2.2, section 10.3.2.
pub(super) fn plain_kind(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Bool,
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let all = |text: &str, of: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(of);
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |byte| matches!(byte, b'0'..=b'7'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, u8::is_ascii_hexdigit);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.is_empty() || all(text, u8::is_ascii_digit);
    !(whole.is_empty() && fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && exponent.is_none_or(|exponent| all(exponent, u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (u32, String) {
        let error = parse(text).unwrap_err();
        (error.line, error.reason)
    }

    #[test]
    fn plain_scalars_are_yaml_1_2() {
        for text in ["010", "-5", "+5", "1.5", ".5", "1.", "1e3", "0x1F", "0o17", ".inf", "-.INF", ".nan", "1.5E-3"] {
            assert_eq!(plain_kind(text), Kind::Number, "{text}");
        }
        for text in ["on", "no", "y", "0b11", "1_000", "1.2.3", "10.0.0.0/8", "12:30", "-", ".", "e3", "1e", "0x", "+"]
        {
            assert_eq!(plain_kind(text), Kind::Text, "{text}");
        }
        assert_eq!((plain_kind("True"), plain_kind("~")), (Kind::Bool, Kind::Null));
    }

    #[test]
    fn a_file_that_multiplies_itself_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "));
        }
        assert_eq!(error(&text).1, "its aliases stand for too many nodes");
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..200 {
            deep += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        assert_eq!(error(&deep), (32, "it is nested too deeply".to_owned()));
        assert!(parse(&"[".repeat(5000)).is_err() && parse(&"- ".repeat(5000)).is_err());
        assert!(parse("a: &a [*a]").is_err());
    }

    #[test]
    fn keys_are_text_and_stand_once() {
        assert_eq!(
            error("a: 1\nb: 2\na: 3\n"),
            (3, "the key \"a\" stands twice in one mapping, first on line 1".into())
        );
        assert_eq!(error("a: 1\n010: 2\n"), (2, "the key 010 is a number to YAML; put it into quotes".into()));
        assert_eq!(error("a: !!int 1\n").0, 1);
        assert!(parse("'010': 2\non: !!str 3\n").is_ok());
    }
}
