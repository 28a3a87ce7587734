"""E1 in Polars: the job of `clickmill etl run`, as someone who knows Polars would write it.

Lazy frames on the streaming engine throughout. The JSON is read once, into a
staging Parquet file; deduplication and sessions work on its narrow columns,
sorted once; the wide rows are joined to them as they are written. URLs and
user agents are parsed once for each distinct value.

Polars has no decimals in its JSON reader: amounts are read as floats and cast,
which is exact for the amounts of E1. `properties` and `context` come back
re-serialised rather than verbatim.
"""

import argparse
import pathlib

import polars as pl
from polars import col

import e1_channels as rules

MONEY = pl.Decimal(18, 4)
AMOUNTS = ["revenue", "total", "tax", "shipping", "discount"]
TIMES = ["event_ts", "client_ts", "sent_ts", "received_ts"]
ITEM = {
    **dict.fromkeys(["product_id", "sku", "name", "brand", "category", "variant"], pl.String),
    "price": pl.Float64,
    "quantity": pl.Int64,
    "coupon": pl.String,
    "position": pl.Int32,
}
TEXT = """event_id event_name source_protocol source_event_name app_id platform event_ts_reason user_id
    anonymous_id network_id device_id client_session_id page_url page_title referrer_url utm_source
    utm_medium utm_campaign utm_term utm_content click_id click_id_type user_agent language timezone
    ip_truncated country region city validation order_id checkout_id cart_id currency coupon
    search_query list_id promotion_id collector_id shard_id sequence_number
    consent properties context""".split()
SCHEMA = {
    **dict.fromkeys(TEXT + TIMES, pl.String),
    **dict.fromkeys(["clock_skew_ms", "wal_seq"], pl.Int64),
    **dict.fromkeys(["screen_width", "screen_height"], pl.Int32),
    **dict.fromkeys(AMOUNTS, pl.Float64),
    "items": pl.List(pl.Struct(ITEM)),
}
EVENT_COLUMNS = """event_id event_name source_protocol source_event_name app_id platform event_ts event_ts_reason
    client_ts sent_ts received_ts clock_skew_ms is_late visitor_id user_id anonymous_id network_id device_id
    client_session_id session_id session_seq consent page_url page_host page_path page_query page_title
    referrer_url referrer_host utm_source utm_medium utm_campaign utm_term utm_content click_id click_id_type
    channel channel_rules_version user_agent browser browser_version os os_version device_class screen_width
    screen_height language timezone ip_truncated country region city is_bot bot_reason validation order_id
    checkout_id cart_id currency revenue total tax shipping discount coupon search_query list_id promotion_id
    items properties context collector_id wal_seq shard_id sequence_number content_hash dt""".split()
UTM = ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"]
CLICK_IDS = ["gclid", "wbraid", "gbraid", "dclid", "msclkid", "fbclid", "ttclid", "twclid", "li_fat_id"]
BOTS = "bot|crawl|spider|slurp|curl/|wget/|python-requests|python-urllib|go-http-client|java/|scrapy"
HALF_HOUR = pl.duration(minutes=30)


def stage(lake, staging):
    """JSON to one Parquet file with typed columns."""
    files = sorted((lake / "raw/events").glob("*/*/*.json.gz"))
    items = pl.List(pl.Struct({**ITEM, "price": MONEY}))
    (
        pl.scan_ndjson(files, schema=SCHEMA)
        .with_columns(
            [col(name).str.to_datetime("%Y-%m-%dT%H:%M:%S%.6fZ", time_unit="us", time_zone="UTC") for name in TIMES]
            + [col(name).cast(MONEY) for name in AMOUNTS]
            + [col("items").cast(items)],
            visitor_id=pl.coalesce("anonymous_id", "network_id", "device_id", "user_id"),
            content_hash=pl.struct("event_name", "anonymous_id", "page_url", "order_id", "properties", "items")
            .hash().reinterpret(signed=True),
            validation=col("validation").fill_null("ok"),
        )
        .sink_parquet(staging, compression="lz4")
    )
    return pl.scan_parquet(staging, row_index_name="id")


