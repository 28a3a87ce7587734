//! `identity_links` + `customers` -> `identity_map`, by [`crate::identity`].
//!
//! All links are read: a late one can join people from years ago. So it is a daily job.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::Change;
use clickmill_schemas::tables::{CUSTOMERS, IDENTITY_LINKS, IDENTITY_MAP};

use super::context::table_of;
use super::query::{Spread, write};
use super::{JobContext, Output};
use crate::TransformError;
use crate::identity::{Identity, Link, Node, Refused, Stitched, stitch};

const JOB: &str = "identity_map";

/// A mail address links to every customer who has it; nobody who has none is left out.
const LINKS: &str = "
SELECT visitor_id, customer_id, method, min(first_seen) AS first_seen FROM (
  SELECT visitor_id, identifier AS customer_id, method, first_seen FROM identity_links
  WHERE method <> 'email'
  UNION ALL
  SELECT l.visitor_id, c.customer_id, l.method, l.first_seen
  FROM identity_links l JOIN customers c ON l.identifier = lower(trim(c.email_hash))
  WHERE l.method = 'email')
GROUP BY visitor_id, customer_id, method
ORDER BY visitor_id, customer_id, method";

/// By the number of a link's method, the strongest first.
const METHODS: [&str; 3] = ["login", "order", "email"];

/// Ids by number, and back.
#[derive(Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }
}

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let links = context.change_of(&IDENTITY_LINKS, &IDENTITY_MAP).await?;
    let customers = context.change_of(&CUSTOMERS, &IDENTITY_MAP).await?;
    if links.is_empty() && customers.is_empty() {
        return Ok(output);
    }
    let table = context.current(&IDENTITY_MAP).await?;
    let session = context.session();
    for (name, spec) in [("identity_links", &IDENTITY_LINKS), ("customers", &CUSTOMERS)] {
        let files = context.current(spec).await?.files().to_vec();
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let batches = session.sql(LINKS).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let (mut visitors, mut people) = (Names::default(), Names::default());
    let mut links = Vec::new();
    for batch in &batches {
        let text = |at: usize| batch.column(at).as_string::<i32>();
        let seen = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let method = METHODS.iter().position(|known| *known == text(2).value(row));
            let Some(method) = method.and_then(|at| u8::try_from(at).ok()) else { continue };
            links.push(Link {
                at: seen.value(row),
                visitor: visitors.number(text(0).value(row)),
                customer: people.number(text(1).value(row)),
                method,
            });
        }
    }
    // Links of one instant are taken in the order of their numbers, so these must not depend
    // on what came in which batch: they are those of the sorted names.
    let stitched = stitch(&in_order(&links, &mut visitors, &mut people));
    let rows = rows(&stitched, &visitors, &people)?;
    count(&mut output, &stitched);
    let rows = session.read_batch(rows).map_err(&fail)?;
    let adds = write(context, JOB, &IDENTITY_MAP, rows, Spread::One).await?;
    output.add("identity_map", Change { adds, removes: table.files().to_vec() });
    Ok(output)
}

/// The same links, with names numbered in their alphabetical order.
fn in_order(links: &[Link], visitors: &mut Names, people: &mut Names) -> Vec<Link> {
    let sort = |names: &mut Names| {
        let mut sorted = names.names.clone();
        sorted.sort_unstable();
        let mut again = Names::default();
        for name in &sorted {
            again.number(name);
        }
        let moved: Vec<u32> = names.names.iter().map(|name| again.numbers[name]).collect();
        *names = again;
        moved
    };
    let (visitors, people) = (sort(visitors), sort(people));
    links
        .iter()
        .map(|link| Link {
            visitor: visitors[link.visitor as usize],
            customer: people[link.customer as usize],
            ..*link
        })
        .collect()
}

fn count(output: &mut Output, stitched: &Stitched) {
    let shared = stitched.refused.iter().filter(|r| matches!(r, Refused::Shared(..))).count();
    output.counts.insert("identities_shared", shared as u64);
    output.counts.insert("identity_links_capped", (stitched.refused.len() - shared) as u64);
}

fn rows(
    stitched: &Stitched,
    visitors: &Names,
    people: &Names,
) -> Result<RecordBatch, TransformError> {
    // Of each visitor of now: its person's least customer, and the one it is counted under.
    let mut least: HashMap<u32, u32> = HashMap::new();
    let mut primary: HashMap<u32, (bool, i64, u32)> = HashMap::new();
    for identity in stitched.identities.iter().filter(|identity| identity.to.is_none()) {
        let known = least.entry(identity.visitor).or_insert(identity.customer);
        *known = identity.customer.min(*known);
        let rank = rank(identity);
        let best = primary.entry(identity.visitor).or_insert(rank);
        *best = rank.min(*best);
    }
    let mut columns = Columns::default();
    for identity in &stitched.identities {
        let now = identity.to.is_none();
        columns.visitor.push(Some(visitors.name(identity.visitor)));
        columns.customer.push(Some(people.name(identity.customer)));
        columns.status.push("linked");
        let method = identity.method.map_or("joined", |method| METHODS[usize::from(method)]);
        columns.method.push(Some(method));
        columns.from.push(identity.from);
        columns.to.push(identity.to);
        columns.primary.push(now && primary.get(&identity.visitor) == Some(&rank(identity)));
        columns.person.push(now.then(|| people.name(least[&identity.visitor])));
    }
    for refused in &stitched.refused {
        let (visitor, customer, status, method, from) = match refused {
            Refused::Shared(Node::Visitor(v), at) => (Some(*v), None, "shared", None, *at),
            Refused::Shared(Node::Customer(c), at) => (None, Some(*c), "shared", None, *at),
            Refused::Capped(link) => {
                let method = METHODS[usize::from(link.method)];
                (Some(link.visitor), Some(link.customer), "capped", Some(method), link.at)
            }
        };
        columns.visitor.push(visitor.map(|number| visitors.name(number)));
        columns.customer.push(customer.map(|number| people.name(number)));
        columns.status.push(status);
        columns.method.push(method);
        columns.from.push(from);
        columns.to.push(None);
        columns.primary.push(false);
        columns.person.push(None);
    }
    Ok(columns.into_batch()?)
}

/// The least is the customer a visitor is counted under.
fn rank(identity: &Identity) -> (bool, i64, u32) {
    (identity.method.is_none(), identity.from, identity.customer)
}

#[derive(Default)]
struct Columns<'a> {
    visitor: Vec<Option<&'a str>>,
    customer: Vec<Option<&'a str>>,
    status: Vec<&'static str>,
    method: Vec<Option<&'static str>>,
    from: Vec<i64>,
    to: Vec<Option<i64>>,
    primary: Vec<bool>,
    person: Vec<Option<&'a str>>,
}

impl Columns<'_> {
    fn into_batch(self) -> Result<RecordBatch, arrow::error::ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(self.visitor)),
            Arc::new(StringArray::from(self.customer)),
            Arc::new(StringArray::from(self.status)),
            Arc::new(StringArray::from(self.method)),
            Arc::new(TimestampMicrosecondArray::from(self.from).with_timezone("UTC")),
            Arc::new(TimestampMicrosecondArray::from(self.to).with_timezone("UTC")),
            Arc::new(BooleanArray::from(self.primary)),
            Arc::new(StringArray::from(self.person)),
        ];
        RecordBatch::try_new(arrow_schema(&IDENTITY_MAP), columns)
    }
}
