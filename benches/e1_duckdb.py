"""E1 in DuckDB: the job of `clickmill etl run`, as someone who knows DuckDB would write it.

One pass over the JSON into a table; deduplication and sessions on the narrow
columns only; the wide rows are joined to them by rowid when they are written.
URLs and user agents are parsed once for each distinct value.
"""

import argparse
import pathlib

import duckdb

import e1_channels as rules

ITEM = (
    "STRUCT(product_id VARCHAR, sku VARCHAR, name VARCHAR, brand VARCHAR, category VARCHAR, variant VARCHAR,"
    " price DECIMAL(18,4), quantity BIGINT, coupon VARCHAR, position INTEGER)[]"
)
TEXT = """event_id event_name source_protocol source_event_name app_id platform event_ts_reason user_id
    anonymous_id network_id device_id client_session_id page_url page_title referrer_url utm_source
    utm_medium utm_campaign utm_term utm_content click_id click_id_type user_agent language timezone
    ip_truncated country region city validation order_id checkout_id cart_id currency coupon
    search_query list_id promotion_id collector_id shard_id sequence_number""".split()
COLUMNS = {
    **dict.fromkeys(TEXT, "VARCHAR"),
    **dict.fromkeys(["event_ts", "client_ts", "sent_ts", "received_ts"], "TIMESTAMP"),
    **dict.fromkeys(["clock_skew_ms", "wal_seq"], "BIGINT"),
    **dict.fromkeys(["screen_width", "screen_height"], "INTEGER"),
    **dict.fromkeys(["revenue", "total", "tax", "shipping", "discount"], "DECIMAL(18,4)"),
    **dict.fromkeys(["consent", "properties", "context"], "JSON"),
    "items": ITEM,
}

LOAD = """
CREATE TABLE raw AS SELECT * FROM read_json('{lake}/raw/events/*/*/*.json.gz',
    format = 'newline_delimited', columns = {columns});
"""

