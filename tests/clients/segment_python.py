#!/usr/bin/env python3
"""Segment's own Python SDK, unmodified, against a collector.

    segment_python.py URL N [WRITE_KEY] [--gzip]

Sends N messages that go through the whole vocabulary, waits until the SDK has
delivered them, and prints one JSON line for each: {"messageId", "type",
"event"}. Exits 1 where the SDK reports an error or could not deliver.
Needs segment-analytics-python 2.4.0 (PyPI).
"""

import json
import pathlib
import sys

from segment.analytics.client import Client

VOCABULARY = json.loads(pathlib.Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))
TRACKS, CONTEXT = VOCABULARY["tracks"], VOCABULARY["context"]


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
