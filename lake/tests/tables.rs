//! Does a table take each batch once, whoever else writes, and read back what was written?
// A test fails by panicking, in its helpers, too.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Date32Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{
    Change, Committed, DataFile, LakeTable, PartitionWriter, ScanCounters, ScanTotals, Sorted,
    Table, register_store,
};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::tables::{ORDER_ITEMS, PRODUCTS, TableSpec};
use clickmill_schemas::{Date, Timestamp};
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::{ObjectStoreExt as _, path::Path};

const MONDAY: &str = "2026-03-09";
const TUESDAY: &str = "2026-03-10";

/// Lines of orders: (order, when exported, day).
async fn files(lake: &Lake, rows: &[(&str, &str, &str)]) -> Vec<DataFile> {
    let schema = arrow_schema(&ORDER_ITEMS);
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| -> ArrayRef {
            match field.name().as_str() {
                "order_id" => Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
                "line" => Arc::new(Int32Array::from(vec![1; rows.len()])),
                "quantity" => Arc::new(Int64Array::from(vec![2; rows.len()])),
                "exported_at" => {
                    let at = rows.iter().map(|row| Timestamp::parse(row.1).expect("a time"));
                    let micros = at.map(|at| Some(at.micros()));
                    Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
                }
                "dt" => {
                    let days = rows.iter().map(|row| Date::parse(row.2).expect("a date").days());
                    Arc::new(Date32Array::from_iter_values(days))
                }
                _ => new_null_array(field.data_type(), rows.len()),
            }
        })
        .collect();
    let batch = RecordBatch::try_new(schema, columns).expect("fits the table");
    let mut writer = PartitionWriter::new(lake, &ORDER_ITEMS, Sorted::Yes);
    writer.write(&batch).await.expect("writes");
    writer.finish().await.expect("finishes")
}

async fn day(lake: &Lake, order: &str, day: &str) -> Vec<DataFile> {
    files(lake, &[(order, "2026-03-20T00:00:00Z", day)]).await
}

fn adding(adds: Vec<DataFile>) -> Change {
    Change { adds, removes: Vec::new() }
}

async fn lake_and_table() -> (tempfile::TempDir, Lake, Table) {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let table = Table::open_or_create(&lake, &ORDER_ITEMS).await.expect("creates");
    (folder, lake, table)
}

async fn newest(lake: &Lake) -> Table {
    Table::open(lake, &ORDER_ITEMS).await.expect("opens").expect("exists")
}

fn session(lake: &Lake, table: LakeTable) -> SessionContext {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    register_store(&session.runtime_env(), lake).expect("registers");
    session.register_table("t", Arc::new(table)).expect("registers");
    session
}

/// The order ids in the newest version, sorted.
async fn orders(lake: &Lake) -> Vec<String> {
    orders_of(lake, &newest(lake).await).await
}

async fn orders_of(lake: &Lake, table: &Table) -> Vec<String> {
    let session = session(lake, LakeTable::new(table));
    let rows = session.sql("SELECT order_id FROM t ORDER BY order_id").await.expect("plans");
    let batches = rows.collect().await.expect("runs");
    let texts = batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten());
    texts.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_batch_is_applied_once_and_its_number_is_each_jobs_own() {
    let (_folder, lake, table) = lake_and_table().await;
    let change = adding(day(&lake, "a", MONDAY).await);
    let first = table.commit(&change, "sources", 1).await.expect("commits");
    assert!(matches!(first, Committed::Now(_)), "{first:?}");
    // The same batch from the version before, from the newest, and one that is older still.
    let again = adding(day(&lake, "b", MONDAY).await);
    for (base, batch) in [(&table, 1), (&newest(&lake).await, 1), (&table, 0)] {
        let second = base.commit(&again, "sources", batch).await.expect("is answered");
        assert!(matches!(second, Committed::Before(_)), "{second:?}");
    }
    assert_eq!(orders(&lake).await, ["a"]);
    let other = newest(&lake).await.commit(&again, "other", 1).await.expect("commits");
    assert!(matches!(other, Committed::Now(_)), "{other:?}");
    assert_eq!(orders(&lake).await, ["a", "b"]);
    let now = newest(&lake).await;
    assert_eq!(now.batch("sources").await.expect("reads"), Some(1));
    assert_eq!(now.batch("nobody").await.expect("reads"), None);
}

