"""Writes the input of E1: a week of a shop's clicks in a lake's raw zone, with its exports.

What it writes is what a collector, an RDS snapshot export and a DynamoDB
export would have left there:

    raw/events/dt=/hour=/<collector>-<first>-<last>.json.gz   canonical event lines, by arrival hour
    _clickmill/delivery/collector/<collector>/<ordinal>.json  the landing commits that name them
    exports/rds/...                                           orders, order_items, customers (Parquet)
    exports/dynamodb/...                                      the catalog (DynamoDB JSON, gz)

Everything follows from hashes of counters, so the same DuckDB version, rows
and seed give the same lines. About 1.5 % of the events are sent twice (the
same event_id, received later, often by the other collector), 1 % arrive 1 to
36 hours late, 2 % come from declared bots. Products follow Zipf's law. 2.5 %
of the orders have no purchase event, 0.5 % of the purchases have no order and
0.5 % carry another total than their order.

No visitor is active for 24 hours without a pause of 30 minutes; this is
checked here, because it lets the engines that E1 compares leave out the
24 hour cap, for which SQL has no short form.
"""

import argparse
import base64
import concurrent.futures
import gzip
import hashlib
import json
import os
import pathlib
import shutil

import crc32c
import duckdb

FIRST_DAY = "2026-11-09"
DAYS = 7
# The catalog is exported before the week, the orders after it.
CATALOG_TIME = "2026-11-08T23:00:00.000Z"
EXPORT_TIME = "2026-11-17T12:00:00.000Z"
PRODUCTS = 20_000
EVENTS_PER_VISITOR = 15.6
COLLECTORS = ("0b9c6f52-3f4e-4f0a-9d57-6f1f6a0c1e01", "c41d2a77-8a53-4c19-b1f4-2f9be07d7702")
# The cut of an embedded delivery: an arrival hour, or this many lines.
LINES_PER_OBJECT = 100_000

MACROS = """
CREATE MACRO u(a, salt) AS ((hash(a, salt, {seed}) >> 24)::DOUBLE / 1099511627776.0);
CREATE MACRO pick(list, a, salt) AS list[1 + floor(u(a, salt) * len(list))::INT];
CREATE MACRO uuid_of(text) AS (
    substr(md5(text), 1, 8) || '-' || substr(md5(text), 9, 4) || '-4' || substr(md5(text), 14, 3)
    || '-a' || substr(md5(text), 18, 3) || '-' || substr(md5(text), 21, 12));
CREATE MACRO rank_of(a, salt) AS floor(exp(u(a, salt) * ln({products} + 1)))::BIGINT;
CREATE MACRO product_of(k) AS 'P' || lpad(k::VARCHAR, 5, '0');
CREATE MACRO price_cents(k) AS (199 + floor(u(k, 'price') * u(k, 'price2') * 30000))::BIGINT;
CREATE MACRO brand_of(k) AS pick(['Alder','Birch','Cedar','Dogwood','Elm','Fir','Ginkgo','Hazel',
    'Ivy','Juniper','Larch','Maple','Oak','Pine','Rowan','Spruce','Willow','Yew'], k, 'brand');
CREATE MACRO dept_of(k) AS pick(['Kitchen','Garden','Office','Toys','Sport','Books','Shoes','Lamps'], k, 'dept');
CREATE MACRO sub_of(k) AS pick(['Basics','Classic','Outdoor','Studio','Kids'], k, 'sub');
CREATE MACRO name_of(k) AS brand_of(k) || ' ' || dept_of(k) || ' item ' || k;
CREATE MACRO amount(c) AS (c // 100)::VARCHAR || CASE WHEN c % 100 = 0 THEN ''
    ELSE rtrim('.' || lpad((c % 100)::VARCHAR, 2, '0'), '0') END;
CREATE MACRO item_json(k, quantity, pos) AS '{{"product_id":"' || product_of(k) || '","name":"' || name_of(k)
    || '","brand":"' || brand_of(k) || '","category":"' || dept_of(k) || '/' || sub_of(k)
    || '","price":' || amount(price_cents(k)) || coalesce(',"quantity":' || quantity::VARCHAR, '')
    || coalesce(',"position":' || pos::VARCHAR, '') || '}}';
CREATE MACRO rfc3339(t) AS strftime(t, '%Y-%m-%dT%H:%M:%S.%fZ');
CREATE MACRO text_field(key, value) AS coalesce(',"' || key || '":"' || value || '"', '');
CREATE MACRO bare_field(key, value) AS coalesce(',"' || key || '":' || value::VARCHAR, '');
"""

