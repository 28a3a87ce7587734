#!/usr/bin/env python3
"""Snowplow's own Python tracker, unmodified, against a collector.

    snowplow_python.py URL N [get|post]

Sends N events that go through the whole vocabulary, waits until the tracker has
delivered them, and prints one JSON line for each: {"messageId", "type",
"event"}: its eid, its `e` parameter, and what was tracked. Failed requests are
sent again after 0.4, 1.4, 3.4, ... s.
Needs snowplow-tracker 1.1.0 (PyPI).
"""

import json
import sys
import threading

from snowplow_tracker import (Emitter, PagePing, PageView, ScreenView, SelfDescribing, SelfDescribingJson,
                              StructuredEvent, Subject, Tracker)

DELIVERY_SECONDS = 120
# After a failure the tracker sends all that waits at once: it is given so many at a time.
ROUND = 24


def iglu(name, version, data):
    return SelfDescribingJson(f"iglu:com.snowplowanalytics.snowplow{name}/jsonschema/{version}", data)


def product(**more):
    return iglu(".ecommerce/product", "1-0-0", {
        "id": "p-17", "name": "Runner", "category": "Shoes", "price": 59.9, "currency": "EUR", "brand": "Fleet",
        "variant": "red", "quantity": 2, **more})


def action(kind, *entities):
    event = iglu(".ecommerce/snowplow_ecommerce_action", "1-0-2", {"type": kind})
    return SelfDescribing(event, context=list(entities))


CART = iglu(".ecommerce/cart", "1-0-0", {"cart_id": "k-1", "total_value": 119.8, "currency": "EUR"})
PROMOTION = iglu(".ecommerce/promotion", "1-0-0", {"id": "pr-1", "name": "Sale"})
PAGE = ("https://shop.example/p/17?utm_source=news", "Runner", "https://g.example/")

# The name says what is expected in event_name; `other` is an event of no canonical kind.
VOCABULARY = [
    ("page_view", lambda: PageView(*PAGE)),
    ("page_ping", lambda: PagePing(*PAGE, min_x=0, max_x=10, min_y=0, max_y=900)),
    ("screen_view", lambda: ScreenView(id_="s-1", name="Cart")),
    ("other", lambda: StructuredEvent("video", "play", "l", "p", 1.5)),
    ("other", lambda: SelfDescribing(SelfDescribingJson(
        "iglu:example.shop/newsletter/jsonschema/1-0-0", {"größe": "ü 😀"}))),
    ("product_view", lambda: action("product_view", product())),
    ("product_list_view", lambda: action("list_view", product(position=1), product(id="p-18", position=2))),
    ("product_click", lambda: action("list_click", product(position=1))),
    ("add_to_cart", lambda: action("add_to_cart", product(), CART)),
    ("remove_from_cart", lambda: action("remove_from_cart", product(), CART)),
    ("promotion_view", lambda: action("promo_view", PROMOTION)),
    ("promotion_click", lambda: action("promo_click", PROMOTION)),
    ("checkout_step", lambda: action("checkout_step", iglu(
        ".ecommerce/checkout_step", "1-0-0", {"step": 1, "payment_method": "card"}))),
    ("purchase", lambda: action("transaction", product(), iglu(".ecommerce/transaction", "1-0-0", {
        "transaction_id": "o-4711", "revenue": 130.3, "currency": "EUR", "payment_method": "card", "tax": 6,
        "shipping": 4.5, "total_quantity": 2}))),
    ("refund", lambda: action("refund", product(), iglu(".ecommerce/refund", "1-0-0", {
        "transaction_id": "o-4711", "refund_amount": 30, "currency": "EUR"}))),
    ("transaction_error", lambda: action("trns_error", iglu(
        ".ecommerce/transaction_error", "1-0-0", {"error_code": "E1", "error_type": "hard"}))),
]


def main():
    url, count = sys.argv[1], int(sys.argv[2])
    method = sys.argv[3] if len(sys.argv) > 3 else "post"
    delivered = {}
    more = threading.Event()

    def on_success(payloads):
        delivered.update((payload["eid"], payload) for payload in payloads)
        more.set()

    emitter = Emitter(url, protocol="http", method=method, on_success=on_success, request_timeout=30)
    subject = Subject()
    subject.set_user_id("sp-user-1").set_domain_user_id("sp-visitor-1").set_domain_session_id("sp-session-1")
    subject.set_screen_resolution(1920, 1080).set_timezone("Europe/Berlin").set_lang("de-DE")
    subject.set_useragent("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
    tracker = Tracker("python", emitter, subject=subject, app_id="shop-from-client", encode_base64=True)
    sent = []
    for n in range(count):
        event, build = VOCABULARY[n % len(VOCABULARY)]
        sent.append((tracker.track(build()), event))
        if (n + 1) % ROUND == 0 or n + 1 == count:
            # What is left of the last batch goes with a flush, once no retry is due.
            for _ in range(DELIVERY_SECONDS * 10):
                emitter.flush()
                if len(delivered) == len(sent):
                    break
                more.clear()
                more.wait(0.1)
    for event_id, event in sent:
        line = {"messageId": event_id, "type": delivered.get(event_id, {}).get("e"), "event": event}
        print(json.dumps(line, ensure_ascii=False))
    if len(delivered) != count:
        print(f"error: {count - len(delivered)} of {count} not delivered", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
