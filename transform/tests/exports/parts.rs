//! Are the lines of an order all there, however its export is cut into files?

use clickmill_transform::sources::SourcesConfig;

use crate::shop::{Shop, shop};

/// Days in the names of folders, as Spark and Glue write them.
const DAYS: &str = r#"
[shop]
kind = "files"
format = "csv"
path = "FOLDER/in"
[shop.exported_at]
name = "%Y-%m-%d"
[shop.order_items]
complete = "time"
"#;
/// Files without a time in their names.
const TIMELESS: &str = r#"
[shop]
kind = "files"
format = "csv"
path = "FOLDER/in"
[shop.order_items]
"#;
const LINES: &str = "SELECT order_id, line, quantity FROM order_items";

fn lines(lines: &[(&str, u32, u32)]) -> String {
    let rows = lines.iter().map(|(order, line, quantity)| format!("{order},{line},{quantity}\n"));
    format!("order_id,line,quantity\n{}", rows.collect::<String>())
}

async fn run(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(&["order_items"]).await;
    report.notices.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_parts_of_one_export_have_the_lines_of_an_order_together_in_whatever_order_they_come() {
    let files = [
        // Of the day before: o1 lost its third line since, and o2 its first one's quantity.
        ("in/order_items/2026-11-24/part-00000.csv", lines(&[("o1", 1, 1), ("o1", 3, 1)])),
        ("in/order_items/2026-11-24/part-00001.csv", lines(&[("o2", 1, 9)])),
        (
            "in/order_items/2026-11-25/part-00000-b.csv",
            lines(&[("o1", 1, 1), ("o1", 2, 1), ("o2", 1, 1)]),
        ),
        ("in/order_items/2026-11-25/part-00001-b.csv", lines(&[("o2", 2, 1)])),
    ];
    let rows = ["o1|1|1", "o1|2|1", "o2|1|1", "o2|2|1"];
    let mut everything = Vec::new();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        for at_once in [false, true] {
            let shop = shop(DAYS).await;
            shop.write("in/order_items/2026-11-25/_temporary/part-00000.csv", "half");
            shop.write("in/order_items/2026-11-25/.part-00000.csv.crc", "crc");
            for at in order {
                let (name, text) = &files[at];
                shop.write(name, text);
                if !at_once {
                    run(&shop).await;
                }
            }
            shop.write("in/order_items/2026-11-25/_SUCCESS", "");
            run(&shop).await;
            assert_eq!(shop.sql(LINES).await, rows, "{order:?} {at_once}");
            assert_eq!(shop.sql("SELECT * FROM rejects").await, Vec::<String>::new());
            everything.push(shop.sql("SELECT * FROM order_items").await);
            // A part comes once more.
            shop.write(files[3].0, &files[3].1);
            assert_eq!(run(&shop).await, Vec::<String>::new());
            assert_eq!(shop.sql(LINES).await, rows, "{order:?} {at_once}");
            // A part that goes away takes nothing with it.
            shop.take_away(files[2].0);
            assert!(shop.run_tables(&["order_items"]).await.batches.is_empty());
            assert_eq!(shop.sql(LINES).await, rows, "{order:?} {at_once}");
        }
    }
    assert!(everything.iter().all(|rows| *rows == everything[0]), "{everything:#?}");
}

