//! Drawing in pixels: what the charts need of plotters.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, register_font};

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(222, 222, 222);
/// Colours that colour-blind people tell apart (Okabe, Ito: "Color Universal Design", 2008), black and yellow left out.
pub(super) const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// Fonts that are looked for first, in this order, anywhere below [`FOLDERS`].
const FONTS: [&str; 5] =
    ["DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "FreeSans.ttf", "Arial.ttf"];
const FOLDERS: [&str; 3] = ["/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts"];

/// Whether a font of the system was found and registered: PNG needs one. `PENSTOCK_FONT` names the file of another.
pub fn has_font() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| candidates().into_iter().any(|path| register(&path)))
}

fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    FOLDERS.iter().for_each(|folder| collect(Path::new(folder), 0, &mut all));
    let rank = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        FONTS.iter().position(|font| *font == name).unwrap_or(FONTS.len())
    };
    all.sort_by_key(|path| (rank(path), path.clone()));
    std::env::var_os("PENSTOCK_FONT").map(PathBuf::from).into_iter().chain(all).collect()
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth < 4 {
            collect(&path, depth + 1, found);
        } else if path.extension().is_some_and(|extension| extension == "ttf" || extension == "otf") {
            found.push(path);
        }
    }
}

fn register(path: &Path) -> bool {
    // plotters keeps fonts for good; this is the only one of the process.
    std::fs::read(path).is_ok_and(|bytes| register_font("sans-serif", FontStyle::Normal, bytes.leak()).is_ok())
}

/// Where a text lies relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Align {
    /// It starts there.
    Left,
    /// It is centred there.
    Middle,
    /// It ends there.
    Right,
}

/// A surface of pixels.
pub(super) struct Canvas<'a, B: DrawingBackend> {
    pub(super) area: &'a DrawingArea<B, Shift>,
}

type Drawn = Result<(), String>;

impl<B: DrawingBackend> Canvas<'_, B> {
    pub(super) fn text(&self, text: &str, at: (f64, f64), size: u32, align: Align) -> Drawn {
        self.styled_text(text, at, size, align, INK, FontTransform::None)
    }

    /// A text that reads upwards, centred on its point.
    pub(super) fn upright_text(&self, text: &str, at: (f64, f64), size: u32) -> Drawn {
        self.styled_text(text, at, size, Align::Middle, INK, FontTransform::Rotate270)
    }

    fn styled_text(
        &self,
        text: &str,
        at: (f64, f64),
        size: u32,
        align: Align,
        color: RGBColor,
        turn: FontTransform,
    ) -> Drawn {
        let horizontal = match align {
            Align::Left => HPos::Left,
            Align::Middle => HPos::Center,
            Align::Right => HPos::Right,
        };
        let font = ("sans-serif", size).into_font().transform(turn);
        let style = plotters::style::TextStyle::from(font).color(&color).pos(Pos::new(horizontal, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), pixel(at), style)).map_err(|error| error.to_string())
    }

    pub(super) fn line(&self, points: &[(f64, f64)], color: RGBColor, width: u32) -> Drawn {
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        let style = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: width };
        self.area.draw(&PathElement::new(points, style)).map_err(|error| error.to_string())
    }

    pub(super) fn rectangle(&self, from: (f64, f64), to: (f64, f64), color: RGBColor) -> Drawn {
        self.area.draw(&Rectangle::new([pixel(from), pixel(to)], color.filled())).map_err(|error| error.to_string())
    }

    pub(super) fn dot(&self, at: (f64, f64), color: RGBColor) -> Drawn {
        self.area.draw(&Circle::new(pixel(at), 3, color.filled())).map_err(|error| error.to_string())
    }
}

fn pixel((x, y): (f64, f64)) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}