#[tokio::test]
async fn a_replacement_computed_before_a_partition_was_rewritten_is_refused() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let stale = newest(&lake).await;
    // What OPTIMIZE does: the same rows in another file. delta-rs would let an overwrite
    // from the snapshot before it pass, and keep the file that it never saw.
    let rewritten = Change { adds: day(&lake, "a", MONDAY).await, removes: stale.files().to_vec() };
    newest(&lake).await.commit(&rewritten, "maintain", 1).await.expect("commits");
    let replacement =
        Change { adds: day(&lake, "b", MONDAY).await, removes: stale.files().to_vec() };
    let refused = stale.commit(&replacement, "sources", 2).await;
    assert!(matches!(refused, Err(LakeError::Conflict { .. })), "{refused:?}");
    assert_eq!(orders(&lake).await, ["a"]);

    // Computed again from what is there now, it passes and nothing old stays.
    let base = newest(&lake).await;
    let again = Change { removes: base.files().to_vec(), ..replacement };
    base.commit(&again, "sources", 2).await.expect("commits");
    assert_eq!(orders(&lake).await, ["b"]);
}

#[tokio::test]
async fn a_replacement_is_refused_where_rows_were_appended_to_its_partition() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let stale = newest(&lake).await;
    let appended = adding(day(&lake, "c", MONDAY).await);
    stale.commit(&appended, "other", 1).await.expect("commits");
    let change = Change { adds: day(&lake, "b", MONDAY).await, removes: stale.files().to_vec() };
    let refused = stale.commit(&change, "sources", 2).await;
    assert!(matches!(refused, Err(LakeError::Conflict { .. })), "{refused:?}");
    assert_eq!(orders(&lake).await, ["a", "c"]);
}

#[tokio::test]
async fn a_change_passes_over_what_others_did_elsewhere() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let stale = newest(&lake).await;
    stale.commit(&adding(day(&lake, "c", TUESDAY).await), "other", 1).await.expect("commits");
    let change = Change { adds: day(&lake, "b", MONDAY).await, removes: stale.files().to_vec() };
    stale.commit(&change, "sources", 2).await.expect("commits again on the newer version");
    // An append replaces nothing, so nobody can be in its way.
    table.commit(&adding(day(&lake, "d", MONDAY).await), "sources", 3).await.expect("commits");
    assert_eq!(orders(&lake).await, ["b", "c", "d"]);
}

#[tokio::test]
async fn of_writers_at_once_each_commit_lands_once() {
    let (_folder, lake, table) = lake_and_table().await;
    let write = async |order: &str, job: &str| {
        let change = adding(day(&lake, order, MONDAY).await);
        table.commit(&change, job, 1).await.expect("commits")
    };
    let done = futures::join!(
        write("a", "one"),
        write("b", "one"),
        write("c", "two"),
        write("d", "three")
    );
    let done = [done.0, done.1, done.2, done.3];
    let now = done.iter().filter(|done| matches!(done, Committed::Now(_))).count();
    assert_eq!(now, 3, "{done:?}: one of the two of job `one` found its batch applied");
    assert_eq!(orders(&lake).await.len(), 3);
}

