//! The report for a terminal of 80 columns.

use std::fmt::Write as _;

use super::answer::{Answer, count};
use super::charts::shortened;
use super::questions::{Answered, Chart};
use super::report::Report;

/// Lines are no longer than this.
const WIDTH: usize = 80;
/// The widest bar.
const BAR: usize = 26;
/// Rows of an answer that are shown; the HTML report has all of them.
const MAX_ROWS: usize = 8;
/// Ids that are listed where the self check fails.
const MAX_IDS: usize = 20;

/// The whole report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let title = format!(
        "Household Shop, {} to {}: run {} ({} visitors, seed {})",
        report.first_date,
        report.last_date,
        report.run,
        count(report.visitors),
        report.seed,
    );
    let _ = writeln!(out, "\n{title}\n{}", "=".repeat(title.chars().count().min(WIDTH)));

    heading(&mut out, "What went in (all runs of this lake)");
    for line in &report.input {
        let text = format!("  {:<35}{:>9}  {}", line.what, line.count, line.became);
        let _ = writeln!(out, "{}", text.trim_end());
    }
    heading(&mut out, "What came out (rows)");
    let filled: Vec<String> = report
        .findings
        .tables
        .iter()
        .map(|(name, rows)| format!("{name:<22}{:>12}", count(*rows)))
        .collect();
    for pair in filled.chunks(2) {
        let _ = writeln!(out, "  {}", pair.join("    "));
    }
    heading(&mut out, "Where each rejected one went: table rejects, by reason");
    table(&mut out, &report.findings.rejects);
    heading(&mut out, "Sent more than once: table event_duplicates, by reason");
    table(&mut out, &report.findings.duplicates);
    heading(&mut out, "Flagged as bots in events, by reason");
    table(&mut out, &report.findings.bots);

    for (nth, answered) in report.findings.questions.iter().enumerate() {
        heading(&mut out, &format!("{}. {}", nth + 1, answered.question.title));
        for line in answered.question.sql.lines() {
            let _ = writeln!(out, "  {line}");
        }
        out.push('\n');
        question(&mut out, answered);
    }

    heading(&mut out, "Self check, against the simulator's own log");
    for check in &report.outcome.checks {
        let mark = if check.passed { "ok  " } else { "FAIL" };
        let expected =
            if check.passed { String::new() } else { format!("  expected {}", check.expected) };
        let _ = writeln!(out, "  {mark}  {:<49}{:>12}{expected}", check.what, check.found);
    }
    for (what, ids) in [
        ("missing from events", &report.outcome.events.missing),
        ("more than once in events", &report.outcome.events.repeated),
        ("in events, but never acknowledged", &report.outcome.events.unknown),
    ] {
        if !ids.is_empty() {
            let _ = writeln!(out, "\n  {} {what}:", count(ids.len() as u64));
            for id in ids.iter().take(MAX_IDS) {
                let _ = writeln!(out, "    {id}");
            }
            if ids.len() > MAX_IDS {
                let _ = writeln!(out, "    ... and {} more", ids.len() - MAX_IDS);
            }
        }
    }

    heading(&mut out, "Time");
    for (stage, took) in &report.stages {
        let _ = writeln!(out, "  {stage:<44}{:>8.1} s", took.as_secs_f64());
    }
    next_steps(&mut out, report);
    out
}

fn next_steps(out: &mut String, report: &Report) {
    heading(out, "Next");
    let (program, lake) = (&report.program, &report.lake_argument);
    let _ = writeln!(out, "  The same with charts:\n    {}", report.html);
    let _ = writeln!(out, "  Ask something yourself:");
    let _ = writeln!(
        out,
        "    {program} sql --lake {lake} -c \"SELECT category, sum(revenue) AS revenue\n      \
         FROM category_daily GROUP BY category ORDER BY revenue DESC\""
    );
    let _ = writeln!(out, "  Add the shop's next days, incrementally:");
    let _ = writeln!(out, "    {program} demo --lake {lake}");
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "\n{text}\n{}", "-".repeat(text.chars().count().min(WIDTH)));
}

fn question(out: &mut String, answered: &Answered) {
    match answered.question.chart {
        Chart::Grid { .. } => table(out, &answered.answer),
        Chart::Bars { .. } | Chart::Share { .. } => bars(out, answered),
    }
}

fn bars(out: &mut String, answered: &Answered) {
    let points = answered.points();
    if points.is_empty() {
        let _ = writeln!(out, "  (none)");
        return;
    }
    let max = points.iter().map(|p| p.value).fold(f64::MIN_POSITIVE, f64::max);
    let widest = points.iter().map(|p| p.shown.chars().count()).max().unwrap_or(0);
    for point in points.iter().take(MAX_ROWS) {
        let eighths = (point.value.max(0.0) / max * BAR as f64 * 8.0).round() as usize;
        let mut bar = "█".repeat(eighths / 8);
        bar.push_str(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]);
        let _ =
            writeln!(out, "  {:<24} {:>widest$} {bar}", shortened(&point.label, 24), point.shown);
    }
}

fn table(out: &mut String, answer: &Answer) {
    if answer.rows.is_empty() {
        let _ = writeln!(out, "  (none)");
        return;
    }
    let rows: Vec<&Vec<String>> = answer.rows.iter().take(MAX_ROWS).collect();
    let mut widths: Vec<usize> = (0..answer.columns.len())
        .map(|c| {
            let cells = rows.iter().map(|row| row[c].chars().count());
            cells.chain([answer.columns[c].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    // The last column gives way where a row would be too long.
    let before: usize = widths.iter().rev().skip(1).map(|w| w + 2).sum();
    if let Some(last) = widths.last_mut() {
        *last = (*last).min(WIDTH.saturating_sub(before + 2).max(8));
    }
    let mut line = |cells: &[String]| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(c, cell)| {
                let (cell, width) = (shortened(cell, widths[c]), widths[c]);
                if answer.numeric[c] {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
    };
    line(&answer.columns);
    for row in rows {
        line(row);
    }
    if answer.rows.len() > MAX_ROWS {
        let _ = writeln!(out, "  ... and {} more rows", answer.rows.len() - MAX_ROWS);
    }
}
