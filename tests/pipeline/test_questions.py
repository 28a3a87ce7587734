"""The statements of docs/questions.md, against what the simulator itself knows.

Expected answers are DuckDB's, over the simulator's log and its exports; nothing
of clickmill's tables is read for them.
"""

import decimal
import json
import pathlib
import re

import duckdb
import lakes
import support

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "questions.md"

# What reached the collector, each event once; sessions by the rules of docs/etl.md.
TRUTH = """
CREATE TABLE log AS
SELECT e.id AS id, min(e.name) AS name, min(e.at_ms) AS at_ms, min(e.mark.visitor) AS visitor,
  min(e.mark.user) AS user_id, min(e.mark.channel) AS channel, min(e.mark.device) AS device,
  min(e.mark.product) AS product, min(e.mark.search[1] ->> '$') AS query,
  min(TRY_CAST(e.mark.search[2] ->> '$' AS BIGINT)) AS results, min(e."order"[1] ->> '$') AS order_id
FROM (SELECT unnest(events) AS e FROM read_json('{lake}/_clickmill/demo/truth/*.ndjson', columns = {{
  status: 'INTEGER', events: 'STRUCT(id VARCHAR, name VARCHAR, at_ms BIGINT, "order" JSON[],
    mark STRUCT(visitor VARCHAR, "user" VARCHAR, channel VARCHAR, device VARCHAR, product VARCHAR,
                search JSON[]))[]'}})
  WHERE status = 200)
GROUP BY e.id;

CREATE TABLE steps AS
SELECT *, sum(CASE WHEN gap < 30 * 60 * 1000 THEN 0 ELSE 1 END)
    OVER (PARTITION BY visitor ORDER BY at_ms, id) AS number
FROM (SELECT *, at_ms - lag(at_ms) OVER (PARTITION BY visitor ORDER BY at_ms, id) AS gap FROM log);

CREATE TABLE bots AS
SELECT DISTINCT visitor, number FROM steps WHERE device = 'bot'
UNION
SELECT visitor, number FROM (
  SELECT visitor, number, at_ms - lag(at_ms, 29) OVER (PARTITION BY visitor, number, name ORDER BY at_ms, id)
    AS took FROM steps WHERE name IN ('page', 'Product Viewed'))
WHERE took < 60000;

CREATE TABLE visits AS
SELECT visitor, number, min(at_ms) AS started, arg_min(channel, (at_ms, id)) AS channel,
  coalesce(arg_max(channel, (at_ms, id)) FILTER (WHERE channel <> 'direct'), 'direct') AS last_channel,
  arg_min(device, (at_ms, id)) AS device, bool_or(name = 'Order Completed') AS bought,
  bool_or(name IN ('page', 'Product Viewed', 'Products Searched', 'Product Added', 'Checkout Started',
                   'Order Completed')) AS moved,
  bool_or(name <> 'Order Refunded') AS came
FROM steps ANTI JOIN bots USING (visitor, number) GROUP BY visitor, number;

CREATE TABLE orders AS
SELECT order_id, customer_id, CAST(ordered_at AS TIMESTAMPTZ) AS ordered_at, total::DECIMAL(18,4) AS total,
  refunded::DECIMAL(18,4) AS refunded FROM read_parquet('{rds}/shop/public.orders/1/*.parquet');
CREATE TABLE lines AS
SELECT order_id, product_id, quantity, unit_price::DECIMAL(18,4) AS unit_price, discount::DECIMAL(18,4) AS discount
FROM read_parquet('{rds}/shop/public.order_items/1/*.parquet');
CREATE TABLE customers AS
SELECT customer_id, region FROM read_parquet('{rds}/shop/public.customers/1/*.parquet');
CREATE TABLE catalog AS
SELECT Item.product_id.S AS product_id, Item.category.S AS category
FROM read_json('{dynamodb}/data/*.json.gz', format = 'newline_delimited',
               columns = {{Item: 'STRUCT(product_id STRUCT(S VARCHAR), category STRUCT(S VARCHAR))'}});
"""

CATEGORIES = """
SELECT category, sum(quantity), sum(quantity * unit_price - discount) AS revenue
FROM lines JOIN orders USING (order_id) JOIN catalog USING (product_id)
WHERE date_trunc('quarter', ordered_at) = (SELECT max(date_trunc('quarter', day)) FROM (
  SELECT ordered_at AS day FROM orders UNION ALL SELECT make_timestamptz(at_ms * 1000) FROM log
  WHERE product IS NOT NULL))
GROUP BY category ORDER BY revenue DESC LIMIT 5"""

