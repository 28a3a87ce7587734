//! What does a shop's file become, and is every row accounted for?

mod import_support;

use clickmill_delivery::import::{ImportError, Mapping};
use import_support::{Shop, TestResult, crash_after, gzip, zstd};
use serde_json::{Value, json};

const CLICKS: &str = "\
time,type,product,category,price,user,session,extra
2019-10-01 00:00:00 UTC,view,100,,35.79,u1,s1,
2019-10-01 00:00:01 UTC,cart,100,a.b,\"1,234.50\",u1,s1,\"line one
line \"\"two\"\"\"
2019-10-01 00:00:02 UTC,purchase,200,c,0.99,u2,s2,x
";

const CLICKS_MAPPING: &str = r#"
format = "csv"
app_id = "shop"
event_ts = { column = "time", format = "%Y-%m-%d %H:%M:%S UTC" }
money = { thousands = "," }
[event_name]
column = "type"
map = { view = "product_view", cart = "add_to_cart" }
[fields]
user_id = "user"
client_session_id = "session"
currency = { constant = "usd" }
revenue = { column = "price", events = ["purchase"] }
[item]
product_id = "product"
category = "category"
price = "price"
"#;

#[tokio::test]
async fn a_csv_file_with_quotes_and_newlines_becomes_events() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("clicks.csv", CLICKS.as_bytes())?;
    let summary = shop.import(CLICKS_MAPPING, &[&file]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (3, 3, 0));

    let events = shop.events().await?;
    let first = &events[0];
    assert_eq!(first["event_name"], "product_view");
    assert_eq!(first["source_event_name"], "view");
    assert_eq!(first["source_protocol"], "import");
    assert_eq!(first["app_id"], "shop");
    assert_eq!(first["event_ts"], "2019-10-01T00:00:00.000000Z");
    assert_eq!(first["user_id"], "u1");
    assert_eq!(first["currency"], "USD");
    assert_eq!(first["items"], json!([{"product_id": "100", "price": 35.79}]));
    assert_eq!(first["wal_seq"], 1);
    assert_eq!(first["collector_id"], summary.files[0].source.as_str());
    assert!(first.get("revenue").is_none() && first.get("properties").is_none());

    assert_eq!(events[1]["items"][0]["price"].to_string(), "1234.5");
    assert_eq!(events[1]["properties"], json!({"extra": "line one\nline \"two\""}));
    assert_eq!(events[2]["event_name"], "purchase");
    assert_eq!(events[2]["revenue"].to_string(), "0.99");
    Ok(())
}

#[tokio::test]
async fn an_id_follows_from_content_and_row_by_uuid_version_5() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("clicks.csv", CLICKS.as_bytes())?;
    shop.import(CLICKS_MAPPING, &[&file]).await?;
    let events = shop.events().await?;
    let id = |event: &Value| event["event_id"].as_str().unwrap_or_default().to_owned();
    // Python: uuid.uuid5(uuid.UUID(int=0x6b1f3a0e52c45d0b9a510d1c7f2e8c94), sha256hex + "/1")
    assert_eq!(id(&events[0]), "e282388c-3b72-5239-bb03-2ef474659748");
    assert_eq!(id(&events[2]), "ac39b2f7-52e4-5701-a056-c163fd5355c6");
    Ok(())
}

#[tokio::test]
async fn importing_twice_changes_nothing_whatever_the_file_is_called_or_zipped_with() -> TestResult
{
    let shop = Shop::new().await?;
    let plain = shop.file("clicks.csv", CLICKS.as_bytes())?;
    shop.import(CLICKS_MAPPING, &[&plain]).await?;
    let before = shop.objects().await?;
    let gz = shop.file("other-name.csv.gz", &gzip(CLICKS.as_bytes())?)?;
    let zst = shop.file("other-name.csv.zst", &zstd(CLICKS.as_bytes())?)?;
    let summary = shop.import(CLICKS_MAPPING, &[&plain, &gz, &zst]).await?;
    assert_eq!(shop.objects().await?, before);
    assert_eq!(summary.landed_now, 0);
    assert!(summary.files.iter().all(|file| file.already_imported && file.taken == 3));
    Ok(())
}

#[tokio::test]
async fn under_another_mapping_events_keep_their_ids_and_the_summary_says_so() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("clicks.csv", CLICKS.as_bytes())?;
    let first = shop.import(CLICKS_MAPPING, &[&file]).await?;
    let changed = CLICKS_MAPPING.replace("constant = \"usd\"", "constant = \"EUR\"");
    let second = shop.import(&changed, &[&file]).await?;
    assert!(!first.files[0].under_other_mapping && second.files[0].under_other_mapping);
    let ids = |events: Vec<Value>| -> Vec<String> {
        events.iter().map(|e| e["event_id"].to_string()).collect()
    };
    let ids = ids(shop.events().await?);
    assert_eq!(ids.len(), 6);
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    Ok(())
}