def sessionize(raw):
    """The rows to keep, with their session: id, session_id, session_seq."""
    kept = (
        raw.select("id", "app_id", "event_id", "event_ts", "visitor_id", "received_ts", "collector_id", "wal_seq")
        .sort("received_ts", "collector_id", "wal_seq")
        .unique(["app_id", "event_id"], keep="first", maintain_order=True)
        .select("id", "event_id", "event_ts", "visitor_id")
        .sort("visitor_id", "event_ts", "event_id")
        .with_row_index("at")
        .with_columns(
            opens=(col("visitor_id").ne_missing(col("visitor_id").shift()))
            | (col("event_ts") - col("event_ts").shift() >= HALF_HOUR)
        )
        .with_columns(
            opened_at=pl.when("opens").then("at").forward_fill(),
            session_id=pl.when("opens").then(pl.struct("visitor_id", "event_id").hash()).forward_fill(),
        )
    )
    known = col("visitor_id").is_not_null()
    return kept.select(
        "id",
        session_id=pl.when(known).then(col("session_id").cast(pl.String)),
        session_seq=pl.when(known).then((col("at") - col("opened_at") + 1).cast(pl.Int32)),
    )


def dimensions(raw):
    host = r"^[a-z]+://([^/?#:]+)"
    url = col("page_url")
    pair = pl.element().str.split("=")
    pages = (
        raw.select("page_url").unique().drop_nulls()
        .with_columns(
            page_host=url.str.extract(host).str.to_lowercase(),
            page_path=url.str.extract(r"^[a-z]+://[^/?#]+([^?#]+)").fill_null("/"),
            page_query=url.str.extract(r"\?([^#]*)").str.split("&").list.eval(
                pl.struct(key=pair.list.get(0), value=pair.list.get(1, null_on_oob=True))
            ),
        )
    )
    param = lambda name: col("page_query").list.eval(
        pl.when(pl.element().struct["key"] == name).then(pl.element().struct["value"])
    ).list.drop_nulls().list.first().alias("url_" + name)
    pages = (
        pages.with_columns(
            [param(name) for name in UTM + CLICK_IDS],
            page_site=pl.coalesce(col("page_host").str.extract(f"({rules.REGISTRABLE})"), "page_host"),
        )
        .with_columns(
            url_click_id=pl.coalesce(["url_" + name for name in CLICK_IDS]),
            url_click_id_type=pl.coalesce([pl.when(col("url_" + n).is_not_null()).then(pl.lit(n)) for n in CLICK_IDS]),
        )
        .drop(["url_" + name for name in CLICK_IDS])
        .collect(engine="streaming")
    )
    referrer = col("referrer_host")
    referrers = (
        raw.select("referrer_url").unique().drop_nulls()
        .with_columns(referrer_host=col("referrer_url").str.extract(host).str.to_lowercase())
        .with_columns(
            referrer_site=pl.coalesce(referrer.str.extract(f"({rules.REGISTRABLE})"), referrer),
            referrer_kind=pl.when(referrer.str.contains(rules.PASSED_THROUGH)).then(pl.lit("internal"))
            .when(referrer.str.contains(rules.ASSISTANTS)).then(pl.lit("ai_assistant"))
            .when(referrer.str.contains(rules.SHOPPING)).then(pl.lit("organic_shopping"))
            .when(referrer.str.contains(rules.SOCIAL)).then(pl.lit("social"))
            .when(referrer.str.contains(rules.VIDEO)).then(pl.lit("organic_video"))
            .when(referrer.str.contains(rules.SEARCH)).then(pl.lit("organic_search")).otherwise(pl.lit("referral")),
        )
        .collect(engine="streaming")
    )
    agent, has = col("user_agent"), lambda text: col("ua").str.contains(text)
    agents = (
        raw.select("user_agent").unique().drop_nulls()
        .with_columns(ua=agent.str.to_lowercase())
        .with_columns(headless=has("headlesschrome|phantomjs|puppeteer|playwright"), declared=has(BOTS))
        .with_columns(
            is_bot=col("headless") | col("declared"),
            bot_reason=pl.when("headless").then(pl.lit("headless")).when("declared").then(pl.lit("declared")),
            browser=pl.when("declared").then(agent.str.extract("([A-Za-z]+[Bb]ot)"))
            .when(has("edg/")).then(pl.lit("Edge")).when(has("opr/")).then(pl.lit("Opera"))
            .when(has("firefox/")).then(pl.lit("Firefox")).when(has("crios/")).then(pl.lit("Chrome Mobile iOS"))
            .when(has("chrome/") & has("mobile")).then(pl.lit("Chrome Mobile")).when(has("chrome/")).then(pl.lit("Chrome"))
            .when(has("safari/") & has("mobile")).then(pl.lit("Mobile Safari")).when(has("safari/")).then(pl.lit("Safari")),
            browser_version=pl.when(~col("declared")).then(
                agent.str.extract(r"(?:Edg|OPR|Firefox|Chrome|CriOS|Version)/([0-9.]+)")
            ),
            os=pl.when(has("iphone|ipad")).then(pl.lit("iOS")).when(has("android")).then(pl.lit("Android"))
            .when(has("windows nt")).then(pl.lit("Windows")).when(has("mac os x")).then(pl.lit("Mac OS X"))
            .when(has("linux")).then(pl.lit("Linux")),
            os_version=agent.str.extract(r"(?:iPhone OS|CPU OS|Mac OS X|Android|Windows NT) ([0-9._]+)")
            .str.replace_all("_", "."),
        )
        .with_columns(
            device_class=pl.when("is_bot").then(pl.lit("bot"))
            .when(has("ipad|tablet") | (has("android") & ~has("mobile"))).then(pl.lit("tablet"))
            .when(col("os").is_in(["iOS", "Android"])).then(pl.lit("mobile"))
            .when(col("os").is_null()).then(pl.lit("other")).otherwise(pl.lit("desktop")),
        )
        .drop("ua", "headless", "declared")
        .collect(engine="streaming")
    )
    return pages.lazy(), referrers.lazy(), agents.lazy()


