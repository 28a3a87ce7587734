"""A DynamoDB scan killed in the middle goes on behind what it wrote down: every key is compared."""

import json
import os
import signal
import time
import urllib.request

import support

# Beside the columns that are taken; parts have 32 MiB of text.
BALLAST = 300_000
ITEMS = 270
SEGMENTS = 3
KILL_SECONDS = 60


def dynamodb(operation, **request):
    """A call of DynamoDB's API. moto does not check signatures, but wants one."""
    headers = {
        "X-Amz-Target": f"DynamoDB_20120810.{operation}", "Content-Type": "application/x-amz-json-1.0",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/dynamodb/aws4_request, "
                         "SignedHeaders=host, Signature=0",
    }
    call = urllib.request.Request(os.environ["AWS_ENDPOINT_URL_DYNAMODB"], data=json.dumps(request).encode(),
                                  headers=headers, method="POST")
    with urllib.request.urlopen(call, timeout=60) as response:
        return json.loads(response.read())


class Scan(support.Case):
    def test_a_scan_killed_in_the_middle_has_every_key_once(self):
        table = f"things-{time.time_ns()}"
        dynamodb("CreateTable", TableName=table, BillingMode="PAY_PER_REQUEST",
                 AttributeDefinitions=[{"AttributeName": "sku", "AttributeType": "S"}],
                 KeySchema=[{"AttributeName": "sku", "KeyType": "HASH"}])
        items = {f"p{n}": f"12345678901{n}.1234" for n in range(ITEMS)}
        names = sorted(items)
        for start in range(0, ITEMS, 25):
            puts = [{"PutRequest": {"Item": {"sku": {"S": name}, "cost": {"N": items[name]},
                                             "ballast": {"S": "x" * BALLAST}}}}
                    for name in names[start:start + 25]]
            dynamodb("BatchWriteItem", RequestItems={table: puts})
        lake, config = self.folder / "lake", self.folder / "clickmill.toml"
        config.write_text(f"""
            [sources.catalog]
            kind = "dynamodb-scan"
            segments = {SEGMENTS}
            capacity_percent = 100
            read_every = "1h"
            [sources.catalog.products]
            table = "{table}"
            columns = {{ product_id = "sku" }}
            """, encoding="utf-8")
        run = ("--config", config, "--lake", lake, "etl", "run", "--tables", "products")
        state = lake / "_clickmill" / "live" / "catalog" / "product_observations"
        parts = lake / "exports" / "live" / "catalog" / "product_observations"
        process = support.spawn(*run)
        deadline = time.monotonic() + KILL_SECONDS
        while not (state / "_progress.json").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        self.assertEqual(process.wait(), -signal.SIGKILL, "it ended before it was killed")
        self.assertTrue((state / "_progress.json").exists(), "it was killed before it noted anything")
        self.assertEqual([path.name for path in state.glob("0*.json")], [], "the scan was done")
        position = json.loads((state / "_progress.json").read_text(encoding="utf-8"))["position"]
        self.assertTrue(any("after" in segment for segment in position if isinstance(segment, dict)), position)
        noted = {part["path"] for part in json.loads((state / "_progress.json").read_text(encoding="utf-8"))["files"]}
        before = {str(path.relative_to(lake)): path.stat().st_mtime_ns for path in parts.rglob("*.json.gz")}
        self.assertTrue(noted and noted <= set(before))

        self.clickmill(*run)
        [done] = state.glob("0*.json")
        files = {part["path"] for part in json.loads(done.read_text(encoding="utf-8"))["export"]["files"]}
        self.assertTrue(noted < files, "what was noted was read again, or nothing was left to read")
        for path in noted:
            self.assertEqual((lake / path).stat().st_mtime_ns, before[path], "a part was written again")
        found = support.query(lake, "SELECT product_id, CAST(cost AS VARCHAR) FROM {product_observations}")
        self.assertEqual(sorted(found), sorted(items.items()))
        [(read, taken)] = support.query(lake, "SELECT rows_read, rows_taken FROM {source_exports}")
        self.assertEqual((read, taken), (ITEMS, ITEMS))