DIMENSIONS = """
CREATE TABLE pages AS
WITH split AS (
    SELECT page_url, lower(regexp_extract(page_url, '^[a-z]+://([^/?#:]+)', 1)) AS page_host,
        coalesce(nullif(regexp_extract(page_url, '^[a-z]+://[^/?#]+([^?#]*)', 1), ''), '/') AS page_path,
        CASE WHEN contains(page_url, '?') THEN map_from_entries(list_transform(
            string_split(regexp_extract(page_url, '[?]([^#]*)', 1), '&'),
            lambda pair: struct_pack(k := url_decode(split_part(pair, '=', 1)), v := url_decode(split_part(pair, '=', 2)))
        )) END AS page_query
    FROM (SELECT DISTINCT page_url FROM raw WHERE page_url IS NOT NULL)
)
SELECT *, coalesce(nullif(regexp_extract(page_host, '{registrable}'), ''), page_host) AS page_site, page_query['utm_source'] AS utm_source,
    page_query['utm_medium'] AS utm_medium, page_query['utm_campaign'] AS utm_campaign,
    page_query['utm_term'] AS utm_term, page_query['utm_content'] AS utm_content,
    list_filter(['gclid', 'wbraid', 'gbraid', 'dclid', 'msclkid', 'fbclid', 'ttclid', 'twclid', 'li_fat_id'],
        lambda name: page_query[name] IS NOT NULL)[1] AS click_id_type,
    page_query[click_id_type] AS click_id
FROM split;

CREATE TABLE referrers AS
SELECT referrer_url, referrer_host,
    coalesce(nullif(regexp_extract(referrer_host, '{registrable}'), ''), referrer_host) AS referrer_site,
    CASE WHEN regexp_matches(referrer_host, '{passed_through}') THEN 'internal'
         WHEN regexp_matches(referrer_host, '{assistants}') THEN 'ai_assistant'
         WHEN regexp_matches(referrer_host, '{shopping}') THEN 'organic_shopping'
         WHEN regexp_matches(referrer_host, '{social}') THEN 'social'
         WHEN regexp_matches(referrer_host, '{video}') THEN 'organic_video'
         WHEN regexp_matches(referrer_host, '{search}') THEN 'organic_search' ELSE 'referral' END AS referrer_kind
FROM (SELECT referrer_url, lower(regexp_extract(referrer_url, '^[a-z]+://([^/?#:]+)', 1)) AS referrer_host
    FROM (SELECT DISTINCT referrer_url FROM raw WHERE referrer_url IS NOT NULL));

CREATE TABLE agents AS
WITH marks AS (
    SELECT user_agent, lower(user_agent) AS ua,
        regexp_matches(ua, 'headlesschrome|phantomjs|puppeteer|playwright') AS headless,
        regexp_matches(ua, 'bot|crawl|spider|slurp|curl/|wget/|python-requests|python-urllib|go-http-client|java/|scrapy') AS declared
    FROM (SELECT DISTINCT user_agent FROM raw WHERE user_agent IS NOT NULL)
)
SELECT user_agent, headless OR declared AS is_bot,
    CASE WHEN headless THEN 'headless' WHEN declared THEN 'declared' END AS bot_reason,
    CASE WHEN declared THEN nullif(regexp_extract(user_agent, '([A-Za-z]+[Bb]ot)', 1), '')
         WHEN contains(user_agent, 'Edg/') THEN 'Edge' WHEN contains(user_agent, 'OPR/') THEN 'Opera'
         WHEN contains(user_agent, 'Firefox/') THEN 'Firefox' WHEN contains(user_agent, 'CriOS/') THEN 'Chrome Mobile iOS'
         WHEN contains(user_agent, 'Chrome/') AND contains(user_agent, 'Mobile') THEN 'Chrome Mobile'
         WHEN contains(user_agent, 'Chrome/') THEN 'Chrome'
         WHEN contains(user_agent, 'Safari/') AND contains(user_agent, 'Mobile') THEN 'Mobile Safari'
         WHEN contains(user_agent, 'Safari/') THEN 'Safari' END AS browser,
    CASE WHEN NOT declared THEN nullif(regexp_extract(user_agent, '(?:Edg|OPR|Firefox|Chrome|CriOS|Version)/([0-9.]+)', 1), '')
        END AS browser_version,
    CASE WHEN regexp_matches(ua, 'iphone|ipad') THEN 'iOS' WHEN contains(ua, 'android') THEN 'Android'
         WHEN contains(ua, 'windows nt') THEN 'Windows' WHEN contains(ua, 'mac os x') THEN 'Mac OS X'
         WHEN contains(ua, 'linux') THEN 'Linux' END AS os,
    nullif(replace(regexp_extract(user_agent, '(?:iPhone OS|CPU OS|Mac OS X|Android|Windows NT) ([0-9._]+)', 1), '_', '.'), '') AS os_version,
    CASE WHEN headless OR declared THEN 'bot'
         WHEN regexp_matches(ua, 'ipad|tablet') OR contains(ua, 'android') AND NOT contains(ua, 'mobile') THEN 'tablet'
         WHEN os IN ('iOS', 'Android') THEN 'mobile' WHEN os IS NULL THEN 'other' ELSE 'desktop' END AS device_class
FROM marks;
"""

SESSIONIZE = """
CREATE TABLE kept AS
WITH firsts AS (
    SELECT rowid AS id, event_id, event_ts, coalesce(anonymous_id, network_id, device_id, user_id) AS visitor_id FROM raw
    QUALIFY row_number() OVER (PARTITION BY app_id, event_id ORDER BY received_ts, collector_id, wal_seq) = 1
), gaps AS (
    SELECT *, coalesce(event_ts - lag(event_ts) OVER visit >= INTERVAL 30 MINUTE, true) AS opens FROM firsts
    WINDOW visit AS (PARTITION BY visitor_id ORDER BY event_ts, event_id)
), numbered AS (
    SELECT *, sum(opens::INT) OVER (PARTITION BY visitor_id ORDER BY event_ts, event_id ROWS UNBOUNDED PRECEDING) AS nth
    FROM gaps
)
SELECT id, visitor_id,
    CASE WHEN visitor_id IS NOT NULL THEN hash(visitor_id, first_value(event_id) OVER session)::VARCHAR END AS session_id,
    CASE WHEN visitor_id IS NOT NULL THEN row_number() OVER session END::INT AS session_seq
FROM numbered WINDOW session AS (PARTITION BY visitor_id, nth ORDER BY event_ts, event_id);
"""

