"""The vendors' own server SDKs, unmodified: what they send is in the tables, once, mapped, whatever fails.

Failures are as many as each SDK is meant to outlive; how it retries stands with its test.
"""

import http.client
import json
import subprocess
import sys

import front
import support

# The canonical names of Segment's e-commerce events, as docs/tables.md lists event_name.
CANONICAL = {
    "Products Searched": "search", "Product List Viewed": "product_list_view",
    "Product List Filtered": "product_list_filter", "Promotion Viewed": "promotion_view",
    "Promotion Clicked": "promotion_click", "Product Clicked": "product_click", "Product Viewed": "product_view",
    "Product Added": "add_to_cart", "Product Removed": "remove_from_cart", "Cart Viewed": "cart_view",
    "Checkout Started": "begin_checkout", "Checkout Step Viewed": "checkout_step",
    "Checkout Step Completed": "checkout_step_completed", "Payment Info Entered": "payment_info",
    "Order Completed": "purchase", "Order Updated": "order_updated", "Order Refunded": "refund",
    "Order Cancelled": "order_cancelled", "Coupon Entered": "coupon_entered", "Coupon Applied": "coupon_applied",
    "Coupon Denied": "coupon_denied", "Coupon Removed": "coupon_removed",
    "Product Added to Wishlist": "add_to_wishlist", "Product Removed from Wishlist": "remove_from_wishlist",
    "Wishlist Product Added to Cart": "wishlist_to_cart", "Product Shared": "product_share",
    "Cart Shared": "cart_share", "Product Reviewed": "product_review", "Viewed Product": "product_view",
    "Viewed Product Category": "product_list_view", "Added Product": "add_to_cart",
    "Removed Product": "remove_from_cart", "Completed Order": "purchase", "Newsletter Opened": "custom",
    "page": "page_view", "screen": "screen_view", "identify": "identify", "group": "group", "alias": "alias",
}

COLUMNS = ["event_id", "network_id", "event_name", "source_protocol", "source_event_name", "user_id", "anonymous_id",
           "client_session_id", "order_id", "checkout_id", "currency", "revenue", "total", "tax", "shipping",
           "coupon", "utm_source", "utm_medium", "utm_campaign", "page_url", "page_title", "referrer_url",
           "user_agent", "language", "timezone", "screen_width", "screen_height", "search_query", "list_id",
           "promotion_id", "cart_id", "items", "properties", "context", "consent"]


class Sdk(support.Case):
    """Drives one client through a collector that fails, and reads what came of it."""

    def deliver(self, command, plan, cwd=None):
        """Runs the client to its end; what it says it sent, and the table's rows by event_id."""
        lake, spool = self.folder / "lake", self.folder / "spool"
        between = front.Front(lambda: self.collector("--lake", lake, "--spool", spool), plan)
        self.addCleanup(between.server.server_close)
        command = [str(part).replace("URL", between.url) for part in command]
        client = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
                                timeout=support.COMMAND_SECONDS)
        self.assertEqual(client.returncode, 0, client.stderr.decode()[-3000:])
        self.assertEqual(between.plan, [], "the client sent too few requests to meet every failure")
        between.stop()
        sent = [json.loads(line) for line in client.stdout.decode().splitlines()]
        return sent, self.rows(lake, sent)

    def rows(self, lake, sent):
        """Every event once, none that nobody sent, and no rejects."""
        self.clickmill("etl", "run", "--lake", lake)
        self.assertEqual(support.files(lake, "rejects"), {})
        found = [dict(zip(COLUMNS, row)) for row in support.query(lake, f"SELECT {', '.join(COLUMNS)} FROM {{events}}")]
        ids = [one["messageId"] for one in sent]
        self.assertEqual(len(set(ids)), len(ids), "the client gave an id twice")
        self.assert_each_once(ids, [row["event_id"] for row in found])
        self.assertEqual(len(found), len(ids), "events that nobody sent")
        return {row["event_id"]: row for row in found}

    def assert_row(self, row, **wanted):
        self.assertEqual({name: text(row[name]) for name in wanted}, wanted)


def text(value):
    """Money as it was sent, without the column's zeros; everything else as text."""
    if value is None:
        return None
    if hasattr(value, "normalize"):
        return f"{value.normalize():f}"
    return str(value)


VOCABULARY = json.loads((support.CLIENTS / "vocabulary.json").read_text(encoding="utf-8"))


