//! The header of a job: the comments at its beginning.
//!
//! ```sql
//! -- table: top_brands
//! -- mode: replace partitions
//! -- partition: dt
//! -- depends: events
//! -- looks up: products
//! -- lookback: 7 days
//! -- key: brand, dt
//! SELECT ...
//! ```

use clickmill_schemas::tables::TableSpec;

use super::{Mode, ShopJob, ShopJobError};

const KEYS: [&str; 7] = ["table", "mode", "partition", "depends", "looks up", "lookback", "key"];
/// A table's name, at most.
const MAX_NAME_CHARS: usize = 64;
/// Days that a job may look back, at most.
const MAX_LOOKBACK_DAYS: u16 = 400;

/// Reads a job.
pub(super) fn parse(file: &str, text: String) -> Result<ShopJob, ShopJobError> {
    let wrong = |line: u64, problem: String| ShopJobError { file: file.to_owned(), line, problem };
    let mut job = ShopJob {
        file: file.to_owned(),
        table: String::new(),
        mode: Mode::Full,
        partitioned: false,
        key: Vec::new(),
        depends: Vec::new(),
        looks_up: Vec::new(),
        lookback_days: 0,
        sql: String::new(),
    };
    let mut mode = None;
    let mut seen: Vec<String> = Vec::new();
    for (line, number) in text.lines().zip(1_u64..) {
        let Some(comment) = line.trim_start().strip_prefix("--") else {
            if line.trim().is_empty() {
                continue;
            }
            break;
        };
        let Some((name, value)) = comment.split_once(':') else { continue };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !KEYS.contains(&name.as_str()) {
            return Err(wrong(
                number,
                format!("`{name}` is nothing that a header says; it says {}", KEYS.join(", ")),
            ));
        }
        if seen.contains(&name) {
            return Err(wrong(number, format!("`{name}` is said twice")));
        }
        let names = || -> Result<Vec<String>, ShopJobError> {
            let names = value.split(',').map(|name| name.trim().to_owned());
            let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
            match names.iter().find(|name| !is_name(name)) {
                Some(odd) => Err(wrong(number, format!("`{odd}` is no name: {NAME_RULE}"))),
                None => Ok(names),
            }
        };
        match name.as_str() {
            "table" if !is_name(value) => {
                return Err(wrong(number, format!("`{value}` is no table name: {NAME_RULE}")));
            }
            "table" if TableSpec::find(value).is_some() => {
                return Err(wrong(
                    number,
                    format!("`{value}` is one of clickmill's own tables: take another name"),
                ));
            }
            "table" => value.clone_into(&mut job.table),
            "mode" => {
                mode = Some(match value.to_ascii_lowercase().as_str() {
                    "append" => Mode::Append,
                    "replace partitions" => Mode::ReplacePartitions,
                    "full" => Mode::Full,
                    _ => {
                        return Err(wrong(
                            number,
                            format!("`{value}` is no mode: append, replace partitions or full"),
                        ));
                    }
                });
            }
            "partition" => {
                job.partitioned = match value {
                    "dt" => true,
                    "none" => false,
                    _ => {
                        return Err(wrong(
                            number,
                            format!("`{value}` is no partition: dt, a UTC date, or none"),
                        ));
                    }
                };
            }
            "depends" => job.depends = names()?,
            "looks up" => job.looks_up = names()?,
            "key" => job.key = names()?,
            _ => {
                let days = value.strip_suffix("days").or(value.strip_suffix("day"));
                let days = days.and_then(|days| days.trim().parse().ok());
                let days = days.filter(|days| *days <= MAX_LOOKBACK_DAYS);
                job.lookback_days = days.ok_or_else(|| {
                    let most = format!("at most {MAX_LOOKBACK_DAYS}");
                    wrong(number, format!("`{value}` is no lookback such as 7 days, {most}"))
                })?;
            }
        }
        seen.push(name);
    }
    job.mode = mode.unwrap_or(Mode::Full);
    job.sql = text;
    check(&job, mode.is_some())?;
    Ok(job)
}

