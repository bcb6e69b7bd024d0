use super::axis::{Axis, label};
use super::*;

#[test]
fn axes_cover_their_values_with_round_ticks() {
    let axis = Axis::over([3.0, 47.0].into_iter(), false);
    assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
    assert_eq!((axis.place(0.0), axis.place(25.0), axis.place(50.0)), (0.0, 0.5, 1.0));
    let axis = Axis::over([10.0, 90_000.0, 0.0].into_iter(), true);
    assert_eq!(axis.ticks(), [10.0, 100.0, 1e3, 1e4, 1e5]);
    assert!((axis.place(1e3) - 0.5).abs() < 1e-9);
    assert_eq!(Axis::over(std::iter::empty(), true).ticks(), [1.0, 10.0]);
    assert_eq!(Axis::over([0.0].into_iter(), false).place(0.0), 0.0);
}

#[test]
fn labels_are_short() {
    let labels = [0.0, 0.25, 1.5, 12.0, 941.0, 1_000.0, 46_730.0, 2_033_000.0, 3e9].map(label);
    assert_eq!(labels, ["0", "0.25", "1.5", "12", "941", "1k", "46.7k", "2.03M", "3G"]);
}

#[test]
fn a_plot_is_written_as_svg_and_png() {
    let folder = tempfile::tempdir().unwrap();
    let bar = |label: &str, value, low, high| Bar { label: label.into(), value, low, high, group: 0 };
    let chart = BarChart {
        title: "Frames <per> second".into(),
        value_label: "kpps".into(),
        bars: vec![bar("kernel", 941.0, 930.0, 950.0), bar("Penstock", 1_000.0, 1_000.0, 1_000.0)],
        ..BarChart::default()
    };
    let written = chart.write(&folder.path().join("new/bars")).unwrap();
    let svg = fs::read_to_string(&written.svg).unwrap();
    assert!(
        svg.contains("kernel") && svg.contains("Penstock") && svg.contains("941") && !svg.contains("<per>"),
        "{svg}"
    );
    // Two bars and the background; the error bar of one of them.
    assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
    assert_eq!(written.png.is_some(), has_font());
    if let Some(png) = written.png {
        assert!(fs::read(png).unwrap().starts_with(b"\x89PNG"));
    }
}

#[test]
fn a_distribution_ends_at_one() {
    let chart = cdf("Latency", "µs", &[("wire".into(), vec![(10.0, 3), (20.0, 1)])]);
    assert_eq!(chart.series[0].points, [Point::new(10.0, 0.75), Point::new(20.0, 1.0)]);
    let folder = tempfile::tempdir().unwrap();
    let svg = fs::read_to_string(chart.write(&folder.path().join("cdf")).unwrap().svg).unwrap();
    assert!(svg.contains("polyline") && svg.contains("wire"));
}
