//! The complaint curve as a picture: a small one in the terminal, and an SVG.

use std::fmt::Write as _;

/// A curve over hours, with the lines that it is compared to. Rates are shares: 0.001 is 0.1 %.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub title: String,
    /// Hours since the start, ascending, and the rate at that hour.
    pub points: Vec<(f64, f64)>,
    pub baseline: f64,
    /// Twice the baseline: where complaint pacing looks closer.
    pub twice: f64,
    /// The absolute line at which mail would pause.
    pub pause: f64,
    /// The hour at which volume was cut, and what to write there.
    pub cut: Option<(f64, String)>,
}

const COLUMNS: usize = 72;
const ROWS: usize = 13;

impl Chart {
    fn hours(&self) -> f64 {
        self.points.last().map_or(1.0, |(hour, _)| hour.max(1.0))
    }

    fn top(&self) -> f64 {
        let highest = self.points.iter().map(|(_, rate)| *rate).fold(self.pause, f64::max);
        highest * 1.08
    }

    /// The rate at an hour: that of the last point at or before it.
    fn rate_at(&self, hour: f64) -> Option<f64> {
        self.points.iter().take_while(|(at, _)| *at <= hour).last().map(|(_, rate)| *rate)
    }

    /// About 80 columns by 17 lines.
    pub fn terminal(&self) -> String {
        let (hours, top) = (self.hours(), self.top());
        let row_of = |rate: f64| ROWS - 1 - position(rate / top, ROWS);
        let column_of = |hour: f64| position(hour / hours, COLUMNS);
        let mut grid = vec![vec![' '; COLUMNS]; ROWS];
        let mut put = |row: usize, column: usize, mark: char| {
            if let Some(cell) = grid.get_mut(row).and_then(|cells| cells.get_mut(column)) {
                *cell = mark;
            }
        };
        for column in 0..COLUMNS {
            put(row_of(self.pause), column, '┄');
            put(row_of(self.twice), column, '·');
            put(row_of(self.baseline), column, '─');
        }
        if let Some((hour, _)) = &self.cut {
            (0..ROWS).for_each(|row| put(row, column_of(*hour), '│'));
        }
        for column in 0..COLUMNS {
            if let Some(rate) = self.rate_at(share(column, COLUMNS) * hours) {
                put(row_of(rate), column, '●');
            }
        }
        let mut drawn = format!("{}\n", self.title);
        for (row, cells) in grid.iter().enumerate() {
            let label = [(self.pause, "pause"), (self.twice, "2 × base"), (self.baseline, "baseline")]
                .iter()
                .find(|(rate, _)| row_of(*rate) == row)
                .map_or_else(String::new, |(rate, name)| format!("{name} {}", percent(*rate)));
            let line: String = cells.iter().collect();
            let _ = writeln!(drawn, "{label:>16} ┤{}", line.trim_end());
        }
        let _ = writeln!(drawn, "{:>16} └{}", "", "─".repeat(COLUMNS));
        let mut axis = vec![' '; COLUMNS + 6];
        for tick in 0..=6_u8 {
            let hour = f64::from(tick) / 6.0 * hours;
            let text = format!("{hour:.0} h");
            let from = column_of(hour).saturating_sub(if tick == 6 { 3 } else { 0 });
            for (cell, letter) in axis.iter_mut().skip(from).zip(text.chars()) {
                *cell = letter;
            }
        }
        let _ = writeln!(drawn, "{:>16}  {}", "", axis.iter().collect::<String>().trim_end());
        if let Some((hour, text)) = &self.cut {
            let _ = writeln!(drawn, "{:>16}  │ after {hour:.0} h: {text}", "");
        }
        drawn
    }