class SegmentDialect(Sdk):
    """Segment's and RudderStack's SDKs speak the same."""

    # Ten times the vocabulary: 26 requests of 15 messages.
    MESSAGES = 390

    def check(self, sent, rows, protocol):
        self.assertEqual(len(sent), self.MESSAGES)
        self.assertEqual({one["event"] or one["type"] for one in sent}, set(CANONICAL))
        for one in sent:
            row = rows[one["messageId"]]
            self.assert_row(row, event_name=CANONICAL[one["event"] or one["type"]], source_protocol=protocol)
            if one["type"] == "track":
                self.assert_row(row, source_event_name=one["event"])
            if one["type"] != "alias":
                self.assertRegex(row["user_id"], r"^(node|py)-user-\d+$")
                self.assertRegex(row["anonymous_id"], r"^(node|py)-visitor-\d+$")
            self.assertNotIn("192.0.2.7", row["context"] or "", "an address was stored")
            self.assert_row(row, utm_source="news", utm_medium="email", utm_campaign="spring", page_title="Runner",
                            referrer_url="https://g.example/", language="de-DE", timezone="Europe/Berlin",
                            screen_width="1920", screen_height="1080")
            if one["event"] in ("Order Completed", "Completed Order", "Checkout Started"):
                self.assert_order(row)
            if one["event"] == "Products Searched":
                self.assert_row(row, search_query="running shoes")
            if one["event"] == "Promotion Clicked":
                self.assert_row(row, promotion_id="pr-1")
            if one["event"] == "Product Added":
                self.assert_row(row, cart_id="k-1")
                self.assert_item(row["items"])
            if one["event"] == "Newsletter Opened":
                self.assertEqual(json.loads(row["properties"]),
                                 {"issue": 7, "größe": "ü 😀", "nested": {"a": [1, 2.5, None, True]}})

    def assert_order(self, row):
        order = VOCABULARY["order"]
        self.assert_row(row, order_id=order["order_id"], checkout_id=order["checkout_id"], currency=order["currency"],
                        revenue="119.8", total="130.3", tax="6", shipping="4.5", coupon=order["coupon"])
        self.assert_item(row["items"])

    def assert_item(self, items):
        product = VOCABULARY["product"]
        self.assertEqual(len(items), 1)
        self.assert_row(items[0], price="59.9", quantity="1", position="3", **{
            name: product[name] for name in ("product_id", "sku", "name", "brand", "category", "variant", "coupon")})

    def test_segments_node_sdk_delivers_all_through_a_crash_and_503(self):
        # A batch is sent again at 1, 3, 10, ... s, and given up after ten retries.
        command = [support.NODE, support.CLIENTS / "segment_node.mjs", "URL", self.MESSAGES]
        plan = ["pass", "refuse", "refuse", "pass", "crash", "pass", "lose", "pass", "refuse"]
        sent, rows = self.deliver(command, plan, cwd=support.NPM)
        self.check(sent, rows, "segment")

    def test_segments_python_sdk_delivers_all_through_a_crash_and_503(self):
        # Ten retries, from 0.6 s on.
        command = [sys.executable, support.CLIENTS / "segment_python.py", "URL", self.MESSAGES]
        sent, rows = self.deliver(command, ["pass", "refuse", "refuse", "crash", "lose"])
        self.check(sent, rows, "segment")

    def test_segments_node_sdk_delivers_all_through_restarts_by_sigterm(self):
        command = [support.NODE, support.CLIENTS / "segment_node.mjs", "URL", self.MESSAGES]
        sent, rows = self.deliver(command, ["pass", "restart", "pass", "pass", "restart", "restart"], cwd=support.NPM)
        self.check(sent, rows, "segment")

    def test_segments_python_sdk_delivers_all_through_restarts_by_sigterm(self):
        command = [sys.executable, support.CLIENTS / "segment_python.py", "URL", self.MESSAGES]
        sent, rows = self.deliver(command, ["restart", "pass", "restart"])
        self.check(sent, rows, "segment")

    def test_segments_python_sdk_delivers_all_compressed(self):
        command = [sys.executable, support.CLIENTS / "segment_python.py", "URL", self.MESSAGES, "--gzip"]
        sent, rows = self.deliver(command, ["refuse", "pass", "crash"])
        self.check(sent, rows, "segment")

    def test_rudderstacks_node_sdk_delivers_all_through_a_crash_and_503(self):
        # Three retries of a batch at 0.2, 0.4 and 0.8 s, then it is dropped: an outage
        # that is longer loses events in the SDK, whatever the collector does.
        command = [support.NODE, support.CLIENTS / "rudder_node.mjs", "URL", self.MESSAGES]
        plan = ["pass", "pass", "refuse", "pass", "crash", "pass", "lose", "pass", "refuse", "refuse"]
        sent, rows = self.deliver(command, plan, cwd=support.NPM)
        self.check(sent, rows, "rudderstack")

    def test_rudderstacks_python_sdk_delivers_all_through_a_crash_and_503(self):
        # Ten retries with exponential waits.
        command = [sys.executable, support.CLIENTS / "rudder_python.py", "URL", self.MESSAGES]
        sent, rows = self.deliver(command, ["pass", "refuse", "pass", "crash", "pass", "refuse", "lose"])
        self.check(sent, rows, "rudderstack")


