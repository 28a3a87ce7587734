//! Charts as inline SVG: no script, no font, nothing from elsewhere.
//!
//! Colours are CSS variables of the page, so a chart follows light and dark.
//! Every chart has a text alternative; the page shows the same numbers as a
//! table beside it.

use std::fmt::Write as _;

/// Width of every chart, in its own units.
const WIDTH: f64 = 640.0;
const ROW: f64 = 30.0;

/// A labelled value, and how the value reads.
pub struct Point {
    pub label: String,
    pub value: f64,
    pub shown: String,
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn open(height: f64, about: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
        escape(about)
    )
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max).max(f64::MIN_POSITIVE)
}

/// A horizontal bar for each point.
pub fn bars(points: &[Point], about: &str) -> String {
    let (left, right) = (178.0, 92.0);
    let max = largest(points.iter().map(|p| p.value));
    let mut svg = open(points.len() as f64 * ROW + 4.0, about);
    for (nth, point) in points.iter().enumerate() {
        let y = nth as f64 * ROW;
        let width = ((WIDTH - left - right) * point.value.max(0.0) / max).max(1.5);
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{lx:.0}\" y=\"{ty:.0}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"bar\" x=\"{left:.0}\" y=\"{by:.0}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>\
             <text class=\"value\" x=\"{vx:.1}\" y=\"{ty:.0}\">{shown}</text>",
            lx = left - 10.0,
            ty = y + 20.0,
            by = y + 6.0,
            vx = left + width + 8.0,
            label = escape(&shortened(&point.label, 24)),
            shown = escape(&point.shown),
        );
    }
    svg + "</svg>"
}

/// A shaded cell for each (row, column); cells that are not there stay empty.
pub fn grid(cells: &[(String, Point)], about: &str) -> String {
    let mut rows: Vec<&str> = Vec::new();
    let mut columns: Vec<&str> = Vec::new();
    for (row, point) in cells {
        if !rows.contains(&row.as_str()) {
            rows.push(row);
        }
        if !columns.contains(&point.label.as_str()) {
            columns.push(&point.label);
        }
    }
    columns.sort_unstable();
    let (left, top, cell_height) = (150.0, 28.0, 34.0);
    let cell_width = (WIDTH - left) / columns.len().max(1) as f64;
    let max = largest(cells.iter().map(|(_, p)| p.value));
    let mut svg = open(top + rows.len() as f64 * cell_height + 2.0, about);
    for (nth, column) in columns.iter().enumerate() {
        let x = left + (nth as f64 + 0.5) * cell_width;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{x:.0}\" y=\"18\" text-anchor=\"middle\">{}</text>",
            escape(column)
        );
    }
    for (nth, row) in rows.iter().enumerate() {
        let y = top + nth as f64 * cell_height;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            left - 12.0,
            y + 21.0,
            escape(row)
        );
        for (_, point) in cells.iter().filter(|(r, _)| r == row) {
            let at = columns.iter().position(|c| *c == point.label).unwrap_or(0);
            let x = left + at as f64 * cell_width;
            let share = point.value / max;
            let class = if share > 0.55 { "on-bar" } else { "value" };
            let _ = write!(
                svg,
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{:.0}\" rx=\"2\" fill-opacity=\"{:.2}\"/>\
                 <text class=\"{class}\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                x + 1.0,
                y + 1.0,
                cell_width - 2.0,
                cell_height - 2.0,
                0.07 + 0.93 * share,
                x + cell_width / 2.0,
                y + 21.0,
                escape(&point.shown),
            );
        }
    }
    svg + "</svg>"
}

/// One bar divided among the points, with a legend below.
pub fn share(points: &[Point], about: &str) -> String {
    let total: f64 = points.iter().map(|p| p.value).sum::<f64>().max(f64::MIN_POSITIVE);
    let mut svg = open(58.0 + points.len() as f64 * 24.0, about);
    let mut x = 0.0;
    for (nth, point) in points.iter().enumerate() {
        let width = WIDTH * point.value / total;
        let y = 58.0 + nth as f64 * 24.0;
        let _ = write!(
            svg,
            "<rect class=\"part{part}\" x=\"{x:.1}\" y=\"4\" width=\"{w:.1}\" height=\"36\"/>\
             <rect class=\"part{part}\" x=\"0\" y=\"{y:.0}\" width=\"14\" height=\"14\" rx=\"2\"/>\
             <text class=\"label\" x=\"22\" y=\"{ty:.0}\">{label}</text>\
             <text class=\"value\" x=\"180\" y=\"{ty:.0}\">{shown} ({percent:.1} %)</text>",
            part = nth % 4,
            w = (width - 1.0).max(0.5),
            ty = y + 12.0,
            label = escape(&point.label),
            shown = escape(&point.shown),
            percent = 100.0 * point.value / total,
        );
        x += width;
    }
    svg + "</svg>"
}

/// A column for each day: people below, bots on top.
pub fn days(days: &[(String, f64, f64)], about: &str) -> String {
    let (height, base) = (170.0, 140.0);
    let max = largest(days.iter().map(|(_, people, bots)| people + bots));
    let step = WIDTH / days.len().max(1) as f64;
    // Dates stay readable, however many there are.
    let every = (days.len() / 10).max(1);
    let mut svg = open(height, about);
    for (nth, (date, people, bots)) in days.iter().enumerate() {
        let (x, width) = (nth as f64 * step + step * 0.12, step * 0.76);
        let (low, high) = (people / max * (base - 14.0), bots / max * (base - 14.0));
        let _ = write!(
            svg,
            "<g><title>{date}: {people:.0} by people, {bots:.0} by bots</title>\
             <rect class=\"bar\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{low:.1}\"/>\
             <rect class=\"part2\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{high:.1}\"/></g>",
            base - low,
            base - low - high,
            date = escape(date),
        );
        if nth % every == 0 {
            let _ = write!(
                svg,
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                x + width / 2.0,
                base + 20.0,
                escape(date.get(5..).unwrap_or(date)),
            );
        }
    }
    let _ =
        write!(svg, "<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{base}\" y2=\"{base}\"/>");
    svg + "</svg>"
}

/// At most `max` characters, the last one an ellipsis where some were cut.
pub fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(label: &str, value: f64) -> Point {
        Point { label: label.to_owned(), value, shown: value.to_string() }
    }

    #[test]
    fn what_a_shop_calls_things_cannot_break_the_page() {
        let svg = bars(&[point("<script>&\"", 1.0)], "a \"chart\"");
        assert!(svg.contains("&lt;script&gt;&amp;&quot;") && !svg.contains("<script>"), "{svg}");
    }

    #[test]
    fn empty_answers_and_zeros_draw_without_nonsense_numbers() {
        for svg in [
            bars(&[], "x"),
            bars(&[point("a", 0.0)], "x"),
            grid(&[], "x"),
            grid(&[("r".to_owned(), point("c", 0.0))], "x"),
            share(&[point("a", 0.0)], "x"),
            days(&[("2026-11-01".to_owned(), 0.0, 0.0)], "x"),
        ] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
