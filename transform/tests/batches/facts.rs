//! Facts that look back or ahead: what recomputes what, and what stays.

use clickmill_schemas::{Event, RawJson};
use clickmill_transform::{DailyJobs, RunOptions, Silent, run};

use crate::support::history::item;
use crate::support::shop::{Shop, at};
use crate::{items_csv, orders_csv, purchase, view};

/// `view`, of a known customer.
fn login(id: &str, visitor: &str, time: &str, customer: &str) -> Event<'static> {
    let mut event = view(id, visitor, time);
    event.user_id = Some(customer.to_owned().into());
    event
}

fn from(mut event: Event<'static>, medium: &str) -> Event<'static> {
    event.utm_medium = Some(medium.to_owned().into());
    event
}

const CREDITS: &str =
    "SELECT order_id, model, touch, channel, visitor_id, credit, revenue FROM attribution";

#[tokio::test]
async fn a_refund_months_later_recomputes_the_day_of_its_order_and_no_other() {
    let mut shop = Shop::new().await;
    shop.land(&[
        from(view("a", "v", "2026-03-01T10:00:00Z"), "email"),
        view("b", "v", "2026-03-09T10:00:00Z"),
        purchase("c", "v", "2026-03-10T10:00:00Z", "o1"),
        purchase("d", "w", "2026-03-11T10:00:00Z", "o2"),
    ])
    .await;
    let orders = |refunded: &str| {
        format!(
            "order_id,customer_id,ordered_at,total,refunded\no1,c1,2026-03-10T10:00:00Z,10,{refunded}\n\
             o2,c2,2026-03-11T10:00:00Z,20,0\n"
        )
    };
    shop.export("orders", "20260312T000000", &orders("0"));
    shop.run().await;
    let revenue =
        format!("{CREDITS} WHERE order_id = 'o1' AND model IN ('linear', 'last_non_direct')");
    assert_eq!(
        shop.sql(&revenue).await,
        [
            "o1|last_non_direct|1|email|v|1.0000|10.0000",
            "o1|linear|1|email|v|0.3333|3.3333",
            "o1|linear|2|direct|v|0.3333|3.3333",
            "o1|linear|3|direct|v|0.3334|3.3334",
        ]
    );
    let worth = "SELECT customer_id, revenue, refunded, acquisition_channel FROM customer_ltv";
    assert_eq!(shop.sql(worth).await, ["c1|10.0000|0.0000|email", "c2|20.0000|0.0000|direct"]);
    let untouched = shop.files("attribution", "2026-03-11").await;
    assert_eq!(untouched.len(), 1);
    let before = shop.files("attribution", "2026-03-10").await;

    shop.export("orders", "20260801T000000", &orders("4.99"));
    shop.run().await;
    assert_eq!(
        shop.sql(&revenue).await,
        [
            "o1|last_non_direct|1|email|v|1.0000|5.0100",
            "o1|linear|1|email|v|0.3333|1.6700",
            "o1|linear|2|direct|v|0.3333|1.6700",
            "o1|linear|3|direct|v|0.3334|1.6700",
        ]
    );
    assert_eq!(shop.sql(worth).await, ["c1|5.0100|4.9900|email", "c2|20.0000|0.0000|direct"]);
    assert_eq!(shop.files("attribution", "2026-03-11").await, untouched);
    assert_ne!(shop.files("attribution", "2026-03-10").await, before);
}

#[tokio::test]
async fn who_comes_back_from_paying_or_signing_in_goes_on_with_the_visit() {
    let mut shop = Shop::new().await;
    let on = |mut event: Event<'static>, page: &'static str, referrer: &'static str| {
        event.page_url = Some(page.into());
        event.referrer_url = Some(referrer.into());
        event
    };
    let landing = view("a", "v", "2026-03-10T10:00:00Z");
    let signed_in = view("b", "v", "2026-03-10T10:04:00Z");
    let paid = view("c", "v", "2026-03-10T10:09:00Z");
    let bought = purchase("d", "v", "2026-03-10T10:09:01Z", "o1");
    let back = "https://shop.brand.example/thanks";
    shop.land(&[
        on(landing, "https://www.brand.example/?gclid=x", "https://www.google.com/"),
        on(signed_in, "https://www.brand.example/account", "https://accounts.google.com/"),
        on(paid, back, "https://www.paypal.com/checkoutnow"),
        on(bought, back, "https://www.paypal.com/checkoutnow"),
    ])
    .await;
    let orders = "order_id,customer_id,ordered_at,total\no1,c1,2026-03-10T10:09:00Z,10\n";
    shop.export("orders", "20260312T000000", orders);
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT event_id, channel, channel_rules_version FROM events").await,
        ["a|paid_search|3", "b|internal|3", "c|internal|3", "d|internal|3"]
    );
    let sessions = "SELECT channel, last_channel, has_purchase FROM sessions";
    assert_eq!(shop.sql(sessions).await, ["paid_search|paid_search|true"]);
    let enriched = "SELECT order_id, channel FROM orders_enriched";
    assert_eq!(shop.sql(enriched).await, ["o1|paid_search"]);
    let credits = format!("{CREDITS} WHERE model = 'last_non_direct'");
    assert_eq!(shop.sql(&credits).await, ["o1|last_non_direct|1|paid_search|v|1.0000|10.0000"]);
}

