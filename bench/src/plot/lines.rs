//! Line charts, and cumulative distributions.

use std::path::Path;

use plotters::prelude::DrawingBackend;

use super::axis::{Axis, label};
use super::canvas::{Align, Canvas, GRID, INK, PALETTE};
use super::{Chart, PlotError, Written, write};

/// A point with its spread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// The error bar's ends. Both equal to `y` draw none.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Point {
    /// A point without a spread.
    pub fn new(x: f64, y: f64) -> Self {
        Point { x, y, low: y, high: y }
    }
}

/// A line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// Lines over a common axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// What is shown.
    pub title: String,
    /// What is to the right, with the unit.
    pub x_label: String,
    /// What is upwards, with the unit.
    pub y_label: String,
    /// Whether the horizontal axis is logarithmic.
    pub is_log_x: bool,
    /// Whether the vertical axis is logarithmic.
    pub is_log_y: bool,
    /// Whether points have dots: not for thousands.
    pub has_dots: bool,
    /// The lines.
    pub series: Vec<Series>,
}

const SIZE: (u32, u32) = (960, 540);
const LEFT: f64 = 84.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 474.0;
const RIGHT: f64 = 700.0;

impl LineChart {
    /// Writes `PATH.svg` and `PATH.png`.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write(&self, path: &Path) -> Result<Written, PlotError> {
        write(self, path)
    }

    fn grid<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (horizontal, vertical): (Axis, Axis),
        place: impl Fn(f64, f64) -> (f64, f64),
    ) -> Result<(), String> {
        for tick in horizontal.ticks() {
            let (x, _) = place(tick, 0.0);
            canvas.line(&[(x, TOP), (x, BOTTOM)], GRID, 1)?;
            canvas.text(&label(tick), (x, BOTTOM + 14.0), 12, Align::Middle)?;
        }
        for tick in vertical.ticks() {
            let (_, y) = place(0.0, tick);
            canvas.line(&[(LEFT, y), (RIGHT, y)], GRID, 1)?;
            canvas.text(&label(tick), (LEFT - 8.0, y), 12, Align::Right)?;
        }
        canvas.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 1)?;
        canvas.text(&self.title, (LEFT, 24.0), 18, Align::Left)?;
        canvas.text(&self.x_label, ((LEFT + RIGHT) / 2.0, BOTTOM + 40.0), 13, Align::Middle)?;
        canvas.upright_text(&self.y_label, (22.0, (TOP + BOTTOM) / 2.0), 13)
    }
}

impl Chart for LineChart {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<(), String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let horizontal = Axis::over(points().map(|point| point.x), self.is_log_x);
        let vertical = Axis::over(points().flat_map(|point| [point.y, point.high]), self.is_log_y);
        let place =
            |x: f64, y: f64| (LEFT + horizontal.place(x) * (RIGHT - LEFT), BOTTOM - vertical.place(y) * (BOTTOM - TOP));
        self.grid(canvas, (horizontal, vertical), place)?;
        for (i, series) in self.series.iter().enumerate() {
            let color = PALETTE[i % PALETTE.len()];
            let line: Vec<_> = series.points.iter().map(|point| place(point.x, point.y)).collect();
            canvas.line(&line, color, 2)?;
            for point in &series.points {
                if point.low < point.y || point.high > point.y {
                    canvas.line(&[place(point.x, point.low), place(point.x, point.high)], color, 1)?;
                }
                if self.has_dots {
                    canvas.dot(place(point.x, point.y), color)?;
                }
            }
            let y = TOP + 12.0 + 22.0 * i as f64;
            canvas.line(&[(RIGHT + 16.0, y), (RIGHT + 40.0, y)], color, 3)?;
            canvas.text(&series.name, (RIGHT + 46.0, y), 12, Align::Left)?;
        }
        Ok(())
    }
}

/// A chart of cumulative distributions: of each name, values in rising order with how many there are of each.
pub fn cdf(title: &str, x_label: &str, of: &[(String, Vec<(f64, u64)>)]) -> LineChart {
    let series = of.iter().map(|(name, values)| {
        let total: u64 = values.iter().map(|(_, count)| count).sum();
        let mut so_far = 0;
        let points = values.iter().map(|&(value, count)| {
            so_far += count;
            Point::new(value, so_far as f64 / total.max(1) as f64)
        });
        Series { name: name.clone(), points: points.collect() }
    });
    LineChart {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        y_label: "share of frames".to_owned(),
        is_log_x: true,
        series: series.collect(),
        ..LineChart::default()
    }
}