def channel():
    """transform's default rules (transform/src/decode/channels.rs)."""
    click = lambda part: col("click_id_type").replace_strict(
        {kind: names[part] for kind, names in rules.CLICKS.items()}, default=None, return_dtype=pl.String)
    sent = lambda name: pl.when(col(name).str.strip_chars() != "").then(col(name).str.strip_chars().str.to_lowercase())
    src, camp = pl.coalesce(sent("utm_source"), click(0)), sent("utm_campaign")
    of_assistant = pl.when(src.str.contains(rules.ASSISTANTS)).then(pl.lit("ai-assistant"))
    med = pl.coalesce(sent("utm_medium"), click(1), of_assistant)
    page, referrer = col("page_site"), col("referrer_site")
    of = lambda sites: src.str.contains(sites).fill_null(False)
    med_is = lambda names: med.is_in(names).fill_null(False)
    med_has = lambda text: med.str.contains(text).fill_null(False)
    src_is = lambda names: src.is_in(names).fill_null(False)
    unmarked = src.is_null() & med.is_null() & camp.is_null()
    paid = med_has("cp|^paid") | med_is(["ppc", "retargeting"])
    shopping = of(rules.SHOPPING) | camp.str.contains(rules.SHOP_CAMPAIGN).fill_null(False)
    return (
        pl.when(unmarked & col("referrer_host").is_null()).then(pl.lit("direct"))
        .when(unmarked & (page == referrer)).then(pl.lit("internal"))
        .when(unmarked).then("referrer_kind")
        .when(src_is(["(direct)", "direct"]) & med.fill_null("").is_in(["", "(not set)", "(none)"])).then(pl.lit("direct"))
        .when(camp.str.contains("cross-network", literal=True).fill_null(False)).then(pl.lit("cross_network"))
        .when(shopping & paid).then(pl.lit("paid_shopping"))
        .when(of(rules.SEARCH) & paid).then(pl.lit("paid_search"))
        .when(of(rules.SOCIAL) & paid).then(pl.lit("paid_social"))
        .when(of(rules.VIDEO) & paid).then(pl.lit("paid_video"))
        .when(med_is(rules.DISPLAY)).then(pl.lit("display"))
        .when(med_is(rules.PAID_SEARCH)).then(pl.lit("paid_search"))
        .when(med_is(rules.PAID_SOCIAL)).then(pl.lit("paid_social"))
        .when(paid).then(pl.lit("paid_other"))
        .when(med_is(["ai-assistant"])).then(pl.lit("ai_assistant"))
        .when(shopping).then(pl.lit("organic_shopping"))
        .when(of(rules.SOCIAL) | med_is(rules.SOCIAL_MEDIA)).then(pl.lit("social"))
        .when(of(rules.VIDEO) | med_has("video")).then(pl.lit("organic_video"))
        .when(of(rules.SEARCH) | med_is(["organic"])).then(pl.lit("organic_search"))
        .when(med_is(["referral", "app", "link"])).then(pl.lit("referral"))
        .when(src_is(rules.EMAIL) | med_is(rules.EMAIL)).then(pl.lit("email"))
        .when(med_is(["affiliate", "affiliates"])).then(pl.lit("affiliate"))
        .when(med_is(["audio"])).then(pl.lit("audio"))
        .when(src_is(["sms"]) | med_is(["sms"])).then(pl.lit("sms"))
        .when(med_has("push$|mobile|notification") | src_is(["firebase"])).then(pl.lit("push"))
        .when(src_is(["newsletter"]) | med_is(["newsletter"])).then(pl.lit("email"))
        .otherwise(pl.lit("unassigned"))
    )