/// Copies of an event that are received over a week apart are two events.
#[tokio::test]
async fn under_another_mapping_rows_are_received_right_after_the_import_before_whenever_that_was()
-> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("clicks.csv", CLICKS.as_bytes())?;
    for currency in ["usd", "EUR", "GBP"] {
        let mapping = CLICKS_MAPPING.replace("\"usd\"", &format!("\"{currency}\""));
        shop.import(&mapping, &[&file]).await?;
    }
    let events = shop.events().await?;
    let received = |event: &Value| {
        clickmill_schemas::Timestamp::parse(event["received_ts"].as_str().unwrap_or_default())
    };
    let first = received(&events[0])?.micros();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(received(event)?.micros(), first + at as i64 / 3, "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn every_bad_row_is_rejected_with_its_reason_number_and_bytes() -> TestResult {
    let shop = Shop::new().await?;
    let rows = [
        "2019-10-01 00:00:00 UTC,view,100,,35.79,u1,s1,ok",
        "yesterday,view,100,,35.79,u1,s1,",
        "2019-10-01 00:00:00 UTC,view,100,,\"12,34\",u1,s1,",
        ",view,100,,1,u1,s1,",
        "2019-10-01 00:00:00 UTC,dance,100,,1,u1,s1,",
        "2019-10-01 00:00:00 UTC,view,100",
        "2019-10-01 00:00:00 UTC,view,100,,0.00001,u1,s1,",
        "2019-10-01 00:00:00 UTC,view,100,,1,u9,s1,ok",
    ];
    let text = format!("{}\n{}\n", CLICKS.lines().next().unwrap_or_default(), rows.join("\r\n"));
    let file = shop.file("bad.csv", text.as_bytes())?;
    let summary = shop.import(CLICKS_MAPPING, &[&file]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (8, 2, 6));
    let counts: Vec<(&str, u64)> =
        summary.rejected_now.iter().map(|(reason, r)| (*reason, r.rows)).collect();
    assert_eq!(
        counts,
        [("bad_value", 3), ("malformed", 1), ("missing_field", 1), ("unknown_type", 1)]
    );
    let rejects = shop.rejects().await?;
    for reject in &rejects {
        let row = usize::try_from(reject.wal_seq)?;
        assert_eq!(reject.bytes, rows[row - 1].as_bytes(), "row {row}");
        assert_eq!(reject.origin, format!("{file} row {row}"));
    }
    assert_eq!(
        rejects[0].detail,
        "column time: `yesterday` is not a time in the form %Y-%m-%d %H:%M:%S UTC"
    );
    assert_eq!(rejects[1].detail, "column price: `12,34` is not an amount such as 1,234.56");
    assert_eq!(rejects[4].detail, "3 fields where 8 are expected");
    Ok(())
}

#[tokio::test]
async fn a_quote_that_is_never_closed_costs_its_own_line_only() -> TestResult {
    let shop = Shop::new().await?;
    let mapping = r#"
format = "csv"
app_id = "shop"
event_ts = { column = "t", format = "epoch_s" }
event_name = { constant = "page_view" }
fields = { page_title = "title" }
"#;
    let mut text = String::from("t,title\n");
    for row in 1..=1_000 {
        text += &match row {
            500 => "1511658000,\"never closed\n".to_owned(),
            row => format!("1511658000,title {row}\n"),
        };
    }
    let file = shop.file("quote.csv", text.as_bytes())?;
    let summary = shop.import(mapping, &[&file]).await?;
    assert_eq!((summary.rows, summary.rejected), (1_000, 1), "{:?}", summary.rejected_now);
    assert_eq!(shop.rejects().await?[0].bytes, b"1511658000,\"never closed");
    Ok(())
}

#[tokio::test]
async fn a_row_longer_than_the_limit_is_rejected_and_the_next_one_taken() -> TestResult {
    let shop = Shop::new().await?;
    let long = "x".repeat(clickmill_delivery::import::MAX_ROW_BYTES * 3);
    let csv = shop.file("long.csv", format!("t\n{long}\n1511658000\n").as_bytes())?;
    let time = "app_id = \"a\"\nevent_ts = { column = \"t\", format = \"epoch_s\" }\nevent_name = { constant = \"custom\" }\n";
    let summary = shop.import(&format!("format = \"csv\"\n{time}"), &[&csv]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (2, 1, 1));
    let jsonl =
        shop.file("long.jsonl", format!("{{\"t\":\"{long}\"}}\n{{\"t\":1511658000}}").as_bytes())?;
    let summary = shop.import(&format!("format = \"jsonl\"\n{time}"), &[&jsonl]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (2, 1, 1));
    assert_eq!(summary.rejected_now["too_large"].rows, 1);
    Ok(())
}

