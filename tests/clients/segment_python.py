#!/usr/bin/env python3
"""Segment's own Python SDK, unmodified, against a collector.

    segment_python.py URL N [WRITE_KEY] [--gzip]

Sends N messages that go through the whole vocabulary, waits until the SDK has
delivered them, and prints one JSON line for each: {"messageId", "type",
"event"}. Exits 1 where the SDK reports an error or could not deliver.
Needs segment-analytics-python 2.4.0 (PyPI).
"""

import json
import sys

from segment.analytics.client import Client

PRODUCT = {
    "product_id": "p-17",
    "sku": "S17",
    "category": "Shoes",
    "name": "Runner",
    "brand": "Fleet",
    "variant": "red",
    "price": 59.90,
    "quantity": 1,
    "coupon": "MAY",
    "position": 3,
    "url": "https://shop.example/p/17",
    "image_url": "https://shop.example/p/17.jpg",
}
ORDER = {
    "order_id": "o-4711",
    "checkout_id": "c-1",
    "affiliation": "web",
    "subtotal": 119.80,
    "total": 130.30,
    "revenue": 119.80,
    "shipping": 4.50,
    "tax": 6.00,
    "discount": 0,
    "coupon": "MAY",
    "currency": "EUR",
    "products": [PRODUCT],
}

TRACKS = [
    ("Products Searched", {"query": "running shoes"}),
    ("Product List Viewed", {"list_id": "l-1", "category": "Shoes", "products": [PRODUCT]}),
    ("Product List Filtered", {"list_id": "l-1", "filters": [{"type": "color", "value": "red"}]}),
    ("Promotion Viewed", {"promotion_id": "pr-1", "creative": "top", "name": "Sale", "position": "home"}),
    ("Promotion Clicked", {"promotion_id": "pr-1", "creative": "top", "name": "Sale", "position": "home"}),
    ("Product Clicked", PRODUCT),
    ("Product Viewed", {**PRODUCT, "currency": "EUR", "value": 59.90}),
    ("Product Added", {**PRODUCT, "cart_id": "k-1"}),
    ("Product Removed", {**PRODUCT, "cart_id": "k-1"}),
    ("Cart Viewed", {"cart_id": "k-1", "products": [PRODUCT]}),
    ("Checkout Started", ORDER),
    ("Checkout Step Viewed", {"checkout_id": "c-1", "step": 1}),
    ("Checkout Step Completed", {"checkout_id": "c-1", "step": 1, "shipping_method": "DHL"}),
    ("Payment Info Entered", {"checkout_id": "c-1", "order_id": "o-4711", "payment_method": "card"}),
    ("Order Completed", ORDER),
    ("Order Updated", ORDER),
    ("Order Refunded", {"order_id": "o-4711", "total": 30, "currency": "EUR", "products": [PRODUCT]}),
    ("Order Cancelled", ORDER),
    ("Coupon Entered", {"order_id": "o-4711", "cart_id": "k-1", "coupon_id": "MAY"}),
    ("Coupon Applied", {"order_id": "o-4711", "cart_id": "k-1", "coupon_id": "MAY", "discount": 5}),
    ("Coupon Denied", {"cart_id": "k-1", "coupon_id": "JUNE", "reason": "expired"}),
    ("Coupon Removed", {"cart_id": "k-1", "coupon_id": "MAY", "discount": 5}),
    ("Product Added to Wishlist", {**PRODUCT, "wishlist_id": "w-1"}),
    ("Product Removed from Wishlist", {**PRODUCT, "wishlist_id": "w-1"}),
    ("Wishlist Product Added to Cart", {**PRODUCT, "wishlist_id": "w-1", "cart_id": "k-1"}),
    ("Product Shared", {**PRODUCT, "share_via": "email"}),
    ("Cart Shared", {"cart_id": "k-1", "share_via": "email", "products": [{"product_id": "p-17"}]}),
    ("Product Reviewed", {"product_id": "p-17", "review_id": "r-1", "rating": "5"}),
    ("Viewed Product", {"id": "p-17", "sku": "S17", "name": "Runner", "price": 59.90}),
    ("Viewed Product Category", {"category": "Shoes"}),
    ("Added Product", PRODUCT),
    ("Removed Product", PRODUCT),
    ("Completed Order", ORDER),
    ("Newsletter Opened", {"issue": 7, "größe": "ü 😀", "nested": {"a": [1, 2.50, None, True]}}),
]
CONTEXT = {
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    "locale": "de-DE",
    "timezone": "Europe/Berlin",
    "ip": "192.0.2.7",
    "campaign": {"name": "spring", "source": "news", "medium": "email", "term": "t", "content": "c"},
    "page": {"url": "https://shop.example/p/17?a=1", "title": "Runner", "referrer": "https://g.example/"},
    "screen": {"width": 1920, "height": 1080, "density": 2},
}


def send(client, n):
    """Message n of the vocabulary; returns what the SDK says it queued."""
    visitor, user = f"py-visitor-{n % 97}", f"py-user-{n % 31}"
    kind = n % (len(TRACKS) + 5)
    if kind < len(TRACKS):
        event, properties = TRACKS[kind]
        return client.track(user, event, properties, context=CONTEXT, anonymous_id=visitor)
    return [
        lambda: client.page(user, "Shop", "Home", {"url": "https://shop.example/"}, CONTEXT, anonymous_id=visitor),
        lambda: client.screen(user, "App", "Cart", {"a": 1}, CONTEXT, anonymous_id=visitor),
        lambda: client.identify(user, {"plan": "gold"}, CONTEXT, anonymous_id=visitor),
        lambda: client.group(user, f"group-{n}", {"name": "Club"}, CONTEXT, anonymous_id=visitor),
        lambda: client.alias(visitor, user, CONTEXT),
    ][kind - len(TRACKS)]()


def main():
    arguments = [a for a in sys.argv[1:] if a != "--gzip"]
    url, count = arguments[0], int(arguments[1])
    key = arguments[2] if len(arguments) > 2 else "test-key"
    errors = []
    client = Client(
        key,
        host=url,
        gzip="--gzip" in sys.argv,
        max_queue_size=count + 1,
        on_error=lambda error, items: errors.append((str(error), len(items))),
    )
    sent = []
    for n in range(count):
        queued, message = send(client, n)
        if not queued:
            errors.append(("the SDK's queue is full", 1))
        sent.append(message)
    client.shutdown()
    for message in sent:
        line = {key: message.get(key) for key in ("messageId", "type", "event")}
        print(json.dumps(line, ensure_ascii=False))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