const NAME_RULE: &str = "small letters, digits and _, beginning with a letter";

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_CHARS
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn check(job: &ShopJob, has_mode: bool) -> Result<(), ShopJobError> {
    if job.table.is_empty() {
        return Err(job.wrong(1, "the header lacks `-- table: NAME`, the table that it makes"));
    }
    if !has_mode {
        return Err(
            job.wrong(1, "the header lacks `-- mode: ...`: append, replace partitions or full")
        );
    }
    if job.depends.is_empty() {
        return Err(job.wrong(1, "the header lacks `-- depends: TABLE, ...`, what it is made from"));
    }
    let both = job.depends.iter().find(|name| job.looks_up.contains(name));
    if let Some(name) = both {
        let line = job.line_of("looks up");
        return Err(job.wrong(line, format!("`{name}` stands under `depends`, too")));
    }
    if job.depends.contains(&job.table) || job.looks_up.contains(&job.table) {
        let line = job.line_of("depends");
        return Err(job.wrong(line, "it cannot be made from itself"));
    }
    match job.mode {
        Mode::ReplacePartitions if !job.partitioned => {
            Err(job.wrong(job.line_of("mode"), "replace partitions needs `-- partition: dt`"))
        }
        Mode::Append if job.depends.len() != 1 => Err(job.wrong(
            job.line_of("depends"),
            "append takes the new rows of one table: name one, and the others under `looks up`",
        )),
        Mode::Append | Mode::Full if job.lookback_days > 0 => {
            Err(job.wrong(job.line_of("lookback"), "only replace partitions looks back"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "-- The brands of a day.\n-- table: top_brands\n-- mode: Replace Partitions\n\
        -- partition: dt\n-- depends: event_items, orders\n-- looks up: products\n\
        -- lookback: 7 days\n-- key: brand\n\n-- not: a header any more?\nSELECT 1";

    #[test]
    fn a_header_says_what_a_job_is() {
        let text = GOOD.replace("\n-- not: a header any more?", "");
        let job = parse("jobs/x.sql", text.clone()).unwrap();
        assert_eq!((job.table.as_str(), job.mode), ("top_brands", Mode::ReplacePartitions));
        assert_eq!(job.depends, ["event_items", "orders"]);
        assert_eq!((job.looks_up, job.lookback_days), (vec!["products".to_owned()], 7));
        assert_eq!((job.key, job.partitioned), (vec!["brand".to_owned()], true));
        assert_eq!(job.sql, text);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let good = GOOD.replace("\n-- not: a header any more?", "");
        for (from, to, line, said) in [
            ("top_brands", "orders", 2, "clickmill's own tables"),
            ("top_brands", "source_keys", 2, "clickmill's own tables"),
            ("top_brands", "Top Brands", 2, "no table name"),
            ("-- table: top_brands", "--", 1, "lacks `-- table"),
            ("Replace Partitions", "upsert", 3, "no mode"),
            ("-- mode: Replace Partitions", "--", 1, "lacks `-- mode"),
            ("partition: dt", "partition: month", 4, "no partition"),
            ("-- partition: dt", "--", 3, "needs `-- partition: dt`"),
            ("depends: event_items, orders", "depends: ", 1, "lacks `-- depends"),
            ("depends: event_items, orders", "depends: top_brands", 5, "made from itself"),
            ("depends: event_items, orders", "depends: a; DROP", 5, "no name"),
            ("looks up: products", "looks up: orders", 6, "stands under `depends`"),
            ("7 days", "a week", 7, "no lookback"),
            ("7 days", "9999 days", 7, "no lookback"),
            ("key: brand", "kee: brand", 8, "nothing that a header says"),
            ("key: brand", "table: again", 8, "said twice"),
            ("Replace Partitions", "append", 5, "one table"),
            ("Replace Partitions", "full", 7, "looks back"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            let error = parse("jobs/x.sql", text).unwrap_err();
            let shown = error.to_string();
            assert!(shown.starts_with(&format!("jobs/x.sql:{line}: ")), "{to}: {shown}");
            assert!(shown.contains(said), "{to}: {shown}");
        }
        assert!(parse("x", GOOD.to_owned()).unwrap_err().problem.contains("nothing that a header"));
    }
}
