//! What a column can hold: SQL's `money(amount)`, `pieces(number)` and `prorated(amount, part,
//! whole)`, NULL where it cannot.
//!
//! One absurd amount, of a typing mistake or of somebody who tries, must not end each run that
//! sums it. It stays as sent in the table that it came in by; where it would be added up, it is
//! left out, and the run says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array as _, ArrayRef, AsArray as _, Decimal128Array, Int64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use clickmill_lake::schema::MONEY;
use datafusion::common::{DataFusionError, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

/// So many pieces are no order's; nine million lines of as many still have a sum.
const MAX_PIECES: u64 = 1_000_000_000_000;
/// The greatest amount, in ten-thousandths.
const MAX_MONEY: u128 = 10_u128.pow(18) - 1;

/// The functions, and whether anything was left out by them.
#[derive(Debug)]
pub struct Bounds {
    money: ScalarUDF,
    pieces: ScalarUDF,
    prorated: ScalarUDF,
    exceeded: Arc<AtomicBool>,
}

impl Default for Bounds {
    fn default() -> Self {
        let exceeded = Arc::new(AtomicBool::new(false));
        let of = |kind| ScalarUDF::from(Bounded::new(kind, Arc::clone(&exceeded)));
        Self {
            money: of(Kind::Money),
            pieces: of(Kind::Pieces),
            prorated: of(Kind::Prorated),
            exceeded,
        }
    }
}

impl Bounds {
    /// Registers the functions.
    pub fn register(&self, session: &SessionContext) {
        session.register_udf(self.money.clone());
        session.register_udf(self.pieces.clone());
        session.register_udf(self.prorated.clone());
    }

    /// `money`, for plans that are built without SQL.
    pub fn money(&self) -> &ScalarUDF {
        &self.money
    }

    /// True where something was left out since this was asked last.
    pub fn take_exceeded(&self) -> bool {
        self.exceeded.swap(false, Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A decimal, as [`MONEY`].
    Money,
    /// An integer of at most [`MAX_PIECES`] either way.
    Pieces,
    /// An amount, cut as a whole was to its part: exact, and rounded to the fourth place. Whole
    /// where there is no part or no whole above zero.
    Prorated,
}

#[derive(Debug)]
struct Bounded {
    kind: Kind,
    exceeded: Arc<AtomicBool>,
    signature: Signature,
}

impl Bounded {
    fn new(kind: Kind, exceeded: Arc<AtomicBool>) -> Self {
        let signature = match kind {
            Kind::Money => Signature::any(1, Volatility::Immutable),
            Kind::Pieces => Signature::exact(vec![DataType::Int64], Volatility::Immutable),
            Kind::Prorated => Signature::exact(vec![MONEY; 3], Volatility::Immutable),
        };
        Self { kind, exceeded, signature }
    }
}

// The flag is where the answer's second half goes, and no part of what the function is.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Money => "money",
            Kind::Pieces => "pieces",
            Kind::Prorated => "prorated",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match (self.kind, arguments) {
            (Kind::Money, [DataType::Decimal128(..)]) | (Kind::Prorated, _) => Ok(MONEY),
            (Kind::Pieces, _) => Ok(DataType::Int64),
            (Kind::Money, other) => exec_err!("money() takes a decimal, not {other:?}"),
        }
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let given = &arrays[0];
        let fit: ArrayRef = match self.kind {
            Kind::Money => {
                let null_where_it_does_not = CastOptions { safe: true, ..CastOptions::default() };
                cast_with_options(given, &MONEY, &null_where_it_does_not)?
            }
            Kind::Pieces => {
                let numbers = given.as_primitive::<Int64Type>().iter();
                let fit = |number: &i64| number.unsigned_abs() <= MAX_PIECES;
                Arc::new(numbers.map(|number| number.filter(fit)).collect::<Int64Array>())
            }
            Kind::Prorated => {
                let [part, whole] = [1, 2].map(|at| arrays[at].as_primitive::<Decimal128Type>());
                let amounts = given.as_primitive::<Decimal128Type>().iter();
                let cut = amounts.zip(part).zip(whole);
                let cut = cut.map(|((amount, part), whole)| prorated(amount?, part, whole));
                Arc::new(cut.collect::<Decimal128Array>().with_data_type(MONEY))
            }
        };
        if fit.null_count() > given.null_count() {
            self.exceeded.store(true, Ordering::Relaxed);
        }
        Ok(ColumnarValue::Array(fit))
    }
}

fn prorated(amount: i128, part: Option<i128>, whole: Option<i128>) -> Option<i128> {
    let (Some(part), Some(whole)) = (part, whole.filter(|whole| *whole > 0)) else {
        return Some(amount);
    };
    let exact = amount.checked_mul(part)?;
    let half = whole / 2 * exact.signum();
    Some((exact + half) / whole).filter(|cut| cut.unsigned_abs() <= MAX_MONEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(bounds: &Bounds, sql: &str) -> String {
        let session = SessionContext::new();
        bounds.register(&session);
        let rows = session.sql(sql).await.expect("plans").collect().await.expect("runs");
        arrow::util::display::array_value_to_string(rows[0].column(0), 0).expect("shown")
    }

    #[tokio::test]
    async fn what_does_not_fit_is_null_and_told_once() {
        let bounds = Bounds::default();
        for (sql, shown, exceeded) in [
            (
                "SELECT money(CAST('99999999999999.9999' AS DECIMAL(38,4)))",
                "99999999999999.9999",
                false,
            ),
            ("SELECT money(CAST('-100000000000000' AS DECIMAL(38,4)))", "", true),
            ("SELECT money(CAST('0.00005' AS DECIMAL(10,5)))", "0.0001", false),
            ("SELECT money(CAST(NULL AS DECIMAL(38,4)))", "", false),
            ("SELECT pieces(CAST(-1000000000000 AS BIGINT))", "-1000000000000", false),
            ("SELECT pieces(1000000000001)", "", true),
            ("SELECT pieces(CAST('-9223372036854775808' AS BIGINT))", "", true),
            ("SELECT sum(pieces(n)) FROM (VALUES (1), (5000000000000)) AS t (n)", "1", true),
        ] {
            assert_eq!(first(&bounds, sql).await, shown, "{sql}");
            assert_eq!(bounds.take_exceeded(), exceeded, "{sql}");
            assert!(!bounds.take_exceeded(), "{sql}: told before");
        }
    }

    #[tokio::test]
    async fn an_amount_is_cut_as_the_whole_was() {
        let bounds = Bounds::default();
        for (amount, part, whole, cut, exceeded) in [
            ("'10'", "'2'", "'3'", "6.6667", false),
            ("'-10'", "'2'", "'3'", "-6.6667", false),
            ("'10'", "'3'", "'3'", "10.0000", false),
            ("'10'", "'3'", "'0'", "10.0000", false),
            ("'10'", "NULL", "'3'", "10.0000", false),
            ("NULL", "'2'", "'3'", "", false),
            ("'99999999999999.9999'", "'99999999999999.9999'", "'0.0001'", "", true),
        ] {
            let amounts =
                [amount, part, whole].map(|text| format!("CAST({text} AS DECIMAL(18,4))"));
            let sql = format!("SELECT prorated({})", amounts.join(", "));
            assert_eq!(first(&bounds, &sql).await, cut, "{sql}");
            assert_eq!(bounds.take_exceeded(), exceeded, "{sql}");
        }
    }
}
