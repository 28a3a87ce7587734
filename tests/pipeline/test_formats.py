"""Raw objects as Parquet and as JSON lines: the same records, the same tables, digit by digit.

What was landed is read by pyarrow and by Python's gzip and json, tables by DuckDB.
"""

import decimal
import json
import pathlib

import deliveries
import duckdb
import support
from aws_kinesis_agg.aggregator import RecordAggregator
from deliveries import Stream, line

# Keys of a version that this clickmill does not know yet, and numbers that no float holds.
ODD = '"properties":{"n":1.10,"big":12345678901234567890.123456789,"e":1E+2,"n":2.20,"\\u00fc":"\\u0000 \\ud83d\\ude00"}'


def events(count):
    """Lines as collectors send them, with every kind of column among them."""
    for n in range(count):
        fields = {"anonymous_id": f"v{n % 7}", "user_agent": "Mozilla/5.0", "page_url": f"https://shop.example/p/{n}?a=ü&b=1",
                  "collector_id": f"c-{n % 2}", "wal_seq": n // 2 + 1, "screen_width": 1280, "clock_skew_ms": -5,
                  "client_ts": "2026-11-23T17:39:59.123456Z", "consent": {"ads": n % 2 == 0}, "context": {"n": [n, None]}}
        text = line(f"e{n}", received=f"2026-11-23T17:{n % 3 + 40}:01.000000Z", **fields)
        if n % 3 == 0:
            text = text[:-1] + "," + ODD + "}"
        if n % 5 == 0:
            text = text[:-1] + ',"hologram":{"depth":1.10,"x":null},"zeta":[1,"\\""]}'
        if n % 4 == 0:
            items = ('[{"product_id":"P1","name":"a \\"b\\"","price":19.90,"quantity":2,"position":1},{"sku":"S"}]')
            text = text[:-1] + f',"items":{items},"order_id":"o{n}","revenue":39.8000,"tax":-0.01,"currency":"EUR"}}'
        yield text


class Formats(deliveries.Deliver):
    def fill(self, stream, lines):
        """Aggregates by AWS' own aggregator, several lines a record, single ones; and what does not decode."""
        lines = list(lines)
        third = len(lines) // 3
        aggregator = RecordAggregator()
        for one in lines[:third]:
            aggregator.add_user_record("k", one)
        _, _, data = aggregator.clear_and_get().get_contents()
        stream.put(data)
        for start in range(third, 2 * third, 4):
            stream.put("\n".join(lines[start:min(start + 4, 2 * third)]))
        for one in lines[2 * third:]:
            stream.put(one)
        stream.put(b'{"event_id":"\xff"}')
        stream.put('{"event_id":"no event","wal_seq":7,"collector_id":"c-9"}')

    def objects(self, lake):
        return [one for commit in support.commits(lake) for one in commit["objects"]]

    def land(self, stream, name, *formats):
        lake = self.folder / name
        for one in formats:
            self.once(stream, lake=lake, more=("--format", one))
        return lake

    def etl(self, *lakes):
        for lake in lakes:
            self.clickmill("etl", "run", "--lake", lake)

    def test_the_same_records_landed_both_ways_are_the_same_lines_and_the_same_tables(self):
        self.settings("target_megabytes = 64\n")
        stream = Stream(2)
        sent = list(events(300))
        self.fill(stream, sent)
        as_json, as_parquet = self.land(stream, "json", "json"), self.land(stream, "parquet", "parquet")
        kinds = {(one["kind"], pathlib.Path(one["path"]).suffix) for one in self.objects(as_parquet)}
        self.assertEqual(kinds, {("events", ".parquet"), ("rejects", ".gz")})

        def by_id(lake):
            # pyarrow gives decimals their four places; that is the same amount.
            return {one["event_id"]: json.dumps(one, sort_keys=True, default=lambda d: str(d.normalize()))
                    for one in support.landed(lake)}

        landed = by_id(as_parquet)
        self.assertEqual(landed, by_id(as_json))
        exact = {one["event_id"]: one for one in (json.loads(text, parse_float=decimal.Decimal) for text in sent)}
        self.assertEqual(landed.keys(), exact.keys())
        for one in support.landed(as_parquet):
            of_stream = {"shard_id": one.pop("shard_id"), "sequence_number": one.pop("sequence_number")}
            self.assertEqual(one, exact[one["event_id"]], of_stream)
        # The digits themselves, by another reader.
        files = [str(as_parquet / one["path"]) for one in self.objects(as_parquet) if one["path"].endswith(".parquet")]
        texts = duckdb.sql(f"SELECT DISTINCT properties FROM read_parquet({files!r}) WHERE properties IS NOT NULL").fetchall()
        self.assertEqual(texts, [(ODD[len('"properties":'):],)])
        codecs = duckdb.sql(f"SELECT DISTINCT compression FROM parquet_metadata({files!r})").fetchall()
        self.assertEqual(codecs, [("ZSTD",)])

        self.etl(as_json, as_parquet)
        self.assertEqual(len(support.event_ids(as_parquet)), 300)
        self.assert_same_tables(as_parquet, as_json)
        reports = []
        for lake in (as_json, as_parquet):
            report = json.loads(self.clickmill("audit", "--lake", lake, "--format", "json", "--from", "2026-11-23",
                                               "--to", "2026-11-24").stdout)
            reports.append({key: report[key] for key in ("gaps", "duplicates", "collectors") if key in report})
        self.assertEqual(reports[0], reports[1])

    def test_a_raw_zone_of_both_formats_is_read_as_one(self):
        stream, lines = Stream(1), list(events(200))
        lake = self.folder / "mixed"
        for start, one in ((0, "json"), (80, "parquet"), (160, "json")):
            self.fill(stream, lines[start:start + 80])
            self.once(stream, lake=lake, more=("--format", one))
        suffixes = {pathlib.Path(one["path"]).suffix for one in self.objects(lake) if one["kind"] == "events"}
        self.assertEqual(suffixes, {".gz", ".parquet"})
        reference = self.land(stream, "reference", "json")
        self.etl(lake, reference)
        self.assertEqual(len(support.event_ids(lake)), 200)
        self.assert_same_tables(lake, reference)
        # A row that was lost comes back out of either.
        support.delta(lake, "events").delete("event_id IN ('e10', 'e100', 'e190')")
        self.clickmill("replay", "raw", "--lake", lake)
        self.assert_same_tables(lake, reference)

    def test_a_collectors_own_sink_stores_what_the_configuration_says(self):
        self.config.write_text('[deliver]\nformat = "parquet"\n', encoding="utf-8")
        lake = self.folder / "lake"
        collector = self.collector("--config", self.config, "--lake", lake, "--spool", self.folder / "spool")
        for n in range(5):
            self.assertEqual(collector.post("/v1/track", support.track(f"e{n}", price=1.10))[0], 200)
        collector.stop()
        suffixes = {(one["kind"], pathlib.Path(one["path"]).suffix) for one in self.objects(lake)}
        self.assertLessEqual({("events", ".parquet")}, suffixes)
        self.assertNotIn(("events", ".gz"), suffixes)
        self.etl(lake)
        self.assertEqual(sorted(support.event_ids(lake)), [f"e{n}" for n in range(5)])
        self.clickmill("audit", "--strict", "--lake", lake)