SESSIONS = """
CREATE TABLE visits AS
WITH visitors AS (
    SELECT v, 1 + least(11, floor(-ln(1 - u(v, 'visits'))))::BIGINT AS visits FROM range({visitors}) t(v)
), numbered AS (
    SELECT v, v * 16 + unnest(range(visits)) AS s FROM visitors
)
SELECT v, s,
    TIMESTAMP '{first_day}' + to_days(floor(u(s, 'day') * {days})::INT)
        + to_microseconds(floor(86400e6 * least(0.9999, greatest(0, 0.62 + 0.48
            * (u(s, 'h1') + u(s, 'h2') + u(s, 'h3') - 1.5))))::BIGINT) AS start_ts,
    CASE WHEN u(s, 'bounce') < 0.3 THEN 1
         ELSE 2 + least(78, floor(-12 * ln(1 - u(s, 'length'))))::INT END AS n,
    u(s, 'intent') AS intent,
    u(v, 'bot') < 0.02 AS bot
FROM numbered;
"""

EVENTS = """
CREATE TABLE clicks AS
WITH steps AS (
    SELECT *, unnest(range(n)) AS p FROM visits
), kinds AS (
    SELECT *, s * 128 + p AS e,
        NOT bot AND n >= 6 AND intent < 0.05 AS buys,
        CASE WHEN p = 0 THEN 0
             WHEN u(s * 128 + p, 'pause') < 0.004 THEN 1800e6 + 1500e6 * u(s * 128 + p, 'gap')
             ELSE least(1500e6, -35e6 * ln(1 - u(s * 128 + p, 'gap'))) END::BIGINT AS gap_us,
        u(s * 128 + p, 'kind') AS kind
    FROM steps
)
SELECT v, s, p, e, buys, bot,
    start_ts + to_microseconds(sum(gap_us) OVER (PARTITION BY s ORDER BY p)::BIGINT) AS event_ts,
    CASE WHEN p = 0 THEN 'page_view'
         WHEN buys AND p = n - 1 THEN 'purchase'
         WHEN buys AND p = n - 2 THEN 'payment_info'
         WHEN buys AND p = n - 3 THEN 'begin_checkout'
         WHEN buys AND p = n - 4 THEN 'add_to_cart'
         WHEN kind < 0.28 THEN 'page_view'
         WHEN kind < 0.38 THEN 'product_list_view'
         WHEN kind < 0.45 THEN 'search'
         WHEN kind < 0.50 THEN 'product_click'
         WHEN kind < 0.93 OR intent > 0.25 THEN 'product_view'
         WHEN kind < 0.98 THEN 'add_to_cart'
         ELSE 'remove_from_cart' END AS event_name,
    rank_of(s * 128 + p, 'product') AS k,
    CASE WHEN u(v, 'skewed') < 0.01 THEN floor(7200000 * (u(v, 'skew') - 0.5))::BIGINT
         ELSE floor(4000 * (u(v, 'skew') - 0.5))::BIGINT END AS skew_ms,
    CASE WHEN u(s * 128 + p, 'late') < 0.01 THEN 3600e6 + 35 * 3600e6 * u(s * 128 + p, 'delay')
         ELSE 50e3 + 2e6 * u(s * 128 + p, 'delay') * u(s * 128 + p, 'delay2') END::BIGINT AS delay_us
FROM kinds;

-- One row a purchase, with what its order will say. Amounts are cents.
CREATE TABLE baskets AS
WITH lines AS (
    SELECT e, line, rank_of(e * 8 + line, 'bought') AS k,
        1 + floor(3 * u(e * 8 + line, 'q1') * u(e * 8 + line, 'q2'))::BIGINT AS quantity
    FROM (SELECT e, unnest(range(1, 2 + floor(4 * u(e, 'n1') * u(e, 'n2'))::INT)) AS line
          FROM clicks WHERE event_name = 'purchase')
), sums AS (
    SELECT e, list(struct_pack(line := line, k := k, quantity := quantity) ORDER BY line) AS lines,
        sum(price_cents(k) * quantity)::BIGINT AS subtotal
    FROM lines GROUP BY e
), priced AS (
    SELECT *, CASE WHEN u(e, 'coupon') < 0.15 THEN subtotal // 10 ELSE 0 END AS discount,
        CASE WHEN subtotal < 5000 THEN 499 ELSE 0 END AS shipping,
        subtotal // 5 AS tax
    FROM sums
)
SELECT e, lines, subtotal, discount, shipping, tax, subtotal - discount + shipping + tax AS total,
    'O-' || lpad(row_number() OVER (ORDER BY e)::VARCHAR, 8, '0') AS order_id,
    u(e, 'tracked') >= 0.025 AS tracked, u(e, 'recorded') >= 0.005 AS recorded,
    CASE WHEN u(e, 'mismatch') < 0.005 THEN 1 ELSE 0 END AS wrong_by
FROM priced;
"""