EVENTS = """
CREATE VIEW enriched AS
SELECT event_id, event_name, source_protocol, source_event_name, app_id, platform, event_ts,
    event_ts_reason, client_ts, sent_ts, received_ts, clock_skew_ms,
    received_ts - event_ts > INTERVAL 1 HOUR AS is_late, visitor_id, user_id, anonymous_id, network_id,
    device_id, client_session_id, session_id, session_seq, consent, page_url, page_host, page_path,
    page_query, page_title, referrer_url, referrer_host, utm_source, utm_medium, utm_campaign, utm_term,
    utm_content, click_id, click_id_type, {channel} AS channel, {version} AS channel_rules_version,
    user_agent, browser, browser_version, os, os_version, device_class, screen_width, screen_height,
    language, timezone, ip_truncated, country, region, city, coalesce(is_bot, false) AS is_bot, bot_reason,
    coalesce(validation, 'ok') AS validation, order_id, checkout_id, cart_id, currency, revenue, total, tax,
    shipping, discount, coupon, search_query, list_id, promotion_id, items, properties, context,
    collector_id, wal_seq, shard_id, sequence_number,
    (hash(event_name, visitor_id, page_url, order_id, properties, items) >> 1)::BIGINT AS content_hash,
    event_ts::DATE AS dt
FROM (
    SELECT *, coalesce(nullif(lower(trim(utm_source)), ''), {click_source}) AS src,
        coalesce(nullif(lower(trim(utm_medium)), ''), {click_medium},
            CASE WHEN regexp_matches(src, '{assistants}') THEN 'ai-assistant' END) AS med,
        nullif(lower(trim(utm_campaign)), '') AS camp,
        contains(med, 'cp') OR med IN ('ppc', 'retargeting') OR starts_with(med, 'paid') AS paid
    FROM (
    SELECT r.* REPLACE (coalesce(r.utm_source, p.utm_source) AS utm_source, coalesce(r.utm_medium, p.utm_medium) AS utm_medium,
            coalesce(r.utm_campaign, p.utm_campaign) AS utm_campaign, coalesce(r.utm_term, p.utm_term) AS utm_term,
            coalesce(r.utm_content, p.utm_content) AS utm_content, coalesce(r.click_id, p.click_id) AS click_id,
            CASE WHEN r.click_id IS NULL THEN p.click_id_type ELSE r.click_id_type END AS click_id_type),
        kept.* EXCLUDE (id), p.page_host, p.page_site, p.page_path, p.page_query,
        f.* EXCLUDE (referrer_url), a.* EXCLUDE (user_agent)
    FROM kept JOIN raw r ON r.rowid = kept.id
    LEFT JOIN pages p ON p.page_url = r.page_url LEFT JOIN agents a ON a.user_agent = r.user_agent
    LEFT JOIN referrers f ON f.referrer_url = r.referrer_url
));
"""

# transform's default channel rules (transform/src/decode/channels.rs).
CHANNEL = f"""CASE
        WHEN src IS NULL AND med IS NULL AND camp IS NULL THEN
            CASE WHEN referrer_host IS NULL THEN 'direct'
                 WHEN page_site = referrer_site THEN 'internal'
                 ELSE referrer_kind END
        WHEN src IN ('(direct)', 'direct') AND coalesce(med, '') IN ('', '(not set)', '(none)') THEN 'direct'
        WHEN contains(camp, 'cross-network') THEN 'cross_network'
        WHEN paid AND (regexp_matches(src, '{rules.SHOPPING}') OR regexp_matches(camp, '{rules.SHOP_CAMPAIGN}')) THEN 'paid_shopping'
        WHEN paid AND regexp_matches(src, '{rules.SEARCH}') THEN 'paid_search'
        WHEN paid AND regexp_matches(src, '{rules.SOCIAL}') THEN 'paid_social'
        WHEN paid AND regexp_matches(src, '{rules.VIDEO}') THEN 'paid_video'
        WHEN list_contains({rules.DISPLAY}, med) THEN 'display'
        WHEN list_contains({rules.PAID_SEARCH}, med) THEN 'paid_search'
        WHEN list_contains({rules.PAID_SOCIAL}, med) THEN 'paid_social'
        WHEN paid THEN 'paid_other'
        WHEN med = 'ai-assistant' THEN 'ai_assistant'
        WHEN regexp_matches(src, '{rules.SHOPPING}') OR regexp_matches(camp, '{rules.SHOP_CAMPAIGN}') THEN 'organic_shopping'
        WHEN regexp_matches(src, '{rules.SOCIAL}') OR list_contains({rules.SOCIAL_MEDIA}, med) THEN 'social'
        WHEN regexp_matches(src, '{rules.VIDEO}') OR contains(med, 'video') THEN 'organic_video'
        WHEN regexp_matches(src, '{rules.SEARCH}') OR med = 'organic' THEN 'organic_search'
        WHEN med IN ('referral', 'app', 'link') THEN 'referral'
        WHEN list_contains({rules.EMAIL}, src) OR list_contains({rules.EMAIL}, med) THEN 'email'
        WHEN med IN ('affiliate', 'affiliates') THEN 'affiliate'
        WHEN med = 'audio' THEN 'audio'
        WHEN src = 'sms' OR med = 'sms' THEN 'sms'
        WHEN ends_with(med, 'push') OR contains(med, 'mobile') OR contains(med, 'notification') OR src = 'firebase' THEN 'push'
        WHEN src = 'newsletter' OR med = 'newsletter' THEN 'email'
        ELSE 'unassigned' END"""