#[tokio::test]
async fn a_headerless_tab_separated_file_with_a_byte_order_mark_and_zipped_in_two_members()
-> TestResult {
    let shop = Shop::new().await?;
    let mapping = r#"
format = "csv"
header = false
delimiter = "\t"
quote = ""
columns = ["user", "item", "what", "at"]
app_id = "shop"
event_ts = { column = "at", format = "epoch_s" }
event_name = { column = "what", map = { pv = "product_view", buy = "purchase" }, unknown = "custom" }
fields = { user_id = { column = "user", strip_zero_fraction = true } }
item = { product_id = "item", quantity = { constant = "1" } }
"#;
    let mut bytes = gzip("\u{feff}543462.0\t\"5 inch\tpv\t1511658000\n".as_bytes())?;
    bytes.extend(gzip(b"\n\n9\t8\tsing\t1511658001")?);
    let file = shop.file("t.txt.gz", &bytes)?;
    let summary = shop.import(mapping, &[&file]).await?;
    assert_eq!((summary.taken, summary.rejected), (2, 0));
    let events = shop.events().await?;
    assert_eq!(events[0]["user_id"], "543462");
    // What the column does not hold exactly stays in properties.
    assert_eq!(events[0]["properties"], json!({"user": "543462.0"}));
    assert_eq!(events[0]["items"], json!([{"product_id": "\"5 inch", "quantity": 1}]));
    assert_eq!(events[0]["event_ts"], "2017-11-26T01:00:00.000000Z");
    assert_eq!(
        (&events[1]["event_name"], &events[1]["source_event_name"]),
        (&json!("custom"), &json!("sing"))
    );
    Ok(())
}

#[tokio::test]
async fn json_lines_keep_numbers_verbatim_and_paths_reach_inside() -> TestResult {
    let shop = Shop::new().await?;
    let mapping = r#"
format = "jsonl"
app_id = { column = "site" }
event_ts = { column = "at", format = "epoch_ms" }
event_name = { column = "event", map = { Viewed = "product_view" } }
event_id = "id"
ignore = ["ip"]
nulls = ["N/A"]
[fields]
user_id = "user.id"
total = { multiply = ["item.price", "item.count"] }
[item]
product_id = "item.sku"
quantity = "item.count"
"#;
    let lines = r#"
{"id":"e1","site":"nl","at":1511658000123,"event":"Viewed","ip":"192.0.2.1","user":{"id":12345678901234567890},"item":{"sku":"A","price":"0.10","count":3},"big":1.10,"none":null}
{"id":"e2","site":"nl","at":"1511658000124","event":"purchase","user":{"id":"N/A"},"note":"\u00e9"}

{"id":"e3","site":"nl","at":1511658000125,"event":"purchase","user":7}
[1]
{"id":"e5","site":"nl","at":1,"event":["purchase"]}
{"id":"e6","site":"nl","at":1,"event":"purchase","bad":"\ud800"}
"#;
    let file = shop.file("e.jsonl", lines.as_bytes())?;
    let summary = shop.import(mapping, &[&file]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (6, 3, 3));
    let events = shop.events().await?;
    assert_eq!(events[0]["event_id"], "e1");
    assert_eq!(events[0]["app_id"], "nl");
    assert_eq!(events[0]["user_id"], "12345678901234567890");
    assert_eq!(events[0]["event_ts"], "2017-11-26T01:00:00.123000Z");
    assert_eq!(events[0]["total"].to_string(), "0.3");
    let line = shop.event_lines().await?.remove(0);
    assert!(
        line.contains(
            r#""properties":{"user":{"id":12345678901234567890},"item":{"sku":"A","price":"0.10","count":3},"big":1.10,"none":null}"#
        ),
        "{line}"
    );
    assert!(!line.contains("192.0.2.1"));
    assert!(events[1].get("user_id").is_none());
    assert_eq!(events[1]["properties"]["note"], "é");
    assert_eq!(shop.rejects().await?[0].bytes, b"[1]");
    Ok(())
}

#[tokio::test]
async fn parquet_keeps_decimals_exact_and_knows_its_timestamps() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.parquet("e.parquet")?;
    let mapping = r#"