LINES = """
CREATE TABLE lines AS
WITH sent AS (
    SELECT c.*, false AS again, delay_us AS wait_us FROM clicks c
    WHERE event_name <> 'purchase' OR e IN (SELECT e FROM baskets WHERE tracked)
    UNION ALL
    SELECT c.*, true AS again,
        delay_us + (1e6 + CASE WHEN u(e, 'again') < 0.1 THEN 20 * 3600e6 ELSE 600e6 END * u(e, 'again2'))::BIGINT
    FROM clicks c WHERE u(e, 'twice') < 0.015
        AND (event_name <> 'purchase' OR e IN (SELECT e FROM baskets WHERE tracked))
), received AS (
    SELECT *, event_ts + to_microseconds(wait_us) AS received_ts,
        floor(2 * u(e, again::VARCHAR || 'collector'))::INT AS collector
    FROM sent
), heads AS (
    SELECT r.*, b.* EXCLUDE (e),
        event_ts + to_milliseconds(skew_ms) AS client_ts,
        event_ts + to_milliseconds(skew_ms) + to_microseconds(wait_us) AS sent_ts,
        u(s, 'referrer') AS via, u(v, 'device') AS device, u(v, 'place') AS place,
        uuid_of('visitor' || v) AS anonymous_id
    FROM received r LEFT JOIN baskets b USING (e)
)
SELECT collector, received_ts,
    row_number() OVER (PARTITION BY collector ORDER BY received_ts, e, again) AS wal_seq,
    v, event_ts,
    '{{"event_id":"' || uuid_of('event' || e) || '","event_name":"' || event_name
    || '","source_protocol":"segment","source_event_name":"' || CASE event_name
        WHEN 'page_view' THEN 'page' WHEN 'product_view' THEN 'Product Viewed'
        WHEN 'product_list_view' THEN 'Product List Viewed' WHEN 'search' THEN 'Products Searched'
        WHEN 'product_click' THEN 'Product Clicked' WHEN 'add_to_cart' THEN 'Product Added'
        WHEN 'remove_from_cart' THEN 'Product Removed' WHEN 'begin_checkout' THEN 'Checkout Started'
        WHEN 'payment_info' THEN 'Payment Info Entered' ELSE 'Order Completed' END
    || '","app_id":"shop","platform":"web","event_ts":"' || rfc3339(event_ts)
    || '","client_ts":"' || rfc3339(client_ts) || '","sent_ts":"' || rfc3339(sent_ts)
    || '","received_ts":"' || rfc3339(received_ts) || '","clock_skew_ms":' || skew_ms
    || text_field('user_id', CASE WHEN buys OR u(s, 'login') < 0.12 THEN 'C-' || v END)
    || ',"anonymous_id":"' || anonymous_id || '"'
    || text_field('page_url', 'https://shop.example' || CASE event_name
        WHEN 'page_view' THEN CASE WHEN p = 0 AND via > 0.5 THEN '/' || lower(dept_of(k)) ELSE '/' END
        WHEN 'product_list_view' THEN '/c/' || lower(dept_of(k)) || '/' || lower(sub_of(k))
        WHEN 'search' THEN '/search?q=' || lower(dept_of(k))
        WHEN 'begin_checkout' THEN '/checkout' WHEN 'payment_info' THEN '/checkout/payment'
        WHEN 'purchase' THEN '/checkout/thanks' ELSE '/p/' || product_of(k) END
        || CASE WHEN p = 0 AND via > 0.8 THEN '?utm_source=' || pick(['google','facebook','newsletter'], s, 'src')
           || '&utm_medium=' || pick(['cpc','email','social'], s, 'medium') ELSE '' END)
    || text_field('page_title', CASE event_name WHEN 'page_view' THEN 'Home' WHEN 'search' THEN 'Search'
        WHEN 'product_list_view' THEN dept_of(k) WHEN 'purchase' THEN 'Thank you' ELSE name_of(k) END)
    || text_field('referrer_url', CASE WHEN event_name = 'purchase' AND via > 0.3 THEN 'https://www.paypal.com/'
        WHEN event_name = 'purchase' THEN 'https://www.shop.example/' WHEN p > 0 THEN 'https://shop.example/'
        WHEN via < 0.03 THEN 'https://chatgpt.com/' WHEN via < 0.05 THEN 'https://mail.google.com/'
        WHEN via < 0.35 THEN 'https://www.google.com/'
        WHEN via < 0.42 THEN 'https://www.facebook.com/' WHEN via < 0.5 THEN 'https://blog.example/reviews' END)
    || CASE WHEN p = 0 AND via > 0.8 THEN '' ||
        text_field('utm_source', pick(['google','facebook','newsletter'], s, 'src'))
        || text_field('utm_medium', pick(['cpc','email','social'], s, 'medium'))
        || text_field('utm_campaign', 'week-' || floor(10 * u(s, 'campaign'))::INT) ELSE '' END
    || text_field('user_agent', CASE WHEN bot THEN 'Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)'
        WHEN device < 0.45 THEN 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1'
        WHEN device < 0.65 THEN 'Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36'
        WHEN device < 0.90 THEN 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36'
        WHEN device < 0.95 THEN 'Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0'
        ELSE 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15' END)
    || CASE WHEN device < 0.65 THEN ',"screen_width":390,"screen_height":844' ELSE ',"screen_width":1920,"screen_height":1080' END
    || ',"language":"' || CASE WHEN place < 0.5 THEN 'en-US' WHEN place < 0.7 THEN 'en-GB' ELSE 'de-DE' END
    || '","timezone":"' || CASE WHEN place < 0.5 THEN 'America/New_York' WHEN place < 0.7 THEN 'Europe/London' ELSE 'Europe/Berlin' END
    || '","country":"' || CASE WHEN place < 0.5 THEN 'US' WHEN place < 0.7 THEN 'GB' ELSE 'DE' END || '"'
    || text_field('order_id', order_id)
    || text_field('checkout_id', CASE WHEN event_name IN ('begin_checkout', 'payment_info', 'purchase') THEN 'K-' || s END)
    || text_field('cart_id', CASE WHEN event_name IN ('add_to_cart', 'remove_from_cart') THEN 'B-' || s END)
    || text_field('currency', CASE WHEN event_name NOT IN ('page_view', 'search', 'product_list_view') THEN 'USD' END)
    || bare_field('revenue', amount(subtotal - discount)) || bare_field('total', amount(total + wrong_by))
    || bare_field('tax', amount(tax)) || bare_field('shipping', amount(shipping)) || bare_field('discount', amount(discount))
    || text_field('coupon', CASE WHEN discount > 0 THEN 'TENOFF' END)
    || text_field('search_query', CASE WHEN event_name = 'search' THEN lower(dept_of(k) || ' ' || sub_of(k)) END)
    || text_field('list_id', CASE WHEN event_name = 'product_list_view' THEN lower(dept_of(k)) END)
    || coalesce(',"items":' || CASE
        WHEN event_name = 'purchase' THEN '[' || array_to_string(list_transform(lines, lambda l: item_json(l.k, l.quantity, NULL)), ',') || ']'
        WHEN event_name = 'product_list_view' THEN '[' || array_to_string(list_transform(range(1, 7), lambda i: item_json(1 + (k + i * 37) % {products}, NULL, i)), ',') || ']'
        WHEN event_name IN ('product_view', 'product_click') THEN '[' || item_json(k, NULL, NULL) || ']'
        WHEN event_name IN ('add_to_cart', 'remove_from_cart') THEN '[' || item_json(k, 1, NULL) || ']' END, '')
    || ',"properties":{{"theme":"' || pick(['light','dark'], v, 'theme') || '","experiment":"b' || (v % 5) || '"}}'
    || ',"context":{{"library":{{"name":"analytics.js","version":"2.11.1"}}}}' AS head
FROM heads;
"""

