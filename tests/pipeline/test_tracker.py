"""Our own tracker, /t.js, in a browser: helpers, retries, leaving, sessions, single pages, consent and signals."""

import json
import os
import subprocess
import unittest

import browser
import front
import support
import test_sdks

SOURCE = support.CLIENTS.parent.parent / "ingest" / "collector" / "src" / "server" / "tracker"

# The helpers that docs/tracker.md lists.
HELPERS = [
    "product_view", "product_list_view", "product_list_filter", "product_click", "add_to_cart", "remove_from_cart",
    "cart_view", "begin_checkout", "checkout_step", "checkout_step_completed", "payment_info", "shipping_info",
    "purchase", "order_updated", "order_cancelled", "refund", "search", "promotion_view", "promotion_click",
    "coupon_entered", "coupon_applied", "coupon_denied", "coupon_removed", "add_to_wishlist", "remove_from_wishlist",
    "wishlist_to_cart", "product_share", "cart_share", "product_review", "transaction_error",
]


class Served(unittest.TestCase):
    def test_the_served_file_is_the_source_minified(self):
        """CLICKMILL_BLESS=1 writes it."""
        command = json.loads((support.CLIENTS / "package.json").read_text(encoding="utf-8"))["scripts"]["tracker"]
        program, _source, *options = command.split()
        minified = subprocess.run(
            [support.NODE, f"{support.NPM}/node_modules/{program}/bin/{program}", SOURCE / "t.js", *options],
            check=True, stdout=subprocess.PIPE, timeout=support.COMMAND_SECONDS).stdout.decode().strip()
        served = SOURCE / "t.min.js"
        if os.environ.get("CLICKMILL_BLESS") == "1":
            served.write_text(minified, encoding="utf-8")
        self.assertEqual(served.read_text(encoding="utf-8"), minified)


