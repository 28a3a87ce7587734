//! A shop's own columns of `events`, and days made again after the configuration changed: the
//! same rows as if it had been so from the beginning.

use clickmill_schemas::{Date, Event, RawJson};
use clickmill_transform::backfill::{self, BackfillRange};
use clickmill_transform::{RunReport, Silent, TransformError, check};

use crate::support::shop::Shop;
use crate::{jobs, purchase, view};

const COLUMNS: &str = r#"
plan = "properties.plan:Utf8"
seats = "properties.team.seats:Int32"
price = "properties.price:Decimal(18, 4)"
trial = "context.trial:Boolean"
ends = "properties.ends:Timestamp"
variant = "page_query.ab.test:Utf8"
"#;
const OWN: &str = "SELECT event_id, plan, seats, price, trial, ends, variant FROM events";

fn with(mut event: Event<'static>, properties: &'static str) -> Event<'static> {
    event.properties = Some(RawJson::parse(properties).expect("JSON"));
    event
}

fn paged(mut event: Event<'static>, url: &'static str) -> Event<'static> {
    event.page_url = Some(url.into());
    event
}

/// Three days, a visitor's session over midnight among them.
fn days() -> [Vec<Event<'static>>; 3] {
    let mut trial = view("c", "w", "2026-03-11T09:00:00Z");
    trial.context = Some(RawJson::parse(r#"{"trial":true}"#).expect("JSON"));
    [
        vec![
            with(view("a", "v", "2026-03-10T23:50:00Z"), r#"{"plan":"gold","team":{"seats":3}}"#),
            with(view("b", "w", "2026-03-10T08:00:00Z"), r#"{"plan":7,"team":{"seats":"few"}}"#),
        ],
        vec![
            paged(
                with(trial, r#"{"price":19.5,"ends":"2026-04-01T00:00:00Z"}"#),
                "https://shop.example/?ab.test=blue&utm_source=spring&utm_medium=push",
            ),
            with(purchase("d", "v", "2026-03-11T00:05:00Z", "o1"), r#"{"plan":"gold"}"#),
        ],
        vec![view("e", "v", "2026-03-12T12:00:00Z")],
    ]
}

fn rows_of_days() -> Vec<&'static str> {
    vec![
        "a|gold|3|-|-|-|-",
        "b|7|-|-|-|-|-",
        "c|-|-|19.5000|true|2026-04-01T00:00:00Z|blue",
        "d|gold|-|-|-|-|-",
        "e|-|-|-|-|-|-",
    ]
}

async fn landed() -> Shop {
    let mut shop = Shop::new().await;
    for day in days() {
        shop.land(&day).await;
    }
    shop
}

fn whole() -> BackfillRange {
    BackfillRange::default()
}

async fn backfilled(shop: &Shop, range: BackfillRange) -> RunReport {
    let done = backfill::run(&shop.lake, &shop.options(), &Silent, range).await;
    done.expect("the backfill succeeds")
}

/// What is said of columns; the shop has no exports, which is said, too.
fn told(report: &RunReport) -> Vec<String> {
    let of_columns = report.notices.iter().filter(|notice| notice.source == "events");
    of_columns.map(ToString::to_string).collect()
}

fn counted(report: &RunReport) -> u64 {
    let jobs = report.batches.iter().flat_map(|batch| &batch.jobs);
    jobs.filter_map(|job| job.counts.get("backfilled")).sum()
}

#[tokio::test]
async fn own_columns_have_the_values_of_their_paths_and_their_types() {
    let mut shop = landed().await;
    shop.columns = COLUMNS;
    let report = shop.run().await;
    assert_eq!(shop.sql(OWN).await, rows_of_days());
    assert_eq!(
        told(&report),
        [
            "source `events`, [columns] seats: values that are no Int32: 1; they are NULL there, and \
          still in properties; give seats another type under another name, or correct what is sent"
        ]
    );
    let types = "SELECT arrow_typeof(plan), arrow_typeof(seats), arrow_typeof(price), \
                 arrow_typeof(trial), arrow_typeof(ends) FROM events WHERE event_id = 'a'";
    assert_eq!(
        shop.sql(types).await,
        [r#"Utf8|Int32|Decimal128(18, 4)|Boolean|Timestamp(µs, "UTC")"#]
    );

    // A late event writes the day again; what was there keeps its values.
    let before = shop.files("events", "2026-03-10").await;
    shop.land(&[with(view("late", "v", "2026-03-10T23:40:00Z"), r#"{"plan":"none"}"#)]).await;
    shop.run().await;
    assert_ne!(shop.files("events", "2026-03-10").await, before);
    let mut wanted = rows_of_days();
    wanted.push("late|none|-|-|-|-|-");
    assert_eq!(shop.sql(OWN).await, wanted);

    // Without the configuration the columns stay, and are NULL for what is new.
    shop.columns = "";
    shop.land(&[with(view("new", "x", "2026-03-13T08:00:00Z"), r#"{"plan":"gold"}"#)]).await;
    shop.run().await;
    wanted.push("new|-|-|-|-|-|-");
    assert_eq!(shop.sql(OWN).await, wanted);
}

#[tokio::test]
async fn a_backfill_gives_days_of_before_what_they_would_have_had() {
    let mut wanted = landed().await;
    wanted.columns = COLUMNS;
    wanted.run().await;

    let mut shop = landed().await;
    shop.run().await;
    shop.columns = COLUMNS;
    let tables = ["sessions", "event_items", "funnel_daily", "orders_enriched", "attribution"];
    let mut derived = Vec::new();
    for table in tables {
        derived.push(shop.table(table).await.version());
    }
    let untouched = shop.files("events", "2026-03-12").await;
    let range = BackfillRange {
        from: Date::parse("2026-03-11").ok(),
        to: Date::parse("2026-03-11").ok(),
        channels: false,
    };
    let report = shop.run().await;
    assert!(report.batches.is_empty());
    assert_eq!(
        told(&report),
        [
            "source `events`, [columns] ends, plan, price, seats, trial, variant: new, or taken from \
          elsewhere now: events of before stay as they are; `clickmill etl backfill` gives them \
          their values"
        ]
    );
    let first = shop.files("events", "2026-03-10").await;
    assert_eq!(counted(&backfilled(&shop, range).await), 2);
    assert_eq!(shop.files("events", "2026-03-10").await, first, "another day");
    assert_eq!(shop.sql("SELECT event_id FROM events WHERE plan = 'gold'").await, ["d"]);

    let report = backfilled(&shop, whole()).await;
    assert_eq!(counted(&report), 2, "the day that still differed");
    assert_eq!(told(&report).len(), 1, "{:?}", report.notices);
    assert_eq!(shop.files("events", "2026-03-12").await, untouched, "nothing to fill");
    assert_eq!(shop.everything().await, wanted.everything().await);
    for (table, version) in tables.iter().zip(derived) {
        assert_eq!(shop.table(table).await.version(), version, "{table} reads no own column");
    }
    let versions = shop.versions().await;
    assert_eq!(counted(&backfilled(&shop, whole()).await), 0);
    assert!(shop.run().await.batches.is_empty(), "derived tables have taken the days in");
    assert_eq!(shop.versions().await, versions);

    // Later events join what was filled.
    for shop in [&mut shop, &mut wanted] {
        shop.land(&[with(view("f", "v", "2026-03-11T00:01:00Z"), r#"{"plan":"tin"}"#)]).await;
        shop.run().await;
    }
    assert_eq!(shop.everything().await, wanted.everything().await);
}

#[tokio::test]
async fn a_path_that_changed_is_filled_again() {
    let mut shop = landed().await;
    shop.columns = "plan = \"properties.plan:Utf8\"";
    shop.run().await;
    shop.columns = "plan = \"properties.team.seats:Utf8\"";
    assert_eq!(counted(&backfilled(&shop, whole()).await), 4);
    let plans = "SELECT event_id, plan FROM events";
    assert_eq!(shop.sql(plans).await, ["a|3", "b|few", "c|-", "d|-", "e|-"]);
}

#[tokio::test]
async fn a_column_with_another_type_is_refused_before_anything_is_done() {
    let mut shop = landed().await;
    shop.columns = "plan = \"properties.plan:Utf8\"";
    shop.run().await;
    shop.columns = "plan = \"properties.plan:Int64\"";
    let versions = shop.versions().await;
    let error = shop.run_on(&shop.lake).await.expect_err("another type");
    assert!(matches!(error, TransformError::UnfitColumn { .. }) && error.is_usage());
    assert_eq!(
        error.to_string(),
        "[columns] plan: `events` has that column as Utf8, and it is Int64 now: put the type back, \
         or give the column another name"
    );
    assert_eq!(shop.versions().await, versions);
}

#[tokio::test]
async fn a_type_that_changed_behind_an_unfinished_batch_blocks_no_later_run() {
    let mut before = landed().await;
    before.run().await;
    before.columns = "plan = \"properties.plan:Utf8\"";
    let mut refused = 0;
    for writes in 0.. {
        let mut shop = before.fork().await;
        let lake = shop.dying_after(writes);
        if backfill::run(&lake, &shop.options(), &Silent, whole()).await.is_ok() {
            break;
        }
        shop.land(&[view("new", "x", "2026-03-13T08:00:00Z")]).await;
        shop.columns = "plan = \"properties.plan:Int64\"";
        match shop.run_on(&shop.lake).await {
            // The batch was not begun: that type is the first.
            Ok(_) => continue,
            Err(TransformError::UnfitColumn { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        shop.columns = before.columns;
        shop.run().await;
        assert_eq!(shop.sql("SELECT count(*) FROM events").await, ["6"], "after {writes} writes");
    }
    assert!(refused > 0, "no batch was left unfinished");
}

#[tokio::test]
async fn jobs_and_checks_see_own_columns_and_follow_a_backfill() {
    let mut shop = landed().await;
    shop.run().await;
    shop.columns = COLUMNS;
    shop.jobs = vec![jobs::job(
        "-- table: plans\n-- mode: replace partitions\n-- partition: dt\n-- depends: events\n\
         SELECT plan, count(*) AS events, dt FROM events WHERE plan IS NOT NULL GROUP BY plan, dt",
    )];
    // The table has no such columns yet.
    shop.run().await;
    assert!(shop.sql("SELECT * FROM plans").await.is_empty());
    backfilled(&shop, whole()).await;
    let plans = "SELECT plan, events, dt FROM plans";
    assert_eq!(shop.sql(plans).await, ["7|1|2026-03-10", "gold|1|2026-03-10", "gold|1|2026-03-11"]);

    shop.quality = "[[events]]\ncheck = \"accepted_values\"\ncolumn = \"plan\"\n\
                    values = [\"gold\"]\non_failure = \"warn\"";
    check(&shop.lake, &shop.options()).await.expect("a column of the table");
    shop.quality = "[[events]]\ncheck = \"not_null\"\ncolumns = [\"plans\"]";
    let error = check(&shop.lake, &shop.options()).await.expect_err("no column");
    assert!(error.to_string().contains("plans"), "{error}");
}

#[tokio::test]
async fn channels_of_before_follow_the_rules_of_now_and_so_does_what_is_made_of_them() {
    const RULES: &str = "version = 1007\n[[rules]]\nchannel = \"app_push\"\nmedium = \"push\"";
    let mut wanted = landed().await;
    wanted.channels = RULES;
    wanted.run().await;
    let mut shop = landed().await;
    shop.run().await;
    shop.channels = RULES;
    let channels = "SELECT DISTINCT channel FROM sessions";
    assert_ne!(shop.sql(channels).await, wanted.sql(channels).await);
    backfilled(&shop, BackfillRange { channels: true, ..whole() }).await;
    assert_eq!(shop.everything().await, wanted.everything().await);
    assert!(shop.sql(channels).await.contains(&"app_push".to_owned()));
}

#[tokio::test]
async fn a_backfill_that_dies_after_any_write_is_finished_by_the_next_run() {
    const MOST_WRITES: u32 = 60;
    let mut wanted = landed().await;
    wanted.columns = COLUMNS;
    wanted.run().await;
    let wanted = wanted.everything().await;
    let mut before = landed().await;
    before.run().await;
    before.columns = COLUMNS;
    let mut finished = 0;
    for writes in 0.. {
        assert!(writes < MOST_WRITES, "a backfill needs more than {MOST_WRITES} writes");
        let mut shop = before.fork().await;
        let lake = shop.dying_after(writes);
        let died = backfill::run(&lake, &shop.options(), &Silent, whole()).await.is_err();
        if died {
            // The batch says what the columns are, not the configuration of whoever finishes it.
            shop.columns = "";
            finished += shop.run().await.batches.len();
            shop.columns = COLUMNS;
            backfilled(&shop, whole()).await;
        }
        assert_eq!(shop.everything().await, wanted, "after {writes} writes");
        if !died {
            break;
        }
    }
    assert!(finished >= 3, "only {finished} batches were cut off");
}