#[tokio::test]
async fn partitions_and_files_that_a_filter_rules_out_are_not_opened() {
    let (_folder, lake, table) = lake_and_table().await;
    let mut adds = Vec::new();
    for (order, on) in [("a", MONDAY), ("m", MONDAY), ("z", TUESDAY)] {
        adds.extend(day(&lake, order, on).await);
    }
    table.commit(&adding(adds), "sources", 1).await.expect("commits");
    let table = newest(&lake).await;
    for (filter, rows, pruned) in [
        ("dt = DATE '2026-03-09'", 2, (1, 1)),
        ("order_id = 'm'", 1, (2, 1)),
        ("order_id > 'm'", 1, (2, 1)),
        ("order_id = 'b'", 0, (3, 2)),
        // No file has statistics of it: all are read.
        ("quantity = 2", 3, (0, 0)),
        ("order_id = 'a' AND dt = DATE '2026-03-10'", 0, (3, 2)),
        ("true", 3, (0, 0)),
    ] {
        let counters = Arc::<ScanCounters>::default();
        let scanned = LakeTable::new(&table).with_counters(Arc::clone(&counters));
        let session = session(&lake, scanned);
        let sql = format!("SELECT count(line) FROM t WHERE {filter}");
        let found = session.sql(&sql).await.expect(filter).collect().await.expect(filter);
        assert_eq!(found[0].column(0).as_primitive::<Int64Type>().value(0), rows, "{filter}");
        let expected = ScanTotals {
            files: 3,
            files_pruned: pruned.0,
            partitions: 2,
            partitions_pruned: pruned.1,
        };
        assert_eq!(counters.totals(), expected, "{filter}");
    }
}

#[tokio::test]
async fn instants_come_back_to_the_microsecond_and_at_their_bounds() {
    let (_folder, lake, table) = lake_and_table().await;
    let times = [
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00.000001Z",
        "2026-03-09T12:00:00.123456Z",
        "2026-03-09T12:00:00.123457Z",
        "9999-12-31T23:59:59.999999Z",
    ];
    let rows: Vec<_> = times.iter().map(|time| ("a", *time, MONDAY)).collect();
    table.commit(&adding(files(&lake, &rows).await), "sources", 1).await.expect("commits");
    let session = session(&lake, LakeTable::new(&newest(&lake).await));
    let sql = "SELECT exported_at FROM t ORDER BY exported_at";
    let found = session.sql(sql).await.expect("plans").collect().await.expect("runs");
    let column = found[0].column(0);
    assert_eq!(column.data_type().to_string(), "Timestamp(µs, \"UTC\")");
    let micros = column.as_primitive::<TimestampMicrosecondType>();
    let found: Vec<_> = micros.iter().flatten().collect();
    let wanted: Vec<_> =
        times.iter().map(|time| Timestamp::parse(time).expect("a time").micros()).collect();
    assert_eq!(found, wanted);
    // Finer than a millisecond, by which other writers cut their statistics.
    for micros in wanted {
        let sql =
            format!("SELECT count(line) FROM t WHERE exported_at = to_timestamp_micros({micros})");
        let found = session.sql(&sql).await.expect("plans").collect().await.expect("runs");
        assert_eq!(found[0].column(0).as_primitive::<Int64Type>().value(0), 1, "{micros}");
    }
}

