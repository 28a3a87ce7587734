//! The rates file of `[currency]` -> `currency_rates`; empty where there is no `[currency]`.
//!
//! The reporting currency itself has a row, too: so the table says which it is though the file
//! has no rate, and whoever reads rates has no other source.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Date32Array, Decimal128Array, RecordBatch, StringArray};
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, PartitionWriter, Sorted};
use clickmill_schemas::Date;
use clickmill_schemas::tables::CURRENCY_RATES;
use datafusion::prelude::SessionContext;

use super::context::table_of;
use super::{JobContext, Output};
use crate::TransformError;
use crate::currency::{RATE_DIGITS, RATE_SCALE};

const JOB: &str = "currency_rates";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let mut read = BTreeMap::new();
    let mut reporting = "";
    if let Some(rates) = &context.batch.rates {
        (read, output.notices) = rates.read(context.lake).await?;
        reporting = rates.reporting.as_str();
        let itself = (reporting.to_owned(), Date::from_days(0));
        read.insert(itself, 10_i128.pow(RATE_SCALE as u32));
    }
    let currencies = read.keys().map(|(currency, _)| Some(currency.as_str()));
    let values = Decimal128Array::from_iter_values(read.values().copied());
    let scale = i8::try_from(RATE_SCALE).unwrap_or(i8::MAX);
    let wanted = RecordBatch::try_new(
        arrow_schema(&CURRENCY_RATES),
        vec![
            Arc::new(currencies.collect::<StringArray>()),
            Arc::new(Date32Array::from_iter_values(read.keys().map(|(_, day)| day.days()))),
            Arc::new(values.with_precision_and_scale(RATE_DIGITS, scale)?),
            Arc::new(StringArray::from(vec![reporting; read.len()])),
        ],
    )?;
    let table = context.current(&CURRENCY_RATES).await?;
    let session = context.session();
    let held = table_of(&CURRENCY_RATES, table.files().to_vec());
    session.register_table("held", held).map_err(&fail)?;
    session.register_batch("wanted", wanted.clone()).map_err(&fail)?;
    if !differ(&session).await? {
        return Ok(output);
    }
    let mut writer = PartitionWriter::new(context.lake, &CURRENCY_RATES, Sorted::Yes);
    writer.write(&wanted).await?;
    let change = Change { adds: writer.finish().await?, removes: table.files().to_vec() };
    output.add(CURRENCY_RATES.name, change);
    Ok(output)
}

async fn differ(session: &SessionContext) -> Result<bool, TransformError> {
    let fail = TransformError::job(JOB);
    let sql = "SELECT 1 FROM ((SELECT * FROM held EXCEPT SELECT * FROM wanted) \
               UNION ALL (SELECT * FROM wanted EXCEPT SELECT * FROM held)) LIMIT 1";
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    Ok(batches.iter().any(|batch| batch.num_rows() > 0))
}
