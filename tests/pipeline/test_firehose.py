"""What Firehose landed is taken in: by two servers that stand for it, and by objects made here.

moto delivers each call as one object and leaves prefix expressions as they are; ministack
evaluates them, partitions, converts to Parquet and reads a Kinesis stream. What neither does
(gzip, large concatenations, Hive's times) the test writes itself, with other libraries.
"""

import base64
import gzip
import json
import os
import urllib.request
import uuid
import xml.etree.ElementTree

import pyarrow
import pyarrow.parquet
import support

MOTO = os.environ.get("AWS_ENDPOINT_URL_FIREHOSE", "")
MINISTACK = os.environ.get("CLICKMILL_TEST_MINISTACK", "")
ROLE = "arn:aws:iam::123456789012:role/firehose"


def aws(endpoint, service, target, **request):
    """A call of a JSON API. The servers do not check signatures, but want one."""
    headers = {
        "X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1", "X-Amz-Date": "20261123T000000Z",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/{service}/aws4_request, "
                         "SignedHeaders=host, Signature=0",
    }
    call = urllib.request.Request(endpoint, data=json.dumps(request).encode(), headers=headers, method="POST")
    with urllib.request.urlopen(call, timeout=30) as response:
        return json.loads(response.read() or b"{}")


def s3(endpoint, method, path, data=None):
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/s3/aws4_request, "
                                "SignedHeaders=host, Signature=0"}
    call = urllib.request.Request(endpoint + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(call, timeout=30) as response:
        return response.read()


def keys(endpoint, bucket):
    listing = xml.etree.ElementTree.fromstring(s3(endpoint, "GET", f"/{bucket}?list-type=2"))
    return [key.text for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]


def event(event_id, at=None, **more):
    at = support.stamp(at or support.utc_now())
    return {"event_id": event_id, "event_name": "product_view", "source_protocol": "native", "app_id": "shop",
            "event_ts": at, "received_ts": at, "anonymous_id": event_id, **more}


class Location(support.Case):
    """A lake in a folder, and one configured location."""

    def setUp(self):
        super().setUp()
        self.lake = self.folder / "lake"

    def configure(self, location, *more):
        text = "\n".join([f"[[raw]]\nlocation = '{location}'", *more])
        (self.folder / "clickmill.toml").write_text(text, encoding="utf-8")

    def etl(self, *arguments, code=0, env=None):
        result = self.clickmill("etl", "run", "--lake", self.lake, "--format", "json", *arguments, code=code, env=env)
        return json.loads(result.stdout), result.stderr.decode()

    def rejected(self):
        """(origin, bytes, wal_seq) of every reject."""
        return sorted((origin, base64.b64decode(content), seq) for origin, content, seq in support.query(
            self.lake, "SELECT origin, bytes_base64, wal_seq FROM {rejects}"))

    def assert_unchanged_by_another_run(self, env=None):
        before = {path: path.stat().st_mtime_ns for path in self.lake.rglob("*") if path.is_file()}
        self.etl(env=env)
        after = {path: path.stat().st_mtime_ns for path in self.lake.rglob("*") if path.is_file()}
        self.assertEqual(set(before), set(after))


class Objects(Location):
    """Objects written here, in a folder."""

    def setUp(self):
        super().setUp()
        self.place = self.folder / "bucket"
        self.place.mkdir()
        self.configure(self.place)

    def put(self, key, content):
        path = self.place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("." + path.name)
        part.write_bytes(content)
        part.rename(path)

    def hour(self, name):
        return f"{support.utc_now():%Y/%m/%d/%H}/{name}"

    def test_plain_gzip_run_together_and_spread_over_lines_are_read_the_same(self):
        lines = {kind: [json.dumps(event(f"{kind}-{n}", properties={"text": "}{ \"\\"})) for n in range(50)]
                 for kind in ("plain", "run", "gz", "two", "pretty")}
        self.put(self.hour("plain"), "".join(one + "\n" for one in lines["plain"]).encode())
        self.put(self.hour("run"), "".join(lines["run"]).encode())
        self.put(self.hour("gz"), gzip.compress("".join(lines["gz"]).encode()))
        # Firehose appends gzip members; a reader that stops after the first loses the rest.
        self.put(self.hour("two"), b"".join(gzip.compress(one.encode()) for one in lines["two"]))
        self.put(self.hour("pretty"), "\n".join(json.dumps(json.loads(one), indent=2) for one in lines["pretty"]).encode())
        report, _ = self.etl()
        self.assertEqual((report["landed"][0]["files"], report["landed"][0]["events"]), (5, 250))
        ids = [json.loads(one)["event_id"] for kind in lines.values() for one in kind]
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(ids))
        found = support.query(self.lake, "SELECT shard_id, sequence_number FROM {events} WHERE event_id = 'run-7'")
        self.assertEqual(found, [(f"raw:{self.hour('run')}", "8")])
        self.assert_unchanged_by_another_run()

    def test_its_objects_and_our_own_raw_zone_mix_and_what_is_in_both_is_there_once(self):
        collector = self.collector("--lake", self.lake, "--spool", self.folder / "spool")
        sent = [support.track(f"own-{n}") for n in range(40)]
        self.assertEqual(collector.post("/v1/batch", {"batch": sent})[0], 200)
        collector.stop()
        own = [gzip.decompress(path.read_bytes()) for path in (self.lake / "raw" / "events").rglob("*.gz")]
        own = b"".join(own).splitlines(keepends=True)
        self.assertEqual(len(own), 40)
        # As of a stream that both of them read.
        theirs = [json.dumps(event(f"their-{n}")).encode() + b"\n" for n in range(30)]
        self.put(self.hour("mixed"), b"".join(theirs + own[:10]))
        self.etl()
        both = {json.loads(line)["event_id"] for line in own[:10]}
        expected = [f"own-{n}" for n in range(40)] + [f"their-{n}" for n in range(30)]
        self.assert_each_once(expected, support.event_ids(self.lake))
        self.assertEqual(len(support.event_ids(self.lake)), 70)
        copies = support.query(self.lake, "SELECT event_id, reason FROM {event_duplicates} ORDER BY 1")
        self.assertEqual(copies, [(one, "redelivery") for one in sorted(both)])
        self.assert_unchanged_by_another_run()

    def test_what_is_no_event_becomes_a_reject_with_its_bytes_and_costs_nothing_else(self):
        good = [json.dumps(event(f"e{n}")) for n in range(4)]
        cut = '{"event_id":"cut","app_id":"sh'
        other = '{"order":1}'
        self.put(self.hour("mixed"), f"{good[0]}\n{cut}\n{good[1]}{other}{good[2]}\nnonsense\n{good[3]}".encode())
        self.put(self.hour("broken.gz"), gzip.compress(b"\n".join(one.encode() for one in good))[:-20])
        self.etl()
        self.assertEqual(sorted(set(support.event_ids(self.lake))), ["e0", "e1", "e2", "e3"])
        found = [content for _, content, _ in self.rejected()]
        for bytes_ in (cut.encode(), other.encode(), b"nonsense"):
            self.assertIn(bytes_, found)
        self.assertTrue(any(origin.startswith(self.hour("broken.gz")) for origin, _, _ in self.rejected()))

    def test_parquet_of_format_conversion_comes_back_as_the_events_that_were_sent(self):
        at = support.utc_now().replace(microsecond=123000)
        rows = [event(f"p{n}", at) for n in range(20)]
        columns = {name: [row[name] for row in rows] for name in ("event_name", "source_protocol", "app_id", "anonymous_id")}
        columns["messageid"] = [row["event_id"] for row in rows]
        columns["received_ts"] = [f"{at:%Y-%m-%d %H:%M:%S.%f}"] * 20
        table = pyarrow.table(columns)
        naive = at.replace(tzinfo=None)
        table = table.append_column("event_ts", pyarrow.array([naive] * 20, pyarrow.timestamp("ns")))
        table = table.append_column("total", pyarrow.array([f"{n}.25" for n in range(20)]).cast(pyarrow.decimal128(18, 4)))
        table = table.append_column("items", pyarrow.array(
            [[{"product_id": f"P{n}", "price": None, "quantity": 2}] for n in range(20)]))
        table = table.append_column("properties", pyarrow.array(['{"a":1.10}'] * 20))
        table = table.append_column("shelf", pyarrow.array(["top"] * 20))
        for name, options in (("hive", {"use_deprecated_int96_timestamps": True, "compression": "snappy"}),
                              ("plain", {"compression": "none"}), ("gzip", {"compression": "gzip"})):
            path = self.folder / "hold"
            pyarrow.parquet.write_table(table, path, **options)
            self.put(self.hour(f"{name}.parquet"), path.read_bytes())
            path.unlink()
        self.configure(self.place, "[raw.columns]\nevent_id = 'messageid'")
        report, _ = self.etl()
        self.assertEqual((report["landed"][0]["events"], report["landed"][0]["rejects"]), (60, 0))
        found = support.query(self.lake, "SELECT event_id, epoch_us(event_ts), epoch_us(received_ts), CAST(total AS VARCHAR), "
                                         "items[1].product_id, items[1].quantity, properties FROM {events} ORDER BY total")
        micros = int(at.timestamp() * 1_000_000)
        self.assertEqual(found, [(f"p{n}", micros, micros, f"{n}.2500", f"P{n}", 2, '{"a":1.10,"shelf":"top"}')
                                 for n in range(20)])

    def test_records_that_firehose_could_not_deliver_are_rejects_with_their_numbers(self):
        sent = [json.dumps(event(f"f{n}", collector_id="c-1", wal_seq=n + 1)) for n in range(3)]
        raw = base64.b64encode("\n".join(sent).encode() + b"\n").decode()
        failed = {"attemptsMade": 4, "arrivalTimestamp": 1795455601000, "lastErrorCode": "DataFormatConversion.Malformed",
                  "lastErrorMessage": "no", "attemptEndingTimestamp": 1795455700000, "rawData": raw,
                  "sequenceNumber": "49", "subSequenceNumber": None, "dataCatalogTable": {"databaseName": "d"}}
        self.configure(self.place, "prefix = 'clicks/'", "error_prefix = 'errors/!{firehose:error-output-type}/'")
        self.put(f"errors/format-conversion-failed/{self.hour('x')}", json.dumps(failed).encode() + b"\n")
        self.put(f"clicks/{self.hour('y')}", json.dumps(event("good")).encode())
        self.put(f"elsewhere/{self.hour('z')}", json.dumps(event("not ours")).encode())
        self.etl()
        self.assertEqual(support.event_ids(self.lake), ["good"])
        self.assertEqual([(content, seq) for _, content, seq in self.rejected()],
                         [(one.encode(), n + 1) for n, one in enumerate(sent)])

    def test_each_version_of_an_object_is_taken_once_and_an_overwrite_is_said(self):
        first = [json.dumps(event(f"a{n}")) for n in range(3)]
        self.put(self.hour("one"), "\n".join(first).encode())
        _, said = self.etl("--strict")
        self.assertNotIn("overwritten", said)
        self.put(self.hour("one"), "\n".join([*first, json.dumps(event("b"))]).encode())
        report, said = self.etl("--strict", code=3)
        self.assertIn("overwritten", said)
        self.assertEqual(report["landed"][0]["overwritten"], [self.hour("one")])
        self.assertEqual(sorted(support.event_ids(self.lake)), ["a0", "a1", "a2", "b"])
        copies = support.query(self.lake, "SELECT event_id FROM {event_duplicates} ORDER BY event_id")
        self.assertEqual(copies, [("a0",), ("a1",), ("a2",)])
        self.assert_unchanged_by_another_run()

    def test_an_old_folder_is_found_by_the_daily_listing_and_a_recent_one_at_once(self):
        self.put(self.hour("now"), json.dumps(event("now")).encode())
        self.etl()
        self.put(self.hour("next"), json.dumps(event("next")).encode())
        self.put("2020/01/01/00/old", json.dumps(event("old")).encode())
        self.etl()
        self.assertEqual(sorted(support.event_ids(self.lake)), ["next", "now"])
        # A day later: the note of the last whole listing is that old.
        note, = (self.lake / "_clickmill" / "firehose").rglob("listed")
        note.write_text("2020-01-01T00:00:00Z")
        self.etl()
        self.assertEqual(sorted(support.event_ids(self.lake)), ["next", "now", "old"])
        self.assert_unchanged_by_another_run()

    def test_killed_at_every_named_point_each_object_lands_once(self):
        ids = []
        for point in ("raw.put", "landing.before_commit", "landing.committed", "etl.batch_written", "etl.before_commit"):
            batch = [f"{point}-{n}" for n in range(5)]
            ids += batch
            self.put(self.hour(point), "".join(json.dumps(event(one)) for one in batch).encode())
            self.assertTrue(support.died_at(point, "etl", "run", "--lake", self.lake, cwd=self.folder), point)
        self.etl()
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(ids))
        self.assertEqual(support.files(self.lake, "event_duplicates"), {})

    def test_a_location_that_is_gone_fails_the_run_and_not_the_rest_of_it(self):
        self.put(self.hour("here"), json.dumps(event("here")).encode())
        text = f"[[raw]]\nlocation = '{self.folder / 'no-such'}'\n[[raw]]\nlocation = '{self.place}'\n"
        (self.folder / "clickmill.toml").write_text(text, encoding="utf-8")
        result = self.clickmill("etl", "run", "--lake", self.lake, code=1)
        self.assertIn(b"no-such", result.stderr)
        self.assertEqual(support.event_ids(self.lake), ["here"])
        self.configure(self.lake)
        self.assertIn(b"is the lake itself", self.clickmill("etl", "run", "--lake", self.lake, code=1).stderr)