#[tokio::test]
async fn an_export_that_a_job_wrote_anew_under_other_names_takes_the_place_of_its_first_reading() {
    let shop = shop(DAYS).await;
    let path = |name: &str| format!("in/order_items/2026-11-25/{name}");
    shop.write(&path("part-00000-z.csv"), lines(&[("o1", 1, 1), ("o1", 2, 1)]));
    shop.write(&path("part-00001-z.csv"), lines(&[("o2", 1, 1)]));
    run(&shop).await;
    assert_eq!(shop.sql(LINES).await, ["o1|1|1", "o1|2|1", "o2|1|1"]);
    shop.take_away(&path("part-00000-z.csv"));
    shop.take_away(&path("part-00001-z.csv"));
    shop.write(&path("part-00000-a.csv"), lines(&[("o1", 1, 7)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(LINES).await, ["o1|1|7", "o2|1|1"]);
    assert_eq!(
        shop.sql("SELECT export_id, files, rows_taken FROM source_exports").await,
        ["{2026-11-25T00:00:00.000000Z}|1|1", "{2026-11-25T00:00:00.000000Z}|2|3"]
    );
}

#[tokio::test]
async fn lines_that_a_newer_file_lacks_are_told_until_it_is_said_what_a_file_has() {
    let cut = ["o1|1|1", "o1|2|1", "o2|2|1"];
    let whole = ["o1|1|1", "o1|2|1", "o2|1|1", "o2|2|1"];
    for settings in [
        &["line"][..],
        &["order"],
        &["folder"],
        &["line", "order"],
        &["line", "folder"],
        &["order", "line"],
    ] {
        let mut shop = shop(TIMELESS).await;
        // As `split` cuts an export.
        shop.write("in/order_items.aa", lines(&[("o1", 1, 1), ("o1", 2, 1), ("o2", 1, 1)]));
        shop.write("in/order_items.ab", lines(&[("o2", 2, 1)]));
        assert_eq!(
            run(&shop).await,
            [
                "source `shop`, order_items: 1 lines of 1 orders, one of them o2, stand in a file and not in \
              a newer one that has the order: they count as removed from it; say in \
              [sources.shop.order_items] what a file has: complete = \"order\", all lines of its orders; \
              \"time\" or \"folder\", only together with the others of its time or folder; \"line\", single \
              lines"
            ]
        );
        assert_eq!(shop.sql(LINES).await, cut);
        // What was said so far is taken back as it has to be.
        for complete in settings {
            shop.sources = Box::leak(format!("{TIMELESS}complete = \"{complete}\"").into());
            for _ in 0..2 {
                assert_eq!(run(&shop).await, Vec::<String>::new(), "{settings:?}");
                let rows = if *complete == "order" { &cut[..] } else { &whole[..] };
                assert_eq!(shop.sql(LINES).await, rows, "{complete} of {settings:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_line_that_went_is_told_when_it_goes_and_not_with_every_export_after() {
    let shop = shop(Box::leak(DAYS.replace("complete = \"time\"", "").into())).await;
    let day = |day: u32| format!("in/order_items/2026-11-{day}.csv");
    shop.write(&day(23), lines(&[("o1", 1, 1), ("o1", 2, 1)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    shop.write(&day(24), lines(&[("o1", 1, 1)]));
    assert_eq!(run(&shop).await.len(), 1);
    shop.write(&day(25), lines(&[("o1", 1, 2)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(LINES).await, ["o1|1|2"]);
}

#[tokio::test]
async fn parts_of_one_time_are_told_to_lack_lines_until_it_is_said_that_they_are_parts() {
    let mut shop = shop(Box::leak(DAYS.replace("complete = \"time\"", "").into())).await;
    shop.write("in/order_items/2026-11-24/part-0.csv", lines(&[("o1", 1, 1), ("o2", 1, 1)]));
    shop.write("in/order_items/2026-11-24/part-1.csv", lines(&[("o2", 2, 1)]));
    let told = run(&shop).await;
    assert!(
        told.len() == 1 && told[0].contains("1 lines of 1 orders, one of them o2"),
        "{told:#?}"
    );
    assert_eq!(shop.sql(LINES).await, ["o1|1|1", "o2|2|1"]);
    shop.sources = DAYS;
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(LINES).await, ["o1|1|1", "o2|1|1", "o2|2|1"]);
}

#[tokio::test]
async fn what_a_pattern_names_is_not_hidden() {
    let shop = shop(Box::leak(TIMELESS.replace("FOLDER/in", "FOLDER/in/_out/*.csv").into())).await;
    shop.write("in/_out/a.csv", lines(&[("o1", 1, 1)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(LINES).await, ["o1|1|1"]);
}

#[tokio::test]
async fn a_folder_without_a_time_in_its_name_is_one_export_where_that_is_said() {
    let mut shop = shop(TIMELESS).await;
    shop.sources = Box::leak(format!("{TIMELESS}complete = \"folder\"").into());
    shop.write("in/order_items/part-1.csv", lines(&[("o1", 2, 1), ("o2", 1, 1)]));
    run(&shop).await;
    // The part before it comes late; then the job writes all of it anew.
    shop.write("in/order_items/part-0.csv", lines(&[("o1", 1, 1)]));
    run(&shop).await;
    assert_eq!(shop.sql(LINES).await, ["o1|1|1", "o1|2|1", "o2|1|1"]);
    shop.write("in/order_items/part-0.csv", lines(&[("o1", 1, 5)]));
    shop.write("in/order_items/part-1.csv", lines(&[("o1", 3, 5)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(LINES).await, ["o1|1|5", "o1|3|5", "o2|1|1"]);
}

#[tokio::test]
async fn a_delta_of_single_lines_changes_those_lines_alone() {
    let sources: &'static str = Box::leak(DAYS.replace("time\"", "line\"").into());
    let deltas = [
        ("in/order_items/2026-11-23.csv", lines(&[("o1", 1, 1), ("o1", 2, 1)])),
        ("in/order_items/2026-11-24.csv", lines(&[("o1", 2, 5)])),
        ("in/order_items/2026-11-25.csv", lines(&[("o1", 3, 1), ("o2", 1, 1)])),
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let shop = shop(sources).await;
        for at in order {
            shop.write(deltas[at].0, &deltas[at].1);
            assert_eq!(run(&shop).await, Vec::<String>::new());
        }
        assert_eq!(shop.sql(LINES).await, ["o1|1|1", "o1|2|5", "o1|3|1", "o2|1|1"], "{order:?}");
    }
    // Which line it is must be said: one that is counted would be another's.
    let shop = shop(sources).await;
    shop.write("in/order_items/2026-11-23.csv", "order_id,quantity\no1,1\n");
    let told = run(&shop).await;
    assert!(told.len() == 1 && told[0].contains("no column `line`"), "{told:#?}");
}

#[test]
fn what_a_file_has_of_an_order_is_said_of_lines_alone() {
    let text = TIMELESS.replace("order_items", "orders") + "complete = \"line\"";
    let error = toml::from_str::<SourcesConfig>(&text).unwrap_err().to_string();
    assert!(error.contains("[sources.shop.orders] complete is of the lines of orders"), "{error}");
    let text = format!("{TIMELESS}complete = \"time\"");
    let error = toml::from_str::<SourcesConfig>(&text).unwrap_err().to_string();
    assert!(error.contains("[sources.shop.order_items] complete = \"time\" goes by"), "{error}");
}
