//! Does a proposed mapping work as it is, and say what it does not know?

mod import_support;

use clickmill_delivery::import::infer;
use import_support::{Shop, TestResult, gzip};

/// The proposal's one mapping, as TOML without its name.
fn mapping_of(proposal: &str) -> Result<String, Box<dyn std::error::Error>> {
    let document: toml::Table = proposal.parse()?;
    let imports = document["import"].as_table().ok_or("no table")?;
    let mapping = imports.values().next().ok_or("no mapping")?;
    Ok(toml::to_string(mapping)?)
}

#[tokio::test]
async fn a_file_with_a_header_is_understood_by_its_names() -> TestResult {
    let shop = Shop::new().await?;
    let text = "\
event_time;event_type;product_id;price;user_id;user_session;ip;colour
23/11/2026 10:00;view;1;1,50;7.0;s;192.0.2.1;red
24/11/2026 10:00;sing;2;2;8.0;s;192.0.2.1;red
";
    let file = shop.file("my clicks.csv", text.as_bytes())?;
    let proposal = infer(&file).await?;
    for expected in [
        "[import.my_clicks]",
        "delimiter = \";\"",
        "format = \"%d/%m/%Y %H:%M\" }  # DECIDE: read as UTC",
        "# \"sing\" = \"custom\"  # DECIDE: 1 rows",
        "ignore = [\"ip\"]",
        "price = { column = \"price\", money = { decimal = \",\" } }",
        "user_id = { column = \"user_id\", strip_zero_fraction = true }",
        "# Not mapped, kept in properties: colour",
    ] {
        assert!(proposal.contains(expected), "{expected}\n{proposal}");
    }
    let summary = shop.import(&mapping_of(&proposal)?, &[&file]).await?;
    assert_eq!((summary.taken, summary.rejected_now["unknown_type"].rows), (1, 1));
    let event = shop.events().await?.remove(0);
    assert_eq!(event["event_ts"], "2026-11-23T10:00:00.000000Z");
    assert_eq!(event["items"][0]["price"].to_string(), "1.5");
    assert_eq!(event["user_id"], "7");
    Ok(())
}

#[tokio::test]
async fn a_file_without_one_is_understood_by_its_values_and_the_rest_marked() -> TestResult {
    let shop = Shop::new().await?;
    let text = "5,17,3,pv,1511658000\n6,18,3,buy,1511658001\n";
    let file = shop.file("c.csv.gz", &gzip(text.as_bytes())?)?;
    let proposal = infer(&file).await?;
    assert!(proposal.contains("header = false"), "{proposal}");
    assert!(proposal.contains("user_id = \"column_1\"  # CHECK"), "{proposal}");
    let summary = shop.import(&mapping_of(&proposal)?, &[&file]).await?;
    assert_eq!((summary.taken, summary.rejected), (2, 0));
    let events = shop.events().await?;
    assert_eq!(events[0]["event_name"], "product_view");
    assert_eq!(events[1]["event_ts"], "2017-11-26T01:00:01.000000Z");
    assert_eq!(events[1]["items"][0]["product_id"], "18");
    Ok(())
}

#[tokio::test]
async fn a_date_whose_day_may_be_its_month_is_left_to_the_user() -> TestResult {
    let shop = Shop::new().await?;
    let file = shop.file("d.csv", b"date,event,user_id\n01/02/2026,view,1\n")?;
    let proposal = infer(&file).await?;
    assert!(proposal.contains("DECIDE: %m/%d/%Y fits as well"), "{proposal}");
    Ok(())
}

#[tokio::test]
async fn json_lines_and_parquet_are_recognised_by_their_bytes() -> TestResult {
    let shop = Shop::new().await?;
    let line =
        r#"{"timestamp":1511658000123,"event":"Product Viewed","user":{"id":1},"price":"1"}"#;
    let file = shop.file("e.txt", line.as_bytes())?;
    let proposal = infer(&file).await?;
    assert!(
        proposal.contains("format = \"jsonl\"") && proposal.contains("\"user.id\""),
        "{proposal}"
    );
    assert_eq!(shop.import(&mapping_of(&proposal)?, &[&file]).await?.taken, 1);
    let file = shop.parquet("e.bin")?;
    let proposal = infer(&file).await?;
    assert!(proposal.contains("format = \"parquet\""), "{proposal}");
    assert_eq!(shop.import(&mapping_of(&proposal)?, &[&file]).await?.taken, 2);
    Ok(())
}