ORDERS = """
CREATE TABLE orders AS
SELECT b.*, c.v, c.event_ts + to_microseconds(floor(900e3 * u(b.e, 'clerk'))::BIGINT) AS ordered_at
FROM baskets b JOIN clicks c USING (e) WHERE recorded;
"""

# An RDS snapshot export of Postgres writes decimals and timestamps as strings.
RDS = {
    "orders": """SELECT order_id, 'C-' || v AS customer_id,
        strftime(ordered_at, '%Y-%m-%d %H:%M:%S.%f') AS ordered_at,
        CASE WHEN u(e, 'status') < 0.03 THEN 'cancelled' ELSE 'completed' END AS status,
        'USD' AS currency, printf('%d.%02d', subtotal // 100, subtotal % 100) AS subtotal,
        printf('%d.%02d', discount // 100, discount % 100) AS discount,
        printf('%d.%02d', tax // 100, tax % 100) AS tax,
        printf('%d.%02d', shipping // 100, shipping % 100) AS shipping,
        printf('%d.%02d', total // 100, total % 100) AS total, '0.00' AS refunded,
        CASE WHEN discount > 0 THEN 'TENOFF' END AS coupon,
        CASE WHEN u(v, 'place') < 0.5 THEN 'US' WHEN u(v, 'place') < 0.7 THEN 'GB' ELSE 'DE' END AS country,
        NULL::VARCHAR AS region, NULL::VARCHAR AS city, NULL::VARCHAR AS channel_hint
        FROM orders ORDER BY order_id""",
    "order_items": """SELECT order_id, l.line::INT AS line, product_of(l.k) AS product_id, l.quantity AS quantity,
        printf('%d.%02d', price_cents(l.k) // 100, price_cents(l.k) % 100) AS unit_price, '0.00' AS discount
        FROM (SELECT order_id, unnest(lines) AS l FROM orders) ORDER BY order_id, line""",
    "customers": """SELECT 'C-' || v AS customer_id,
        strftime(TIMESTAMP '2026-01-01' + to_seconds(floor(26e6 * u(v, 'since'))::BIGINT), '%Y-%m-%d %H:%M:%S.%f') AS created_at,
        CASE WHEN u(v, 'place') < 0.5 THEN 'US' WHEN u(v, 'place') < 0.7 THEN 'GB' ELSE 'DE' END AS country,
        NULL::VARCHAR AS region, NULL::VARCHAR AS city, sha256('c' || v) AS email_hash,
        u(v, 'marketing') < 0.4 AS marketing_consent
        FROM (SELECT DISTINCT v FROM orders) ORDER BY v""",
}
DECIMALS = {"subtotal", "discount", "tax", "shipping", "total", "refunded", "unit_price"}

