//! Values of flags, as people write them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::pktgen::spec::{FrameShape, Order, Rate};

/// Addresses, first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

impl Addresses {
    /// How many; more than 2³² - 1 count as that.
    pub(super) fn count(&self) -> u32 {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (last.to_bits() - first.to_bits()).saturating_add(1),
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                u32::try_from(last.to_bits() - first.to_bits()).unwrap_or(u32::MAX).saturating_add(1)
            }
            _ => 0,
        }
    }
}

pub(super) fn addresses(text: &str) -> Result<Addresses, String> {
    let example = "write an address, a prefix such as 10.1.0.0/24, or two addresses such as 10.1.0.1-10.1.0.9";
    let one = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is not an address; {example}"));
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (one(first)?, one(last)?)
    } else if text.contains('/') {
        let net: IpNet = text.parse().map_err(|_| format!("{text:?} is not a prefix; {example}"))?;
        (net.network(), net.broadcast())
    } else {
        (one(text)?, one(text)?)
    };
    if first.is_ipv6() != last.is_ipv6() || first > last {
        return Err(format!("{text:?} is not a range of addresses from low to high; {example}"));
    }
    Ok(Addresses { first, last })
}

/// Ports, first and last.
pub(super) fn ports(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("{text:?} is not a port or a range of ports such as 1024-65535");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first <= last { Ok((first, last)) } else { Err(bad()) }
}

/// A number with a decimal prefix.
fn scaled(text: &str) -> Option<f64> {
    let factor = match text.chars().last()? {
        'k' | 'K' => 1e3,
        'm' | 'M' => 1e6,
        'g' | 'G' => 1e9,
        _ => 1.0,
    };
    let digits = if factor == 1.0 { text } else { &text[..text.len() - 1] };
    digits
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)
        .map(|number| number * factor)
}

/// A number of things: `1000`, `64k`, `1M`.
pub(super) fn count(text: &str) -> Result<u64, String> {
    let number = scaled(text).filter(|number| number.fract() == 0.0 && *number <= 1e18);
    number.map(|number| number as u64).ok_or_else(|| format!("{text:?} is not a whole number such as 1000, 64k or 1M"))
}

/// The same, of flows.
pub(super) fn flows(text: &str) -> Result<u32, String> {
    let number = count(text)?;
    u32::try_from(number).map_err(|_| format!("{text} flows are more than 4,294,967,295"))
}

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let bad =
        || format!("{text:?} is not a rate; write 100k or 1.5M frames a second, 10Gbit for bits a second, or flat-out");
    if text == "flat-out" {
        return Ok(Rate::FlatOut);
    }
    let lower = text.to_ascii_lowercase();
    if let Some(bits) = lower.strip_suffix("bit/s").or(lower.strip_suffix("bit")).or(lower.strip_suffix("bps")) {
        return scaled(bits).map(Rate::BitsPerSecond).ok_or_else(bad);
    }
    scaled(lower.strip_suffix("pps").unwrap_or(&lower)).map(Rate::FramesPerSecond).ok_or_else(bad)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a time; write 500ms, 10s or 2m");
    let (digits, unit) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1e-3),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1.0),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60.0),
        _ => return Err(bad()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

pub(super) fn order(text: &str) -> Result<Order, String> {
    match text.split_once(':').unwrap_or((text, "1")) {
        ("sequential", _) => Ok(Order::Sequential),
        ("uniform", _) => Ok(Order::Uniform),
        ("zipf", exponent) => {
            let exponent = exponent.parse().map_err(|_| format!("{exponent:?} is not an exponent; write zipf:1.1"))?;
            Ok(Order::Zipf { exponent })
        }
        _ => Err(format!("{text:?} is not an order; write sequential, uniform, zipf or zipf:1.1")),
    }
}

/// Frame sizes: clap takes a list as one value only when it has a type of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes(pub(super) Vec<u16>);

pub(super) fn sizes(text: &str) -> Result<Sizes, String> {
    if text == "imix" {
        return Ok(Sizes(FrameShape::IMIX.to_vec()));
    }
    let list = text.split(',').map(|size| size.trim().parse()).collect::<Result<_, _>>();
    list.map(Sizes).map_err(|_| format!("{text:?} is not a frame size; write 60, a list such as 60,590,1514, or imix"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(rate("1.5M"), Ok(Rate::FramesPerSecond(1.5e6)));
        assert_eq!(rate("100kpps"), Ok(Rate::FramesPerSecond(1e5)));
        assert_eq!(rate("10Gbit"), Ok(Rate::BitsPerSecond(1e10)));
        assert_eq!(rate("flat-out"), Ok(Rate::FlatOut));
        assert_eq!(count("64k"), Ok(64_000));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(order("zipf:1.1"), Ok(Order::Zipf { exponent: 1.1 }));
        assert_eq!(ports("9"), Ok((9, 9)));
        assert_eq!(addresses("10.0.0.0/24").unwrap().count(), 256);
        assert_eq!(addresses("fd00::1-fd00::ff").unwrap().count(), 255);
        assert_eq!(addresses("::/0").unwrap().count(), u32::MAX);
        assert_eq!(sizes("60, 1514"), Ok(Sizes(vec![60, 1514])));
        assert_eq!(sizes("imix").unwrap().0.len(), 12);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_an_example() {
        let errors = [
            rate("fast").unwrap_err(),
            rate("-1").unwrap_err(),
            count("1.5").unwrap_err(),
            flows("5G").unwrap_err(),
            duration("10").unwrap_err(),
            order("random").unwrap_err(),
            ports("9-1").unwrap_err(),
            addresses("10.0.0.9-10.0.0.1").unwrap_err(),
            addresses("10.0.0.1-fd00::1").unwrap_err(),
            addresses("10.0.0.1/33").unwrap_err(),
            sizes("large").unwrap_err(),
        ];
        for error in errors {
            assert!(error.len() > 20 && error.is_ascii() && !error.contains('\n'), "{error}");
        }
    }
}
