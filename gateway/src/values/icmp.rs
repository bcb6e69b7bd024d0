//! ICMP's messages by name, as `iptables -p icmp -h` and `ip6tables -p icmpv6 -h` list them.
//!
//! The same name has a number for each family. A rule that may mean packets of both gets both numbers, as long as
//! neither number means another message in the other family.

use std::ops::RangeInclusive;

use crate::model::{Families, Family, IcmpType, Match, Test};

const ANY: RangeInclusive<u8> = 0..=255;

/// Of two names for one message, the first is written.
const V4: [(&str, u8, RangeInclusive<u8>); 39] = [
    ("echo-reply", 0, ANY),
    ("pong", 0, ANY),
    ("destination-unreachable", 3, ANY),
    ("network-unreachable", 3, 0..=0),
    ("host-unreachable", 3, 1..=1),
    ("protocol-unreachable", 3, 2..=2),
    ("port-unreachable", 3, 3..=3),
    ("fragmentation-needed", 3, 4..=4),
    ("source-route-failed", 3, 5..=5),
    ("network-unknown", 3, 6..=6),
    ("host-unknown", 3, 7..=7),
    ("network-prohibited", 3, 9..=9),
    ("host-prohibited", 3, 10..=10),
    ("TOS-network-unreachable", 3, 11..=11),
    ("TOS-host-unreachable", 3, 12..=12),
    ("communication-prohibited", 3, 13..=13),
    ("host-precedence-violation", 3, 14..=14),
    ("precedence-cutoff", 3, 15..=15),
    ("source-quench", 4, ANY),
    ("redirect", 5, ANY),
    ("network-redirect", 5, 0..=0),
    ("host-redirect", 5, 1..=1),
    ("TOS-network-redirect", 5, 2..=2),
    ("TOS-host-redirect", 5, 3..=3),
    ("echo-request", 8, ANY),
    ("ping", 8, ANY),
    ("router-advertisement", 9, ANY),
    ("router-solicitation", 10, ANY),
    ("time-exceeded", 11, ANY),
    ("ttl-exceeded", 11, ANY),
    ("ttl-zero-during-transit", 11, 0..=0),
    ("ttl-zero-during-reassembly", 11, 1..=1),
    ("parameter-problem", 12, ANY),
    ("ip-header-bad", 12, 0..=0),
    ("required-option-missing", 12, 1..=1),
    ("timestamp-request", 13, ANY),
    ("timestamp-reply", 14, ANY),
    ("address-mask-request", 17, ANY),
    ("address-mask-reply", 18, ANY),
];

const V6: [(&str, u8, RangeInclusive<u8>); 28] = [
    ("destination-unreachable", 1, ANY),
    ("no-route", 1, 0..=0),
    ("communication-prohibited", 1, 1..=1),
    ("beyond-scope", 1, 2..=2),
    ("address-unreachable", 1, 3..=3),
    ("port-unreachable", 1, 4..=4),
    ("failed-policy", 1, 5..=5),
    ("reject-route", 1, 6..=6),
    ("packet-too-big", 2, ANY),
    ("time-exceeded", 3, ANY),
    ("ttl-exceeded", 3, ANY),
    ("ttl-zero-during-transit", 3, 0..=0),
    ("ttl-zero-during-reassembly", 3, 1..=1),
    ("parameter-problem", 4, ANY),
    ("bad-header", 4, 0..=0),
    ("unknown-header-type", 4, 1..=1),
    ("unknown-option", 4, 2..=2),
    ("echo-request", 128, ANY),
    ("ping", 128, ANY),
    ("echo-reply", 129, ANY),
    ("pong", 129, ANY),
    ("router-solicitation", 133, ANY),
    ("router-advertisement", 134, ANY),
    ("neighbour-solicitation", 135, ANY),
    ("neighbor-solicitation", 135, ANY),
    ("neighbour-advertisement", 136, ANY),
    ("neighbor-advertisement", 136, ANY),
    ("redirect", 137, ANY),
];

/// Whose messages the names of a rule are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context(Families);

impl Context {
    /// Of a rule in a chain for these families: one that names `icmp` or `icmpv6` as its only protocol is about that family.
    pub(crate) fn of(families: Families, matches: &[Match]) -> Context {
        let named = || {
            matches.iter().find_map(|of| match &of.test {
                Test::Protocol(numbers) if !of.negated => match numbers[..] {
                    [1] => Some(Family::V4),
                    [58] => Some(Family::V6),
                    _ => None,
                },
                _ => None,
            })
        };
        Context(families.or_else(named))
    }

