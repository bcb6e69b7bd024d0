//! YAML to JSON, as Kubernetes' own tools read it.
//!
//! They use YAML 1.1: an unquoted `yes`, `on` or `no` is a boolean, `010` is eight and `0b11` is three, a mapping's key is
//! always text in the end, and `<<` merges. A key that comes twice in one mapping is an error. Every node's line is
//! kept, so that an error in a field can say where the field is.
//!
//! One departure: a lone `y` or `n` stays text. Writers of YAML disagree on whether to quote it (PyYAML does not), and a
//! namespace called `y` can mean nothing else.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// Deeper nesting than any Kubernetes object has, aliases followed; recursion stays bounded.
const MAX_DEPTH: usize = 100;
/// More nodes than the aliases of any sane file stand for: a document that multiplies itself is refused.
const MAX_ALIASED_NODES: usize = 1_000_000;

/// Where and why a text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    /// The line, from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) reason: String,
}

/// A node with its line.
#[derive(Debug)]
pub(super) struct Node {
    line: usize,
    /// How deep it is nested within.
    height: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(Value),
    Sequence(Vec<Rc<Node>>),
    /// Keys with the line of the key.
    Mapping(Vec<(String, usize, Rc<Node>)>),
}

impl Node {
    /// The line on which it begins.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Whether there is nothing in it: a document of comments alone.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    /// As JSON.
    pub(super) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(nodes) => nodes.iter().map(|node| node.to_value()).collect(),
            Content::Mapping(entries) => {
                let entries = entries.iter().map(|(key, _, node)| (key.clone(), node.to_value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// The line of a field: of the deepest part of its path that is there.
    pub(super) fn line_of(&self, field: &str) -> usize {
        let (mut node, mut line) = (self, self.line);
        for step in steps(field) {
            match &node.content {
                Content::Mapping(entries) => match entries.iter().find(|(key, _, _)| key == step) {
                    Some((_, key_line, next)) => (node, line) = (next, *key_line),
                    None => break,
                },
                Content::Sequence(nodes) => match step.parse().ok().and_then(|index: usize| nodes.get(index)) {
                    Some(next) => (node, line) = (next, next.line),
                    None => break,
                },
                Content::Scalar(_) => break,
            }
        }
        line
    }

    fn count(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::Sequence(nodes) => nodes.iter().map(|node| node.count()).sum(),
            Content::Mapping(entries) => entries.iter().map(|(_, _, node)| node.count()).sum(),
        }
    }
}

/// The steps of a path: `spec.ingress[0].labels[a.b/c]` is `spec`, `ingress`, `0`, `labels`, `a.b/c`.
fn steps(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = field;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = after;
        Some(step)
    })
}

/// Reads all documents of a text; empty ones are left out.
pub(super) fn read(text: &str) -> Result<Vec<Rc<Node>>, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) => reader.anchors.clear(),
            Event::StreamStart | Event::DocumentEnd | Event::StreamEnd => {}
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
    Ok(documents)
}

impl Content {
    fn height(&self) -> usize {
        match self {
            Content::Scalar(_) => 0,
            Content::Sequence(nodes) => 1 + nodes.iter().map(|node| node.height).max().unwrap_or(0),
            Content::Mapping(entries) => 1 + entries.iter().map(|(_, _, node)| node.height).max().unwrap_or(0),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
    /// How many nodes aliases have stood for so far.
    aliased: usize,
}

impl<'a> Reader<'a> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        loop {
            match self.parser.next_event().transpose().map_err(scan_error)? {
                Some((Event::Comment(..), _)) => {}
                event => return Ok(event),
            }
        }
    }