#[tokio::test]
async fn an_order_costs_what_its_products_did_when_it_was_placed() {
    let shop = Shop::new().await;
    shop.export("products", "20260309T120000", "product_id,price,cost\np1,5,1\n");
    shop.export("products", "20260310T180000", "product_id,price,cost\np1,5,4\n");
    let orders = |(order, time): (&str, &str)| format!("{order},{order},{time},5\n");
    let rows: String = [
        ("before", "2026-03-01T09:00:00Z"),
        ("morning", "2026-03-10T09:00:00Z"),
        ("evening", "2026-03-10T18:00:00Z"),
    ]
    .map(orders)
    .concat();
    shop.export(
        "orders",
        "20260311T000000",
        &format!("order_id,customer_id,ordered_at,total\n{rows}"),
    );
    let lines = [("before", 1, "p1", 1), ("morning", 1, "p1", 1), ("evening", 1, "p1", 1)];
    shop.export("order_items", "20260311T000000", &items_csv(&lines));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT customer_id, margin FROM customer_ltv").await,
        ["before|4.0000", "evening|1.0000", "morning|4.0000"]
    );
}

#[tokio::test]
async fn what_is_learnt_of_people_within_a_week_counts_and_later_does_not() {
    let mut shop = Shop::new().await;
    // Another device of c1, recognised 7 days after the order to the microsecond; a third one a
    // microsecond later.
    shop.land(&[
        from(view("a", "phone", "2026-03-05T10:00:00Z"), "email"),
        from(view("b", "tablet", "2026-03-06T10:00:00Z"), "affiliate"),
        purchase("c", "desk", "2026-03-10T10:00:00Z", "o1"),
    ])
    .await;
    shop.export(
        "orders",
        "20260312T000000",
        "order_id,customer_id,ordered_at,total\no1,c1,2026-03-10T10:00:00Z,10\n",
    );
    shop.run().await;
    let touches = format!("{CREDITS} WHERE model = 'linear'");
    assert_eq!(shop.sql(&touches).await, ["o1|linear|1|direct|desk|1.0000|10.0000"]);
    shop.land(&[
        login("d", "phone", "2026-03-17T10:00:00Z", "c1"),
        login("e", "tablet", "2026-03-17T10:00:00.000001Z", "c1"),
    ])
    .await;
    shop.run().await;
    assert_eq!(
        shop.sql(&touches).await,
        ["o1|linear|1|email|phone|0.5000|5.0000", "o1|linear|2|direct|desk|0.5000|5.0000"]
    );
    assert_eq!(
        shop.sql("SELECT visitor_id, customer_id, method, is_primary, person_id FROM identity_map")
            .await,
        ["desk|c1|order|true|c1", "phone|c1|login|true|c1", "tablet|c1|login|true|c1"]
    );
}

#[tokio::test]
async fn a_shared_device_is_reported_and_joins_nobody() {
    let mut shop = Shop::new().await;
    let logins: Vec<_> = (0..5)
        .map(|n| {
            let time = format!("2026-03-10T1{n}:00:00Z");
            login(&format!("e{n}"), "kiosk", &time, &format!("c{n}"))
        })
        .collect();
    shop.land(&logins).await;
    let report = shop.run().await;
    let jobs = &report.batches[0].jobs;
    let job = jobs.iter().find(|job| job.job == "identity_map").expect("it ran");
    assert_eq!(job.counts["identities_shared"], 1);
    assert_eq!(
        shop.sql(
            "SELECT visitor_id, customer_id, status, valid_from FROM identity_map \
                  WHERE valid_to IS NULL"
        )
        .await,
        ["kiosk|-|shared|2026-03-10T13:00:00Z"]
    );
}

