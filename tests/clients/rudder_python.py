#!/usr/bin/env python3
"""RudderStack's own Python SDK, unmodified, against a collector.

    rudder_python.py URL N [WRITE_KEY]

Sends N messages that go through the whole vocabulary, waits until the SDK has
delivered them, and prints one JSON line for each: {"messageId", "type",
"event"}. Exits 1 where the SDK reports an error or could not deliver.
Needs rudder-sdk-python 2.1.9 (PyPI).
"""

import copy
import json
import pathlib
import sys

from rudderstack.analytics.client import Client

VOCABULARY = json.loads(pathlib.Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))
TRACKS = VOCABULARY["tracks"]


def send(client, n):
    """Message n of the vocabulary; returns what the SDK says it queued."""
    visitor, user = f"py-visitor-{n % 97}", f"py-user-{n % 31}"
    # The SDK writes into the context that it is given.
    context = copy.deepcopy(VOCABULARY["context"])
    kind = n % (len(TRACKS) + 5)
    if kind < len(TRACKS):
        event, properties = TRACKS[kind]
        return client.track(user, event, properties, context=context, anonymous_id=visitor)
    return [
        lambda: client.page(user, "Shop", "Home", {"url": "https://shop.example/"}, context, anonymous_id=visitor),
        lambda: client.screen(user, "App", "Cart", {"a": 1}, context, anonymous_id=visitor),
        lambda: client.identify(user, {"plan": "gold"}, context, anonymous_id=visitor),
        lambda: client.group(user, f"group-{n}", {"name": "Club"}, context, anonymous_id=visitor),
        lambda: client.alias(visitor, user, context),
    ][kind - len(TRACKS)]()


def main():
    url, count = sys.argv[1], int(sys.argv[2])
    key = sys.argv[3] if len(sys.argv) > 3 else "test-key"
    errors = []
    client = Client(key, host=url, max_queue_size=count + 1, upload_size=15,
                    on_error=lambda error, items: errors.append((str(error), len(items))))
    sent = []
    for n in range(count):
        queued, message = send(client, n)
        if not queued:
            errors.append(("the SDK's queue is full", 1))
        sent.append(message)
    client.flush()
    client.shutdown()
    for message in sent:
        line = {key: message.get(key) for key in ("messageId", "type", "event")}
        print(json.dumps(line, ensure_ascii=False))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
