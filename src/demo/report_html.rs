//! The report as one HTML file that needs nothing else: styles and charts are inside.

use std::fmt::Write as _;

use super::answer::{Answer, count};
use super::charts::{self, escape};
use super::questions::{Answered, Chart};
use super::report::Report;

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    let title = format!("Household Shop, {} to {}", report.first_date, report.last_date);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>clickmill demo: {0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><p class=\"over\">clickmill demo, run {run}</p><h1>{0}</h1>\n{verdict}\n\
         <p class=\"where\">{visitors} visitors, seed {seed}, lake <code>{lake}</code></p></header>\n",
        escape(&title),
        run = report.run,
        verdict = verdict(report),
        visitors = count(report.visitors),
        seed = report.seed,
        lake = escape(&report.lake),
    );
    flow(&mut page, report);
    page.push_str("<section><h2>Five questions</h2>\n");
    for (nth, answered) in report.findings.questions.iter().enumerate() {
        question(&mut page, nth + 1, answered, report);
    }
    page.push_str("</section>\n");
    self_check(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn verdict(report: &Report) -> String {
    let events =
        report.findings.tables.iter().find(|(name, _)| name == "events").map_or(0, |(_, n)| *n);
    if report.outcome.passed() {
        format!(
            "<p class=\"verdict good\">Every one of {} acknowledged events is in the table exactly once.</p>",
            count(events)
        )
    } else {
        "<p class=\"verdict bad\">The self check failed: see the end of this page.</p>".to_owned()
    }
}

fn flow(page: &mut String, report: &Report) {
    page.push_str("<section><h2>What went in, and what became of it</h2>\n<table>\n<thead><tr><th>sent</th><th class=\"n\">count</th><th>where it is now</th></tr></thead>\n<tbody>\n");
    for line in &report.input {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&line.what),
            line.count,
            escape(&line.became)
        );
    }
    page.push_str("</tbody>\n</table>\n");
    let days: Vec<(String, f64, f64)> = (0..report.findings.days.rows.len())
        .map(|row| {
            let day = &report.findings.days;
            (day.text(row, 0).to_owned(), day.number(row, 1), day.number(row, 2))
        })
        .collect();
    let _ = writeln!(
        page,
        "<figure><figcaption>Events a day <span class=\"key bar\"></span> people \
         <span class=\"key part2\"></span> bots</figcaption>{}</figure>",
        charts::days(&days, "Events a day, people and bots")
    );
    page.push_str("<div class=\"trio\">\n");
    for (title, answer) in [
        ("Rejected", &report.findings.rejects),
        ("Sent more than once", &report.findings.duplicates),
        ("Flagged as bots", &report.findings.bots),
    ] {
        let _ = writeln!(page, "<div><h3>{title}</h3>");
        table(page, &without_example(answer));
        page.push_str("</div>\n");
    }
    page.push_str("</div>\n<h3>Rows in the tables</h3>\n<ul class=\"tables\">\n");
    for (name, rows) in &report.findings.tables {
        let _ = writeln!(page, "<li><code>{}</code> <b>{}</b></li>", escape(name), count(*rows));
    }
    page.push_str("</ul></section>\n");
}

/// Narrow columns have no room for the example.
fn without_example(answer: &Answer) -> Answer {
    let mut narrow = answer.clone();
    narrow.columns.truncate(2);
    narrow.numeric.truncate(2);
    narrow.rows.iter_mut().for_each(|row| row.truncate(2));
    narrow
}

fn question(page: &mut String, nth: usize, answered: &Answered, report: &Report) {
    let question = &answered.question;
    let about = format!("{} The table below has the same numbers.", question.title);
    let points = answered.points();
    let (chart, unit) = match question.chart {
        Chart::Bars { unit, .. } => (charts::bars(&points, &about), unit),
        Chart::Share { .. } => (charts::share(&points, &about), "orders"),
        Chart::Grid { unit, .. } => {
            let cells: Vec<_> = answered.grid_rows().into_iter().zip(points).collect();
            (charts::grid(&cells, &about), unit)
        }
    };
    let _ = write!(
        page,
        "<article>\n<h3>{nth}. {}</h3>\n<p>{}</p>\n<figure><figcaption>{}</figcaption>{chart}</figure>\n\
         <details><summary>The numbers</summary>\n",
        escape(question.title),
        escape(question.note),
        escape(unit),
    );
    table(page, &answered.answer);
    let _ = write!(
        page,
        "</details>\n<details><summary>The question in SQL</summary>\n<pre><code>{}</code></pre></details>\n</article>\n",
        escape(&report.command(question)),
    );
}

fn self_check(page: &mut String, report: &Report) {
    page.push_str("<section><h2>Self check</h2>\n<p>The simulator keeps its own log of what it sent and what was answered with 200. The tables must agree with it.</p>\n<table>\n<thead><tr><th>compared</th><th class=\"n\">log</th><th class=\"n\">tables</th><th></th></tr></thead>\n<tbody>\n");
    for check in &report.outcome.checks {
        let (class, word) = if check.passed { ("good", "agrees") } else { ("bad", "differs") };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"{class}\">{word}</td></tr>",
            escape(check.what),
            escape(&check.expected),
            escape(&check.found),
        );
    }
    page.push_str("</tbody>\n</table>\n<h3>Time</h3>\n<ul class=\"tables\">\n");
    for (stage, took) in &report.stages {
        let _ = writeln!(page, "<li>{} <b>{:.1} s</b></li>", escape(stage), took.as_secs_f64());
    }
    page.push_str("</ul></section>\n");
}

fn table(page: &mut String, answer: &Answer) {
    if answer.rows.is_empty() {
        page.push_str("<p>None.</p>\n");
        return;
    }
    let class = |c: usize| if answer.numeric[c] { " class=\"n\"" } else { "" };
    page.push_str("<table>\n<thead><tr>");
    for (c, column) in answer.columns.iter().enumerate() {
        let _ = write!(page, "<th{}>{}</th>", class(c), escape(&column.replace('_', " ")));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &answer.rows {
        page.push_str("<tr>");
        for (c, cell) in row.iter().enumerate() {
            let _ = write!(page, "<td{}>{}</td>", class(c), escape(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n");
}
