//! The rows that a query gave, ready to be shown.

use anyhow::Context as _;
use arrow::array::{Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// A small result: text for people, numbers for charts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub columns: Vec<String>,
    /// True for columns of numbers.
    pub numeric: Vec<bool>,
    pub rows: Vec<Vec<String>>,
    numbers: Vec<Vec<f64>>,
}

impl Answer {
    /// Takes the batches over.
    ///
    /// # Errors
    /// Where a column has a type that cannot be shown.
    pub fn of(batches: &[RecordBatch]) -> anyhow::Result<Self> {
        let mut answer = Self::default();
        let Some(first) = batches.first() else { return Ok(answer) };
        let schema = first.schema();
        answer.columns = schema.fields().iter().map(|f| f.name().clone()).collect();
        answer.numeric = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
        for batch in batches {
            let options = FormatOptions::default();
            let shown: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<Result<_, _>>()?;
            let numbers: Vec<Vec<f64>> =
                batch.columns().iter().map(|c| floats(c.as_ref())).collect::<Result<_, _>>()?;
            for row in 0..batch.num_rows() {
                let texts = shown.iter().zip(&answer.numeric).map(|(column, numeric)| {
                    let text = column.value(row).to_string();
                    if *numeric { tidy(&text) } else { text }
                });
                answer.rows.push(texts.collect());
                answer.numbers.push(numbers.iter().map(|column| column[row]).collect());
            }
        }
        Ok(answer)
    }

    /// The number in a row and column; 0 where there is none.
    pub fn number(&self, row: usize, column: usize) -> f64 {
        self.numbers.get(row).and_then(|row| row.get(column)).copied().unwrap_or(0.0)
    }

    /// The text in a row and column.
    pub fn text(&self, row: usize, column: usize) -> &str {
        self.rows.get(row).and_then(|row| row.get(column)).map_or("", String::as_str)
    }

    /// Where a column stands.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn column(&self, name: &str) -> anyhow::Result<usize> {
        self.columns
            .iter()
            .position(|column| column == name)
            .with_context(|| format!("the answer has no column {name}"))
    }
}

fn floats(array: &dyn Array) -> anyhow::Result<Vec<f64>> {
    if !array.data_type().is_numeric() {
        return Ok(vec![0.0; array.len()]);
    }
    let floats = cast(array, &DataType::Float64)?;
    let floats = floats
        .as_any()
        .downcast_ref::<arrow::array::Float64Array>()
        .context("a number that is none")?;
    Ok(floats.iter().map(Option::unwrap_or_default).collect())
}

/// `1234567.5000` as `1,234,567.50`; whole numbers stay whole.
fn tidy(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    if whole.is_empty() || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut grouped = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match fraction.map(|f| f.trim_end_matches('0')) {
        None => format!("{sign}{grouped}"),
        // Four places as stored read as money with two.
        Some(kept) if kept.len() <= 2 && fraction.is_some_and(|f| f.len() >= 2) => {
            format!("{sign}{grouped}.{kept:0<2}")
        }
        Some("") => format!("{sign}{grouped}.0"),
        Some(kept) => format!("{sign}{grouped}.{kept}"),
    }
}

/// A count with separators.
pub fn count(n: u64) -> String {
    tidy(&n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn numbers_are_readable() {
        for (text, tidied) in [
            ("1234567", "1,234,567"),
            ("-1234.5000", "-1,234.50"),
            ("0.1234", "0.1234"),
            ("3.7", "3.7"),
            ("12.0", "12.0"),
            ("NaN", "NaN"),
        ] {
            assert_eq!(tidy(text), tidied);
        }
    }

    #[test]
    fn every_batch_counts_and_numbers_stay_numbers() {
        let money = Decimal128Array::from(vec![125_000, 5]).with_precision_and_scale(18, 4);
        let columns: [(&str, ArrayRef); 3] = [
            ("name", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("n", Arc::new(Int64Array::from(vec![1_000, 2]))),
            ("revenue", Arc::new(money.expect("fits"))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .expect("a batch");
        let answer = Answer::of(&[batch.clone(), batch]).expect("an answer");
        assert_eq!(answer.rows.len(), 4);
        assert_eq!(answer.rows[0], ["a", "1,000", "12.50"]);
        assert!((answer.number(0, 2) - 12.5).abs() < 1e-9);
        assert_eq!(answer.text(1, 0), "");
        assert!(answer.column("n").is_ok() && answer.column("x").is_err());
    }
}