REGIONS = """
SELECT region, count(DISTINCT customer_id), sum(total - refunded),
  CAST(sum(total - refunded) AS DOUBLE) / count(DISTINCT customer_id) AS per_customer
FROM orders JOIN customers USING (customer_id) GROUP BY region ORDER BY per_customer DESC"""

FUNNEL = """
SELECT channel, device, count(*), count(*) FILTER (WHERE bought),
  100.0 * count(*) FILTER (WHERE bought) / count(*) FROM visits WHERE came GROUP BY channel, device"""

# An order's touches: visits of whoever is its customer a week later. Weights are whole numbers, shares
# are cut from the cumulated sum, in ten-thousandths.
ATTRIBUTION = """
WITH bought AS (SELECT order_id, min(visitor) AS visitor FROM log WHERE name = 'Order Completed' GROUP BY order_id),
links AS (
  SELECT visitor, user_id AS customer_id, at_ms FROM log WHERE user_id IS NOT NULL AND device <> 'bot'
  UNION ALL
  SELECT l.visitor, o.customer_id, l.at_ms FROM log l JOIN orders o USING (order_id) WHERE l.name = 'Order Completed'),
placed AS (SELECT *, epoch_ms(ordered_at) AS due, CAST((total - refunded) * 10000 AS HUGEINT) AS net FROM orders),
owners AS (
  SELECT DISTINCT order_id, visitor FROM placed JOIN links USING (customer_id) WHERE links.at_ms <= due + 7 * 86400000::BIGINT
  UNION SELECT order_id, visitor FROM bought SEMI JOIN orders USING (order_id)),
touches AS (
  SELECT order_id, net, last_channel AS channel, due - started AS age, started,
    row_number() OVER (PARTITION BY order_id ORDER BY started, visitor) AS nth, count(*) OVER (PARTITION BY order_id) AS n
  FROM placed JOIN owners USING (order_id) JOIN visits USING (visitor)
  WHERE moved AND started <= due AND started >= due - 30 * 86400000::BIGINT),
known AS (
  SELECT *, max(CASE WHEN channel <> 'direct' THEN nth END) OVER (PARTITION BY order_id) AS marked FROM touches
  UNION ALL
  SELECT order_id, net, '(none)', 0, 0, 1, 1, 1 FROM placed ANTI JOIN touches USING (order_id)),
weighed AS (
  SELECT *, unnest([
    {'model': 'first', 'w': CAST(nth = 1 AS HUGEINT)}, {'model': 'last', 'w': CAST(nth = n AS HUGEINT)},
    {'model': 'last_non_direct', 'w': CAST(nth = coalesce(marked, n) AS HUGEINT)},
    {'model': 'linear', 'w': CAST(1 AS HUGEINT)},
    {'model': 'position', 'w': CAST(CASE WHEN n > 2 AND nth IN (1, n) THEN 2 * (n - 2) ELSE 1 END AS HUGEINT)},
    {'model': 'time_decay', 'w': CAST(round(1e9 * pow(2, -greatest(age, 0) / 86400000.0 / 7)) AS HUGEINT)}
  ], recursive := true) FROM known),
summed AS (
  SELECT *, sum(w) OVER (PARTITION BY order_id, model ORDER BY nth) AS until,
    sum(w) OVER (PARTITION BY order_id, model) AS whole FROM weighed)
SELECT model, channel, sum(net * CAST(until AS HUGEINT) // CAST(whole AS HUGEINT)
    - net * CAST(until - w AS HUGEINT) // CAST(whole AS HUGEINT)) / 10000
FROM summed WHERE w > 0 GROUP BY model, channel"""

SEARCHES = """
SELECT lower(query), count(*), count(*) FILTER (WHERE results = 0) AS nothing,
  nothing / count(results)
FROM steps ANTI JOIN bots USING (visitor, number) WHERE name = 'Products Searched'
GROUP BY lower(query) HAVING nothing > 0 ORDER BY nothing DESC, lower(query)"""

PAIRS = """
WITH counts AS (SELECT product, count(*) AS n FROM baskets GROUP BY product),
pairs AS (
  SELECT a.product, b.product AS other, count(*) AS together FROM baskets a JOIN baskets b USING (basket)
  WHERE a.product <> b.product GROUP BY a.product, b.product HAVING count(*) > 1)
SELECT p.product, other, together, together / a.n AS confidence,
  together * (SELECT count(DISTINCT basket) FROM baskets) / (a.n * b.n) AS lift
FROM pairs p JOIN counts a ON p.product = a.product JOIN counts b ON p.other = b.product"""