class Moto(Location):
    def setUp(self):
        super().setUp()
        if not MOTO:
            self.skipTest("no Firehose: tests/run.py starts one")

    def test_what_the_collector_sent_through_firehose_is_complete_in_the_tables(self):
        name = f"land-{uuid.uuid4()}"
        s3(MOTO, "PUT", f"/{name}")
        aws(MOTO, "firehose", "Firehose_20150804.CreateDeliveryStream", DeliveryStreamName=name, DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{name}"})
        self.configure(f"s3://{name}")
        collector = self.collector("--sink", f"firehose={name}", "--spool", self.folder / "spool")
        ids = [f"e{n}" for n in range(500)]
        for first in range(0, len(ids), 50):
            batch = [support.track(one, visitor=one) for one in ids[first:first + 50]]
            self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)
        collector.stop()
        env = {"AWS_ENDPOINT_URL_S3": MOTO}
        self.etl(env=env)
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(ids))
        self.assert_unchanged_by_another_run(env=env)
        # Its heartbeats came along: the audit can say complete.
        report = json.loads(self.clickmill("audit", "--lake", self.lake, "--format", "json", "--strict").stdout)
        self.assertEqual((report["verdict"], report["collectors"][0]["events"]), ("complete", 500))


class Ministack(Location):
    def setUp(self):
        super().setUp()
        if not MINISTACK:
            self.skipTest("no ministack: tests/run.py starts one")
        self.name = f"land-{uuid.uuid4()}"
        s3(MINISTACK, "PUT", f"/{self.name}")
        self.env = {"AWS_ENDPOINT_URL_S3": MINISTACK}

    def create(self, source=None, **destination):
        destination = {"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{self.name}", **destination}
        kind = {"DeliveryStreamType": "DirectPut"}
        if source:
            kind = {"DeliveryStreamType": "KinesisStreamAsSource",
                    "KinesisStreamSourceConfiguration": {"KinesisStreamARN": source, "RoleARN": ROLE}}
        aws(MINISTACK, "firehose", "Firehose_20150804.CreateDeliveryStream", DeliveryStreamName=self.name, **kind,
            ExtendedS3DestinationConfiguration=destination)

    def put(self, *lines):
        records = [{"Data": base64.b64encode(line.encode()).decode()} for line in lines]
        answer = aws(MINISTACK, "firehose", "Firehose_20150804.PutRecordBatch", DeliveryStreamName=self.name, Records=records)
        self.assertEqual(answer["FailedPutCount"], 0)

    def landed(self, count):
        support.until(lambda: len(keys(MINISTACK, self.name)) >= count, 60, "everything is delivered")

    def test_the_folders_of_prefix_expressions_are_those_that_firehose_makes(self):
        prefix = "clicks/dt=!{timestamp:yyyy-MM-dd}/h=!{timestamp:HH}/!{firehose:random-string}/"
        self.create(Prefix=prefix, ErrorOutputPrefix="errors/!{firehose:error-output-type}/")
        self.configure(f"s3://{self.name}", f"prefix = '{prefix}'")
        self.put(*(json.dumps(event(f"e{n}")) for n in range(8)))
        self.landed(8)
        self.etl(env=self.env)
        # The first run lists everything; from the second on folders are asked for.
        self.put(*(json.dumps(event(f"f{n}")) for n in range(8)))
        self.landed(16)
        self.etl(env=self.env)
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(f"{kind}{n}" for kind in "ef" for n in range(8)))

    def test_dynamic_partitions_are_found_whatever_comes_first_in_the_key(self):
        prefix = "!{partitionKeyFromQuery:shop}/!{timestamp:yyyy/MM/dd/HH}/"
        self.create(Prefix=prefix, ErrorOutputPrefix="errors/", DynamicPartitioningConfiguration={"Enabled": True},
                    ProcessingConfiguration={"Enabled": True, "Processors": [{"Type": "MetadataExtraction", "Parameters": [
                        {"ParameterName": "MetadataExtractionQuery", "ParameterValue": "{shop:.app_id}"},
                        {"ParameterName": "JsonParsingEngine", "ParameterValue": "JQ-1.6"}]}]})
        self.configure(f"s3://{self.name}", f"prefix = '{prefix}'", "error_prefix = 'errors/'")
        for turn in range(2):
            self.put(*(json.dumps(event(f"{turn}-{n}", app_id=f"shop{n % 3}")) for n in range(6)), "no json")
            self.landed(7 * (turn + 1))
            self.etl(env=self.env)
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(f"{turn}-{n}" for turn in range(2) for n in range(6)))
        self.assertEqual([content for _, content, _ in self.rejected()], [b"no json", b"no json"])

    def test_format_conversion_is_undone_and_what_it_refused_is_a_reject(self):
        types = {"event_id": "string", "event_name": "string", "source_protocol": "string", "app_id": "string",
                 "event_ts": "timestamp", "received_ts": "timestamp", "anonymous_id": "string", "total": "decimal(18,4)",
                 "wal_seq": "bigint", "collector_id": "string"}
        glue = lambda operation, **request: aws(MINISTACK, "glue", f"AWSGlue.{operation}", **request)
        glue("CreateDatabase", DatabaseInput={"Name": self.name})
        glue("CreateTable", DatabaseName=self.name, TableInput={"Name": "clicks", "StorageDescriptor": {
            "Columns": [{"Name": name, "Type": kind} for name, kind in types.items()]}})
        self.create(ErrorOutputPrefix="errors/", DataFormatConversionConfiguration={
            "Enabled": True, "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
            "SchemaConfiguration": {"DatabaseName": self.name, "TableName": "clicks", "RoleARN": ROLE}})
        self.configure(f"s3://{self.name}", "error_prefix = 'errors/'")
        self.put(*(json.dumps(event(f"e{n}", total=n + 0.25, wal_seq=n + 1, collector_id="c-1")) for n in range(5)),
                 "{broken")
        self.landed(6)
        self.etl(env=self.env)
        found = support.query(self.lake, "SELECT event_id, CAST(total AS VARCHAR), wal_seq FROM {events} ORDER BY wal_seq")
        self.assertEqual(found, [(f"e{n}", f"{n}.2500", n + 1) for n in range(5)])
        self.assertEqual([content for _, content, _ in self.rejected()], [b"{broken"])

    def test_a_kinesis_stream_as_the_source_is_read_like_any_other(self):
        kinesis = lambda operation, **request: aws(MINISTACK, "kinesis", f"Kinesis_20131202.{operation}", **request)
        kinesis("CreateStream", StreamName=self.name, ShardCount=1)
        describe = lambda: kinesis("DescribeStreamSummary", StreamName=self.name)["StreamDescriptionSummary"]
        support.until(lambda: describe()["StreamStatus"] == "ACTIVE", 60, "the stream is active")
        self.create(source=describe()["StreamARN"])
        self.configure(f"s3://{self.name}")
        # Firehose takes aggregates apart; ministack does not, so none are sent.
        (self.folder / "collect.toml").write_text("[collector.kinesis]\naggregate_bytes = 0\n", encoding="utf-8")
        collector = self.collector("--config", self.folder / "collect.toml", "--sink", f"kinesis={self.name}",
                                   "--spool", self.folder / "spool", env={"AWS_ENDPOINT_URL_KINESIS": MINISTACK})
        ids = [f"k{n}" for n in range(20)]
        self.assertEqual(collector.post("/v1/batch", {"batch": [support.track(one) for one in ids]})[0], 200)
        collector.stop()
        self.landed(21)
        self.etl(env=self.env)
        self.assertEqual(sorted(support.event_ids(self.lake)), sorted(ids))
        report = json.loads(self.clickmill("audit", "--lake", self.lake, "--format", "json", "--strict").stdout)
        self.assertEqual(report["verdict"], "complete")