    fn expect(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        self.next()?.ok_or_else(|| YamlError { line: 1, reason: "the document ends too early".to_owned() })
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Rc<Node>, YamlError> {
        let line = span.start.line();
        let error = |reason: &str| YamlError { line, reason: reason.to_owned() };
        if depth > MAX_DEPTH {
            return Err(error("the document is nested too deeply"));
        }
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Content::Scalar(scalar(&text, style, tag.as_deref()).map_err(|reason| error(&reason))?))
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| error("an alias to itself"))?;
                if depth + node.height > MAX_DEPTH {
                    return Err(error("the document is nested too deeply"));
                }
                self.aliased += node.count();
                if self.aliased > MAX_ALIASED_NODES {
                    return Err(error("the document's aliases expand to too many nodes"));
                }
                return Ok(node);
            }
            _ => return Err(error("a node was expected here")),
        };
        let height = content.height();
        let node = Rc::new(Node { line, height, content });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut nodes = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Content::Sequence(nodes)),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut entries: Vec<(String, usize, Rc<Node>)> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let line = key.line;
            let (event, span) = self.expect()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            let key = key_text(&key)?;
            if let Some(first) = lines.insert(key.clone(), line) {
                let reason = format!("the key {key:?} comes twice in one mapping, first on line {first}");
                return Err(YamlError { line, reason });
            }
            entries.push((key, line, value));
        }
        for node in merged {
            merge(&node, &mut entries)?;
        }
        Ok(Content::Mapping(entries))
    }
}

/// `<<`: what the mapping does not have itself, it takes from another or, in order, from several.
fn merge(node: &Rc<Node>, entries: &mut Vec<(String, usize, Rc<Node>)>) -> Result<(), YamlError> {
    match &node.content {
        Content::Mapping(others) => {
            for (key, line, value) in others {
                if !entries.iter().any(|(own, _, _)| own == key) {
                    entries.push((key.clone(), *line, Rc::clone(value)));
                }
            }
            Ok(())
        }
        Content::Sequence(nodes) => nodes.iter().try_for_each(|node| match node.content {
            Content::Mapping(_) => merge(node, entries),
            _ => Err(YamlError { line: node.line, reason: "only mappings can be merged with `<<`".to_owned() }),
        }),
        Content::Scalar(_) => {
            Err(YamlError { line: node.line, reason: "only mappings can be merged with `<<`".to_owned() })
        }
    }
}

fn scan_error(error: ScanError) -> YamlError {
    YamlError { line: error.marker().line(), reason: error.info() }
}

/// A key as text: numbers and booleans are written out.
fn key_text(node: &Node) -> Result<String, YamlError> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Ok(text.clone()),
        Content::Scalar(Value::Null) => Ok("null".to_owned()),
        Content::Scalar(value) => Ok(value.to_string()),
        _ => Err(YamlError { line: node.line, reason: "a key must be text".to_owned() }),
    }
}

/// The value of a scalar.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag.map(ToString::to_string).as_deref() {
        None | Some("!") if style != ScalarStyle::Plain => Ok(Value::String(text.to_owned())),
        None => Ok(plain(text)),
        Some("!" | "tag:yaml.org,2002:str" | "!!str" | "tag:yaml.org,2002:binary") => {
            Ok(Value::String(text.to_owned()))
        }
        Some(tag) if tag.contains("yaml.org,2002:") || tag.starts_with("!!") => Ok(plain(text)),
        Some(tag) => Err(format!("the tag {tag} has no meaning here")),
    }
}

/// A plain scalar by the rules of YAML 1.1.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// A number: decimal, octal (`010`, `0o10`), hexadecimal or binary, with `_` between digits; or with a fraction.
fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        b'0'..=b'9' | b'.' => (false, text),
        _ => return None,
    };
    let plain = digits.replace('_', "");
    if !plain.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let with_radix = |prefix: &[&str], radix| {
        let rest = prefix.iter().find_map(|prefix| plain.strip_prefix(prefix))?;
        (!rest.is_empty() && !rest.starts_with(['+', '-'])).then(|| u64::from_str_radix(rest, radix).ok())?
    };
    let integer = with_radix(&["0x", "0X"], 16)
        .or_else(|| with_radix(&["0b", "0B"], 2))
        .or_else(|| with_radix(&["0o", "0O"], 8))
        .or_else(|| with_radix(&["0"], 8))
        .or_else(|| plain.parse().ok());
    match integer {
        Some(magnitude) if negative => i64::try_from(magnitude).ok().map(|magnitude| (-magnitude).into()),
        Some(magnitude) => Some(magnitude.into()),
        None if is_float(&plain) => {
            let magnitude: f64 = plain.parse().ok()?;
            Number::from_f64(if negative { -magnitude } else { magnitude })
        }
        None => None,
    }
}