CATALOG = """
SELECT '{"Item":{"product_id":{"S":"' || product_of(k) || '"},"sku":{"S":"S' || k || '"},"name":{"S":"' || name_of(k)
    || '"},"brand":{"S":"' || brand_of(k) || '"},"category":{"S":"' || dept_of(k) || '/' || sub_of(k)
    || '"},"category_path":{"S":"' || dept_of(k) || '/' || sub_of(k) || '"},"price":{"N":"' || amount(price_cents(k))
    || '"},"cost":{"N":"' || amount(price_cents(k) * 6 // 10) || '"},"currency":{"S":"USD"},"stock":{"N":"'
    || floor(500 * u(k, 'stock'))::INT || '"},"active":{"BOOL":true}}}'
FROM range(1, {products} + 1) t(k) WHERE k % {parts} = {part} ORDER BY k
"""


def visitors_for(rows):
    """Enough that at least `rows` lines come out: the mean, and five times how far it strays."""
    mean = rows / EVENTS_PER_VISITOR
    return int(mean + 5 * mean**0.5) + 1


def assert_no_session_reaches_the_cap(db):
    longest = db.execute("""
        WITH gaps AS (
            SELECT v, event_ts, coalesce(event_ts - lag(event_ts) OVER w > INTERVAL 30 MINUTE, true) AS opens
            FROM clicks WINDOW w AS (PARTITION BY v ORDER BY event_ts)
        ), numbered AS (
            SELECT v, event_ts, sum(opens::INT) OVER (PARTITION BY v ORDER BY event_ts) AS n FROM gaps
        )
        SELECT max(length) FROM (SELECT max(event_ts) - min(event_ts) AS length FROM numbered GROUP BY v, n)
    """).fetchone()[0]
    if longest.total_seconds() >= 20 * 3600:
        raise SystemExit(f"a session of {longest} comes close to the 24 h cap: choose another seed")