    /// 760 by 380, readable on light and on dark pages.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 72.0;
        const TOP: f64 = 48.0;
        const WIDTH: f64 = 656.0;
        const HEIGHT: f64 = 270.0;
        let (hours, top) = (self.hours(), self.top());
        let x = |hour: f64| LEFT + hour / hours * WIDTH;
        let y = |rate: f64| TOP + HEIGHT - rate / top * HEIGHT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 380\" role=\"img\" \
             aria-labelledby=\"t\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<title id=\"t\">{title}</title>\n\
             <rect width=\"760\" height=\"380\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"15\" fill=\"#1d1d1f\">{title}</text>\n",
            title = escaped(&self.title)
        );
        for (rate, name, colour, dash) in [
            (self.pause, "pause line", "#b3261e", "6 4"),
            (self.twice, "twice the baseline", "#b06f00", "2 4"),
            (self.baseline, "baseline", "#5f6368", ""),
        ] {
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                LEFT + WIDTH,
                LEFT - 8.0,
                y(rate) + 4.0,
                percent(rate),
                LEFT + 6.0,
                y(rate) - 5.0,
                y = y(rate),
            );
        }
        for tick in 0..=6_u8 {
            let hour = f64::from(tick) / 6.0 * hours;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#5f6368\">{hour:.0} h</text>",
                x(hour),
                TOP + HEIGHT + 20.0
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\" stroke=\"#1d1d1f\"/>",
            LEFT + WIDTH,
            bottom = TOP + HEIGHT
        );
        if let Some((hour, text)) = &self.cut {
            let at = x(*hour);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#0b57d0\" stroke-width=\"1.5\"/>\
                 <text x=\"{LEFT}\" y=\"362\" fill=\"#0b57d0\">after {hour:.0} h: {}</text>",
                TOP + HEIGHT,
                escaped(text)
            );
        }
        let path: Vec<String> =
            self.points.iter().map(|(hour, rate)| format!("{:.1},{:.1}", x(*hour), y(*rate))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#1d1d1f\" stroke-width=\"2\"/>\n</svg>",
            path.join(" ")
        );
        svg
    }
}

/// `share` of `of` cells, as the index of a cell.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "between 0 and the number of cells"
)]
fn position(share: f64, of: usize) -> usize {
    ((share.clamp(0.0, 1.0) * (of - 1) as f64).round() as usize).min(of - 1)
}

#[expect(clippy::cast_precision_loss, reason = "a column of a chart")]
fn share(cell: usize, of: usize) -> f64 {
    cell as f64 / (of - 1) as f64
}

/// `0.031 %`.
pub(super) fn percent(rate: f64) -> String {
    format!("{:.3} %", rate * 100.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart {
            title: "Complaints <autumn-sale>".into(),
            points: (0..=36)
                .map(|hour| (f64::from(hour), 0.0003 + 0.0022 * f64::from(hour) / 36.0))
                .collect(),
            baseline: 0.0003,
            twice: 0.0006,
            pause: 0.003,
            cut: Some((17.0, "volume cut".into())),
        }
    }

    #[test]
    fn terminal_chart_rises_from_left_to_right_between_its_lines() {
        let drawn = chart().terminal();
        let rows: Vec<&str> = drawn.lines().filter(|line| line.contains('●')).collect();
        let first = |line: &str| line.chars().position(|c| c == '●').unwrap();
        assert!(rows.len() > 6 && rows.windows(2).all(|pair| first(pair[0]) > first(pair[1])), "{drawn}");
        for part in ["pause 0.300 %", "baseline 0.030 %", "36 h", "│ after 17 h: volume cut"] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert!(drawn.lines().all(|line| line.chars().count() <= 92), "{drawn}");
    }

    #[test]
    fn svg_escapes_and_holds_every_point() {
        let svg = chart().svg();
        assert!(svg.contains("&lt;autumn-sale&gt;") && !svg.contains("<autumn"));
        let line = svg.lines().find(|line| line.starts_with("<polyline")).unwrap();
        assert_eq!(line.matches(',').count(), 37);
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_curve_of_one_point_is_drawn() {
        let one = Chart { points: vec![(0.0, 0.0)], cut: None, ..chart() };
        assert!(one.terminal().contains('●') && one.svg().contains("polyline"));
    }
}
