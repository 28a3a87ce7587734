"""Compares what the engines of E1 wrote: every figure must be equal to the last digit.

DuckDB reads all of it. clickmill's tables are read through their Delta log
(PyPI `deltalake` lists the files of the newest version), the others are
folders of Parquet. Exit code 1 where any figure differs.
"""

import argparse
import json
import pathlib
import sys

import deltalake
import duckdb

# Per table: the rows of a figure set, by day. Ids that an engine makes up
# (session_id, content_hash) are compared by how many there are, not by value.
FIGURES = {
    "events": """SELECT dt::VARCHAR, count(*), count(DISTINCT (app_id, event_id)), count(DISTINCT session_id),
        sum(session_seq), sum(revenue), sum(total), sum(epoch_us(received_ts)::HUGEINT), sum(wal_seq::HUGEINT),
        sum(len(items)), sum(list_sum(list_transform(items, lambda i: i.price))), count(*) FILTER (is_late),
        count(*) FILTER (is_bot), count(page_host), sum(length(page_path)), count(referrer_host), count(page_query),
        count(utm_source), count(browser), sum(length(browser)), count(os), count(DISTINCT visitor_id)
        FROM {t} GROUP BY ALL ORDER BY ALL""",
    "events by channel": "SELECT channel, count(*) FROM {t} GROUP BY ALL ORDER BY ALL",
    "events by device": "SELECT device_class, count(*) FROM {t} GROUP BY ALL ORDER BY ALL",
    "sessions": """SELECT dt::VARCHAR, count(*), count(DISTINCT session_id), count(DISTINCT visitor_id), sum(events),
        sum(duration_ms), sum(engaged_ms), sum(page_views), sum(product_views), sum(add_to_carts), sum(checkouts),
        sum(searches), sum(orders), sum(revenue), count(*) FILTER (is_bounce), count(*) FILTER (has_purchase),
        count(*) FILTER (is_bot), sum(late_events), sum(length(landing_url)), sum(length(exit_path)),
        count(user_id), count(utm_source), count(last_utm_campaign), count(currency)
        FROM {t} GROUP BY ALL ORDER BY ALL""",
    "sessions by channel": """SELECT channel, last_channel, count(*), sum(revenue) FROM {t} GROUP BY ALL ORDER BY ALL""",
    "orders_enriched": """SELECT dt::VARCHAR, match_status, count(*), sum(subtotal), sum(total), sum(net_total),
        sum(event_total), sum(missed_total), sum(latency_ms), count(session_id), count(DISTINCT visitor_id)
        FROM {t} GROUP BY ALL ORDER BY ALL""",
    "orders_enriched by channel": """SELECT channel, device_class, count(*), sum(total) FROM {t} GROUP BY ALL ORDER BY ALL""",
    "product_daily": """SELECT dt::VARCHAR, count(*), count(DISTINCT product_id), sum(impressions), sum(clicks),
        sum(views), sum(viewers), sum(carts), sum(orders), sum(units), sum(revenue), sum(price), sum(stock),
        sum(length(category)) FROM {t} GROUP BY ALL ORDER BY ALL""",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clickmill", type=pathlib.Path, help="a lake")
    parser.add_argument("--duckdb", type=pathlib.Path)
    parser.add_argument("--polars", type=pathlib.Path)
    args = parser.parse_args()
    outputs = {name: path for name, path in vars(args).items() if path}
    db = duckdb.connect()
    # An instant compares as one, whether its column says UTC or says nothing.
    db.execute("SET TimeZone = 'UTC'")
    found, facts = {}, {}
    for engine, path in outputs.items():
        sources = {table.split(" ")[0]: source(engine, path, table.split(" ")[0]) for table in FIGURES}
        found[engine] = {
            name: db.execute(query.format(t=sources[name.split(" ")[0]][0])).fetchall()
            for name, query in FIGURES.items()
        }
        facts[engine] = {
            table: {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
            for table, (_, files) in sources.items()
        }
    reference = "duckdb" if "duckdb" in outputs else next(iter(outputs))
    wrong = 0
    for engine in outputs:
        for name in FIGURES:
            wrong += differences(name, reference, found[reference][name], engine, found[engine][name])
    totals = {
        "events": sum(row[1] for row in found[reference]["events"]),
        "sessions": sum(row[1] for row in found[reference]["sessions"]),
        "orders": sum(row[2] for row in found[reference]["orders_enriched"]),
        "product days": sum(row[1] for row in found[reference]["product_daily"]),
        "units": int(sum(row[9] or 0 for row in found[reference]["product_daily"])),
        "revenue": str(sum(row[10] or 0 for row in found[reference]["product_daily"])),
    }
    print(json.dumps({"equal": not wrong, "totals": totals, "written": facts}))
    sys.exit(1 if wrong else 0)


def source(engine, path, table):
    """What stands after FROM, and the files behind it."""
    if engine == "clickmill":
        delta = deltalake.DeltaTable(str(path / "tables" / table))
        files = [pathlib.Path(uri.removeprefix("file://")) for uri in delta.file_uris()]
    else:
        files = sorted((path / table).glob("dt=*/*.parquet"))
    if not files:
        raise SystemExit(f"{engine} wrote no file of {table} below {path}")
    listed = ", ".join(f"'{file}'" for file in files)
    return f"read_parquet([{listed}], hive_partitioning = true)", files


def differences(name, reference, expected, engine, got):
    if expected == got:
        return 0
    shown = [
        (a, b)
        for a, b in zip(expected + [None] * (len(got) - len(expected)), got + [None] * (len(expected) - len(got)))
        if a != b
    ]
    print(f"{name}: {engine} differs from {reference} in {len(shown)} of {len(expected)} rows", file=sys.stderr)
    for a, b in shown[:3]:
        print(f"  {reference:10} {a}\n  {engine:10} {b}", file=sys.stderr)
    return len(shown)


if __name__ == "__main__":
    main()