def write_raw(db, lake):
    """One object an arrival hour and collector, one landing commit an object."""
    chains = []
    for collector, name in enumerate(COLLECTORS):
        hours = db.execute(
            """SELECT strftime(received_ts, '%Y-%m-%d'), strftime(received_ts, '%H'),
                      min(wal_seq), max(wal_seq)
               FROM lines WHERE collector = ? GROUP BY ALL ORDER BY 3""",
            [collector],
        ).fetchall()
        cuts = [
            (day, hour, at, min(at + LINES_PER_OBJECT - 1, last))
            for day, hour, first, last in hours
            for at in range(first, last + 1, LINES_PER_OBJECT)
        ]
        chains.append((collector, name, cuts))

    def write_object(collector, name, day, hour, first, last):
        path = f"raw/events/dt={day}/hour={hour}/{name}-{first}-{last}.json.gz"
        (lake / path).parent.mkdir(parents=True, exist_ok=True)
        cursor = db.cursor()
        cursor.execute(
            f"""COPY (SELECT head || ',"collector_id":"{name}","wal_seq":' || wal_seq || '}}' FROM lines
                      WHERE collector = {collector} AND wal_seq BETWEEN {first} AND {last} ORDER BY wal_seq)
                TO '{lake / path}' (FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\t', COMPRESSION gzip)"""
        )
        dates, oldest, newest = cursor.execute(
            """SELECT list(DISTINCT strftime(event_ts, '%Y-%m-%d')), rfc3339(min(received_ts)), rfc3339(max(received_ts))
               FROM lines WHERE collector = ? AND wal_seq BETWEEN ? AND ?""",
            [collector, first, last],
        ).fetchone()
        return path, sorted(dates), oldest, newest

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for collector, name, cuts in chains:
            written = pool.map(lambda cut: write_object(collector, name, *cut), cuts)
            for ordinal, ((_, _, first, last), landed) in enumerate(zip(cuts, written), start=1):
                write_commit(lake, name, ordinal, first, last, *landed)
    return sum(cuts[-1][3] for _, _, cuts in chains)


def write_commit(lake, collector, ordinal, first, last, path, dates, oldest, newest):
    """As docs/landing.md has it, version 1."""
    stored = (lake / path).read_bytes()
    commit = {
        "version": 1,
        "source": f"collector/{collector}",
        "ordinal": ordinal,
        "after": str(first - 1) if ordinal > 1 else None,
        "first": str(first),
        "last": str(last),
        "closed": False,
        "objects": [
            {
                "path": path,
                "kind": "events",
                "records": last - first + 1,
                "bytes": len(stored),
                "crc32c": f"{crc32c.crc32c(stored):08x}",
                "event_dates": dates,
                "min_received_ts": oldest,
                "max_received_ts": newest,
            }
        ],
        "committed_at": newest,
    }
    target = lake / f"_clickmill/delivery/collector/{collector}/{ordinal:020}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(commit, separators=(",", ":")) + "\n")


def write_rds(db, lake):
    folder = lake / "exports/rds/e1-snapshot"
    status = []
    for table, query in RDS.items():
        part = folder / f"shop/public.{table}/1/part-00000-e1.gz.parquet"
        part.parent.mkdir(parents=True)
        db.execute(f"COPY ({query}) TO '{part}' (FORMAT parquet, COMPRESSION gzip)")
        columns = [(name, kind) for name, kind, *_ in db.execute(f"DESCRIBE {query}").fetchall()]
        mappings = [
            {
                "columnName": name,
                "originalType": "numeric(18,4)" if name in DECIMALS
                else "timestamp with time zone" if name.endswith("_at") else kind.lower(),
                "expectedExportedType": "binary (UTF8)",
            }
            for name, kind in columns
        ]
        status.append(
            {
                "target": f"shop.public.{table}",
                "status": "COMPLETE",
                "schemaMetadata": {"originalTypeMappings": mappings},
            }
        )
    info = {
        "exportTaskIdentifier": "e1-snapshot",
        "sourceArn": "arn:aws:rds:eu-central-1:000000000000:snapshot:e1",
        "exportOnly": [],
        "snapshotTime": EXPORT_TIME,
        "taskStartTime": EXPORT_TIME,
        "taskEndTime": EXPORT_TIME,
        "s3Bucket": "e1",
        "s3Prefix": "exports/rds",
        "exportedFilesPath": "exports/rds/e1-snapshot",
        "iamRoleArn": "arn:aws:iam::000000000000:role/export",
        "kmsKeyId": "arn:aws:kms:eu-central-1:000000000000:key/e1",
        "status": "COMPLETE",
        "percentProgress": 100,
        "totalExportedDataInGB": 0,
    }
    (folder / "export_info_e1-snapshot.json").write_text(json.dumps(info))
    (folder / "export_tables_info_e1-snapshot_from_1_to_3.json").write_text(
        json.dumps({"perTableStatus": status})
    )