def enrich(raw, kept):
    pages, referrers, agents = dimensions(raw)
    return (
        raw.join(kept, on="id")
        .join(pages, on="page_url", how="left")
        .join(referrers, on="referrer_url", how="left")
        .join(agents, on="user_agent", how="left")
        .with_columns(
            [pl.coalesce(name, "url_" + name).alias(name) for name in UTM],
            click_id=pl.coalesce("click_id", "url_click_id"),
            click_id_type=pl.when(col("click_id").is_null()).then("url_click_id_type").otherwise("click_id_type"),
            is_late=col("received_ts") - col("event_ts") > pl.duration(hours=1),
            is_bot=col("is_bot").fill_null(False),
            dt=col("event_ts").dt.date(),
        )
        .with_columns(channel=channel(), channel_rules_version=pl.lit(rules.VERSION, pl.Int32))
        .select(EVENT_COLUMNS)
    )


def sessions_of(events):
    count = lambda *names: col("event_name").is_in(names).sum().cast(pl.Int64)
    first = lambda name: col(name).first()
    touch = ~col("channel").is_in(["internal", "direct"])
    last_touch = lambda name: col(name).filter(touch).last()
    narrow = """session_id session_seq visitor_id user_id event_ts event_name page_url page_path referrer_host
        channel utm_source utm_medium utm_campaign device_class browser os language country region is_bot is_late
        order_id revenue currency""".split()
    sorted_events = events.select(narrow).drop_nulls("session_id").sort("session_id", "session_seq")
    purchases = (
        events.filter(col("event_name") == "purchase").drop_nulls("session_id")
        .select("session_id", "session_seq", "order_id", "revenue", "currency")
        .sort("session_id", "session_seq")
        .unique(["session_id", "order_id"], keep="first", maintain_order=True)
        .group_by("session_id")
        .agg(
            orders=pl.len().cast(pl.Int64),
            revenue=col("revenue").sum(),
            currency=pl.when(col("currency").n_unique() == 1).then(col("currency").min()),
        )
    )
    gap = col("event_ts") - col("event_ts").shift()
    same = col("session_seq") > 1
    return (
        sorted_events
        .with_columns(gap_ms=pl.when(same).then(gap.dt.total_milliseconds().clip(upper_bound=300_000)))
        .group_by("session_id", maintain_order=True)
        .agg(
            first("visitor_id"), col("user_id").drop_nulls().last(),
            started_at=col("event_ts").first(), ended_at=col("event_ts").last(),
            engaged_ms=col("gap_ms").sum(), events=pl.len().cast(pl.Int64),
            page_views=count("page_view", "screen_view"), product_views=count("product_view"),
            add_to_carts=count("add_to_cart"), checkouts=count("begin_checkout"), searches=count("search"),
            bought=count("purchase"),
            landing_url=col("page_url").drop_nulls().first(), landing_path=col("page_path").drop_nulls().first(),
            exit_path=col("page_path").drop_nulls().last(), referrer_host=first("referrer_host"),
            channel=first("channel"), utm_source=first("utm_source"), utm_medium=first("utm_medium"),
            utm_campaign=first("utm_campaign"), touch_channel=last_touch("channel"),
            touch_source=last_touch("utm_source"), touch_campaign=last_touch("utm_campaign"),
            device_class=first("device_class"), browser=first("browser"), os=first("os"),
            language=first("language"), country=first("country"), region=first("region"),
            is_bot=col("is_bot").any(), late_events=col("is_late").sum().cast(pl.Int64),
        )
        .join(purchases, on="session_id", how="left")
        .select(
            "session_id", "visitor_id", "user_id", "started_at", "ended_at",
            (col("ended_at") - col("started_at")).dt.total_milliseconds().alias("duration_ms"), "engaged_ms",
            ((col("events") == 1) & (col("bought") == 0)).alias("is_bounce"), "events", "page_views",
            "product_views", "add_to_carts", "checkouts", "searches", col("orders").fill_null(0), "revenue",
            "currency", (col("product_views") > 0).alias("has_product_view"),
            (col("add_to_carts") > 0).alias("has_add_to_cart"), (col("checkouts") > 0).alias("has_checkout"),
            (col("bought") > 0).alias("has_purchase"), "landing_url", "landing_path", "exit_path",
            "referrer_host", "channel", "utm_source", "utm_medium", "utm_campaign",
            pl.coalesce("touch_channel", "channel").alias("last_channel"),
            col("touch_source").alias("last_utm_source"), col("touch_campaign").alias("last_utm_campaign"),
            "device_class", "browser", "os", "language", "country", "region", "is_bot", "late_events",
            col("started_at").dt.date().alias("dt"),
        )
    )


