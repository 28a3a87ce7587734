#!/usr/bin/env python3
"""Real data through import, sources and tables, held against DuckDB row by row.

    python3 tests/real_data.py FOLDER [--bin target/release/clickmill]

The data is not in this repository. FOLDER has any of: online_retail.csv.gz (UCI Online
Retail, 541,909 order lines of a wholesaler), taobao_userbehavior.csv.gz (an excerpt of
Taobao's user behaviour in the order of its times, without a header) and
rees46_2019_oct_sample.csv (clicks as REES46 publishes them). The mappings are those of
docs/sources.md and docs/import.md, word by word. DuckDB computes every answer from the
files themselves; rows are compared as multisets. Needs the Python of `tests/run.py`'s
first run.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".env" / "tests" / "venv" / "bin" / "python"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target" / "release" / "clickmill")
    arguments = parser.parse_args()
    if not PYTHON.exists() or not arguments.bin.exists():
        parser.error(f"{PYTHON if not PYTHON.exists() else arguments.bin} is not there: run tests/run.py, or build it")
    if pathlib.Path(sys.prefix) != PYTHON.parent.parent:
        sys.exit(subprocess.run([PYTHON, __file__, *sys.argv[1:]], check=False).returncode)
    wrong = found = 0
    for name, check in (("online_retail.csv.gz", retail), ("taobao_userbehavior.csv.gz", taobao),
                        ("rees46_2019_oct_sample.csv", rees46)):
        path = (arguments.folder / name).resolve()
        if not path.exists():
            print(f"{name}: not there")
            continue
        found += 1
        with tempfile.TemporaryDirectory() as work:
            wrong += check(Shop(arguments.bin.resolve(), pathlib.Path(work), path))
    print(f"{found} of 3 files; {wrong} tables differ")
    sys.exit(1 if wrong or not found else 0)


def mapping(page, section):
    """The TOML of a page of docs that begins this section."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if block.startswith(f"[{section}]"))


class Shop:
    def __init__(self, binary, work, path):
        import duckdb
        self.binary, self.work, self.path = binary, work, path
        self.lake, self.wrong = work / "lake", 0
        self.sql = duckdb.connect()
        self.sql.execute("SET TimeZone = 'UTC'")

    def clickmill(self, *arguments):
        command = [str(part) for part in (self.binary, *arguments, "--lake", self.lake)]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")

    def tables(self, *names):
        for name in names:
            self.sql.execute(f"CREATE VIEW ours_{name} AS SELECT * FROM read_parquet({self.files(name)!r}, "
                             "hive_partitioning = true, union_by_name = true)")

    def files(self, table):
        """What the Delta log names."""
        live, folder = set(), self.lake / "tables" / table
        for entry in sorted((folder / "_delta_log").glob("*.json")):
            for line in entry.read_text(encoding="utf-8").splitlines():
                action = json.loads(line)
                if "add" in action:
                    live.add(action["add"]["path"])
                if "remove" in action:
                    live.discard(action["remove"]["path"])
        return [str(folder / path.replace("%3D", "=")) for path in sorted(live)]

    def same(self, name, ours, theirs):
        count, left, right = self.sql.execute(
            f"SELECT (SELECT count(*) FROM ({ours})), (SELECT count(*) FROM (({ours}) EXCEPT ALL ({theirs}))), "
            f"(SELECT count(*) FROM (({theirs}) EXCEPT ALL ({ours})))").fetchone()
        print(f"{self.path.name:28} {name:18} {count:9,} rows; {left} only ours, {right} only DuckDB's")
        self.wrong += bool(left or right or not count)


def pairs(shop, name, own, total, group):
    """`placed` has basket, product and place; the 50 strongest partners of a product."""
    shop.sql.execute("CREATE TABLE basket AS SELECT basket, product FROM placed WHERE place <= 50")
    shop.same(name, f"SELECT product_id, other_product_id, position, together, {own}, other_{own}, {total} FROM ours_{name}", f"""
        WITH counts AS (SELECT product, count(*) AS n FROM basket GROUP BY product),
        whole AS (SELECT count(DISTINCT basket) AS n FROM basket),
        pair AS (SELECT a.product, b.product AS other, count(*) AS together FROM basket a JOIN basket b ON a.basket = b.basket
          WHERE a.product <> b.product GROUP BY a.product, b.product HAVING count(*) >= 2),
        measured AS (SELECT pair.*, a.n AS own, b.n AS others, w.n AS {group},
            CAST(together * w.n AS DOUBLE) / CAST(a.n * b.n AS DOUBLE) AS lift
          FROM pair JOIN counts a ON pair.product = a.product JOIN counts b ON pair.other = b.product CROSS JOIN whole w)
        SELECT product, other, position, together, own, others, {group} FROM (
          SELECT *, row_number() OVER (PARTITION BY product ORDER BY together DESC, lift DESC, other) AS position FROM measured)
        WHERE position <= 50""")


