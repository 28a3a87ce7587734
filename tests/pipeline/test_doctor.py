"""`clickmill doctor` against real descriptions: kinesis-mock's streams, ministack's delivery streams, moto's Glue,
a bucket.

moto's description of a delivery stream has its times as text, which AWS' SDK refuses.
"""

import json
import os
import urllib.request
import uuid

import support

MINISTACK = os.environ.get("CLICKMILL_TEST_MINISTACK", "")
SEVERITIES = ["ok", "note", "warning", "loss"]
# The event as it goes to Firehose (docs/landing.md).
KEYS = """event_id event_name source_protocol source_event_name app_id platform event_ts event_ts_reason client_ts sent_ts
received_ts clock_skew_ms user_id anonymous_id network_id device_id client_session_id consent page_url page_title
referrer_url utm_source utm_medium utm_campaign utm_term utm_content click_id click_id_type user_agent screen_width
screen_height language timezone ip_truncated country region city validation order_id checkout_id cart_id currency revenue
total tax shipping discount coupon search_query list_id promotion_id items properties context collector_id wal_seq""".split()
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


def glue(operation, **request):
    call = urllib.request.Request(os.environ["AWS_ENDPOINT_URL_GLUE"], data=json.dumps(request).encode(), method="POST", headers={
        "X-Amz-Target": f"AWSGlue.{operation}", "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/glue/aws4_request, "
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
        self.assertNotIn(("kinesis", "readers"), found)
        # Two shards give 4 MB/s to all who poll them.
        for readers, events, severity in (("1", "1500", "ok"), ("2", "1500", "warning"), ("6", "10", "warning")):
            found = self.doctor("--stream", self.name, "--readers", readers, "--events-per-second", events)
            self.assertEqual(found["kinesis", "readers"], severity, readers)
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

    def converting(self, **schema):
        """A delivery stream that converts by a table of its name."""
        create_delivery_stream(self.name, ErrorOutputPrefix="errors/", DataFormatConversionConfiguration={
            "Enabled": True, "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
            "SchemaConfiguration": {"DatabaseName": self.name, "TableName": "clicks", "RoleARN": ROLE, **schema}})

    def schema(self, *arguments, code=0):
        """What is said of it: its findings on the schema, and on Glue."""
        arguments = ("doctor", "--lake", self.folder / "lake", "--firehose", self.name, "--format", "json", *arguments)
        report = json.loads(self.clickmill(*arguments, code=code, env={"AWS_ENDPOINT_URL_FIREHOSE": MINISTACK}).stdout)
        return [(one["severity"], one["text"]) for one in report["findings"]
                if one["rule"] == "schema" or one["subject"].startswith("glue")]

    def test_format_conversion_is_held_against_the_table_that_glue_has(self):
        self.converting()
        [refused, unknown] = self.schema(code=1)
        self.assertEqual((refused[0], unknown[0]), ("loss", "warning"))
        self.assertIn("EntityNotFoundException", refused[1])
        glue("CreateDatabase", DatabaseInput={"Name": self.name})
        columns = dict.fromkeys(KEYS, "string") | {"wal_seq": "bigint", "event_ts": "timestamp", "total": "decimal(18,4)"}

        def table(columns, partitions=()):
            of = lambda columns: [{"Name": name, "Type": kind} for name, kind in columns]
            return {"Name": "clicks", "StorageDescriptor": {"Columns": of(columns.items())}, "PartitionKeys": of(partitions)}

        glue("CreateTable", DatabaseName=self.name, TableInput=table(columns))
        self.assertEqual([severity for severity, _ in self.schema()], ["ok"])
        # Columns that are missing, of another type, and no key of ours.
        other = {name: kind for name, kind in columns.items() if name not in ("properties", "coupon", "collector_id")}
        other |= {"user_id": "bigint", "total": "double", "shelf": "string"}
        glue("UpdateTable", DatabaseName=self.name, TableInput=table(other, [("dt", "date")]))
        told = self.schema(code=1)
        for severity, text in (("loss", "clicks has no properties:"), ("warning", "clicks has no collector_id:"),
                               ("warning", "clicks has no coupon:"), ("loss", "clicks.user_id is bigint:"),
                               ("warning", "clicks.total is double:"), ("note", "clicks.shelf is no key"),
                               ("note", "clicks.dt is no key")):
            self.assertEqual([one for one in told if text in one[1]], [one for one in told if one[0] == severity and text in one[1]])
            self.assertTrue(any(text in one[1] for one in told), (text, told))
        self.assertEqual(len(told), 7)

    def test_format_conversion_is_held_against_the_version_of_the_table_that_it_names(self):
        self.converting(VersionId="1")
        glue("CreateDatabase", DatabaseInput={"Name": self.name})
        for kinds in ("string", "boolean"):
            columns = [{"Name": name, "Type": kinds} for name in KEYS]
            call = "CreateTable" if kinds == "string" else "UpdateTable"
            glue(call, DatabaseName=self.name, TableInput={"Name": "clicks", "StorageDescriptor": {"Columns": columns}})
        self.assertEqual([severity for severity, _ in self.schema()], ["ok"])

    def test_format_conversion_is_held_against_the_glue_table_that_is_given(self):
        self.converting()
        table = self.folder / "table.json"
        columns = [{"Name": name, "Type": "string"} for name in ("event_id", "event_name")]
        table.write_text(json.dumps({"Table": {"Name": "clicks", "StorageDescriptor": {"Columns": columns}}}), encoding="utf-8")
        self.assertEqual({severity for severity, _ in self.schema("--glue-table", table, code=1)}, {"loss", "warning"})