/// `1.5`, `.5`, `1.`, `1e3`: digits around at most one point, then an exponent perhaps.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !(whole.is_empty() && fraction.is_empty());
    let good_exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    has_digits && digits(whole) && digits(fraction) && good_exponent
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Vec<Value> {
        read(text).unwrap().iter().map(|node| node.to_value()).collect()
    }

    fn error(text: &str) -> (usize, String) {
        let error = read(text).unwrap_err();
        (error.line, error.reason)
    }

    #[test]
    fn scalars_are_yaml_1_1() {
        let text = "[yes, no, 'yes', On, n, y, ~, , 010, 0o10, 0x1F, 0b11, 1_000, -5, +5, 1.5, .5, 1e3, 1.2.3, 10.0.0.0/8, \
                    08, '', \"a\\u00e9\", 12:30, -, 18446744073709551615, a, !!str 5, !!int 5, .]";
        let expected = json!([
            true,
            false,
            "yes",
            true,
            "n",
            "y",
            null,
            null,
            8,
            8,
            31,
            3,
            1000,
            -5,
            5,
            1.5,
            0.5,
            1000.0,
            "1.2.3",
            "10.0.0.0/8",
            8,
            "",
            "aé",
            "12:30",
            "-",
            18446744073709551615u64,
            "a",
            "5",
            5,
            "."
        ]);
        let values = values(text.replace("~, ,", "~, null,").replace(" -,", " '-',").as_str());
        assert_eq!(values, [expected]);
    }

    #[test]
    fn keys_become_text_and_may_not_come_twice() {
        assert_eq!(values("{1: a, yes: b, 1.5: c}"), [json!({"1": "a", "true": "b", "1.5": "c"})]);
        let (line, reason) = error("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
        assert_eq!(line, 5);
        assert_eq!(reason, "the key \"c\" comes twice in one mapping, first on line 3");
    }

    #[test]
    fn aliases_and_merges() {
        let text = "base: &b {a: 1, b: 2}\nplain: *b\nmerged: {<<: *b, b: 3}\nboth: {<<: [{a: 9}, *b]}\n";
        let expected = json!({"base": {"a": 1, "b": 2}, "plain": {"a": 1, "b": 2}, "merged": {"b": 3, "a": 1},
            "both": {"a": 9, "b": 2}});
        assert_eq!(values(text), [expected]);
    }

    #[test]
    fn a_document_that_multiplies_itself_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "));
        }
        assert_eq!(error(&text).1, "the document's aliases expand to too many nodes");
        assert_eq!(error(&"[".repeat(5000)).0, 1);
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..200 {
            deep += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        assert_eq!(error(&deep), (100, "the document is nested too deeply".to_owned()));
    }

    #[test]
    fn documents_and_lines() {
        let documents =
            read("# nothing\n---\na: 1\n---\n---\nspec:\n  list:\n  - x: 1\n  - z:\n      k.v/w: 2\n").unwrap();
        let documents: Vec<_> = documents.iter().filter(|node| !node.is_null()).collect();
        assert_eq!(documents.len(), 2);
        for (field, line) in
            [("spec", 6), ("spec.list[0].x", 8), ("spec.list[1].z[k.v/w]", 10), ("spec.list[1].u.w", 9), ("", 6)]
        {
            assert_eq!(documents[1].line_of(field), line, "{field}");
        }
    }

    #[test]
    fn broken_yaml_says_where() {
        let (line, reason) = error("a: 1\nb: [1, 2\nc: 3\n");
        assert!(line >= 2 && !reason.is_empty(), "{line}: {reason}");
    }
}
