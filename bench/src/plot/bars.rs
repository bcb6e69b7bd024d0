//! Bar charts with error bars.

use std::path::Path;

use plotters::prelude::DrawingBackend;

use super::axis::{Axis, label};
use super::canvas::{Align, Canvas, GRID, INK, PALETTE};
use super::{Chart, PlotError, Written, write};

/// A bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// Its name, to the left of it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// The spread: the error bar's ends. Both equal to the value draw none.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Which colour, by number: bars that belong together have the same.
    pub group: usize,
}

/// Horizontal bars, one below the other, with room for long names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarChart {
    /// What is shown.
    pub title: String,
    /// What the lengths are, with the unit.
    pub value_label: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// The names of the groups, in order of [`Bar::group`]; fewer than two draw no legend.
    pub groups: Vec<String>,
    /// Whether lengths are logarithmic.
    pub is_log: bool,
}

const WIDTH: u32 = 960;
const TOP: f64 = 56.0;
const ROW: f64 = 26.0;
const BOTTOM: f64 = 56.0;
const LEGEND: f64 = 24.0;

impl BarChart {
    /// Writes `PATH.svg` and `PATH.png`.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write(&self, path: &Path) -> Result<Written, PlotError> {
        write(self, path)
    }

    fn top(&self) -> f64 {
        TOP + if self.groups.len() > 1 { LEGEND } else { 0.0 }
    }

    /// Room for the longest name, at about seven pixels a letter.
    fn left(&self) -> f64 {
        let longest = self.bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        (longest as f64 * 7.2 + 24.0).clamp(80.0, 460.0)
    }

    fn legend<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<(), String> {
        if self.groups.len() < 2 {
            return Ok(());
        }
        let mut x = self.left();
        for (i, name) in self.groups.iter().enumerate() {
            canvas.rectangle((x, TOP - 6.0), (x + 12.0, TOP + 6.0), PALETTE[i % PALETTE.len()])?;
            canvas.text(name, (x + 18.0, TOP), 13, Align::Left)?;
            x += 40.0 + name.chars().count() as f64 * 7.0;
        }
        Ok(())
    }

    fn bar<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        bar: &Bar,
        middle: f64,
        x: impl Fn(f64) -> f64,
    ) -> Result<(), String> {
        canvas.text(&bar.label, (self.left() - 8.0, middle), 13, Align::Right)?;
        let end = x(bar.value);
        canvas.rectangle((self.left(), middle - 9.0), (end, middle + 9.0), PALETTE[bar.group % PALETTE.len()])?;
        let mut behind = end;
        if bar.low < bar.value || bar.high > bar.value {
            let (low, high) = (x(bar.low), x(bar.high));
            canvas.line(&[(low, middle), (high, middle)], INK, 1)?;
            for side in [low, high] {
                canvas.line(&[(side, middle - 5.0), (side, middle + 5.0)], INK, 1)?;
            }
            behind = behind.max(high);
        }
        canvas.text(&label(bar.value), (behind + 6.0, middle), 12, Align::Left)
    }
}

impl Chart for BarChart {
    fn size(&self) -> (u32, u32) {
        (WIDTH, (self.top() + BOTTOM + ROW * self.bars.len() as f64) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<(), String> {
        let axis = Axis::over(self.bars.iter().flat_map(|bar| [bar.value, bar.high]), self.is_log);
        let (left, right) = (self.left(), f64::from(WIDTH) - 70.0);
        let (top, bottom) = (self.top(), self.top() + ROW * self.bars.len() as f64 + 4.0);
        let x = |value: f64| left + axis.place(value) * (right - left);
        canvas.text(&self.title, (left, 24.0), 18, Align::Left)?;
        self.legend(canvas)?;
        for tick in axis.ticks() {
            canvas.line(&[(x(tick), top), (x(tick), bottom)], GRID, 1)?;
            canvas.text(&label(tick), (x(tick), bottom + 14.0), 12, Align::Middle)?;
        }
        canvas.text(&self.value_label, ((left + right) / 2.0, bottom + 36.0), 13, Align::Middle)?;
        for (i, bar) in self.bars.iter().enumerate() {
            self.bar(canvas, bar, top + ROW * (i as f64 + 0.5) + 2.0, x)?;
        }
        canvas.line(&[(left, top), (left, bottom)], INK, 1)
    }
}