format = "parquet"
app_id = "shop"
event_ts = { column = "at" }
event_name = { constant = "purchase" }
[fields]
user_id = "user"
revenue = "amount"
"#;
    let summary = shop.import(mapping, &[&file]).await?;
    assert_eq!((summary.rows, summary.taken, summary.rejected), (3, 2, 1));
    let events = shop.events().await?;
    assert_eq!(events[0]["event_ts"], "2026-07-15T12:00:00.000001Z");
    assert_eq!(events[0]["user_id"], "-7");
    assert!(shop.event_lines().await?[0].contains(r#""revenue":12345678901234.5678,"#));
    assert_eq!(
        events[0]["properties"],
        json!({"local": "2026-07-15T12:00:00.000000", "tags": ["a", "b"]})
    );
    // The same file, its local times read in London; the third row's is still missing.
    let local = mapping.replace(
        "column = \"at\"",
        "column = \"local\", format = \"%Y-%m-%d %H:%M:%S\", zone = \"Europe/London\"",
    );
    shop.import(&local, &[&file]).await?;
    assert_eq!(shop.events().await?[2]["event_ts"], "2026-07-15T11:00:00.000000Z");
    let reject = String::from_utf8(shop.rejects().await?[0].bytes.clone())?;
    assert_eq!(reject, r#"{"amount":1.0000}"#);
    let number = mapping.replace("column = \"at\"", "column = \"user\"");
    assert!(matches!(shop.import(&number, &[&file]).await, Err(ImportError::Shape { .. })));
    Ok(())
}

#[tokio::test]
async fn folders_and_globs_mean_their_data_files() -> TestResult {
    let shop = Shop::new().await?;
    let header = "t,n\n";
    for (name, row) in [("d/a.csv", "1"), ("d/b/c.csv.gz", "2"), ("d/_x.csv", "3"), ("d/r.md", "4")]
    {
        let text = format!("{header}{row},{row}\n");
        let bytes = if name.ends_with("gz") { gzip(text.as_bytes())? } else { text.into_bytes() };
        shop.file(name, &bytes)?;
    }
    let mapping = "format = \"csv\"\napp_id = \"a\"\nevent_ts = { column = \"t\", format = \"epoch_s\" }\nevent_name = { constant = \"custom\" }\n";
    let folder = shop.path("d");
    assert_eq!(shop.import(mapping, &[&folder]).await?.rows, 2);
    assert_eq!(shop.import(mapping, &[&format!("{folder}/**/*.csv*")]).await?.rows, 3);
    assert_eq!(shop.import(mapping, &[&format!("file://{folder}/a.csv")]).await?.landed_now, 0);
    let nothing = shop.import(mapping, &[&format!("{folder}/*.tsv")]).await;
    assert!(matches!(nothing, Err(ImportError::NoFiles { .. })));
    Ok(())
}

#[tokio::test]
async fn files_that_are_something_else_are_refused_before_anything_lands() -> TestResult {
    let shop = Shop::new().await?;
    let csv = "format = \"csv\"\napp_id = \"a\"\nevent_ts = { column = \"t\", format = \"epoch_s\" }\nevent_name = { constant = \"custom\" }\n";
    let jsonl = csv.replace("\"csv\"", "\"jsonl\"");
    for (name, bytes, mapping, expected) in [
        ("a.csv", &b"\xff\xfet\0"[..], csv, "UTF-16"),
        ("b.csv", b"PK\x03\x04", csv, "zip archive"),
        ("c.csv", b"PAR1", csv, "format = \"parquet\""),
        ("d.csv", b"x,y\n1,2\n", csv, "no column `t`; its columns are `x`, `y`"),
        ("e.csv", b"t,t\n1,2\n", csv, "two columns are called `t`"),
        ("f.json", b"[{\"t\":1}]", jsonl.as_str(), "jq -c"),
    ] {
        let file = shop.file(name, bytes)?;
        let Err(error) = shop.import(mapping, &[&file]).await else {
            return Err(format!("{name} was taken").into());
        };
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    let mut torn = gzip(CLICKS.as_bytes())?;
    torn.truncate(torn.len() / 2);
    let file = shop.file("torn.csv.gz", &torn)?;
    assert!(matches!(shop.import(CLICKS_MAPPING, &[&file]).await, Err(ImportError::Read { .. })));
    assert!(shop.objects().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_empty_file_is_imported_as_nothing() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("empty.csv", b"")?;
    let summary = shop.import(CLICKS_MAPPING, &[&file]).await?;
    assert_eq!((summary.rows, summary.files[0].already_imported), (0, false));
    assert!(shop.import(CLICKS_MAPPING, &[&file]).await?.files[0].already_imported);
    Ok(())
}

/// The store fails for ever after the n-th write, for each n; then a new process goes on.
#[tokio::test]
async fn an_import_killed_at_any_write_is_completed_by_the_next_without_repeating() -> TestResult {
    let mut text = String::from("t,n\n");
    for row in 1..=3_000 {
        text += &match row % 100 {
            0 => format!("never,{row}\n"),
            _ => format!("{},{row}\n", 1_511_658_000 + row),
        };
    }
    let mapping = "format = \"csv\"\napp_id = \"a\"\nevent_ts = { column = \"t\", format = \"epoch_s\" }\nevent_name = { constant = \"custom\" }\n";
    let mut crashes = 0;
    for writes in 0.. {
        let shop = Shop::new().await?;
        let file = shop.file("clicks.csv", text.as_bytes())?;
        let crashed = crash_after(&shop.lake, writes);
        let outcome = shop.import_into(&crashed, mapping, &[&file]).await;
        let killed = outcome.is_err();
        crashes += u32::from(killed);
        let summary = shop.import(mapping, &[&file]).await?;
        assert_eq!((summary.rows, summary.taken, summary.rejected), (3_000, 2_970, 30), "{writes}");
        let mut rows: Vec<i64> =
            shop.events().await?.iter().filter_map(|e| e["wal_seq"].as_i64()).collect();
        rows.extend(shop.rejects().await?.iter().map(|r| r.wal_seq));
        rows.sort_unstable();
        assert_eq!(rows, (1..=3_000).collect::<Vec<i64>>(), "{writes}");
        if !killed {
            break;
        }
    }
    // Events, rejects, commit, each of them before and after it was stored.
    assert_eq!(crashes, 6);
    Ok(())
}

#[test]
fn a_mapping_that_cannot_work_is_refused_with_the_name_of_what_is_wrong() {
    let base = "format = \"csv\"\napp_id = \"a\"\nevent_ts = { column = \"t\", format = \"epoch_s\" }\nevent_name = { constant = \"custom\" }\n";
    assert!(toml::from_str::<Mapping>(base).is_ok());
    for (change, to, expected) in [
        ("app_id", "app_idd", "app_idd"),
        ("\"csv\"", "\"xml\"", "xml"),
        ("epoch_s", "epoch", "epoch"),
        ("format = \"epoch_s\"", "format = \"%Y\"", "year, month and day"),
        ("format = \"epoch_s\"", "zone = \"UTC\"", "needs a format"),
        (", format = \"epoch_s\"", "", "event_ts needs a format"),
        ("\"custom\"", "\"dance\"", "`dance` is not a canonical event name"),
        ("constant = \"custom\"", "column = \"x\", map = { a = \"b\" }", "`b`"),
        ("constant = \"custom\"", "", "column and constant"),
        ("format = \"csv\"", "format = \"csv\"\nheader = false", "columns"),
        (
            "format = \"csv\"",
            "format = \"csv\"\ncolumns = [\"t\"]\nheader = true",
            "header = false",
        ),
        ("format = \"csv\"", "format = \"csv\"\ncolumns = [\"u\"]", "`t` is not in columns"),
        ("format = \"csv\"", "format = \"csv\"\ncolumns = [\"t\", \"t\"]", "twice"),
        ("format = \"csv\"", "format = \"jsonl\"\ndelimiter = \";\"", "for format = \"csv\""),
        ("format = \"csv\"", "format = \"csv\"\ndelimiter = \"ab\"", "one ASCII character"),
        ("format = \"csv\"", "fields = { userid = \"u\" }\nformat = \"csv\"", "userid"),
        ("format = \"csv\"", "fields = { user_id = { colum = \"u\" } }\nformat = \"csv\"", "colum"),
        ("format = \"csv\"", "fields = { user_id = { } }\nformat = \"csv\"", "exactly one of"),
        (
            "format = \"csv\"",
            "fields = { total = { constant = \"x\" } }\nformat = \"csv\"",
            "fields.total",
        ),
        (
            "format = \"csv\"",
            "item = { price = { column = \"p\", strip_zero_fraction = true } }\nformat = \"csv\"",
            "item.price",
        ),
        (
            "format = \"csv\"",
            "fields = { total = { column = \"p\", events = [\"buy\"] } }\nformat = \"csv\"",
            "`buy`",
        ),
    ] {
        let text = base.replacen(change, to, 1);
        match toml::from_str::<Mapping>(&text) {
            Ok(_) => panic!("taken: {text}"),
            Err(error) => assert!(error.to_string().contains(expected), "{expected}: {error}"),
        }
    }
}