#[tokio::test]
async fn of_a_shared_device_only_the_order_s_own_session_led_to_it() {
    let mut shop = Shop::new().await;
    let customers = ["c0", "c1", "c2"];
    let mut events = vec![from(view("mail", "kiosk", "2026-03-09T09:00:00Z"), "email")];
    for (n, customer) in customers.iter().enumerate() {
        let time = format!("2026-03-09T1{n}:00:00Z");
        events.push(login(&format!("e{n}"), "kiosk", &time, customer));
    }
    events.push(purchase("buy", "kiosk", "2026-03-10T10:00:00Z", "o1"));
    shop.land(&events).await;
    shop.export(
        "orders",
        "20260312T000000",
        "order_id,customer_id,ordered_at,total\no1,c0,2026-03-10T10:00:00Z,10\n",
    );
    shop.run().await;
    let touches = format!("{CREDITS} WHERE model = 'last_non_direct'");
    assert_eq!(shop.sql(&touches).await, ["o1|last_non_direct|1|email|kiosk|1.0000|10.0000"]);
    // A fourth customer, within a week of the order: whose the visit by mail was is not known.
    shop.land(&[login("e3", "kiosk", "2026-03-11T10:00:00Z", "c3")]).await;
    shop.run().await;
    assert_eq!(shop.sql(&touches).await, ["o1|last_non_direct|1|direct|kiosk|1.0000|10.0000"]);
}

#[tokio::test]
async fn who_ordered_once_like_most_is_not_among_the_best() {
    let shop = Shop::new().await;
    let mut orders = "order_id,customer_id,ordered_at,total\n".to_owned();
    for customer in 0..20 {
        for order in 0..if customer < 3 { 2 } else { 1 } {
            let day = 1 + customer;
            orders += &format!(
                "o{customer}-{order},c{customer:02},2026-03-{day:02}T10:00:00Z,{}\n",
                1 + customer
            );
        }
    }
    shop.export("orders", "20260401T000000", &orders);
    shop.run().await;
    // 3 of 20 came back. Four days make a fifth of the recency.
    assert_eq!(
        shop.sql("SELECT frequency, count(*) FROM customer_ltv GROUP BY 1 ORDER BY 1").await,
        ["1|17", "5|3"]
    );
    assert_eq!(
        shop.sql(
            "SELECT recency, count(*), min(customer_id) FROM customer_ltv GROUP BY 1 ORDER BY 1"
        )
        .await,
        ["1|4|c00", "2|4|c04", "3|4|c08", "4|4|c12", "5|4|c16"]
    );
}

#[tokio::test]
async fn lines_that_the_margin_leaves_out_are_counted() {
    let shop = Shop::new().await;
    shop.export("products", "20260310T120000", "product_id,price,cost\np1,5,1\np2,5,\n");
    let order = "order_id,customer_id,ordered_at,total\no1,c1,2026-03-10T10:00:00Z,10\n";
    shop.export("orders", "20260312T000000", order);
    shop.export(
        "order_items",
        "20260312T000000",
        "order_id,line,product_id,quantity,unit_price\no1,1,p1,1,5\no1,2,p1,1,\no1,3,p2,1,5\n",
    );
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT margin, lines_without_cost, lines_asof_backfilled FROM customer_ltv")
            .await,
        ["4.0000|2|3"]
    );
}

#[tokio::test]
async fn what_a_session_too_fast_for_anybody_looked_at_counts_for_no_product() {
    let mut shop = Shop::new().await;
    let views = |visitor: &'static str, range: std::ops::Range<u64>| {
        let looked = range.map(move |n| {
            let began = at("2026-03-10T23:59:31Z");
            let time = began.saturating_add(std::time::Duration::from_secs(n));
            let mut event = view(&format!("{visitor}{n}"), visitor, &time.to_string());
            event.event_name = "product_view".into();
            event.items = vec![item(1, 1)];
            event
        });
        looked.collect::<Vec<_>>()
    };
    let facts = "SELECT dt, views, viewers FROM product_daily";
    let training = "SELECT dt, subject_id, views FROM interactions";
    let other_day = view("z", "z", "2026-03-08T10:00:00Z");
    shop.land(&[views("fast", 0..29), views("slow", 0..2), vec![other_day]].concat()).await;
    shop.run().await;
    assert_eq!(shop.sql(facts).await, ["2026-03-10|31|2"]);
    // Its thirtieth look, past midnight, shows what it is.
    shop.land(&views("fast", 29..40)).await;
    shop.run().await;
    assert_eq!(shop.sql(facts).await, ["2026-03-10|2|1"]);
    assert_eq!(shop.sql(training).await, ["2026-03-10|slow|2"]);
    assert_eq!(shop.sql("SELECT sum(views) FROM category_daily").await, ["2"]);
}

