//! A Firehose prefix, as it is configured there, and the folders that it makes.
//!
//! `clicks/!{timestamp:yyyy/MM/dd/HH}/!{firehose:random-string}/`: time patterns
//! are Java's, in UTC. Without any timestamp expression Firehose appends
//! `yyyy/MM/dd/HH/`.

use std::collections::BTreeSet;
use std::time::Duration;

use clickmill_schemas::Timestamp;

/// Folders of this time back are listed in each run: Firehose tries for 24 hours to
/// deliver, and names the folder by when a record arrived.
pub const LISTED_BACK: Duration = Duration::from_secs(48 * 3_600);
/// And ahead: Firehose may be set to another time zone, up to UTC+14.
const LISTED_AHEAD: Duration = Duration::from_secs(14 * 3_600);
const HOUR: Duration = Duration::from_secs(3_600);
/// What Firehose appends where the prefix says nothing of time.
const APPENDED: &str = "yyyy/MM/dd/HH/";

/// A prefix, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A pattern of `!{timestamp:...}`.
    Time(String),
    /// Any other expression: its value is not known here.
    Other,
}

impl Prefix {
    /// Reads a prefix as Firehose does.
    ///
    /// # Errors
    /// What is wrong with it, for the configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.trim_start_matches('/');
        while let Some((before, after)) = rest.split_once("!{") {
            let (inside, after) = after
                .split_once('}')
                .ok_or_else(|| format!("`!{{{after}` is not closed by a `}}`"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match inside.split_once(':') {
                Some(("timestamp", pattern)) => Part::Time(pattern.to_owned()),
                Some(("firehose" | "partitionKeyFromQuery" | "partitionKeyFromLambda", _)) => {
                    Part::Other
                }
                _ => {
                    return Err(format!(
                        "`!{{{inside}}}` is no expression of Firehose: it has timestamp, firehose, \
                         partitionKeyFromQuery and partitionKeyFromLambda"
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if !parts.iter().any(|part| matches!(part, Part::Time(_))) {
            parts.push(Part::Time(APPENDED.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The beginning that every key has.
    #[must_use]
    pub fn constant(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The beginnings of the keys of the last 48 hours; `None` where keys begin with
    /// something else than time, so that all must be listed.
    #[must_use]
    pub fn recent(&self, now: Timestamp) -> Option<BTreeSet<String>> {
        let (mut hour, end) = (now.saturating_sub(LISTED_BACK), now.saturating_add(LISTED_AHEAD));
        let mut found = BTreeSet::new();
        while hour <= end {
            found.insert(self.known(hour)?);
            hour = hour.saturating_add(HOUR);
        }
        Some(found)
    }

    /// A key's beginning in an hour, as far as the hour says it.
    fn known(&self, hour: Timestamp) -> Option<String> {
        let mut text = String::new();
        let mut has_time = false;
        for part in &self.parts {
            match part {
                Part::Text(constant) => text.push_str(constant),
                Part::Time(pattern) => {
                    let whole = render(pattern, hour, &mut text);
                    has_time = true;
                    if !whole {
                        break;
                    }
                }
                Part::Other => break,
            }
        }
        has_time.then_some(text)
    }
}

/// Appends an hour in a pattern of Java's `DateTimeFormatter`; false where the pattern
/// goes on with something that an hour does not say.
fn render(pattern: &str, hour: Timestamp, out: &mut String) -> bool {
    let date = hour.date().to_string();
    let mut rest = pattern;
    while let Some(letter) = rest.chars().next() {
        if letter == '\'' {
            let quoted = &rest[1..];
            let Some((text, after)) = quoted.split_once('\'') else { return false };
            out.push_str(if text.is_empty() { "'" } else { text });
            rest = after;
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let length = rest.len() - rest.trim_start_matches(letter).len();
        let text = match (letter, length) {
            ('y' | 'u', 1 | 3 | 4) => date[..4].to_owned(),
            ('y' | 'u', 2) => date[2..4].to_owned(),
            ('M' | 'L', 2) => date[5..7].to_owned(),
            ('M' | 'L', 1) => date[5..7].trim_start_matches('0').to_owned(),
            ('d', 2) => date[8..10].to_owned(),
            ('d', 1) => date[8..10].trim_start_matches('0').to_owned(),
            ('H', 2) => format!("{:02}", hour.hour()),
            ('H', 1) => hour.hour().to_string(),
            _ => return false,
        };
        out.push_str(&text);
        rest = &rest[length..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(prefix: &str) -> Option<String> {
        let hour = Timestamp::parse("2026-03-09T07:45:00Z").expect("time");
        Prefix::parse(prefix).expect(prefix).known(hour)
    }

    #[test]
    fn a_prefix_makes_the_folders_that_firehose_makes() {
        for (prefix, expected) in [
            ("", "2026/03/09/07/"),
            ("clicks/", "clicks/2026/03/09/07/"),
            ("/clicks", "clicks2026/03/09/07/"),
            ("c/!{timestamp:yyyy/MM/dd/HH}/", "c/2026/03/09/07/"),
            ("c/year=!{timestamp:yyyy}/m=!{timestamp:M}/d=!{timestamp:d}/", "c/year=2026/m=3/d=9/"),
            ("dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/x", "dt=2026-03-09/hour=07/x"),
            ("!{timestamp:'dt='yyyyMMdd'T'HH}/", "dt=20260309T07/"),
            ("!{timestamp:yyyy/MM/dd/HH/mm}/", "2026/03/09/07/"),
            ("c/!{timestamp:yyyy/MM/}!{firehose:random-string}/!{timestamp:dd}/", "c/2026/03/"),
            ("c/!{timestamp:yyyy/DDD}/", "c/2026/"),
            ("c/!{timestamp:yy}/it''s/", "c/26/it''s/"),
        ] {
            assert_eq!(known(prefix).as_deref(), Some(expected), "{prefix}");
        }
    }

    #[test]
    fn where_something_unknown_comes_before_time_all_is_listed() {
        let prefix = "shop/!{partitionKeyFromQuery:shop}/!{timestamp:yyyy/MM/dd/HH}/";
        assert_eq!(known(prefix), None);
        assert_eq!(Prefix::parse(prefix).expect("parses").constant(), "shop/");
        assert_eq!(known("!{partitionKeyFromLambda:k}/"), None);
    }

    #[test]
    fn recent_folders_are_those_of_48_hours_and_of_other_time_zones() {
        let now = Timestamp::parse("2026-03-09T07:45:00Z").expect("time");
        let recent = |text| Prefix::parse(text).expect("parses").recent(now).expect("has hours");
        let hours = recent("");
        assert_eq!(hours.first().map(String::as_str), Some("2026/03/07/07/"));
        assert_eq!(hours.last().map(String::as_str), Some("2026/03/09/21/"));
        assert_eq!(hours.len(), 48 + 14 + 1);
        let days: Vec<String> = recent("!{timestamp:yyyy-MM-dd}/").into_iter().collect();
        assert_eq!(days, ["2026-03-07/", "2026-03-08/", "2026-03-09/"]);
    }

    #[test]
    fn what_firehose_would_refuse_is_refused() {
        assert!(Prefix::parse("a/!{timestamp:yyyy/").expect_err("open").contains("closed"));
        assert!(Prefix::parse("a/!{time:yyyy}/").expect_err("unknown").contains("time:yyyy"));
    }
}