class Snowplow(Sdk):
    """What the trackers send is compared with what they were told to send."""

    EVENTS = 192

    def check(self, sent, rows):
        self.assertEqual(len(sent), self.EVENTS)
        for one in sent:
            row = rows[one["messageId"]]
            with self.subTest(one["event"]):
                self.assert_row(row, source_protocol="snowplow", user_id="sp-user-1", anonymous_id="sp-visitor-1",
                                client_session_id="sp-session-1", language="de-DE", timezone="Europe/Berlin",
                                screen_width="1920", screen_height="1080")
                self.check_kind(one["event"], row)

    def check_kind(self, kind, row):
        if kind == "other":
            self.assert_row(row, event_name="custom")
        elif kind == "transaction":
            self.assert_row(row, event_name="purchase", order_id="o-4712", total="130.3", tax="6", shipping="4.5",
                            currency="EUR")
        elif kind == "transaction_item":
            self.assert_row(row, order_id="o-4712", currency="EUR")
            self.assert_row(row["items"][0], sku="S17", name="Runner", category="Shoes", price="59.9", quantity="2")
        elif kind != "any":
            self.assert_row(row, event_name=kind)
        if kind in ("page_view", "page_ping"):
            self.assert_row(row, page_url="https://shop.example/p/17?utm_source=news", page_title="Runner",
                            referrer_url="https://g.example/")
        if kind in ("product_view", "add_to_cart", "remove_from_cart", "purchase", "refund"):
            self.assertEqual(len(row["items"]), 1)
            self.assert_row(row["items"][0], product_id="p-17", name="Runner", category="Shoes", price="59.9",
                            brand="Fleet", variant="red", quantity="2")
        if kind == "product_list_view":
            self.assertEqual([(item["product_id"], item["position"]) for item in row["items"]],
                             [("p-17", 1), ("p-18", 2)])
        if kind in ("add_to_cart", "remove_from_cart"):
            self.assert_row(row, cart_id="k-1", currency="EUR")
        if kind == "purchase":
            self.assert_row(row, order_id="o-4711", currency="EUR", tax="6", shipping="4.5")
            self.assertIn("130.3", (text(row["total"]), text(row["revenue"])))
        if kind == "refund":
            self.assert_row(row, order_id="o-4711", currency="EUR")
        if kind in ("promotion_view", "promotion_click"):
            self.assert_row(row, promotion_id="pr-1")

    def node(self, method, plan):
        # No timer of its own: the next event or flush sends again, without end.
        command = [support.NODE, support.CLIENTS / "snowplow_node.mjs", "URL", self.EVENTS, method]
        self.check(*self.deliver(command, plan, cwd=support.NPM))

    def python(self, method, plan):
        command = [sys.executable, support.CLIENTS / "snowplow_python.py", "URL", self.EVENTS, method]
        self.check(*self.deliver(command, plan))

    def test_snowplows_node_tracker_delivers_all_by_post_through_a_crash_and_503(self):
        self.node("post", ["refuse", "pass", "refuse", "crash", "lose"])

    def test_snowplows_node_tracker_delivers_all_by_get_through_a_crash_and_503(self):
        self.node("get", ["pass", "refuse", "refuse", "pass", "crash", "pass", "lose", "refuse", "crash"])

    def test_snowplows_python_tracker_delivers_all_by_post_through_a_crash_and_503(self):
        # At 0.4, 1.4, 3.4, ... s after a failure, without end.
        self.python("post", ["pass", "refuse", "refuse", "pass", "crash", "pass", "lose"])

    def test_snowplows_python_tracker_delivers_all_by_get(self):
        # By GET it looks at the last of several requests only, and forgets those before
        # that failed: no server can help there, so nothing fails here.
        self.python("get", [])


class Fronts(support.Case):
    def test_the_503_of_these_tests_is_the_collectors_own(self):
        """A full spool's answer has the same headers, and a body with the same keys."""
        config = self.folder / "clickmill.toml"
        config.write_text("[collector]\nspool_max_bytes = 1\n", encoding="utf-8")
        arguments = ("--config", config, "--lake", self.folder / "lake", "--spool", self.folder / "spool")
        between = front.Front(lambda: self.collector(*arguments), ["pass", "refuse"])
        self.addCleanup(between.server.server_close)
        answers = [self.answer(between.url) for _ in range(2)]
        between.close()
        (real, real_headers, real_body), (made, made_headers, made_body) = answers
        self.assertEqual((real, made), (503, 503))
        self.assertEqual(set(json.loads(real_body)), set(json.loads(made_body)))
        for headers in (real_headers, made_headers):
            self.assertGreater(int(headers.pop("retry-after")), 0)
            headers["vary"] = "origin" in headers["vary"].lower()
            headers.pop("content-length")
        self.assertEqual({name: real_headers.get(name) for name in made_headers}, made_headers)

    def answer(self, url):
        host = url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            connection.request("POST", "/v1/track", json.dumps(support.track("e1")),
                               {"Authorization": support.AUTHORIZATION, "Origin": "https://shop.example"})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
        finally:
            connection.close()
