//! `currency_rates` for the jobs that convert amounts: SQL's `exchange_rate(currency, day)`, and
//! the days on which other rates than before convert otherwise.
//!
//! An amount is converted at the newest rate of the [`RATE_DAYS`] up to its own day: banks set
//! none on holidays. The reporting currency itself is 1 on every day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, Date32Array, Decimal128Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, Schema};
use clickmill_lake::table::{DataFile, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{CURRENCY_RATES, TableSpec};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;

use super::JobContext;
use super::context::{files_in, table_of, widened};
use super::query::dates;
use crate::TransformError;
use crate::currency::{RATE_DIGITS, RATE_SCALE, UnscaledRate};

/// How many days old a rate may be.
pub const RATE_DAYS: i32 = 7;
/// What stands for the reporting currency in a query.
const REPORTING: &str = "{reporting}";

/// The rates of one version of `currency_rates`.
#[derive(Debug, Default, PartialEq)]
pub struct Exchange {
    reporting: Option<String>,
    rates: BTreeMap<String, BTreeMap<Date, UnscaledRate>>,
}

/// What other rates convert otherwise.
enum Revalued {
    /// Every amount: another reporting currency, or none.
    Everything,
    /// Amounts of a currency on a day.
    Amounts(BTreeSet<(String, Date)>),
}

impl Exchange {
    /// The rates as they are now.
    ///
    /// # Errors
    /// [`TransformError`] where they cannot be read.
    pub async fn now(context: &JobContext<'_>) -> Result<Self, TransformError> {
        let table = context.current(&CURRENCY_RATES).await?;
        Self::read(context, table.files().to_vec()).await
    }

    async fn read(context: &JobContext<'_>, files: Vec<DataFile>) -> Result<Self, TransformError> {
        let fail = TransformError::job("currency_rates");
        let mut exchange = Self::default();
        if files.is_empty() {
            return Ok(exchange);
        }
        let rows = context.session().read_table(table_of(&CURRENCY_RATES, files)).map_err(&fail)?;
        let columns = ["currency", "rate_date", "rate", "reporting_currency"];
        let rows = rows.select_columns(&columns).map_err(&fail)?;
        for batch in rows.collect().await.map_err(&fail)? {
            let currencies = batch.column(0).as_string::<i32>();
            let days = batch.column(1).as_primitive::<Date32Type>();
            let rates = batch.column(2).as_primitive::<Decimal128Type>();
            let reporting = batch.column(3).as_string::<i32>();
            for row in 0..batch.num_rows() {
                exchange.reporting = Some(reporting.value(row).to_owned());
                let of = exchange.rates.entry(currencies.value(row).to_owned()).or_default();
                of.insert(Date::from_days(days.value(row)), rates.value(row));
            }
        }
        Ok(exchange)
    }

    /// The currency that the shop reports in; `None` where none is configured.
    pub fn reporting(&self) -> Option<&str> {
        self.reporting.as_deref()
    }

    /// Units of the reporting currency for one of `currency` on a day.
    fn rate(&self, currency: &str, day: Date) -> Option<UnscaledRate> {
        let currency = currency.to_ascii_uppercase();
        if self.reporting.as_ref()? == &currency {
            return Some(10_i128.pow(RATE_SCALE as u32));
        }
        let oldest = Date::from_days(day.days().saturating_sub(RATE_DAYS));
        Some(*self.rates.get(&currency)?.range(oldest..=day).next_back()?.1)
    }

    /// A query with the reporting currency, or NULL, for `{reporting}`.
    pub fn in_sql(&self, sql: &str) -> String {
        // Three capital letters: checked when the configuration was read.
        let literal = self.reporting().map(|code| format!("'{code}'"));
        sql.replace(REPORTING, literal.as_deref().unwrap_or("CAST(NULL AS VARCHAR)"))
    }

    /// Registers `exchange_rate(currency, day)`, which is NULL where there is no rate.
    pub fn register(self: &Arc<Self>, session: &SessionContext) {
        let exchange = Arc::clone(self);
        let scale = i8::try_from(RATE_SCALE).unwrap_or(i8::MAX);
        session.register_udf(create_udf(
            "exchange_rate",
            vec![DataType::Utf8, DataType::Date32],
            DataType::Decimal128(RATE_DIGITS, scale),
            Volatility::Immutable,
            Arc::new(move |arguments| {
                let arguments = ColumnarValue::values_to_arrays(arguments)?;
                let currencies = arguments[0].as_string::<i32>();
                let days = arguments[1].as_primitive::<Date32Type>();
                let rate = |(currency, day): (Option<&str>, Option<i32>)| {
                    exchange.rate(currency?, Date::from_days(day?))
                };
                let rates: Decimal128Array = currencies.iter().zip(days).map(rate).collect();
                let rates = rates.with_precision_and_scale(RATE_DIGITS, scale)?;
                Ok(ColumnarValue::Array(Arc::new(rates)))
            }),
        ));
    }

    /// What comes out otherwise by these rates than by those of `before`.
    fn since(&self, before: &Self) -> Revalued {
        if self.reporting != before.reporting {
            return Revalued::Everything;
        }
        let mut amounts = BTreeSet::new();
        let none = BTreeMap::new();
        for currency in self.rates.keys().chain(before.rates.keys()).collect::<BTreeSet<_>>() {
            let [new, old] = [self, before].map(|e| e.rates.get(currency).unwrap_or(&none));
            let differs = |day: &&Date| new.get(*day) != old.get(*day);
            let changed: BTreeSet<Date> =
                new.keys().chain(old.keys()).filter(differs).copied().collect();
            let otherwise = |day: &Date| self.rate(currency, *day) != before.rate(currency, *day);
            let days = widened(&changed, 0, RATE_DAYS).into_iter().filter(otherwise);
            amounts.extend(days.map(|day| (currency.clone(), day)));
        }
        Revalued::Amounts(amounts)
    }
}

/// Days of a table with amounts that the rates of now convert otherwise than those that it took
/// in. `amounts` is a query for the `dt` and `currency` of the amounts in `held`, the table; NULL
/// stands for any currency. An amount may be of the row's day or of one of the `ahead` after it.
///
/// # Errors
/// [`TransformError`].
pub async fn revalued_days(
    context: &JobContext<'_>,
    job: &'static str,
    spec: &'static TableSpec,
    amounts: &str,
    ahead: i32,
) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(job);
    let change = context.change_of(&CURRENCY_RATES, spec).await?;
    if change.is_empty() {
        return Ok(BTreeSet::new());
    }
    // It is one file, replaced as a whole.
    let before = Exchange::read(context, change.removes).await?;
    let now = Exchange::read(context, change.adds).await?;
    let held = context.current(spec).await?;
    let session = context.session();
    let register = |held: &Table, files| {
        session.register_table("held", table_of(held.spec(), files)).map_err(&fail)
    };
    match now.since(&before) {
        Revalued::Everything => {
            register(&held, held.files().to_vec())?;
            dates(&session, job, &format!("SELECT DISTINCT dt FROM ({amounts})")).await
        }
        Revalued::Amounts(revalued) => {
            let days: BTreeSet<Date> = revalued.iter().map(|(_, day)| *day).collect();
            register(&held, files_in(&held, &widened(&days, ahead, 0)))?;
            session.register_batch("revalued", as_rows(&revalued)?).map_err(&fail)?;
            let sql = format!(
                "SELECT DISTINCT a.dt FROM ({amounts}) a CROSS JOIN revalued r \
                 WHERE CAST(r.dt AS INT) - CAST(a.dt AS INT) BETWEEN 0 AND {ahead} \
                 AND coalesce(upper(a.currency) = r.currency, true)"
            );
            dates(&session, job, &sql).await
        }
    }
}

