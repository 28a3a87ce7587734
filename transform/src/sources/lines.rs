//! Files of order lines, where each line repeats its order's fields: orders,
//! order items and products out of one file.
//!
//! - An order's fields are those of its first line. All its lines must stand in
//!   one file, in any order among the others'.
//! - `subtotal` is the exact sum of quantity times unit price over the lines that
//!   were taken, `discount` the sum of the lines' discounts, `total` the subtotal
//!   less discount plus `tax` and `shipping`; a mapped `subtotal` or `total` wins.
//! - A return is an order whose id has the configured prefix. It keeps its
//!   negative amounts, and `refunded` stays as mapped, so that nothing counts twice.
//! - A product is as its last line with a positive quantity and price says, and
//!   where it has none, as its last line says; its name is the last that is not empty.
//!
//! Memory: one entry for each order, or product, of a file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, RecordBatch, StringArray,
    UInt32Array, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Decimal128Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use clickmill_schemas::Money;
use clickmill_schemas::tables::Column;

use super::columns::{self, MONEY_PRECISION, MONEY_SCALE};
use super::config::LinesMapping;
use super::rows::LineNumbers;
use super::{BATCH_ROWS, Dataset, Export};

/// What an order line cannot do without.
pub(super) const REQUIRED: [&str; 4] = ["order_id", "ordered_at", "quantity", "unit_price"];

/// The datasets whose columns a line may carry, in the order in which a name is looked up.
pub(super) const DATASETS: [Dataset; 3] =
    [Dataset::OrderItems, Dataset::Orders, Dataset::ProductObservations];

/// A column of an order line.
pub(super) fn column(name: &str) -> Option<&'static Column> {
    DATASETS.iter().find_map(|dataset| columns::find(*dataset, name))
}

/// Makes one dataset out of typed lines.
pub(super) struct Lines {
    dataset: Dataset,
    schema: SchemaRef,
    mapping: LinesMapping,
    exported_at: i64,
    export_id: String,
    numbers: LineNumbers,
    /// Position of each order, or product, of this file among `heads`.
    known: HashMap<String, usize>,
    sums: Vec<Sums>,
    /// First lines of the orders, last lines of the products; rows in the order of `known`.
    heads: Vec<RecordBatch>,
    /// Of products: which row of which batch is the one to take.
    best: Vec<Best>,
}

/// Ten-thousandths, in which the sum of any file fits.
#[derive(Clone, Copy, Default)]
struct Sums {
    subtotal: i128,
    discount: i128,
    has_discount: bool,
}

#[derive(Clone)]
struct Best {
    batch: usize,
    row: u32,
    sold: bool,
    name: Option<String>,
}

/// What the end of a file gives.
pub(super) struct Ended {
    /// Rows in the dataset's schema.
    pub batches: Vec<RecordBatch>,
    /// Ids of orders whose sums do not fit an amount.
    pub overflown: Vec<String>,
}

impl Lines {
    pub(super) fn new(export: &Export) -> Self {
        Self {
            dataset: export.dataset,
            schema: columns::schema(export.dataset),
            mapping: export.lines.clone().unwrap_or_default(),
            exported_at: export.exported_at.micros(),
            export_id: export.export_id.clone(),
            numbers: LineNumbers::default(),
            known: HashMap::new(),
            sums: Vec::new(),
            heads: Vec::new(),
            best: Vec::new(),
        }
    }

    /// Takes some lines; gives the rows that are ready.
    pub(super) fn add(&mut self, lines: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        match self.dataset {
            Dataset::OrderItems => return self.items(lines),
            Dataset::ProductObservations => self.add_products(lines)?,
            Dataset::Orders | Dataset::Customers | Dataset::Carts => self.add_orders(lines)?,
        }
        Ok(RecordBatch::new_empty(Arc::clone(&self.schema)))
    }

