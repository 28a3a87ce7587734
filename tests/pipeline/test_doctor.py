"""`clickmill doctor` against real descriptions: kinesis-mock's streams, ministack's delivery streams, a bucket.

moto's description of a delivery stream has its times as text, which AWS' SDK refuses.
"""

import json
import os
import urllib.request
import uuid

import support

MINISTACK = os.environ.get("CLICKMILL_TEST_MINISTACK", "")
SEVERITIES = ["ok", "note", "warning", "loss"]
ROLE = "arn:aws:iam::123456789012:role/firehose"


def create_delivery_stream(name, **destination):
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/s3/aws4_request, "
                                "SignedHeaders=host, Signature=0"}
    bucket = urllib.request.Request(f"{MINISTACK}/{name}", headers=headers, method="PUT")
    with urllib.request.urlopen(bucket, timeout=30):
        pass
    destination = {"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{name}", **destination}
    body = {"DeliveryStreamName": name, "DeliveryStreamType": "DirectPut",
            "ExtendedS3DestinationConfiguration": destination}
    call = urllib.request.Request(MINISTACK, data=json.dumps(body).encode(), method="POST", headers={
        "X-Amz-Target": "Firehose_20150804.CreateDeliveryStream", "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/firehose/aws4_request, "
                         "SignedHeaders=host, Signature=0"})
    with urllib.request.urlopen(call, timeout=30):
        pass


class Doctor(support.Case):
    def setUp(self):
        super().setUp()
        if not (support.KINESIS and MINISTACK and support.BUCKET):
            self.skipTest("no servers: tests/run.py starts them")
        self.name = f"doctor-{uuid.uuid4()}"

    def doctor(self, *arguments, code=0, lake=None):
        lake = lake or f"s3://{support.BUCKET}/{self.name}"
        command = ("doctor", "--lake", lake, *arguments)
        env = {"AWS_ENDPOINT_URL_FIREHOSE": MINISTACK}
        report = json.loads(self.clickmill(*command, "--format", "json", code=code, env=env).stdout)
        text = self.clickmill(*command, code=code, env=env).stdout.decode()
        worst = max((finding["severity"] for finding in report["findings"]),
                    key=SEVERITIES.index)
        self.assertEqual(report["verdict"], worst)
        found = {}
        for finding in report["findings"]:
            service, rule = finding["subject"].split()[0], finding["rule"]
            # A store's own words and the clock are other ones each time.
            self.assertIn(rule if service == "lake" else finding["text"], text)
            found.setdefault((service, rule), []).append(finding["severity"])
        return {key: max(severities, key=SEVERITIES.index) for key, severities in found.items()}

    def test_a_lake_in_a_bucket_is_sound_and_nothing_of_the_trial_stays(self):
        found = self.doctor()
        self.assertEqual(set(found.values()), {"ok"})
        self.assertLessEqual({("lake", "conditional-put"), ("lake", "clock")}, set(found))
        self.assertEqual(self.doctor(lake="s3://no-such-bucket-anywhere/x", code=1), {("lake", "reachable"): "loss"})

    def test_a_stream_is_held_against_its_schedule_and_its_rate(self):
        support.kinesis("CreateStream", StreamName=self.name, ShardCount=2)
        describe = lambda: support.kinesis("DescribeStreamSummary", StreamName=self.name)["StreamDescriptionSummary"]
        support.until(lambda: describe()["StreamStatus"] == "ACTIVE", 60, "the stream is active")
        found = self.doctor("--stream", self.name)
        self.assertEqual((found["kinesis", "retention"], found["kinesis", "shards"]), ("warning", "note"))
        # It keeps records for 24 hours.
        found = self.doctor("--stream", self.name, "--every", "24", code=1)
        self.assertEqual(found["kinesis", "retention"], "loss")
        support.kinesis("IncreaseStreamRetentionPeriod", StreamName=self.name, RetentionPeriodHours=168)
        found = self.doctor("--stream", self.name, "--every", "24", "--events-per-second", "1000")
        self.assertEqual((found["kinesis", "retention"], found["kinesis", "shards"]), ("ok", "ok"))
        found = self.doctor("--stream", self.name, "--events-per-second", "2000", "--event-bytes", "1100", code=1)
        self.assertEqual(found["kinesis", "shards"], "loss")
        found = self.doctor("--stream", "no-such-stream", code=1)
        self.assertEqual(found["kinesis", "described"], "loss")

    def test_the_rate_is_measured_from_what_landed(self):
        support.kinesis("CreateStream", StreamName=self.name, ShardCount=1)
        lake = self.folder / "lake"
        collector = self.collector("--sink", f"kinesis={self.name}", "--spool", self.folder / "spool")
        batch = [support.track(f"e{n}") for n in range(50)]
        self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)
        collector.stop()
        self.clickmill("deliver", "--stream", self.name, "--once", "--lake", lake)
        report = json.loads(self.clickmill("doctor", "--stream", self.name, "--lake", lake, "--format", "json").stdout)
        # All in one hour, or in two where the clock struck.
        self.assertLessEqual(report["rate"]["events"], 50 / 3600)
        self.assertGreaterEqual(report["rate"]["events"], 25 / 3600)

    def test_a_delivery_stream_is_held_against_what_readers_need(self):
        create_delivery_stream(self.name, Prefix="clicks/")
        found = self.doctor("--firehose", self.name)
        self.assertEqual({rule: severity for (subject, rule), severity in found.items() if subject == "firehose"},
                         {"delimiter": "warning", "error-prefix": "warning", "buffering": "note", "read": "note",
                          "logging": "note"})
        sound = f"{self.name}-2"
        create_delivery_stream(
            sound, Prefix="clicks/", ErrorOutputPrefix="errors/", CompressionFormat="GZIP",
            BufferingHints={"SizeInMBs": 128, "IntervalInSeconds": 900},
            CloudWatchLoggingOptions={"Enabled": True, "LogGroupName": "g", "LogStreamName": "s"},
            ProcessingConfiguration={"Enabled": True, "Processors": [{"Type": "AppendDelimiterToRecord", "Parameters": [
                {"ParameterName": "Delimiter", "ParameterValue": "\\n"}]}]})
        (self.folder / "clickmill.toml").write_text(f"[[raw]]\nlocation = 's3://{sound}'\nprefix = 'clicks/'\n", encoding="utf-8")
        found = self.doctor("--firehose", sound, "--events-per-second", "1000")
        self.assertEqual({severity for (subject, _), severity in found.items() if subject == "firehose"}, {"ok"})
        (self.folder / "clickmill.toml").write_text(f"[[raw]]\nlocation = 's3://{sound}'\nprefix = 'other/'\n", encoding="utf-8")
        self.assertEqual(self.doctor("--firehose", sound, code=1)["firehose", "read"], "loss")

    def test_format_conversion_is_held_against_the_glue_table_that_is_given(self):
        create_delivery_stream(self.name, ErrorOutputPrefix="errors/", DataFormatConversionConfiguration={
            "Enabled": True, "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
            "SchemaConfiguration": {"DatabaseName": "shop", "TableName": "clicks", "RoleARN": ROLE}})
        self.assertEqual(self.doctor("--firehose", self.name)["firehose", "schema"], "warning")
        table = self.folder / "table.json"
        columns = [{"Name": name, "Type": "string"} for name in ("event_id", "event_name")]
        table.write_text(json.dumps({"Table": {"Name": "clicks", "StorageDescriptor": {"Columns": columns}}}), encoding="utf-8")
        found = self.doctor("--firehose", self.name, "--glue-table", table, code=1)
        self.assertEqual(found["firehose", "schema"], "loss")
