//! What the report says, gathered before it is laid out.

use std::time::Duration;

use clickmill_query::Session;
use clickmill_schemas::tables::TABLES;

use super::answer::{Answer, count};
use super::charts::Point;
use super::check::{Outcome, query};
use super::questions::{Answered, Chart, QUESTIONS, Question};
use super::truth::Ledger;

/// Everything that both reports show.
pub struct Report {
    pub lake: String,
    /// As the user must write it after `--lake`.
    pub lake_argument: String,
    pub program: String,
    pub run: u64,
    pub first_date: String,
    pub last_date: String,
    pub visitors: u64,
    pub seed: u64,
    pub stages: Vec<(&'static str, Duration)>,
    pub input: Vec<Line>,
    pub findings: Findings,
    pub outcome: Outcome,
    /// Where the page is.
    pub html: String,
}

/// A count of something that went in, and what became of it.
pub struct Line {
    pub what: String,
    pub count: String,
    pub became: String,
}

/// The queried parts of a report.
pub struct Findings {
    pub tables: Vec<(String, u64)>,
    pub rejects: Answer,
    pub duplicates: Answer,
    pub bots: Answer,
    pub days: Answer,
    pub questions: Vec<Answered>,
}

/// Asks the tables.
///
/// # Errors
/// Where a statement fails.
pub async fn find(session: &Session) -> anyhow::Result<Findings> {
    let mut tables = Vec::new();
    for table in TABLES {
        let answer = ask(session, &format!("SELECT count(*) FROM {}", table.name)).await?;
        tables.push((table.name.to_owned(), answer.number(0, 0) as u64));
    }
    let mut questions = Vec::new();
    for question in QUESTIONS {
        let answer = ask(session, question.sql).await?;
        questions.push(Answered { question: *question, answer });
    }
    Ok(Findings {
        tables,
        rejects: ask(
            session,
            "SELECT reason, count(*) AS rejected, min(detail) AS example FROM rejects \
             GROUP BY reason ORDER BY rejected DESC, reason",
        )
        .await?,
        duplicates: ask(
            session,
            "SELECT reason, count(*) AS copies FROM event_duplicates \
             GROUP BY reason ORDER BY copies DESC",
        )
        .await?,
        bots: ask(
            session,
            "SELECT coalesce(bot_reason, 'bot') AS reason, count(*) AS events FROM events \
             WHERE is_bot GROUP BY bot_reason ORDER BY events DESC",
        )
        .await?,
        days: ask(
            session,
            "SELECT CAST(dt AS VARCHAR) AS day, \
             sum(CASE WHEN is_bot THEN 0 ELSE 1 END) AS people, \
             sum(CASE WHEN is_bot THEN 1 ELSE 0 END) AS bots \
             FROM events GROUP BY dt ORDER BY dt",
        )
        .await?,
        questions,
    })
}

async fn ask(session: &Session, sql: &str) -> anyhow::Result<Answer> {
    Answer::of(&query(session, sql).await?)
}

/// What went in, line by line, and what should have become of it.
pub fn input(ledger: &Ledger) -> Vec<Line> {
    let line = |what: &str, n: u64, became: &str| Line {
        what: what.to_owned(),
        count: count(n),
        became: became.to_owned(),
    };
    let mut lines = vec![
        line("HTTP requests", ledger.attempts, ""),
        line("events in them, copies included", ledger.events_sent, ""),
        line("different events", ledger.acknowledged.len() as u64, "events"),
        line("extra copies (retries, reused ids)", ledger.extra_copies(), "event_duplicates"),
        line("events sent 1 to 3 days late", ledger.late, "events, on the day they happened"),
        line("events from clocks that are off", ledger.skewed, "events, at the corrected time"),
        line("events of crawlers", ledger.bots, "events, flagged where they show it"),
    ];
    for (fault, statuses) in &ledger.faults {
        let sent = statuses.values().sum();
        let answers: Vec<String> = statuses
            .keys()
            .map(|status| status.map_or("no answer".to_owned(), |code| code.to_string()))
            .collect();
        let became = format!("rejects (answered {})", answers.join(", "));
        lines.push(line(&format!("wrong: {}", fault.words()), sent, &became));
    }
    let others: u64 =
        ledger.statuses.iter().filter(|(s, _)| **s != Some(200)).map(|(_, n)| n).sum();
    lines.push(line("requests not answered with 200", others, "tried again, or wrong as above"));
    lines
}

impl Answered {
    /// The points of its chart.
    pub fn points(&self) -> Vec<Point> {
        let (label, value) = match self.question.chart {
            Chart::Bars { label, value, .. } | Chart::Share { label, value } => (label, value),
            Chart::Grid { column, value, .. } => (column, value),
        };
        let (Ok(label), Ok(value)) = (self.answer.column(label), self.answer.column(value)) else {
            return Vec::new();
        };
        (0..self.answer.rows.len())
            .map(|row| Point {
                label: self.answer.text(row, label).to_owned(),
                value: self.answer.number(row, value),
                shown: self.answer.text(row, value).to_owned(),
            })
            .collect()
    }

    /// For a grid: the row of each of [`Self::points`].
    pub fn grid_rows(&self) -> Vec<String> {
        let Chart::Grid { row, .. } = self.question.chart else { return Vec::new() };
        let Ok(column) = self.answer.column(row) else { return Vec::new() };
        self.answer.rows.iter().map(|cells| cells[column].clone()).collect()
    }
}

impl Report {
    /// The command that answers a question again.
    pub fn command(&self, question: &Question) -> String {
        format!("{} sql --lake {} -c \"{}\"", self.program, self.lake_argument, question.sql)
    }
}