def of_click(part):
    """The source (0) or medium (1) of a click id's kind."""
    cases = " ".join(f"WHEN '{kind}' THEN '{names[part]}'" for kind, names in rules.CLICKS.items())
    return f"CASE click_id_type {cases} END"


SESSIONS = """
CREATE TABLE sessions AS
WITH gaps AS (
    SELECT *, event_ts - lag(event_ts) OVER (PARTITION BY session_id ORDER BY session_seq) AS gap
    FROM enriched WHERE session_id IS NOT NULL
), purchases AS (
    SELECT session_id, sum(revenue) AS revenue, count(*) AS orders,
        CASE WHEN count(DISTINCT currency) = 1 THEN min(currency) END AS currency
    FROM (SELECT session_id, order_id, revenue, currency FROM enriched
          WHERE event_name = 'purchase' AND session_id IS NOT NULL
          QUALIFY row_number() OVER (PARTITION BY session_id, order_id ORDER BY session_seq) = 1)
    GROUP BY session_id
), grouped AS (
    SELECT session_id, min(visitor_id) AS visitor_id, arg_max(user_id, session_seq) AS user_id,
        min(event_ts) AS started_at, max(event_ts) AS ended_at,
        sum(least(epoch_us(gap) // 1000, 300000)) FILTER (gap IS NOT NULL)::BIGINT AS engaged_ms, count(*) AS events,
        count(*) FILTER (event_name IN ('page_view', 'screen_view')) AS page_views,
        count(*) FILTER (event_name = 'product_view') AS product_views,
        count(*) FILTER (event_name = 'add_to_cart') AS add_to_carts,
        count(*) FILTER (event_name = 'begin_checkout') AS checkouts,
        count(*) FILTER (event_name = 'search') AS searches,
        count(*) FILTER (event_name = 'purchase') AS bought,
        arg_min(page_url, session_seq) AS landing_url, arg_min(page_path, session_seq) AS landing_path,
        arg_max(page_path, session_seq) AS exit_path,
        min(referrer_host) FILTER (session_seq = 1) AS referrer_host, min(channel) FILTER (session_seq = 1) AS channel,
        min(utm_source) FILTER (session_seq = 1) AS utm_source, min(utm_medium) FILTER (session_seq = 1) AS utm_medium,
        min(utm_campaign) FILTER (session_seq = 1) AS utm_campaign,
        arg_max(struct_pack(channel, utm_source, utm_campaign), session_seq)
            FILTER (channel NOT IN ('internal', 'direct')) AS last_touch,
        min(device_class) FILTER (session_seq = 1) AS device_class, min(browser) FILTER (session_seq = 1) AS browser,
        min(os) FILTER (session_seq = 1) AS os, min(language) FILTER (session_seq = 1) AS language,
        min(country) FILTER (session_seq = 1) AS country, min(region) FILTER (session_seq = 1) AS region,
        bool_or(is_bot) AS is_bot, count(*) FILTER (is_late) AS late_events
    FROM gaps GROUP BY session_id
)
SELECT session_id, visitor_id, user_id, started_at, ended_at,
    epoch_us(ended_at - started_at) // 1000 AS duration_ms, coalesce(engaged_ms, 0) AS engaged_ms,
    events = 1 AND bought = 0 AS is_bounce, events, page_views, product_views, add_to_carts, checkouts, searches,
    coalesce(orders, 0) AS orders, revenue::DECIMAL(18,4) AS revenue, currency,
    product_views > 0 AS has_product_view, add_to_carts > 0 AS has_add_to_cart, checkouts > 0 AS has_checkout,
    bought > 0 AS has_purchase, landing_url, landing_path, exit_path, referrer_host, channel, utm_source, utm_medium,
    utm_campaign, coalesce(last_touch.channel, channel) AS last_channel,
    last_touch.utm_source AS last_utm_source, last_touch.utm_campaign AS last_utm_campaign,
    device_class, browser, os, language, country, region, is_bot, late_events, started_at::DATE AS dt
FROM grouped LEFT JOIN purchases USING (session_id);
"""