@browser.needed
class Tracker(test_sdks.Sdk):
    def setUp(self):
        super().setUp()
        self.lake = self.folder / "lake"

    def open(self, path="tracker.html", plan=(), config="", **parameters):
        file = self.folder / "clickmill.toml"
        file.write_text(config, encoding="utf-8")
        arguments = ("--config", file, "--lake", self.lake, "--spool", self.folder / "spool")
        start = lambda: self.collector(*arguments)  # noqa: E731
        self.between = front.Front(start, plan)
        self.addCleanup(self.between.server.server_close)
        page = browser.Page(path, collector=self.between.url, **parameters)
        self.addCleanup(page.release)
        page.said("loaded")
        return page

    def delivered(self, page, count):
        page.until(lambda: len(page.ids) >= count, f"{count} events were told")
        page.until(lambda: self.between.delivered(page.ids), "everything was delivered")
        self.assertEqual(self.between.plan, [], "too few requests to meet every failure")

    def end(self, page):
        page.close()
        self.between.stop()
        return self.rows(self.lake, page.sent)

    def asked(self, page, name, expression):
        page.run(f"report({{{name}: {expression}}})")
        return page.said(name)

    def test_every_helper_arrives_in_its_columns_through_a_crash_and_503(self):
        page = self.open(plan=["pass", "refuse", "refuse", "crash", "lose"], names=",".join(HELPERS),
                         config="[collector.cookie]\n")
        # First the page view and what the stub kept; then the rest, in several requests.
        page.until(lambda: self.between.delivered(page.ids) and len(page.ids) == 2, "the first two")
        page.run("all()")
        self.delivered(page, len(HELPERS) + 3)
        rows = self.end(page)
        self.assertEqual([one["event"] for one in page.sent],
                         ["page_view", "identify", *HELPERS, "Newsletter Opened"])
        visitors = {(row["anonymous_id"], row["client_session_id"]) for row in rows.values()}
        self.assertEqual(len(visitors), 1, visitors)
        self.assertNotIn(None, visitors.pop())
        # The collector's own cookie, across origins.
        networks = {row["network_id"] for row in rows.values()}
        self.assertEqual(len(networks), 1, networks)
        self.assertNotIn(None, networks)
        for one in page.sent:
            row = rows[one["messageId"]]
            with self.subTest(one["event"]):
                own = one["event"] == "Newsletter Opened"
                self.assert_row(row, event_name="custom" if own else one["event"], source_event_name=one["event"],
                                source_protocol="native", page_title="Runner", page_url=page.url,
                                user_id=None if one["event"] == "page_view" else "browser-user-1")
                self.assertIn("Chrome/", row["user_agent"])
                if one["event"] in HELPERS:
                    self.check_commerce(row)
        self.assertEqual(json.loads(rows[page.sent[-1]["messageId"]]["properties"]),
                         {"issue": 7, "nested": {"a": [1, 2.5, None, True]}})
        # One answer was lost after the events were stored: they came twice, with the same ids.
        twice = support.query(self.lake, "SELECT event_id FROM {event_duplicates}")
        self.assertGreater(len(twice), 0)
        self.assertLessEqual({one for one, in twice}, set(page.ids))

    def check_commerce(self, row):
        self.assert_row(row, order_id="o-4711", checkout_id="c-1", cart_id="k-1", currency="EUR", revenue="119.8",
                        total="130.3", tax="6", shipping="4.5", coupon="MAY", search_query="running shoes",
                        list_id="l-1", promotion_id="pr-1")
        self.assertEqual(len(row["items"]), 1)
        self.assert_row(row["items"][0], product_id="p-17", sku="S17", name="Runner", brand="Fleet",
                        category="Shoes", variant="red", price="59.9", quantity="2", position="3")
        self.assertEqual(json.loads(row["properties"]), {"note": "größe ü 😀"})

    def test_what_is_tracked_on_leaving_arrives_by_beacon(self):
        page = self.open()
        self.delivered(page, 2)
        page.run("last()")
        page.said("left")
        self.delivered(page, 4)
        self.end(page)

    def test_what_a_page_could_not_send_is_sent_by_the_next_one(self):
        page = self.open(plan=["refuse", "crash"] + ["refuse"] * 1000)
        page.until(lambda: len(self.between.done) >= 2, "two requests failed")
        page.run("last()")
        page.said("left")
        page.until(lambda: any(b'"Left"' in body for body in self.between.refused), "the beacon was refused")
        self.between.recover()
        self.assertFalse(any(self.between.delivered([one]) for one in page.ids))
        page.run(f"location.href = {page.url!r}")
        # The other page's events, and this page's own view and identify.
        self.delivered(page, 6)
        rows = self.end(page)
        self.assertEqual(len({row["anonymous_id"] for row in rows.values()}), 1)
        self.assertEqual(len({row["client_session_id"] for row in rows.values()}), 1)

    def test_a_single_page_application_is_viewed_page_by_page(self):
        page = self.open("spa/one")
        self.delivered(page, 2)
        page.run("history.pushState({}, '', '/spa/two?x=1')")
        page.run("history.replaceState({}, '', '/spa/two?x=1#part')")
        page.run("location.hash = 'other'")
        page.run("history.pushState({}, '', '/spa/three')")
        page.run("history.back()")
        self.delivered(page, 5)
        rows = self.end(page)
        views = [rows[one["messageId"]] for one in page.sent if one["event"] == "page_view"]
        paths = [(row["page_url"].removeprefix(page.shop).split("?collector")[0],
                  (row["referrer_url"] or "").removeprefix(page.shop).split("?collector")[0]) for row in views]
        self.assertEqual(paths, [("/spa/one", ""), ("/spa/two?x=1", "/spa/one"), ("/spa/three", "/spa/two?x=1"),
                                 ("/spa/two?x=1", "/spa/three")])

    def test_nothing_is_kept_or_sent_before_consent(self):
        page = self.open(consent="wait")
        self.assertEqual(self.asked(page, "before", "[document.cookie, localStorage.length]"), ["", 0])
        page.run("clickmill('consent', { analytics: true, marketing: false })")
        self.delivered(page, 2)
        cookie, _ = self.asked(page, "after", "[document.cookie, localStorage.length]")
        self.assertIn("_cm=", cookie)
        # All that was sent was sent after it, and says so.
        rows = self.end(page)
        consents = support.query(self.lake, "SELECT consent FROM {events}")
        for consent, in consents:
            self.assertLessEqual({"analytics": True, "marketing": False}.items(), json.loads(consent).items())
        self.assertNotIn(None, {row["anonymous_id"] for row in rows.values()})

    def test_refused_consent_drops_what_waits_and_forgets_the_visitor(self):
        page = self.open(consent="wait")
        page.run("clickmill('consent', { analytics: true })")
        self.delivered(page, 2)
        page.run("clickmill('consent', { analytics: false })")
        page.run("clickmill('track', 'After')")
        self.assertEqual(self.asked(page, "refused", "[document.cookie, localStorage.length]"), ["", 0])
        page.run("clickmill('consent', { analytics: true })")
        page.run("clickmill('track', 'Again')")
        self.delivered(page, 3)
        rows = self.end(page)
        self.assertEqual([one["event"] for one in page.sent], ["page_view", "identify", "Again"])
        self.assertEqual(len({row["anonymous_id"] for row in rows.values()}), 2)

    def test_a_privacy_signal_leaves_no_identifier_anywhere(self):
        page = self.open(gpc="1", plan=["refuse"])
        self.delivered(page, 2)
        self.assertEqual(self.asked(page, "kept", "[document.cookie, localStorage.length]"), ["", 0])
        page.run("last()")
        page.said("left")
        self.delivered(page, 4)
        rows = self.end(page)
        for row in rows.values():
            self.assert_row(row, anonymous_id=None, client_session_id=None, user_id=None)
