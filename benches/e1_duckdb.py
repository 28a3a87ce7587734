"""E1 in DuckDB: the job of `clickmill etl run`, as someone who knows DuckDB would write it.

One pass over the JSON into a table; deduplication and sessions on the narrow
columns only; the wide rows are joined to them by rowid when they are written.
URLs and user agents are parsed once for each distinct value.
"""

import argparse
import pathlib

import duckdb

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
SELECT page_url, lower(regexp_extract(page_url, '^[a-z]+://([^/?#:]+)', 1)) AS page_host,
    coalesce(nullif(regexp_extract(page_url, '^[a-z]+://[^/?#]+([^?#]*)', 1), ''), '/') AS page_path,
    CASE WHEN contains(page_url, '?') THEN map_from_entries(list_transform(
        string_split(regexp_extract(page_url, '[?]([^#]*)', 1), '&'),
        lambda pair: struct_pack(k := url_decode(split_part(pair, '=', 1)), v := url_decode(split_part(pair, '=', 2)))
    )) END AS page_query
FROM (SELECT DISTINCT page_url FROM raw WHERE page_url IS NOT NULL);

CREATE TABLE agents AS
SELECT user_agent, is_bot, CASE WHEN is_bot THEN 'declared' END AS bot_reason,
    CASE browser WHEN 'CriOS' THEN 'Chrome' WHEN 'Version' THEN 'Safari' ELSE browser END AS browser,
    browser_version, os, replace(os_version, '_', '.') AS os_version,
    CASE WHEN is_bot THEN 'bot' WHEN contains(user_agent, 'iPad') THEN 'tablet'
         WHEN contains(user_agent, 'Mobile') THEN 'mobile' WHEN os IS NULL THEN 'other' ELSE 'desktop' END AS device_class
FROM (SELECT user_agent, regexp_matches(user_agent, '(?i)bot|crawler|spider') AS is_bot,
    nullif(regexp_extract(user_agent, '(Edg|OPR|Firefox|CriOS|Chrome|Version)/([0-9.]+)', 1), '') AS browser,
    nullif(regexp_extract(user_agent, '(Edg|OPR|Firefox|CriOS|Chrome|Version)/([0-9.]+)', 2), '') AS browser_version,
    CASE WHEN contains(user_agent, 'Windows NT') THEN 'Windows' WHEN regexp_matches(user_agent, 'iPhone|iPad') THEN 'iOS'
         WHEN contains(user_agent, 'Mac OS X') THEN 'macOS' WHEN contains(user_agent, 'Android') THEN 'Android'
         WHEN contains(user_agent, 'Linux') THEN 'Linux' END AS os,
    nullif(regexp_extract(user_agent, '(?:Windows NT|OS|Mac OS X|Android) ([0-9._]+)', 1), '') AS os_version
    FROM (SELECT DISTINCT user_agent FROM raw WHERE user_agent IS NOT NULL));
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
    CASE WHEN visitor_id IS NOT NULL THEN md5(visitor_id || first_value(event_id) OVER session) END AS session_id,
    CASE WHEN visitor_id IS NOT NULL THEN row_number() OVER session END::INT AS session_seq
FROM numbered WINDOW session AS (PARTITION BY visitor_id, nth ORDER BY event_ts, event_id);
"""

EVENTS = """
CREATE VIEW enriched AS
SELECT event_id, event_name, source_protocol, source_event_name, app_id, platform, event_ts,
    event_ts_reason, client_ts, sent_ts, received_ts, clock_skew_ms,
    received_ts - event_ts > INTERVAL 1 HOUR AS is_late, visitor_id, user_id, anonymous_id, network_id,
    device_id, client_session_id, session_id, session_seq, consent, page_url, page_host, page_path,
    page_query, page_title, referrer_url, referrer_host,
    coalesce(utm_source, page_query['utm_source']) AS utm_source,
    coalesce(utm_medium, page_query['utm_medium']) AS utm_medium,
    coalesce(utm_campaign, page_query['utm_campaign']) AS utm_campaign,
    coalesce(utm_term, page_query['utm_term']) AS utm_term,
    coalesce(utm_content, page_query['utm_content']) AS utm_content,
    click_id, click_id_type, {channel} AS channel, 1 AS channel_rules_version,
    user_agent, browser, browser_version, os, os_version, device_class, screen_width, screen_height,
    language, timezone, ip_truncated, country, region, city, coalesce(is_bot, false) AS is_bot, bot_reason,
    coalesce(validation, 'ok') AS validation, order_id, checkout_id, cart_id, currency, revenue, total, tax,
    shipping, discount, coupon, search_query, list_id, promotion_id, items, properties, context,
    collector_id, wal_seq, shard_id, sequence_number,
    (hash(event_name, visitor_id, page_url, order_id, properties, items) >> 1)::BIGINT AS content_hash,
    event_ts::DATE AS dt
FROM kept JOIN (SELECT rowid AS id, * FROM raw) USING (id)
LEFT JOIN pages USING (page_url) LEFT JOIN agents USING (user_agent)
LEFT JOIN (SELECT referrer_url, lower(regexp_extract(referrer_url, '^[a-z]+://([^/?#:]+)', 1)) AS referrer_host
    FROM (SELECT DISTINCT referrer_url FROM raw WHERE referrer_url IS NOT NULL)) USING (referrer_url);
"""