ORDERS = """
CREATE TABLE orders AS
SELECT order_id, customer_id, ordered_at::TIMESTAMP AS ordered_at, status, currency,
    subtotal::DECIMAL(18,4) AS subtotal, discount::DECIMAL(18,4) AS discount, tax::DECIMAL(18,4) AS tax,
    shipping::DECIMAL(18,4) AS shipping, total::DECIMAL(18,4) AS total, refunded::DECIMAL(18,4) AS refunded,
    coupon, country, region, city, channel_hint
FROM '{lake}/exports/rds/*/shop/public.orders/*/*.parquet';

CREATE TABLE order_items AS
SELECT order_id, product_id, quantity, unit_price::DECIMAL(18,4) AS unit_price, discount::DECIMAL(18,4) AS discount
FROM '{lake}/exports/rds/*/shop/public.order_items/*/*.parquet';

CREATE TABLE products AS
SELECT Item.product_id.S AS product_id, Item.name.S AS name, Item.brand.S AS brand, Item.category.S AS category,
    Item.price.N::DECIMAL(18,4) AS price, Item.currency.S AS currency, Item.stock.N::BIGINT AS stock
FROM read_json('{lake}/exports/dynamodb/AWSDynamoDB/*/data/*.json.gz', format = 'newline_delimited', columns = {{Item:
    'STRUCT(product_id STRUCT(S VARCHAR), name STRUCT(S VARCHAR), brand STRUCT(S VARCHAR), category STRUCT(S VARCHAR),
     price STRUCT(N VARCHAR), currency STRUCT(S VARCHAR), stock STRUCT(N VARCHAR))'}});

CREATE TABLE orders_enriched AS
WITH bought AS (
    SELECT order_id, event_id, app_id, event_ts, coalesce(total, revenue) AS amount, currency, tax, shipping, coupon,
        country, region, city, user_id, visitor_id, session_id
    FROM enriched WHERE event_name = 'purchase' AND order_id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY order_id ORDER BY event_ts, app_id, event_id) = 1
), joined AS (
    SELECT o.*, b.order_id AS event_order_id, b.event_id, b.app_id AS event_app_id, b.event_ts, b.amount, b.visitor_id,
        b.session_id
    FROM orders o LEFT JOIN bought b
        ON o.order_id = b.order_id AND abs(date_diff('day', b.event_ts::DATE, o.ordered_at::DATE)) <= 7
    UNION ALL BY NAME
    SELECT NULL AS order_id, order_id AS event_order_id, user_id AS customer_id, event_ts AS ordered_at, currency, tax,
        shipping, coupon, country, region, city, event_id, app_id AS event_app_id, event_ts, amount, visitor_id, session_id
    FROM bought b WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.order_id = b.order_id
        AND abs(date_diff('day', b.event_ts::DATE, o.ordered_at::DATE)) <= 7)
)
SELECT coalesce(order_id, event_order_id) AS order_id,
    CASE WHEN event_order_id IS NULL THEN 'order_only' WHEN order_id IS NULL THEN 'event_only'
         WHEN amount IS NULL OR amount IN (total, subtotal - coalesce(discount, 0), subtotal) THEN 'matched'
         ELSE 'value_mismatch' END AS match_status,
    customer_id, ordered_at, status, j.currency, subtotal, discount, tax, shipping, total, refunded,
    (total - coalesce(refunded, 0))::DECIMAL(18,4) AS net_total, coupon, j.country, j.region, city, channel_hint,
    event_id, event_app_id, event_ts, amount AS event_total,
    CASE WHEN event_order_id IS NULL THEN total END AS missed_total, j.visitor_id, j.session_id,
    s.started_at AS session_started_at, epoch_us(ordered_at - s.started_at) // 1000 AS latency_ms,
    s.last_channel AS channel, s.last_utm_source AS utm_source, s.last_utm_campaign AS utm_campaign, s.device_class,
    ordered_at::DATE AS dt
FROM joined j LEFT JOIN sessions s ON s.session_id = j.session_id;
"""