    /// What a name means; `None` if nothing.
    fn named(self, name: &str) -> Option<Result<Vec<IcmpType>, String>> {
        let of = |family| {
            let entry = table(family).iter().find(|(of, ..)| of.eq_ignore_ascii_case(name));
            entry.map(|(_, kind, codes)| IcmpType { kind: *kind, codes: codes.clone() })
        };
        if let Some(family) = self.0 {
            return of(family).map(|found| Ok(vec![found]));
        }
        let (v4, v6) = (of(Family::V4), of(Family::V6));
        let taken = |found: &Option<IcmpType>, family| {
            found.as_ref().is_some_and(|found| table(family).iter().any(|(_, kind, _)| *kind == found.kind))
        };
        let clash = taken(&v4, Family::V6) || taken(&v6, Family::V4);
        let found: Vec<IcmpType> = v4.into_iter().chain(v6).collect();
        if found.is_empty() {
            None
        } else if clash {
            Some(Err(format!(
                "the number of {name:?} in one family is another message in the other; add `protocol: icmp` or `protocol: icmpv6`"
            )))
        } else {
            Some(Ok(found))
        }
    }
}

fn table(family: Family) -> &'static [(&'static str, u8, RangeInclusive<u8>)] {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// Messages by a name, a type, or a type with its code or codes.
pub(crate) fn messages(text: &str, context: Context) -> Result<Vec<IcmpType>, String> {
    if let Some(found) = context.named(text) {
        return found;
    }
    let error =
        || format!("{text:?} is no ICMP message known here; write a name such as echo-request, a type, or type/code");
    let (kind, codes) = match text.split_once('/') {
        None => (text, ANY),
        Some((kind, codes)) => {
            let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
            (kind, super::number(first).ok_or_else(error)?..=super::number(last).ok_or_else(error)?)
        }
    };
    let kind = super::number(kind).ok_or_else(error)?;
    if codes.is_empty() {
        return Err(format!("the range {text} ends before it begins; write the lower code first"));
    }
    Ok(vec![IcmpType { kind, codes }])
}

/// Messages as they are read in a rule of this context: by name where there is one.
pub(crate) fn show_messages(types: &[IcmpType], context: Context) -> Vec<String> {
    let names = || V4.iter().chain(&V6).map(|(name, ..)| *name);
    let mut shown = Vec::new();
    let mut rest = types;
    while let Some((first, others)) = rest.split_first() {
        let named = names().find_map(|name| match context.named(name) {
            Some(Ok(found)) if rest.starts_with(&found) => Some((name, found.len())),
            _ => None,
        });
        match named {
            Some((name, count)) => {
                shown.push(name.to_owned());
                rest = &rest[count..];
            }
            None => {
                shown.push(match (first.codes == ANY, &first.codes) {
                    (true, _) => first.kind.to_string(),
                    (false, codes) => format!("{}/{}", first.kind, super::show_range(codes)),
                });
                rest = others;
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_their_family_says() {
        let of = |family, name| messages(name, Context(family)).map(|found| show_numbers(&found));
        assert_eq!(of(Some(Family::V4), "time-exceeded").unwrap(), ["11"]);
        assert_eq!(of(Some(Family::V6), "time-exceeded").unwrap(), ["3"]);
        assert_eq!(of(Some(Family::V6), "port-unreachable").unwrap(), ["1/4"]);
        assert_eq!(of(None, "echo-request").unwrap(), ["8", "128"]);
        assert_eq!(of(None, "packet-too-big").unwrap(), ["2"]);
        assert!(of(None, "time-exceeded").unwrap_err().contains("add `protocol: icmp`"));
        assert!(of(Some(Family::V6), "source-quench").is_err());
        assert_eq!(of(None, "3/4-6").unwrap(), ["3/4-6"]);
        assert!(of(None, "256").is_err() && of(None, "3/").is_err() && of(None, "3/6-4").is_err());
    }

    fn show_numbers(types: &[IcmpType]) -> Vec<String> {
        let show = |of: &IcmpType| match (of.codes == ANY, &of.codes) {
            (true, _) => of.kind.to_string(),
            (false, codes) => format!("{}/{}", of.kind, super::super::show_range(codes)),
        };
        types.iter().map(show).collect()
    }

    #[test]
    fn what_is_shown_is_read() {
        for context in [Context(None), Context(Some(Family::V4)), Context(Some(Family::V6))] {
            for kind in 0..=255 {
                for codes in [ANY, 0..=0, 4..=4, 1..=9, 255..=255, 0..=254] {
                    let types = [IcmpType { kind, codes }, IcmpType { kind: 128, codes: ANY }];
                    let shown = show_messages(&types, context);
                    let read: Vec<_> = shown.iter().flat_map(|text| messages(text, context).unwrap()).collect();
                    assert_eq!(read, types, "{shown:?}");
                }
            }
        }
    }
}
