//! Plots of measurements, each written as SVG and as PNG.
//!
//! PNG needs a font of the system, which is looked for when the first plot is written ([`has_font`]). Without one, only the SVG is
//! written, whose text the viewer sets, and [`Written::png`] is `None`.

mod axis;
mod bars;
mod canvas;
mod lines;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plotters::drawing::DrawingArea;
use plotters::prelude::{BitMapBackend, DrawingBackend, IntoDrawingArea, SVGBackend};

pub use bars::{Bar, BarChart};
pub use canvas::has_font;
pub use lines::{LineChart, Point, Series, cdf};

use canvas::Canvas;

/// The files that a plot was written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Always.
    pub svg: PathBuf,
    /// Only with a font.
    pub png: Option<PathBuf>,
}

/// Why a plot could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the plot {} cannot be written: {reason}", .path.display())]
pub struct PlotError {
    /// The file.
    pub path: PathBuf,
    /// What the system or the library said.
    pub reason: String,
}

/// What can be drawn.
trait Chart {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws all of it.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<(), String>;
}

/// Writes a chart as `PATH.svg` and `PATH.png`; the folder is made.
fn write(chart: &impl Chart, path: &Path) -> Result<Written, PlotError> {
    let named = |extension: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(extension);
        PathBuf::from(name)
    };
    let (svg, png) = (named(".svg"), named(".png"));
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |reason: String| PlotError { path, reason }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error: io::Error| fail(folder)(error.to_string()))?;
    }
    draw(chart, SVGBackend::new(&svg, chart.size()).into_drawing_area()).map_err(fail(&svg))?;
    if !has_font() {
        return Ok(Written { svg, png: None });
    }
    draw(chart, BitMapBackend::new(&png, chart.size()).into_drawing_area()).map_err(fail(&png))?;
    Ok(Written { svg, png: Some(png) })
}

fn draw<B: DrawingBackend>(chart: &impl Chart, area: DrawingArea<B, plotters::coord::Shift>) -> Result<(), String> {
    area.fill(&plotters::style::WHITE).map_err(|error| error.to_string())?;
    chart.draw(&Canvas { area: &area })?;
    area.present().map_err(|error| error.to_string())
}
