//! Curves as an SVG picture: what a bench has measured against how much there was.

use std::fmt::Write as _;

/// One curve.
#[derive(Debug, Clone)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// Its points, x ascending.
    pub points: Vec<(f64, f64)>,
}

/// A picture of curves with one scale.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above the picture.
    pub title: String,
    /// Below the horizontal axis.
    pub x: String,
    /// Above the vertical axis.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;

/// Okabe and Ito's colours, told apart by everybody.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"];

/// How far apart the names of two curves must be to be read.
const LINE: f64 = 15.0;

impl Chart {
    /// The picture, [`WIDTH`] by [`HEIGHT`] pixels.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let right = points().map(|point| point.0).fold(1.0, f64::max);
        let step = step(points().map(|point| point.1).fold(1.0, f64::max));
        let top = (points().map(|point| point.1).fold(1.0, f64::max) / step).ceil() * step;
        let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (LEFT, 24.0), "start", "font-size=\"15\" font-weight=\"bold\"", &self.title);
        text(&mut svg, (LEFT, TOP - 14.0), "start", "", &self.y);
        text(&mut svg, (x(right), HEIGHT - 12.0), "end", "", &self.x);
        let mut line = 0.0;
        while line <= top {
            let at = y(line);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\" fill=\"none\"/>",
                x(right)
            );
            text(&mut svg, (LEFT - 8.0, at + 4.0), "end", "", &format!("{line}"));
            line += step;
        }
        let mut marks: Vec<f64> = points().map(|point| point.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let mut last = f64::NEG_INFINITY;
        for mark in marks.into_iter().filter(|mark| {
            let fits = x(*mark) - last >= 34.0;
            last = if fits { x(*mark) } else { last };
            fits
        }) {
            text(&mut svg, (x(mark), HEIGHT - BOTTOM + 18.0), "middle", "", &format!("{mark}"));
        }
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let path: Vec<String> = series
                .points
                .iter()
                .map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1)))
                .collect();
            let _ = writeln!(
                svg,
                "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
                path.join("L")
            );
        }
        for (name, colour, at) in self.names(y) {
            let place = (x(right) + 8.0, at + 4.0);
            text(&mut svg, place, "start", &format!("fill=\"{colour}\""), name);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The names of the curves beside their ends, none over another.
    fn names(&self, y: impl Fn(f64) -> f64) -> Vec<(&str, &'static str, f64)> {
        let mut names: Vec<_> = self
            .series
            .iter()
            .zip(COLOURS.iter().cycle())
            .map(|(series, colour)| {
                let end = series.points.last().map_or(0.0, |point| point.1);
                (series.name.as_str(), *colour, y(end))
            })
            .collect();
        names.sort_by(|one, two| two.2.total_cmp(&one.2));
        let mut lowest = f64::INFINITY;
        for name in &mut names {
            name.2 = name.2.min(lowest - LINE);
            lowest = name.2;
        }
        names
    }
}

/// The distance of the lines behind curves up to `top`: 1, 2 or 5 times a power of ten, so that
/// there are four to ten of them.
fn step(top: f64) -> f64 {
    let power = 10_f64.powf((top / 10.0).log10().ceil());
    [0.1, 0.2, 0.5, 1.0]
        .into_iter()
        .map(|part| part * power)
        .find(|step| top / step <= 10.0)
        .unwrap_or(power)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_behind_curves_are_round_numbers() {
        for (top, expected) in [(1.0, 0.1), (8.0, 1.0), (61.0, 10.0), (225.0, 50.0), (999.0, 100.0)]
        {
            assert!((step(top) - expected).abs() < 1e-9, "{top}: {}", step(top));
        }
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let series = |name: &str, end: f64| Series {
            name: name.to_owned(),
            points: vec![(0.0, 1.0), (10.0, end)],
        };
        let chart = Chart {
            title: "a < b".to_owned(),
            x: "ports".to_owned(),
            y: "ms".to_owned(),
            series: vec![series("one", 5.0), series("two", 5.0), series("three", 100.0)],
        };
        let names = chart.names(|value| 300.0 - value);
        assert!(names.windows(2).all(|pair| pair[0].2 - pair[1].2 >= LINE), "{names:?}");
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.matches("<path").count() > 3, "{svg}");
    }
}