def orders_of(lake):
    orders = pl.scan_parquet(lake / "exports/rds/*/shop/public.orders/*/*.parquet").with_columns(
        [col(n).cast(MONEY) for n in ["subtotal", "discount", "tax", "shipping", "total", "refunded"]],
        ordered_at=col("ordered_at").str.to_datetime("%Y-%m-%d %H:%M:%S%.6f", time_unit="us", time_zone="UTC"),
    )
    lines = pl.scan_parquet(lake / "exports/rds/*/shop/public.order_items/*/*.parquet").with_columns(
        col("unit_price").cast(MONEY), col("discount").cast(MONEY)
    )
    return orders, lines


def catalog_of(lake):
    text, number = pl.Struct({"S": pl.String}), pl.Struct({"N": pl.String})
    item = pl.Struct(
        {**dict.fromkeys(["product_id", "name", "brand", "category", "currency"], text), "price": number, "stock": number}
    )
    files = sorted((lake / "exports/dynamodb/AWSDynamoDB").glob("*/data/*.json.gz"))
    field = lambda name, kind: col("Item").struct[name].struct[kind].alias(name)
    return pl.scan_ndjson([f for f in files if f.stat().st_size > 30], schema={"Item": item}).select(
        field("product_id", "S"), field("name", "S"), field("brand", "S"), field("category", "S"),
        field("price", "N").cast(MONEY), field("currency", "S"), field("stock", "N").cast(pl.Int64),
    )


def enrich_orders(orders, events, sessions):
    shared = ["currency", "tax", "shipping", "coupon", "country", "region", "city"]
    bought = (
        events.filter((col("event_name") == "purchase") & col("order_id").is_not_null())
        .select("order_id", "event_id", "event_ts", "user_id", "visitor_id", "session_id", *shared,
                event_app_id="app_id", event_total=pl.coalesce("total", "revenue"))
        .sort("event_ts", "event_app_id", "event_id")
        .unique("order_id", keep="first", maintain_order=True)
    )
    apart = (col("event_ts").dt.date() - col("ordered_at").dt.date()).abs()
    pairs = (
        bought.drop(shared + ["user_id"])
        .join(orders.select("order_id", "ordered_at"), on="order_id")
        .filter(apart <= pl.duration(days=7))
        .drop("ordered_at")
    )
    unmatched = bought.join(pairs, on="order_id", how="anti").rename({"user_id": "customer_id"})
    joined = pl.concat(
        [
            orders.join(pairs, on="order_id", how="left").with_columns(ordered=pl.lit(True)),
            unmatched.with_columns(ordered=pl.lit(False)),
        ],
        how="diagonal",
    )
    touch = sessions.select(
        "session_id", session_started_at="started_at", channel="last_channel", utm_source="last_utm_source",
        utm_campaign="last_utm_campaign", device_class="device_class",
    )
    seen = col("event_id").is_not_null()
    return (
        joined.join(touch, on="session_id", how="left")
        .with_columns(ordered_at=pl.coalesce("ordered_at", "event_ts"))
        .select(
            "order_id",
            pl.when(~seen).then(pl.lit("order_only")).when(~col("ordered")).then(pl.lit("event_only"))
            .when(
                col("event_total").is_null() | (col("event_total") == col("total")).fill_null(False)
                | (col("event_total") == col("subtotal") - col("discount").fill_null(0)).fill_null(False)
                | (col("event_total") == col("subtotal")).fill_null(False)
            ).then(pl.lit("matched")).otherwise(pl.lit("value_mismatch")).alias("match_status"),
            "customer_id", "ordered_at", "status", "currency",
            "subtotal", "discount", "tax", "shipping", "total", "refunded",
            (col("total") - col("refunded").fill_null(0)).cast(MONEY).alias("net_total"), "coupon", "country",
            "region", "city", "channel_hint", "event_id", "event_app_id", "event_ts",
            "event_total", pl.when(~seen).then("total").alias("missed_total"), "visitor_id", "session_id",
            "session_started_at",
            (col("ordered_at") - col("session_started_at")).dt.total_milliseconds().alias("latency_ms"),
            "channel", "utm_source", "utm_campaign", "device_class", col("ordered_at").dt.date().alias("dt"),
        )
    )


