//! Marks of packets: iptables' rules set them in one table and look at them in another. A mark that no rule sets is zero.

use super::Table;
use super::words::words;

/// Which bits of a mark rules may set.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// The bits, and the rule.
    setters: Vec<(u32, String)>,
}

/// A value and a mask.
pub(super) fn value_and_mask(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

impl Marks {
    pub(super) fn of(tables: &[Table<'_>]) -> Marks {
        let mut marks = Marks::default();
        for table in tables {
            for (chain, text, origin) in &table.rules {
                let Ok(words) = words(text) else { continue };
                let target = words.windows(2).find(|pair| pair[0] == "-j").map(|pair| pair[1].as_str());
                if !matches!(target, Some("MARK" | "CONNMARK" | "SET" | "CONNSECMARK")) {
                    continue;
                }
                for pair in words.windows(2) {
                    let bits = match pair[0].as_str() {
                        "--set-xmark" | "--set-mark" | "--or-mark" | "--xor-mark" => {
                            value_and_mask(&pair[1]).map_or(u32::MAX, |(value, _)| value)
                        }
                        "--map-set" => u32::MAX,
                        _ => continue,
                    };
                    marks.setters.push((bits, format!("{origin} ({} {chain})", table.name)));
                }
            }
        }
        marks
    }

    /// Whether a mark's bits are as wanted: they are zero where nobody sets them.
    ///
    /// # Errors
    /// Rules set some of these bits: which, is not known here.
    pub(super) fn resolve(&self, value: u32, mask: u32) -> Result<bool, String> {
        let setters: Vec<&str> =
            self.setters.iter().filter(|(bits, _)| bits & mask != 0).map(|(_, rule)| rule.as_str()).collect();
        match setters.is_empty() {
            true => Ok(value & mask == 0 && value & !mask == 0),
            false => {
                Err(format!("it looks at a mark that is set by {}, which penstock does not see", setters.join(", ")))
            }
        }
    }
}
