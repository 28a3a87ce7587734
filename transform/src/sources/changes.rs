//! What a row of change capture says beside its columns: I, U or D, and when. Pure.

use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::Kind;

use super::rows::Changes;
use super::value::{Rule, shown};
use super::{ChangeLayout, Content};

/// Turns the operation and time of rows into [`Changes`].
pub(super) struct ChangeReader {
    rule: Rule,
    needs_operation: bool,
}

/// Where the operation and the time stand among the columns that are there.
pub(super) struct ChangeColumns {
    /// `None` where rows carry no operation.
    pub operation: Option<usize>,
    /// `None` where rows carry no time.
    pub time: Option<usize>,
}

impl ChangeReader {
    /// The error is for the user's eyes.
    pub(super) fn new(content: &Content) -> Result<Self, String> {
        Ok(Self {
            rule: Rule::new(Kind::Timestamp, None)?,
            needs_operation: matches!(content, Content::Changes),
        })
    }

    /// Takes one row.
    pub(super) fn push(&self, changes: &mut Changes, operation: Option<&str>, time: Option<&str>) {
        let row = changes.deleted.len();
        let deleted = self.is_delete(operation).unwrap_or_else(|problem| {
            changes.faults.push((row, problem));
            false
        });
        let time = time.map(str::trim).filter(|text| !text.is_empty());
        let at = match time.map(|text| self.rule.time(text)).transpose() {
            Ok(at) => at.map(Timestamp::micros),
            Err(problem) => {
                changes.faults.push((row, format!("the time of the change: {problem}")));
                None
            }
        };
        changes.deleted.push(deleted);
        changes.at.push(at);
    }

    fn is_delete(&self, operation: Option<&str>) -> Result<bool, String> {
        match operation.map(str::trim) {
            Some("I" | "i" | "U" | "u") => Ok(false),
            Some("D" | "d") => Ok(true),
            // A full load is all inserts, and may say so or not.
            None | Some("") if !self.needs_operation => Ok(false),
            None | Some("") => Err("the row does not say I, U or D".to_owned()),
            Some(other) => Err(format!("the operation `{}` is none of I, U, D", shown(other))),
        }
    }
}

/// Finds the operation and the time by the names that are there; the error is for
/// the user's eyes.
pub(super) fn columns_of(
    layout: &ChangeLayout,
    content: &Content,
    there: &[String],
) -> Result<ChangeColumns, String> {
    let find = |name: &str| there.iter().position(|there| there.eq_ignore_ascii_case(name));
    let operation = find(&layout.operation_column);
    let needs = matches!(content, Content::Changes);
    if operation.is_none() && needs {
        return Err(format!(
            "there is no column `{}` with I, U or D; there are {}",
            layout.operation_column,
            there.join(", ")
        ));
    }
    let time = layout.time_column.as_deref().and_then(find);
    if let Some(name) = layout.time_column.as_deref().filter(|_| time.is_none() && needs) {
        return Err(format!(
            "there is no column `{name}` with the time of the change; there are {}; correct time_column",
            there.join(", ")
        ));
    }
    Ok(ChangeColumns { operation, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &Content, operation: Option<&str>, time: Option<&str>) -> Changes {
        let mut changes = Changes::default();
        ChangeReader::new(content).unwrap().push(&mut changes, operation, time);
        changes
    }

    #[test]
    fn a_change_says_what_and_when_and_anything_else_is_a_fault() {
        for (operation, deleted) in [("I", false), ("U", false), ("D", true), ("d", true)] {
            let changes =
                read(&Content::Changes, Some(operation), Some("2026-03-10 09:00:00.000001"));
            assert_eq!(changes.deleted, [deleted]);
            assert_eq!(changes.at, [Some(1_773_133_200_000_001)]);
            assert!(changes.faults.is_empty());
        }
        assert_eq!(read(&Content::Changes, None, None).faults.len(), 1);
        assert_eq!(read(&Content::Changes, Some("X"), None).faults.len(), 1);
        assert_eq!(read(&Content::Changes, Some("U"), Some("soon")).faults.len(), 1);
        assert_eq!(read(&Content::Changes, Some("U"), Some(" ")).at, [None]);
    }

    #[test]
    fn a_load_needs_no_operation() {
        assert!(read(&Content::Load { started_at: None }, None, None).faults.is_empty());
        assert!(read(&Content::Load { started_at: None }, Some("I"), None).faults.is_empty());
        assert_eq!(read(&Content::Load { started_at: None }, Some("Smith"), None).faults.len(), 1);
    }

    #[test]
    fn the_columns_are_found_by_name_whatever_its_case() {
        let layout = ChangeLayout {
            operation_column: "Op".to_owned(),
            time_column: Some("committed".to_owned()),
        };
        let names = ["op", "COMMITTED", "id"].map(str::to_owned);
        let found = columns_of(&layout, &Content::Changes, &names).unwrap();
        assert_eq!((found.operation, found.time), (Some(0), Some(1)));
        assert!(columns_of(&layout, &Content::Changes, &names[1..]).is_err());
        assert!(columns_of(&layout, &Content::Changes, &names[..1]).is_err());
        let found = columns_of(&layout, &Content::Load { started_at: None }, &names[2..]).unwrap();
        assert_eq!((found.operation, found.time), (None, None));
    }
}