    /// Gives what was gathered, and starts afresh.
    pub(super) fn end_of_file(&mut self) -> Result<Ended, ArrowError> {
        self.numbers = LineNumbers::default();
        self.known = HashMap::new();
        let (heads, sums) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.sums));
        let best = std::mem::take(&mut self.best);
        let mut ended = Ended { batches: Vec::new(), overflown: Vec::new() };
        match self.dataset {
            Dataset::OrderItems => {}
            Dataset::ProductObservations => self.end_products(&heads, &best, &mut ended)?,
            Dataset::Orders | Dataset::Customers | Dataset::Carts => {
                self.end_orders(&heads, &sums, &mut ended)?
            }
        }
        Ok(ended)
    }

    fn items(&mut self, lines: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let numbers: Option<ArrayRef> = match lines.column_by_name("line") {
            Some(_) => None,
            None => {
                let numbers: Int32Array = self.numbers.count(text(lines, "order_id")?)?;
                Some(Arc::new(numbers))
            }
        };
        self.project(lines, |name| if name == "line" { numbers.clone() } else { None })
    }

    fn add_orders(&mut self, lines: &RecordBatch) -> Result<(), ArrowError> {
        let orders = text(lines, "order_id")?;
        let quantities = required(lines, "quantity")?.as_primitive::<Int64Type>();
        let prices = required(lines, "unit_price")?.as_primitive::<Decimal128Type>();
        let discounts =
            lines.column_by_name("discount").map(|array| array.as_primitive::<Decimal128Type>());
        let mut is_first = Vec::with_capacity(lines.num_rows());
        for row in 0..lines.num_rows() {
            let order = orders.value(row);
            let known = self.known.get(order).copied();
            is_first.push(known.is_none());
            let at = known.unwrap_or_else(|| {
                self.known.insert(order.to_owned(), self.sums.len());
                self.sums.push(Sums::default());
                self.sums.len() - 1
            });
            let sums = &mut self.sums[at];
            // 64 bits times 60 bits: no file has enough lines to pass 128.
            sums.subtotal =
                sums.subtotal.saturating_add(i128::from(quantities.value(row)) * prices.value(row));
            if let Some(discounts) = discounts.filter(|discounts| discounts.is_valid(row)) {
                sums.discount = sums.discount.saturating_add(discounts.value(row));
                sums.has_discount = true;
            }
        }
        self.heads.push(filter_record_batch(lines, &BooleanArray::from(is_first))?);
        Ok(())
    }

    fn end_orders(
        &self,
        heads: &[RecordBatch],
        sums: &[Sums],
        ended: &mut Ended,
    ) -> Result<(), ArrowError> {
        let mut done = 0;
        for group in grouped(heads) {
            let heads = concat_batches(&group[0].schema(), group)?;
            let sums = &sums[done..done + heads.num_rows()];
            done += heads.num_rows();
            let ids = text(&heads, "order_id")?;
            let amount = |name: &str, row: usize| -> Option<i128> {
                let array = heads.column_by_name(name)?.as_primitive::<Decimal128Type>();
                array.is_valid(row).then(|| array.value(row))
            };
            let money = |value: i128| {
                i64::try_from(value).ok().and_then(Money::from_unscaled).map(|_| value)
            };
            let mut fits = Vec::with_capacity(sums.len());
            let (mut subtotals, mut discounts, mut totals) = (Vec::new(), Vec::new(), Vec::new());
            for (row, sum) in sums.iter().enumerate() {
                let subtotal = amount("subtotal", row).unwrap_or(sum.subtotal);
                let extra = amount("tax", row).unwrap_or(0) + amount("shipping", row).unwrap_or(0);
                let total = amount("total", row)
                    .unwrap_or_else(|| subtotal.saturating_sub(sum.discount).saturating_add(extra));
                let fit = [subtotal, sum.discount, total].into_iter().all(|v| money(v).is_some());
                fits.push(fit);
                if !fit {
                    ended.overflown.push(ids.value(row).to_owned());
                }
                subtotals.push(money(subtotal));
                discounts.push(money(sum.discount).filter(|_| sum.has_discount));
                totals.push(money(total));
            }
            let made = [
                ("subtotal", amounts(subtotals)?),
                ("discount", amounts(discounts)?),
                ("total", amounts(totals)?),
                ("status", self.statuses(&heads, ids)),
            ];
            let rows = self.project(&heads, |name| {
                made.iter().find(|(made, _)| *made == name).map(|(_, array)| Arc::clone(array))
            })?;
            ended.batches.push(filter_record_batch(&rows, &BooleanArray::from(fits))?);
        }
        Ok(())
    }

    fn statuses(&self, heads: &RecordBatch, ids: &StringArray) -> ArrayRef {
        let mapped = heads.column_by_name("status").map(|array| array.as_string::<i32>());
        let statuses: StringArray = (0..heads.num_rows())
            .map(|row| {
                let mapped = mapped.filter(|mapped| mapped.is_valid(row)).map(|m| m.value(row));
                let prefix = self.mapping.return_prefix.as_deref();
                let is_return = prefix.is_some_and(|prefix| ids.value(row).starts_with(prefix));
                let made =
                    if is_return { &self.mapping.return_status } else { &self.mapping.status };
                Some(mapped.unwrap_or(made))
            })
            .collect();
        Arc::new(statuses)
    }

    fn add_products(&mut self, lines: &RecordBatch) -> Result<(), ArrowError> {
        let Some(products) = lines.column_by_name("product_id") else { return Ok(()) };
        let products = products.as_string::<i32>();
        let quantities = required(lines, "quantity")?.as_primitive::<Int64Type>();
        let prices = required(lines, "unit_price")?.as_primitive::<Decimal128Type>();
        let names = lines.column_by_name("name").map(|array| array.as_string::<i32>());
        // The newest line of each product in this batch, then one row of it each.
        let mut rows: Vec<u32> = Vec::new();
        let mut row_of: HashMap<usize, usize> = HashMap::new();
        for row in 0..lines.num_rows() {
            if products.is_null(row) {
                continue;
            }
            let sold = quantities.value(row) > 0 && prices.value(row) > 0;
            let name = names.filter(|names| names.is_valid(row)).map(|names| names.value(row));
            let at = match self.known.get(products.value(row)) {
                Some(at) => *at,
                None => {
                    self.known.insert(products.value(row).to_owned(), self.best.len());
                    self.best.push(Best { batch: usize::MAX, row: 0, sold: false, name: None });
                    self.best.len() - 1
                }
            };
            let best = &mut self.best[at];
            if best.sold && !sold {
                // Stock corrections and returns describe the correction, not the product.
                best.name = best.name.take().or_else(|| name.map(str::to_owned));
                continue;
            }
            if let Some(name) = name {
                best.name = Some(name.to_owned());
            }
            best.sold = sold;
            let slot = *row_of.entry(at).or_insert_with(|| {
                rows.push(0);
                rows.len() - 1
            });
            rows[slot] = u32::try_from(row).unwrap_or(u32::MAX);
            best.batch = self.heads.len();
            best.row = u32::try_from(slot).unwrap_or(u32::MAX);
        }
        self.heads.push(take_record_batch(lines, &UInt32Array::from(rows))?);
        Ok(())
    }

    fn end_products(
        &self,
        heads: &[RecordBatch],
        best: &[Best],
        ended: &mut Ended,
    ) -> Result<(), ArrowError> {
        let Some(first) = heads.first() else { return Ok(()) };
        let all = concat_batches(&first.schema(), heads)?;
        let mut starts = Vec::with_capacity(heads.len());
        let mut start = 0;
        for head in heads {
            starts.push(start);
            start += u32::try_from(head.num_rows()).unwrap_or(u32::MAX);
        }
        for some in best.chunks(BATCH_ROWS) {
            let rows: UInt32Array =
                some.iter().map(|best| Some(starts[best.batch] + best.row)).collect();
            let lines = take_record_batch(&all, &rows)?;
            let names: StringArray = some.iter().map(|best| best.name.as_deref()).collect();
            let names: ArrayRef = Arc::new(names);
            ended.batches.push(self.project(&lines, |name| match name {
                "name" => Some(Arc::clone(&names)),
                "price" if lines.column_by_name("price").is_none() => {
                    lines.column_by_name("unit_price").map(Arc::clone)
                }
                _ => None,
            })?);
        }
        Ok(())
    }

    /// Lines as rows of the dataset: `made` columns first, then the lines' own,
    /// then what the export says, then NULL.
    fn project(
        &self,
        lines: &RecordBatch,
        made: impl Fn(&str) -> Option<ArrayRef>,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = lines.num_rows();
        let arrays = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                let own = || lines.column_by_name(field.name()).map(Arc::clone);
                made(field.name()).or_else(own).unwrap_or_else(|| match field.name().as_str() {
                    "exported_at" | "observed_at" => {
                        let times = vec![self.exported_at; rows];
                        let times = arrow::array::TimestampMicrosecondArray::from(times);
                        Arc::new(times.with_timezone("UTC"))
                    }
                    "export_id" => Arc::new(StringArray::from(vec![self.export_id.as_str(); rows])),
                    _ => new_null_array(field.data_type(), rows),
                })
            })
            .collect();
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
    }
}

/// Runs of batches with at least [`BATCH_ROWS`] rows together, the last one excepted.
fn grouped(batches: &[RecordBatch]) -> Vec<&[RecordBatch]> {
    let (mut groups, mut from, mut rows) = (Vec::new(), 0, 0);
    for (at, batch) in batches.iter().enumerate() {
        rows += batch.num_rows();
        if rows >= BATCH_ROWS || at + 1 == batches.len() {
            groups.push(&batches[from..=at]);
            (from, rows) = (at + 1, 0);
        }
    }
    groups
}

fn amounts(values: Vec<Option<i128>>) -> Result<ArrayRef, ArrowError> {
    let array = Decimal128Array::from(values);
    Ok(Arc::new(array.with_precision_and_scale(MONEY_PRECISION, MONEY_SCALE)?))
}

fn required<'a>(lines: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    lines
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("order lines without {name}")))
}

fn text<'a>(lines: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    Ok(required(lines, name)?.as_string::<i32>())
}
