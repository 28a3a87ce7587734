"""The same pipeline through the Kinesis and S3 APIs, on independent servers."""

import collections
import json
import os
import uuid

import deltalake
import pyarrow.fs
import support


class KinesisAndS3(support.Case):
    def setUp(self):
        super().setUp()
        if not support.KINESIS or not support.BUCKET:
            self.skipTest("no Kinesis and S3: tests/run.py starts them")
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
        self.prefix = f"{support.BUCKET}/pipeline-{uuid.uuid4().hex[:8]}"
        self.lake = f"s3://{self.prefix}"
        self.files = pyarrow.fs.S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"], endpoint_override=endpoint.split("//")[1], scheme="http")
        self.options = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true",
                        "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
                        "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
                        "AWS_REGION": os.environ["AWS_REGION"]}

    def table(self, name):
        return deltalake.DeltaTable(f"{self.lake}/tables/{name}", storage_options=self.options)

    def column(self, table, column):
        return self.table(table).to_pyarrow_table(columns=[column]).column(0).to_pylist()

    def objects(self):
        selector = pyarrow.fs.FileSelector(self.prefix, recursive=True)
        return {one.path: one.mtime for one in self.files.get_file_info(selector) if one.is_file}

    def acknowledged(self):
        ids = set()
        for path in self.objects():
            if "/_clickmill/demo/truth/" in path:
                with self.files.open_input_stream(path) as content:
                    for line in content.read().decode().splitlines():
                        entry = json.loads(line)
                        if entry["status"] == 200:
                            ids.update(event["id"] for event in entry["events"])
        return ids

    def test_the_demo_through_kinesis_and_s3_keeps_every_acknowledged_event_once(self):
        demo = ("demo", "--visitors", "40", "--stream", "kinesis", "--lake", self.lake)
        for days in (2, 1):
            self.clickmill(*demo, "--days", days)
            acknowledged = self.acknowledged()
            self.assertGreater(len(acknowledged), 200)
            found = self.column("events", "event_id")
            self.assert_each_once(acknowledged, found)
            self.assertEqual(set(found) - acknowledged, set())
        shards = collections.Counter(self.column("events", "shard_id"))
        self.assertNotIn(None, shards, "an event that did not come through Kinesis")
        self.assertGreater(len(shards), 1)

        before = self.objects()
        self.clickmill("etl", "run", "--lake", self.lake)
        self.assertEqual(self.objects(), before, "a run without anything new wrote something")
        answer = self.clickmill("sql", "--lake", self.lake, "--format", "csv", "-c", "SELECT count(*) FROM events")
        self.assertEqual(answer.stdout.split()[-1], str(len(found)).encode())

    def test_a_run_killed_on_s3_is_finished_by_the_next_one(self):
        spool = self.folder / "spool"
        collector = self.collector("--lake", self.lake, "--spool", spool)
        ids = [f"e{n}" for n in range(300)]
        self.assertEqual(collector.post("/v1/batch", {"batch": [support.track(one, visitor=one) for one in ids]})[0], 200)
        collector.stop()
        for point in ("etl.batch_written", "etl.files_written", "etl.before_commit", "etl.committed",
                      "etl.before_snapshot"):
            self.assertTrue(support.died_at(point, "etl", "run", "--lake", self.lake), point)
        self.clickmill("etl", "run", "--lake", self.lake)
        self.assert_each_once(ids, self.column("events", "event_id"))
        self.assertEqual(self.table("sessions").to_pyarrow_table(columns=["session_id"]).num_rows, len(ids))