#[tokio::test]
async fn a_mail_address_links_a_visitor_to_the_customer_who_has_it() {
    let mut shop = Shop::new().await;
    let mut signed_up = view("a", "v", "2026-03-10T10:00:00Z");
    let traits = r#"{"traits":{"email":" Ann@Shop.example"}}"#;
    signed_up.properties = Some(RawJson::parse(traits).expect("JSON").into_owned());
    shop.land(&[signed_up]).await;
    shop.run().await;
    assert!(shop.sql("SELECT * FROM identity_map").await.is_empty(), "nobody has it yet");
    let hash = "6A0BF011A1FC1E9A8ADD1728704B8DDB5D9D2701AE295A65452D9F1F1CF91BE5";
    shop.export("customers", "20260311T000000", &format!("customer_id,email_hash\nc1,{hash}\n"));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT visitor_id, customer_id, method FROM identity_map").await,
        ["v|c1|email"]
    );
}

#[tokio::test]
async fn a_session_that_reads_faster_than_anybody_is_a_bot_s() {
    let mut shop = Shop::new().await;
    // 30 views in just under a minute, and 30 in just a minute.
    let views = |visitor: &'static str, step_micros: u64| {
        (0..30).map(move |n| {
            let began = at("2026-03-10T10:00:00Z");
            let time = began.saturating_add(std::time::Duration::from_micros(n * step_micros));
            view(&format!("{visitor}{n}"), visitor, &time.to_string())
        })
    };
    let mut events: Vec<_> = views("fast", 2_068_965).collect();
    events.extend(views("slow", 2_068_966));
    shop.land(&events).await;
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT visitor_id, is_bot, bot_reason FROM sessions").await,
        ["fast|true|rate", "slow|false|-"]
    );
    assert_eq!(shop.sql("SELECT sessions FROM funnel_daily").await, ["1"]);
    assert_eq!(shop.sql("SELECT count(*) FROM events WHERE is_bot").await, ["0"]);
}

#[tokio::test]
async fn daily_jobs_run_once_a_day_where_told_to_and_catch_up_when_asked() {
    let mut shop = Shop::new().await;
    let tight = RunOptions { daily: DailyJobs::OncePerDay, ..shop.options() };
    let orders = |number: usize| {
        let rows: Vec<_> = ["o1", "o2"][..number]
            .iter()
            .map(|order| (*order, "2026-03-10T10:00:00Z", "10"))
            .collect();
        orders_csv(&rows).replace("order_id", "customer_id,order_id").replace("\no", "\nc1,o")
    };
    let worth = "SELECT customer_id, orders FROM customer_ltv";
    shop.export("orders", "20260311T000000", &orders(1));
    run(&shop.lake, &tight, &Silent).await.expect("runs");
    assert_eq!(shop.sql(worth).await, ["c1|1"]);
    shop.export("orders", "20260312T000000", &orders(2));
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    run(&shop.lake, &tight, &Silent).await.expect("runs");
    // Not where midnight has just passed: then both runs were a day's first.
    let batches = shop.days_of_batches().await;
    if batches[0] == batches[1] {
        assert_eq!(shop.sql(worth).await, ["c1|1"]);
        assert!(run(&shop.lake, &tight, &Silent).await.expect("runs").batches.is_empty());
    }
    assert_eq!(shop.sql("SELECT count(*) FROM orders_enriched").await, ["2"]);
    shop.run().await;
    assert_eq!(shop.sql(worth).await, ["c1|2"]);
    assert!(shop.run().await.batches.is_empty());
}

