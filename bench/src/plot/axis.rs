//! Axes: from values to pixels, and where the ticks are.

/// An axis over a range of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// An axis that holds all values, with ticks at its ends. A linear one starts at zero; a logarithmic one leaves out what is
    /// not above zero, and covers whole decades.
    pub(super) fn over(values: impl Iterator<Item = f64>, is_log: bool) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite() && (!is_log || *value > 0.0)).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if is_log {
            let (low, high) = if values.is_empty() { (1.0, 10.0) } else { (low, high) };
            let (low, high) = (low.log10().floor(), high.log10().ceil());
            return Axis { low: 10f64.powf(low), high: 10f64.powf(high.max(low + 1.0)), is_log };
        }
        let low = if low.is_finite() { low.min(0.0) } else { 0.0 };
        let high = if high > low { high } else { low + 1.0 };
        let step = step(high - low);
        Axis { low: (low / step).floor() * step, high: (high / step).ceil() * step, is_log }
    }

    /// How far along the axis a value lies, 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Where there are ticks: round values, or powers of ten.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let (first, last) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
            return (first..=last).map(|power| 10f64.powi(power)).collect();
        }
        let step = step(self.high - self.low);
        let count = ((self.high - self.low) / step).round() as u32;
        (0..=count).map(|i| self.low + step * f64::from(i)).collect()
    }
}

/// A round distance that parts a range into four to ten.
fn step(range: f64) -> f64 {
    let power = 10f64.powf((range / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| range / step <= 8.0)
        .unwrap_or(power * 10.0)
}

/// A value with at most three digits that count and a decimal prefix.
pub(super) fn label(value: f64) -> String {
    let size = value.abs();
    let (scaled, prefix) = match size {
        _ if size >= 1e9 => (value / 1e9, "G"),
        _ if size >= 1e6 => (value / 1e6, "M"),
        _ if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 || scaled == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{prefix}")
}