PRODUCT_DAILY = """
CREATE TABLE product_daily AS
WITH seen AS (
    SELECT item.product_id AS product_id, dt, min(item.category) AS category,
        min(item.name) AS name, min(item.brand) AS brand,
        count(*) FILTER (event_name IN ('product_list_view', 'product_list_filter', 'search')) AS impressions,
        count(*) FILTER (event_name = 'product_click') AS clicks,
        count(*) FILTER (event_name = 'product_view') AS views,
        count(DISTINCT visitor_id) FILTER (event_name = 'product_view') AS viewers,
        count(*) FILTER (event_name = 'add_to_cart') AS carts
    FROM (SELECT event_name, visitor_id, dt, unnest(items) AS item FROM enriched WHERE NOT is_bot
)
    WHERE item.product_id IS NOT NULL GROUP BY ALL
), sold AS (
    SELECT product_id, ordered_at::DATE AS dt, count(DISTINCT order_id) FILTER (quantity > 0) AS orders,
        sum(quantity) AS units, sum(quantity * unit_price - coalesce(i.discount, 0)) AS revenue
    FROM order_items i JOIN orders USING (order_id) GROUP BY ALL
)
SELECT product_id, coalesce(p.name, seen.name) AS name, coalesce(p.brand, seen.brand) AS brand,
    CASE WHEN p.product_id IS NULL THEN seen.category ELSE p.category END AS category,
    coalesce(impressions, 0) AS impressions, coalesce(clicks, 0) AS clicks, coalesce(views, 0) AS views,
    coalesce(viewers, 0) AS viewers, coalesce(carts, 0) AS carts, coalesce(orders, 0) AS orders,
    coalesce(units, 0)::BIGINT AS units, revenue::DECIMAL(18,4) AS revenue,
    coalesce(orders, 0) / nullif(views, 0) AS conversion, p.price, p.currency, p.stock, false AS asof_backfilled, dt
FROM seen FULL JOIN sold USING (product_id, dt) LEFT JOIN products p USING (product_id);
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--memory-gb", type=int, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    # A database file, so that what does not fit spills compressed.
    db = duckdb.connect(
        str(args.out / "work.duckdb"),
        config={"memory_limit": f"{args.memory_gb}GB", "preserve_insertion_order": "false"},
    )
    fill = dict(lake=args.lake, columns=COLUMNS)
    db.execute(LOAD.format(**fill))
    db.execute(DIMENSIONS.replace('{shopping}', rules.SHOPPING).replace('{social}', rules.SOCIAL)
               .replace('{video}', rules.VIDEO).replace('{search}', rules.SEARCH)
               .replace('{assistants}', rules.ASSISTANTS).replace('{passed_through}', rules.PASSED_THROUGH)
               .replace('{registrable}', rules.REGISTRABLE))
    db.execute(SESSIONIZE)
    db.execute(EVENTS.format(
        channel=CHANNEL, version=rules.VERSION, click_source=of_click(0), click_medium=of_click(1),
        assistants=rules.ASSISTANTS))
    write(db, args.out, "events", "enriched")
    db.execute(f"CREATE OR REPLACE VIEW enriched AS FROM read_parquet('{args.out}/events/*/*.parquet', hive_partitioning = true)")
    db.execute(SESSIONS)
    write(db, args.out, "sessions")
    db.execute(ORDERS.format(**fill))
    write(db, args.out, "orders_enriched")
    db.execute(PRODUCT_DAILY)
    write(db, args.out, "product_daily")


def write(db, out, table, source=None):
    db.execute(
        f"COPY (FROM {source or table}) TO '{out / table}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARTITION_BY (dt))"
    )


if __name__ == "__main__":
    main()