#[tokio::test]
async fn a_search_found_nothing_where_it_says_so_itself_whatever_others_of_the_day_say() {
    let mut shop = Shop::new().await;
    let search = |query: &str, found: usize, properties: Option<&str>| {
        let mut event = view(query, query, "2026-03-10T10:00:00Z");
        event.event_name = "search".into();
        event.search_query = Some(query.to_owned().into());
        event.items = (0..found).map(|n| item(n, 1)).collect();
        event.properties = properties.map(|text| RawJson::parse(text).expect("JSON").into_owned());
        event
    };
    shop.land(&[
        search("shows", 2, None),
        search("counts", 0, Some(r#"{"results":7}"#)),
        search("counts none", 0, Some(r#"{"results":0}"#)),
        search("shows none", 0, Some(r#"{"products":[]}"#)),
        // As of a second client of the same application, which does not know.
        search("silent", 0, None),
        search("silent with properties", 0, Some(r#"{"sort":"price"}"#)),
    ])
    .await;
    shop.run().await;
    let nothing = "SELECT search_query FROM search_daily WHERE zero_results = 1 ORDER BY 1";
    assert_eq!(shop.sql(nothing).await, ["counts none", "shows none"]);
    let known =
        "SELECT sum(searches), sum(with_results_known), sum(zero_results) FROM search_daily";
    assert_eq!(shop.sql(known).await, ["6|4|2"]);
}

#[tokio::test]
async fn a_late_search_leaves_the_facts_of_other_days_alone() {
    let mut shop = Shop::new().await;
    let search = |id: &str, time: &str, found: usize| {
        let mut event = view(id, id, time);
        event.event_name = "search".into();
        event.search_query = Some("lamp".into());
        event.items = (0..found).map(|n| item(n, 1)).collect();
        event
    };
    let mut cart = view("cart", "v", "2026-03-11T10:00:00Z");
    cart.event_name = "add_to_cart".into();
    cart.items = vec![item(1, 2)];
    shop.land(&[
        search("a", "2026-03-10T10:00:00Z", 1),
        search("b", "2026-03-11T10:00:00Z", 0),
        search("c", "2026-03-12T10:00:00Z", 1),
        cart,
    ])
    .await;
    shop.run().await;
    let facts = "SELECT dt, searches, zero_results FROM search_daily";
    assert_eq!(shop.sql(facts).await, ["2026-03-10|1|0", "2026-03-11|1|0", "2026-03-12|1|0"]);
    let tables = ["search_daily", "funnel_daily", "abandoned_carts", "interactions"];
    let mut before = Vec::new();
    for table in tables {
        for day in ["2026-03-10", "2026-03-11", "2026-03-12"] {
            before.push(shop.files(table, day).await);
        }
    }
    shop.land(&[search("late", "2026-03-11T11:00:00Z", 2)]).await;
    shop.run().await;
    assert_eq!(shop.sql(facts).await, ["2026-03-10|1|0", "2026-03-11|2|0", "2026-03-12|1|0"]);
    let mut changed = Vec::new();
    let mut before = before.into_iter();
    for table in tables {
        for day in ["2026-03-10", "2026-03-11", "2026-03-12"] {
            if before.next() != Some(shop.files(table, day).await) {
                changed.push((table, day));
            }
        }
    }
    assert_eq!(changed, [("search_daily", "2026-03-11"), ("funnel_daily", "2026-03-11")]);
}

#[tokio::test]
async fn huge_baskets_and_hot_products_are_bounded() {
    let shop = Shop::new().await;
    let mut orders = "order_id,ordered_at,total\n".to_owned();
    let mut lines = "order_id,line,product_id,quantity,unit_price\n".to_owned();
    let mut order = |id: &str, products: &[String]| {
        orders += &format!("{id},2026-03-10T10:00:00Z,10\n");
        for (at, product) in products.iter().enumerate() {
            lines += &format!("{id},{},{product},1,1\n", at + 1);
        }
    };
    // Twice 60 products at once; twice the hot one with each of 60 others.
    let many: Vec<String> = (0..60).map(|n| format!("m{n:02}")).collect();
    for twice in ["a", "b"] {
        order(&format!("many-{twice}"), &many);
        for n in 0..60 {
            order(&format!("{twice}-{n}"), &["hot".to_owned(), format!("q{n:02}")]);
        }
    }
    shop.export("orders", "20260311T000000", &orders);
    shop.export("order_items", "20260311T000000", &lines);
    shop.run_tables(&["co_bought"]).await;
    // Of the 60 the first 50 count, each with 49 others.
    assert_eq!(
        shop.sql(
            "SELECT min(product_id), max(product_id), count(*), count(DISTINCT product_id) \
             FROM co_bought WHERE product_id LIKE 'm%' AND other_product_id LIKE 'm%'"
        )
        .await,
        ["m00|m49|2450|50"]
    );
    // All 60 go as well with the hot one: the first 50 by name are kept, and it by each of them.
    assert_eq!(
        shop.sql(
            "SELECT count(*), min(other_product_id), max(other_product_id), max(position) \
             FROM co_bought WHERE product_id = 'hot'"
        )
        .await,
        ["50|q00|q49|50"]
    );
    assert_eq!(
        shop.sql("SELECT count(*) FROM co_bought WHERE other_product_id = 'hot'").await,
        ["60"]
    );
}