/// Takes the newest commit's only `add` and writes it again, altered, as the next
/// version: what another program does with the table.
async fn foreign_commit(lake: &Lake, alter: impl Fn(&mut serde_json::Value)) {
    let version = newest(lake).await.version();
    let log =
        |version: u64| Path::from(format!("tables/order_items/_delta_log/{version:020}.json"));
    let bytes = lake.store().get(&log(version)).await.expect("is there").bytes().await;
    let text = String::from_utf8(bytes.expect("reads").to_vec()).expect("UTF-8");
    let actions = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let mut lines = vec![r#"{"commitInfo":{"operation":"OPTIMIZE"}}"#.to_owned()];
    for action in actions {
        let mut action: serde_json::Value = action;
        if action.get("add").is_none() {
            continue;
        }
        let path = action["add"]["path"].as_str().expect("a path").to_owned();
        let values = action["add"]["partitionValues"].clone();
        let remove = serde_json::json!({"remove": {
            "path": path, "partitionValues": values, "dataChange": false, "deletionTimestamp": 1,
        }});
        let (folder, _) = path.rsplit_once('/').expect("a partition");
        let copy = format!("{folder}/foreign-{version}.parquet");
        let below = |path: &str| Path::from(format!("tables/order_items/{path}"));
        lake.store().copy(&below(&path), &below(&copy)).await.expect("copies");
        action["add"]["path"] = copy.into();
        action["add"]["dataChange"] = false.into();
        alter(&mut action["add"]);
        lines.extend([remove.to_string(), action.to_string()]);
    }
    let text = lines.join("\n");
    lake.store().put(&log(version + 1), text.into()).await.expect("writes");
}

#[tokio::test]
async fn a_file_of_another_writer_counts_as_unsorted() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let ours = newest(&lake).await;
    assert_eq!(ours.files()[0].sorted_by.as_deref(), Some("order_id,line"));
    for tags in [
        serde_json::Value::Null,
        serde_json::json!({"ZCUBE_ID": "x"}),
        // Sorted, but not as the table wants it.
        serde_json::json!({"clickmill.sortedBy": "line"}),
    ] {
        foreign_commit(&lake, |add| add["tags"] = tags.clone()).await;
        let theirs = newest(&lake).await;
        assert_eq!(theirs.files().len(), 1);
        assert!(theirs.files()[0].path.contains("foreign-"), "{:?}", theirs.files());
        assert_eq!(theirs.files()[0].sorted_by, None, "{tags}");
        assert_eq!(orders(&lake).await, ["a"]);
    }
}

/// Another program's: this one compacts nothing.
#[tokio::test]
async fn compaction_racing_append_and_query() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    // An append and a query that began before it, and end after it.
    let began = newest(&lake).await;
    foreign_commit(&lake, |_| {}).await;
    let append = adding(day(&lake, "b", MONDAY).await);
    began.commit(&append, "sources", 2).await.expect("an append is in nobody's way");
    assert_eq!(orders_of(&lake, &began).await, ["a"]);
    assert_eq!(orders(&lake).await, ["a", "b"]);
    assert!(newest(&lake).await.files().iter().any(|file| file.path.contains("foreign-")));
}

#[tokio::test]
async fn a_rewrite_by_another_program_is_a_conflict_too() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let stale = newest(&lake).await;
    foreign_commit(&lake, |_| {}).await;
    let change = Change { adds: day(&lake, "b", MONDAY).await, removes: stale.files().to_vec() };
    let refused = stale.commit(&change, "sources", 2).await;
    assert!(matches!(refused, Err(LakeError::Conflict { .. })), "{refused:?}");
    assert_eq!(orders(&lake).await, ["a"]);
}

#[tokio::test]
async fn what_was_computed_before_a_rewrite_is_a_conflict_from_the_newest_version_too() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let computed_from = newest(&lake).await;
    let removes = computed_from.files().to_vec();
    let change = Change { adds: day(&lake, "b", MONDAY).await, removes };
    foreign_commit(&lake, |_| {}).await;
    // The table is opened anew for the commit, as a run does.
    let refused = newest(&lake).await.commit(&change, "sources", 2).await;
    assert!(matches!(refused, Err(LakeError::Conflict { .. })), "{refused:?}");
    assert_eq!(orders(&lake).await, ["a"]);
}

#[tokio::test]
async fn a_deletion_vector_is_refused_with_the_way_out() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    foreign_commit(&lake, |add| {
        add["deletionVector"] = serde_json::json!({
            "storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^",
            "offset": 4, "sizeInBytes": 40, "cardinality": 1,
        });
    })
    .await;
    let refused = Table::open(&lake, &ORDER_ITEMS).await.expect_err("is refused");
    let text = refused.to_string();
    assert!(matches!(refused, LakeError::Corrupt { .. }), "{text}");
    assert!(text.contains("foreign-") && text.contains("deletion vector"), "{text}");
    assert!(text.contains("OPTIMIZE or PURGE"), "{text}");
}