def retail(shop):
    config = mapping("sources.md", "sources.retail").replace("/srv/online_retail.csv.gz", str(shop.path))
    (shop.work / "clickmill.toml").write_text(config, encoding="utf-8")
    shop.clickmill("etl", "run")
    shop.tables("orders", "order_items", "product_daily", "interactions", "customer_ltv", "cohort_retention", "co_bought")
    shop.sql.execute(f"""
        CREATE TABLE line AS SELECT *, CAST(timezone('UTC', ordered) AS DATE) AS day FROM (
          SELECT n, InvoiceNo AS id, StockCode AS product, CAST(Quantity AS BIGINT) AS pieces,
            CAST(Quantity AS DECIMAL(18,0)) * CAST(UnitPrice AS DECIMAL(18,4)) AS amount,
            first_value(timezone('Europe/London', CAST(InvoiceDate AS TIMESTAMP))) OVER (PARTITION BY InvoiceNo ORDER BY n) AS ordered,
            first_value(regexp_replace(CustomerID, '\\.0$', '')) OVER (PARTITION BY InvoiceNo ORDER BY n) AS customer
          FROM (SELECT row_number() OVER () AS n, * FROM read_csv('{shop.path}', header = true, all_varchar = true)))""")
    shop.same("orders", "SELECT order_id, ordered_at, customer_id, total, status FROM ours_orders", """
        SELECT id, ordered, any_value(customer), CAST(sum(amount) AS DECIMAL(18,4)),
          CASE WHEN starts_with(id, 'C') THEN 'returned' ELSE 'completed' END FROM line GROUP BY id, ordered""")
    shop.same("order_items", "SELECT order_id, line, product_id, quantity, dt FROM ours_order_items",
              "SELECT id, row_number() OVER (PARTITION BY id ORDER BY n), product, pieces, day FROM line")
    shop.same("product_daily", "SELECT product_id, dt, orders, units, revenue FROM ours_product_daily", """
        SELECT product, day, count(DISTINCT CASE WHEN pieces > 0 THEN id END), sum(pieces), CAST(sum(amount) AS DECIMAL(18,4))
        FROM line GROUP BY product, day""")
    shop.same("interactions", "SELECT subject_type, subject_id, product_id, dt, purchases, units, revenue FROM ours_interactions", """
        SELECT 'customer', customer, product, day, count(DISTINCT id), sum(pieces), CAST(sum(amount) AS DECIMAL(18,4))
        FROM line WHERE pieces > 0 AND customer IS NOT NULL GROUP BY customer, product, day""")
    shop.same("customer_ltv", "SELECT customer_id, orders, revenue FROM ours_customer_ltv", """
        SELECT customer, count(DISTINCT id), CAST(sum(amount) AS DECIMAL(18,4)) FROM line
        WHERE customer IS NOT NULL GROUP BY customer""")
    shop.same("cohort_retention", "SELECT cohort, age_months, customers, active, orders, revenue FROM ours_cohort_retention", """
        WITH placed AS (SELECT id, customer, date_trunc('month', min(day)) AS month, sum(amount) AS revenue FROM line
          WHERE customer IS NOT NULL GROUP BY id, customer),
        joined AS (SELECT customer, min(month) AS cohort FROM placed GROUP BY customer),
        active AS (SELECT cohort, datediff('month', cohort, month) AS age, count(DISTINCT placed.customer) AS active,
            count(*) AS orders, sum(revenue) AS revenue
          FROM placed JOIN joined ON placed.customer = joined.customer GROUP BY ALL),
        ages AS (SELECT cohort, count(*) AS customers,
            unnest(range(0, datediff('month', cohort, (SELECT date_trunc('month', max(day)) FROM line)) + 1)) AS age
          FROM joined GROUP BY cohort)
        SELECT CAST(ages.cohort AS DATE), ages.age, customers, coalesce(active, 0), coalesce(orders, 0),
          CAST(coalesce(revenue, 0) AS DECIMAL(18,4))
        FROM ages LEFT JOIN active ON ages.cohort = active.cohort AND ages.age = active.age""")
    shop.sql.execute("""
        CREATE TABLE placed AS SELECT id AS basket, product, row_number() OVER (PARTITION BY id ORDER BY n) AS place
        FROM (SELECT id, product, min(n) AS n FROM line WHERE pieces > 0 AND day > (SELECT max(day) FROM line) - 365
          GROUP BY id, product)""")
    pairs(shop, "co_bought", "bought", "orders", "orders")
    return shop.wrong