fn as_rows(amounts: &BTreeSet<(String, Date)>) -> Result<RecordBatch, TransformError> {
    let schema = Schema::new(vec![
        Field::new("currency", DataType::Utf8, false),
        Field::new("dt", DataType::Date32, false),
    ]);
    let currencies = StringArray::from_iter_values(amounts.iter().map(|(currency, _)| currency));
    let days = Date32Array::from_iter_values(amounts.iter().map(|(_, day)| day.days()));
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(currencies), Arc::new(days)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        Date::parse(text).expect("a date")
    }

    fn exchange(rates: &[(&str, &str, UnscaledRate)]) -> Exchange {
        let mut exchange = Exchange { reporting: Some("EUR".to_owned()), ..Exchange::default() };
        for (currency, on, rate) in rates {
            let of = exchange.rates.entry((*currency).to_owned()).or_default();
            of.insert(day(on), *rate);
        }
        exchange
    }

    #[test]
    fn a_rate_serves_its_day_and_the_seven_after_it() {
        let one = exchange(&[("USD", "2026-03-02", 9), ("USD", "2026-03-04", 8)]);
        for (currency, on, rate) in [
            ("USD", "2026-03-01", None),
            ("usd", "2026-03-02", Some(9)),
            ("USD", "2026-03-03", Some(9)),
            ("USD", "2026-03-04", Some(8)),
            ("USD", "2026-03-11", Some(8)),
            ("USD", "2026-03-12", None),
            ("GBP", "2026-03-04", None),
            ("eur", "1999-01-01", Some(10_000_000_000)),
        ] {
            assert_eq!(one.rate(currency, day(on)), rate, "{currency} {on}");
        }
        assert_eq!(Exchange::default().rate("EUR", day("2026-03-02")), None);
    }

    #[test]
    fn a_new_rate_revalues_the_days_that_it_serves_until_the_next_one() {
        let before = exchange(&[("USD", "2026-03-02", 9), ("USD", "2026-03-06", 8)]);
        let now = exchange(&[
            ("USD", "2026-03-02", 9),
            ("USD", "2026-03-04", 7),
            ("USD", "2026-03-06", 8),
            ("GBP", "2026-03-01", 1),
        ]);
        let Revalued::Amounts(amounts) = now.since(&before) else { panic!("the same currency") };
        let usd: Vec<String> =
            amounts.iter().filter(|(c, _)| c == "USD").map(|(_, day)| day.to_string()).collect();
        assert_eq!(usd, ["2026-03-04", "2026-03-05"]);
        assert_eq!(amounts.len(), 2 + 8);
        assert!(matches!(now.since(&Exchange::default()), Revalued::Everything));
    }
}