def write_catalog(db, lake):
    """A full export of two data files and an empty one, with manifests and checksums."""
    export = "01762646400000-e1e1e1e1"
    prefix = f"exports/dynamodb/AWSDynamoDB/{export}"
    folder = lake / prefix
    (folder / "data").mkdir(parents=True)
    (folder / "_started").touch()
    parts = 2
    manifest = []
    for part in range(parts + 1):
        query = CATALOG.replace("{products}", str(PRODUCTS)).replace("{parts}", str(parts))
        lines = [row[0] for row in db.execute(query.replace("{part}", str(part))).fetchall()]
        # mtime 0, so that the same lines give the same bytes.
        data = gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)
        name = f"data/e1part{part:020}.json.gz"
        (folder / name).write_bytes(data)
        digest = hashlib.md5(data)
        manifest.append(
            {
                "itemCount": len(lines),
                "md5Checksum": base64.b64encode(digest.digest()).decode(),
                "etag": f"{digest.hexdigest()}-1",
                "dataFileS3Key": f"{prefix}/{name}",
            }
        )
    write_with_checksum(folder, "manifest-files", "".join(json.dumps(m) + "\n" for m in manifest))
    arn = "arn:aws:dynamodb:eu-central-1:000000000000:table/products"
    summary = {
        "version": "2020-06-30",
        "exportArn": f"{arn}/export/{export}",
        "startTime": CATALOG_TIME,
        "endTime": CATALOG_TIME,
        "tableArn": arn,
        "tableId": "e1e1e1e1-0000-4000-a000-000000000001",
        "exportTime": CATALOG_TIME,
        "s3Bucket": "e1",
        "s3Prefix": "exports/dynamodb",
        "s3SseAlgorithm": "AES256",
        "s3SseKmsKeyId": None,
        "manifestFilesS3Key": f"{prefix}/manifest-files.json",
        "billedSizeBytes": sum(m["itemCount"] for m in manifest) * 256,
        "itemCount": sum(m["itemCount"] for m in manifest),
        "outputFormat": "DYNAMODB_JSON",
    }
    write_with_checksum(folder, "manifest-summary", json.dumps(summary))


def write_with_checksum(folder, name, text):
    (folder / f"{name}.json").write_text(text)
    checksum = base64.b64encode(hashlib.md5(text.encode()).digest()).decode()
    (folder / f"{name}.checksum").write_text(checksum)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lake", type=pathlib.Path, required=True)
    args = parser.parse_args()

    shutil.rmtree(args.lake, ignore_errors=True)
    args.lake.mkdir(parents=True)
    work = args.lake / "generate.duckdb"
    db = duckdb.connect(str(work), config={"memory_limit": "8GB", "preserve_insertion_order": "true"})
    fill = dict(
        rows=args.rows,
        seed=args.seed,
        visitors=visitors_for(args.rows),
        products=PRODUCTS,
        first_day=FIRST_DAY,
        days=DAYS,
    )
    for statements in (MACROS, SESSIONS, EVENTS, LINES, ORDERS):
        db.execute(statements.format(**fill))
    assert_no_session_reaches_the_cap(db)
    events = write_raw(db, args.lake)
    write_rds(db, args.lake)
    write_catalog(db, args.lake)
    orders = db.execute("SELECT count(*) FROM orders").fetchone()[0]
    db.close()
    work.unlink()
    if events < args.rows:
        raise SystemExit(f"only {events} of {args.rows} rows came out: lower EVENTS_PER_VISITOR")
    generator = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    facts = {"lines": events, "orders": orders, "products": PRODUCTS, "seed": args.seed, "generator": generator}
    (args.lake / "e1.json").write_text(json.dumps(facts))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
