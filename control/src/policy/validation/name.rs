//! Names, label keys and label values: the character rules of `apimachinery/pkg/util/validation`.

/// The API server's reason with the pattern and examples that it prints.
fn pattern_reason(rule: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// At most `limit` bytes.
fn length_reason(text: &str, limit: usize) -> Option<String> {
    (text.len() > limit).then(|| format!("must be no more than {limit} characters"))
}

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const NAME_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Letters that `inner` allows, at least one, of which the first and the last satisfy `outer`.
fn is_framed(text: &str, outer: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => outer(*only),
        [first, middle @ .., last] => outer(*first) && outer(*last) && middle.iter().all(|&byte| inner(byte)),
    }
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_dns_label(text: &str) -> bool {
    is_framed(text, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    is_framed(
        text,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

/// What is wrong with a DNS label (RFC 1123), a namespace's name.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut reasons: Vec<_> = length_reason(text, 63).into_iter().collect();
    if !is_dns_label(text) {
        reasons.push(pattern_reason(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character",
            LABEL_PATTERN,
            &["my-name", "123-abc"],
        ));
    }
    reasons
}

/// What is wrong with a DNS subdomain (RFC 1123), the name of most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut reasons: Vec<_> = length_reason(text, 253).into_iter().collect();
    if !text.split('.').all(is_dns_label) {
        reasons.push(pattern_reason(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!("{LABEL_PATTERN}(\\.{LABEL_PATTERN})*"),
            &["example.com"],
        ));
    }
    reasons
}

/// What is wrong with a label key: `name` or `dns.prefix/name`.
pub fn label_key(text: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut reasons = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                reasons.push("prefix part must be non-empty".to_owned());
            } else {
                reasons.extend(dns_subdomain(prefix).iter().map(|reason| format!("prefix part {reason}")));
            }
            name
        }
        _ => {
            let rule = pattern_reason(RULE, NAME_PATTERN, &examples);
            let example = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {rule} {example}")];
        }
    };
    if name.is_empty() {
        reasons.push("name part must be non-empty".to_owned());
    } else {
        reasons.extend(length_reason(name, 63).map(|reason| format!("name part {reason}")));
    }
    if !is_qualified_part(name) {
        reasons.push(format!("name part {}", pattern_reason(RULE, NAME_PATTERN, &examples)));
    }
    reasons
}

/// What is wrong with a label value. The empty value is a good one.
pub fn label_value(text: &str) -> Vec<String> {
    let mut reasons: Vec<_> = length_reason(text, 63).into_iter().collect();
    if !text.is_empty() && !is_qualified_part(text) {
        reasons.push(pattern_reason(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({NAME_PATTERN})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    reasons
}

/// What is wrong with the name of a port (IANA service name, RFC 6335 section 5.1).
pub fn port_name(text: &str) -> Vec<String> {
    let mut reasons: Vec<_> = length_reason(text, 15).into_iter().collect();
    if text.is_empty() || !text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        reasons.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        reasons.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        reasons.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        reasons.push("must not begin or end with a hyphen".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_api_server_reads_them() {
        for good in ["a", "a-b", "1a.b2", "example.com"] {
            assert!(dns_subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", &"a".repeat(254)] {
            assert!(!dns_subdomain(bad).is_empty(), "{bad}");
        }
        assert!(dns_label("a.b").len() == 1 && dns_label(&"a".repeat(64)).len() == 1);
        for good in ["a", "A_b.c-9", "example.com/My_name"] {
            assert!(label_key(good).is_empty(), "{good}");
        }
        for (bad, count) in [("", 2), ("a/b/c", 1), ("/a", 1), ("Upper.Prefix/a", 1), ("a/", 2), ("-a", 1), ("a=b", 1)]
        {
            assert_eq!(label_key(bad).len(), count, "{bad}");
        }
        assert!(label_value("").is_empty() && label_value("a.b_c").is_empty());
        assert!(label_value(&"a".repeat(64)).len() == 1 && label_value(" a").len() == 1);
    }

    #[test]
    fn port_names_give_every_reason() {
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("80").len(), 1);
        assert_eq!(port_name("").len(), 2);
        assert_eq!(port_name("-a--b").len(), 2);
        assert_eq!(port_name("abcdefghijklmnop").len(), 1);
    }
}
