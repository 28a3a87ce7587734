"""The vendors' browser SDKs, unmodified, on another origin than the collector's, through failures and on leaving."""

import json

import browser
import front
import test_sdks


class Browser(test_sdks.Sdk):
    """Opens a page, lets it send, lets it leave, and reads what came of it."""

    def visit(self, path, plan, again=False, config="", headers=None, **parameters):
        """`again`: the visitor returns, which is when that SDK sends what it could not on leaving."""
        lake, file = self.folder / "lake", self.folder / "clickmill.toml"
        file.write_text(config, encoding="utf-8")
        arguments = ("--config", file, "--lake", lake, "--spool", self.folder / "spool")
        between = front.Front(lambda: self.collector(*arguments), plan)
        self.addCleanup(between.server.server_close)
        page = browser.Page(path, headers, collector=between.url, **parameters)
        self.addCleanup(page.release)
        tracked = page.said("tracked")
        page.until(lambda: len(page.ids) >= tracked, "the page has told every id")
        page.until(lambda: between.delivered(page.ids), "everything was delivered")
        self.assertEqual(between.plan, [], "the page sent too few requests to meet every failure")
        before = len(page.ids)
        page.run("last()")
        page.said("left")
        page.until(lambda: len(page.ids) == before + 2, "the last two were told")
        if again:
            page.run(f"location.href = {page.url + '&again=1'!r}")
            page.until(lambda: len(page.ids) == before + 3, "the page was viewed again")
        page.until(lambda: between.delivered(page.ids), "what was tracked on leaving was delivered")
        page.close()
        between.stop()
        return page, self.rows(lake, page.sent)

    def check_common(self, page, rows, protocol, users):
        for one in page.sent:
            row = rows[one["messageId"]]
            self.assert_row(row, source_protocol=protocol)
            self.assertIn(row["user_id"], users)
            self.assertTrue(row["page_url"].startswith(page.shop + "/"), row["page_url"])
            self.assertIsNotNone(row["anonymous_id"])

    def check_segment(self, page, rows, protocol, kinds):
        self.check_common(page, rows, protocol, [None, "browser-user-1", "browser-user-2"])
        self.assertEqual({one["event"] or one["type"] for one in page.sent} - {"Left"},
                         {name for name in test_sdks.CANONICAL if name not in kinds})
        for one in page.sent:
            row = rows[one["messageId"]]
            name = one["event"] or one["type"]
            self.assert_row(row, event_name=test_sdks.CANONICAL.get(name, "custom"))
            if name in ("Order Completed", "Completed Order"):
                self.assert_row(row, order_id="o-4711", currency="EUR", revenue="119.8", total="130.3", tax="6",
                                shipping="4.5", coupon="MAY")
                self.assertEqual([item["product_id"] for item in row["items"]], ["p-17"])


@browser.needed
class Segment(Browser):
    def test_analytics_next_delivers_all_one_by_one_through_a_crash_and_503(self):
        # Retries wait in localStorage, up to ten times. Events go out at once.
        plan = ["pass", "refuse", "refuse", "pass", "crash", "pass", "lose", "refuse"]
        page, rows = self.visit("segment.html", plan, mode="standard")
        self.check_segment(page, rows, "segment", ())

    def test_analytics_next_delivers_all_in_batches_through_a_crash_and_503(self):
        page, rows = self.visit("segment.html", ["pass", "refuse", "crash"], mode="batching")
        self.check_segment(page, rows, "segment", ())


@browser.needed
class Signals(Browser):
    """DNT and GPC as headers of a browser's requests, of pages and SDK alike."""

    COOKIE = "[collector.cookie]\n"

    def rows_of(self, config="", **headers):
        page, rows = self.visit("segment.html", [], config=config + self.COOKIE, headers=headers, mode="standard")
        self.assertGreater(len(page.sent), 30)
        return list(rows.values())

    def test_without_a_signal_the_collector_gives_an_id(self):
        # Segment's SDK sends no cookies to another origin, so each request gets a new one;
        # that Snowplow's keeps its is seen in its own tests.
        for row in self.rows_of():
            self.assertIsNotNone(row["network_id"])
            self.assertIsNotNone(row["anonymous_id"])

    def test_dnt_and_gpc_are_recorded_and_no_cookie_is_set(self):
        for row in self.rows_of(**{"DNT": "1", "Sec-GPC": "1"}):
            self.assertEqual(json.loads(row["consent"]), {"dnt": True, "gpc": True})
            self.assertIsNone(row["network_id"])
            self.assertIsNotNone(row["anonymous_id"])

    def test_with_respect_dnt_anonymous_a_signal_leaves_no_id(self):
        for row in self.rows_of('[collector]\nrespect_dnt = "anonymous"\n', **{"Sec-GPC": "1"}):
            self.assertEqual(json.loads(row["consent"]), {"gpc": True})
            ids = ("network_id", "anonymous_id", "user_id", "client_session_id")
            self.assertEqual([row[name] for name in ids], [None] * len(ids))


@browser.needed
class RudderStack(Browser):
    def test_rudderstacks_browser_sdk_delivers_all_through_a_crash_and_503(self):
        # Retries wait in localStorage, at 1, 2, 4, ... s, up to ten times.
        plan = ["pass", "refuse", "refuse", "pass", "crash", "pass", "lose"]
        page, rows = self.visit("rudderstack.html", plan, mode="xhr")
        self.check_segment(page, rows, "rudderstack", ("screen",))

    def test_rudderstacks_browser_sdk_delivers_all_by_beacon(self):
        # A beacon has no answer, so the SDK cannot retry: nothing fails here.
        page, rows = self.visit("rudderstack.html", [], mode="beacon")
        self.check_segment(page, rows, "rudderstack", ("screen",))


@browser.needed
class Snowplow(Browser):
    def check(self, page, rows):
        self.check_common(page, rows, "snowplow", ["browser-user-1"])
        checks = test_sdks.Snowplow("check_kind")
        for one in page.sent:
            row = rows[one["messageId"]]
            with self.subTest(one["event"]):
                self.assertIsNotNone(row["client_session_id"])
                if one["event"] in ("page_view",):
                    self.assert_row(row, event_name="page_view", page_title="Runner")
                elif one["event"] == "product_click" or one["event"] == "other":
                    self.assert_row(row, event_name={"other": "custom"}.get(one["event"], one["event"]))
                else:
                    checks.check_kind(one["event"], row)

    def test_the_browser_tracker_delivers_all_by_post_through_a_crash_and_503(self):
        # Failed requests wait in localStorage for the next event, flush or page: it has no timer.
        self.check(*self.visit("snowplow.html", ["refuse", "pass", "crash", "pass", "lose"], again=True, mode="post"))

    def test_the_browser_tracker_delivers_all_by_get(self):
        self.check(*self.visit("snowplow.html", [], again=True, mode="get"))