VIEWED = f"""
WITH baskets AS (
  SELECT DISTINCT (visitor, number) AS basket, product FROM steps ANTI JOIN bots USING (visitor, number)
  WHERE name = 'Product Viewed'),
all_pairs AS ({PAIRS})
SELECT other, together, lift FROM all_pairs
WHERE product = (SELECT product FROM log WHERE name = 'Product Viewed' AND device <> 'bot'
                 GROUP BY product ORDER BY count(*) DESC, product LIMIT 1)
ORDER BY together DESC, lift DESC, other LIMIT 10"""

BOUGHT = f"""
WITH baskets AS (SELECT DISTINCT order_id AS basket, product_id AS product FROM lines),
all_pairs AS ({PAIRS})
SELECT * FROM all_pairs WHERE product < other ORDER BY together DESC, lift DESC, product, other LIMIT 10"""

SEEN = """
WITH seen AS (SELECT DISTINCT order_id FROM log WHERE name = 'Order Completed')
SELECT count(*), 100.0 * count(*) FILTER (WHERE order_id IN (FROM seen)) / count(*),
  sum(total) FILTER (WHERE order_id NOT IN (FROM seen)) FROM orders"""


def statements():
    """Title -> statement."""
    found = re.findall(r"^## (.+?)\n.*?```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(found)


def newest(folder, marker):
    """The last of the exports that are complete."""
    return max(path.parent for path in folder.glob(f"*/{marker}"))


class Questions(support.Case):
    @classmethod
    def setUpClass(cls):
        cls.lake = lakes.busy()
        cls.truth = duckdb.connect()
        cls.truth.execute("SET TimeZone = 'UTC'")
        cls.truth.execute(TRUTH.format(
            lake=cls.lake, rds=newest(cls.lake / "exports" / "rds", "export_info_*.json"),
            dynamodb=newest(cls.lake / "exports" / "dynamodb" / "AWSDynamoDB", "manifest-summary.json")))

    @classmethod
    def tearDownClass(cls):
        cls.truth.close()

    def check(self, title, sql, ordered=True, exact=True):
        """The page's statement gives the rows of `sql`; where not exact, money to a cent."""
        result = self.clickmill("sql", "--lake", self.lake, "--format", "json", "-c", statements()[title])
        found = [tuple(row.values()) for row in json.loads(result.stdout, parse_float=decimal.Decimal)]
        expected = self.truth.execute(sql).fetchall()
        self.assertGreater(len(expected), 0, "nothing is compared")
        if not ordered:
            texts = lambda row: [value for value in row if isinstance(value, str)]
            found.sort(key=texts)
            expected.sort(key=texts)
        self.assertEqual(len(found), len(expected), f"{found}\n{expected}")
        for mine, theirs in zip(found, expected):
            self.assertEqual(len(mine), len(theirs))
            for one, other in zip(mine, theirs):
                if isinstance(other, str) or other is None:
                    self.assertEqual(one, other, f"{mine}\n{theirs}")
                elif isinstance(other, (int, decimal.Decimal)) and exact:
                    self.assertEqual(decimal.Decimal(one), other, f"{mine}\n{theirs}")
                else:
                    places = 6 if exact else 2
                    self.assertAlmostEqual(float(one), float(other), places, f"{mine}\n{theirs}")
        return found

    def test_the_best_selling_categories(self):
        self.check("Which categories sell best in a quarter?", CATEGORIES)

    def test_the_regions_of_the_highest_lifetime_value(self):
        self.check("Which regions have the highest lifetime value?", REGIONS)

    def test_conversion_by_channel_and_device(self):
        self.check("How do channels and devices convert?", FUNNEL, ordered=False)

    def test_revenue_by_channel_and_model(self):
        # The simulator knows when a visit began; the table, what clients' clocks made of it. Decayed
        # weights differ by that.
        found = self.check("What revenue does each channel bring, by which model?", ATTRIBUTION,
                           ordered=False, exact=False)
        whole = self.truth.execute("SELECT sum(total - refunded) FROM orders").fetchone()[0]
        for model in ("first", "last", "last_non_direct", "linear", "position", "time_decay"):
            self.assertEqual(sum(decimal.Decimal(row[2]) for row in found if row[0] == model), whole, model)

    def test_searches_that_find_nothing(self):
        self.check("Which searches find nothing?", SEARCHES)

    def test_what_is_viewed_with_a_product(self):
        self.check("What is viewed with a product?", VIEWED)

    def test_what_is_bought_together(self):
        self.check("What is bought together?", BOUGHT)

    def test_the_share_of_orders_that_the_tracker_saw(self):
        self.check("What share of orders did the tracker see?", SEEN)

    def test_every_statement_of_the_page_has_a_test(self):
        source = pathlib.Path(__file__).read_text(encoding="utf-8")
        missing = [title for title in statements() if f'"{title}"' not in source]
        self.assertEqual((missing, len(statements())), ([], 8))