#[tokio::test]
async fn a_file_without_a_row_count_is_refused() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    foreign_commit(&lake, |add| add["stats"] = serde_json::Value::Null).await;
    let refused = Table::open(&lake, &ORDER_ITEMS).await;
    assert!(matches!(refused, Err(LakeError::Corrupt { .. })), "{refused:?}");
}

#[tokio::test]
async fn old_versions_can_be_read_and_told_apart() {
    let (_folder, lake, table) = lake_and_table().await;
    table.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let before = newest(&lake).await;
    let change = Change { adds: day(&lake, "b", TUESDAY).await, removes: before.files().to_vec() };
    before.commit(&change, "sources", 2).await.expect("commits");
    let after = newest(&lake).await;
    let difference = after.since(Some(&before));
    assert_eq!((difference.adds.len(), difference.removes.len()), (1, 1));
    assert_eq!(difference.removes, before.files());
    assert_eq!(after.since(Some(&after)).adds.len(), 0);
    let old = Table::open_at(&lake, &ORDER_ITEMS, before.version()).await.expect("opens");
    assert_eq!(old.files(), before.files());
    let missing = Table::open_at(&lake, &ORDER_ITEMS, 99).await;
    assert!(matches!(missing, Err(LakeError::Table { .. })), "{missing:?}");
    assert!(Table::open(&lake, &PRODUCTS).await.expect("asks").is_none());
}

/// The columns that the log's commit `version` says there are, and whether each may be null.
async fn columns_said(lake: &Lake, version: u64) -> Option<Vec<(String, bool)>> {
    let path = Path::from(format!("tables/order_items/_delta_log/{version:020}.json"));
    let bytes = lake.store().get(&path).await.expect("is there").bytes().await.expect("reads");
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let mut actions = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let action: serde_json::Value =
        actions.find(|action: &serde_json::Value| action.get("metaData").is_some())?;
    let schema = action["metaData"]["schemaString"].as_str().expect("a text");
    let schema: serde_json::Value = serde_json::from_str(schema).expect("JSON");
    let fields = schema["fields"].as_array().expect("a list").iter();
    let said = fields.map(|field| {
        let name = field["name"].as_str().expect("a name").to_owned();
        (name, field["nullable"].as_bool().expect("a flag"))
    });
    Some(said.collect())
}

#[tokio::test]
async fn columns_that_came_since_are_in_the_log_with_the_next_commit() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let is_new = |name: &str| ["quantity", "unit_price"].contains(&name);
    let old = ORDER_ITEMS.columns.iter().filter(|column| !is_new(column.name)).copied();
    let old: &'static TableSpec =
        Box::leak(Box::new(TableSpec { columns: old.collect::<Vec<_>>().leak(), ..ORDER_ITEMS }));
    let table = Table::open_or_create(&lake, old).await.expect("creates");
    let before = columns_said(&lake, table.version()).await.expect("says its columns");
    assert!(before.iter().all(|(name, _)| !is_new(name)), "{before:?}");

    let newer = newest(&lake).await;
    newer.commit(&adding(day(&lake, "a", MONDAY).await), "sources", 1).await.expect("commits");
    let after = columns_said(&lake, newer.version() + 1).await.expect("says its columns");
    // Old rows have no value of a new column, whatever the table asks of new ones.
    let (last, rest) = before.split_last().expect("has columns");
    let added = ORDER_ITEMS.columns.iter().filter(|column| is_new(column.name));
    let added = added.map(|column| (column.name.to_owned(), true));
    let expected: Vec<_> = rest.iter().cloned().chain(added).chain([last.clone()]).collect();
    assert_eq!(after, expected);
    assert_eq!(last.0, "dt");

    let newer = newest(&lake).await;
    newer.commit(&adding(day(&lake, "b", TUESDAY).await), "sources", 2).await.expect("commits");
    assert_eq!(columns_said(&lake, newer.version() + 1).await, None, "said once");
    assert_eq!(orders(&lake).await, ["a", "b"]);
}