def product_daily_of(events, orders, lines, catalog):
    count = lambda *names: col("event_name").is_in(names).sum().cast(pl.Int64)
    seen = (
        events.filter(~col("is_bot"))
        .select("event_name", "visitor_id", "dt", "items").explode("items").unnest("items")
        .drop_nulls("product_id")
        .group_by("product_id", "dt")
        .agg(
            seen_category=col("category").min(), seen_name=col("name").min(), seen_brand=col("brand").min(),
            impressions=count("product_list_view", "product_list_filter", "search"), clicks=count("product_click"),
            views=count("product_view"), carts=count("add_to_cart"),
            viewers=col("visitor_id").filter(col("event_name") == "product_view").n_unique().cast(pl.Int64),
        )
    )
    sold = (
        lines.join(orders.select("order_id", dt=col("ordered_at").dt.date()), on="order_id")
        .group_by("product_id", "dt")
        .agg(
            orders=col("order_id").filter(col("quantity") > 0).n_unique().cast(pl.Int64),
            units=col("quantity").sum(),
            revenue=(col("quantity") * col("unit_price") - col("discount").fill_null(0)).sum(),
        )
    )
    counts = ["impressions", "clicks", "views", "viewers", "carts", "orders", "units", "revenue"]
    return (
        seen.join(sold, on=["product_id", "dt"], how="full", coalesce=True)
        .with_columns(col(counts[:-1]).fill_null(0))
        .join(catalog.with_columns(known=pl.lit(True)), on="product_id", how="left")
        .select(
            "product_id", pl.coalesce("name", "seen_name").alias("name"), pl.coalesce("brand", "seen_brand").alias("brand"),
            pl.when("known").then("category").otherwise("seen_category").alias("category"), *counts[:-1],
            col("revenue").cast(MONEY),
            pl.when(col("views") > 0).then(col("orders") / col("views")).alias("conversion"),
            "price", "currency", "stock", pl.lit(False).alias("asof_backfilled"), "dt",
        )
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--memory-gb", type=int, help="ignored: Polars has no memory limit")
    args = parser.parse_args()
    args.out.mkdir(parents=True)

    raw = stage(args.lake, args.out / "staging.parquet")
    kept = sessionize(raw).collect(engine="streaming").lazy()
    write(enrich(raw, kept), args.out / "events")
    events = pl.scan_parquet(args.out / "events", hive_partitioning=True)
    sessions = sessions_of(events).collect(engine="streaming")
    write(sessions.lazy(), args.out / "sessions")
    orders, lines = orders_of(args.lake)
    write(enrich_orders(orders, events, sessions.lazy()), args.out / "orders_enriched")
    write(product_daily_of(events, orders, lines, catalog_of(args.lake)), args.out / "product_daily")


def write(frame, folder):
    frame.sink_parquet(
        pl.PartitionBy(folder, key="dt", include_key=False), compression="zstd", compression_level=1, mkdir=True, maintain_order=False,
        engine="streaming",
    )


if __name__ == "__main__":
    main()