def taobao(shop):
    (shop.work / "clickmill.toml").write_text(mapping("import.md", "import.taobao"), encoding="utf-8")
    shop.clickmill("import", "events", "--mapping", "taobao", shop.path)
    shop.clickmill("etl", "run")
    shop.tables("sessions", "product_daily", "interactions", "co_viewed", "funnel_daily")
    # Nobody in this data is a bot.
    shop.sql.execute(f"""
        CREATE TABLE click AS SELECT *,
          sum(CASE WHEN gap < 1800 THEN 0 ELSE 1 END) OVER (PARTITION BY visitor ORDER BY moment, n ROWS UNBOUNDED PRECEDING) AS session
        FROM (SELECT *, epoch(moment) - epoch(lag(moment) OVER (PARTITION BY visitor ORDER BY moment, n)) AS gap FROM (
          SELECT row_number() OVER () AS n, visitor, product, what, to_timestamp(CAST(t AS BIGINT)) AS moment
          FROM read_csv('{shop.path}', header = false, names = ['visitor', 'product', 'category', 'what', 't'], all_varchar = true)))""")
    shop.same("sessions", "SELECT visitor_id, started_at, ended_at, events, product_views, add_to_carts, has_purchase, is_bot "
              "FROM ours_sessions", """
        SELECT visitor, min(moment), max(moment), count(*), count(*) FILTER (WHERE what = 'pv'), count(*) FILTER (WHERE what = 'cart'),
          bool_or(what = 'buy'), false FROM click GROUP BY visitor, session""")
    shop.same("product_daily", "SELECT product_id, dt, views, viewers, carts FROM ours_product_daily", """
        SELECT product, CAST(moment AS DATE), count(*) FILTER (WHERE what = 'pv'),
          count(DISTINCT CASE WHEN what = 'pv' THEN visitor END), count(*) FILTER (WHERE what = 'cart')
        FROM click GROUP BY product, CAST(moment AS DATE)""")
    shop.same("interactions", "SELECT subject_id, product_id, dt, views, wishlists, carts FROM ours_interactions", """
        SELECT visitor, product, CAST(moment AS DATE), count(*) FILTER (WHERE what = 'pv'), count(*) FILTER (WHERE what = 'fav'),
          count(*) FILTER (WHERE what = 'cart')
        FROM click WHERE what IN ('pv', 'fav', 'cart') GROUP BY visitor, product, CAST(moment AS DATE)""")
    shop.same("funnel_daily", "SELECT dt, sessions, visitors, views, carts, purchases FROM ours_funnel_daily", """
        SELECT day, count(*), count(DISTINCT visitor), count(*) FILTER (WHERE viewed), count(*) FILTER (WHERE carted),
          count(*) FILTER (WHERE bought)
        FROM (SELECT visitor, CAST(min(moment) AS DATE) AS day, bool_or(what = 'pv') AS viewed, bool_or(what = 'cart') AS carted,
            bool_or(what = 'buy') AS bought FROM click GROUP BY visitor, session) GROUP BY day""")
    shop.sql.execute("""
        CREATE TABLE placed AS SELECT basket, product, row_number() OVER (PARTITION BY basket ORDER BY first, product) AS place
        FROM (SELECT visitor || '/' || session AS basket, product, min(moment) AS first FROM click WHERE what = 'pv'
          GROUP BY visitor, session, product)""")
    pairs(shop, "co_viewed", "views", "sessions", "sessions")
    return shop.wrong


def rees46(shop):
    (shop.work / "clickmill.toml").write_text(mapping("import.md", "import.rees46"), encoding="utf-8")
    shop.clickmill("import", "events", "--mapping", "rees46", shop.path)
    shop.clickmill("etl", "run")
    shop.tables("events", "product_daily")
    shop.sql.execute(f"CREATE TABLE click AS SELECT * FROM read_csv('{shop.path}', header = true, all_varchar = true)")
    name = "CASE event_type WHEN 'view' THEN 'product_view' WHEN 'cart' THEN 'add_to_cart' ELSE event_type END"
    shop.same("events", "SELECT event_ts, event_name, user_id, client_session_id, revenue FROM ours_events", f"""
        SELECT CAST(replace(event_time, ' UTC', '+00') AS TIMESTAMPTZ), {name}, user_id, user_session,
          CASE WHEN event_type = 'purchase' THEN CAST(price AS DECIMAL(18,4)) END FROM click""")
    shop.same("product_daily", "SELECT product_id, dt, brand, views, viewers, carts FROM ours_product_daily", """
        SELECT product_id, CAST(left(event_time, 10) AS DATE), min(brand), count(*) FILTER (WHERE event_type = 'view'),
          count(DISTINCT CASE WHEN event_type = 'view' THEN user_id END), count(*) FILTER (WHERE event_type = 'cart')
        FROM click GROUP BY ALL""")
    return shop.wrong


if __name__ == "__main__":
    main()
