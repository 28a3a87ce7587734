"""What a Kinesis stream holds, by its own API and by AWS' own de-aggregator."""

import base64

import support
from aws_kinesis_agg.deaggregator import iter_deaggregate_records


def shards_of(stream):
    return support.kinesis("ListShards", StreamName=stream)["Shards"]


def records_of(stream):
    """Every record of every shard, in order, as boto3 has it; and the shard's hash range."""
    found = []
    for shard in shards_of(stream):
        iterator = support.kinesis("GetShardIterator", StreamName=stream, ShardId=shard["ShardId"],
                                   ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        while iterator:
            page = support.kinesis("GetRecords", ShardIterator=iterator, Limit=10000)
            for record in page["Records"]:
                found.append((shard, dict(record, Data=base64.b64decode(record["Data"]))))
            iterator = page.get("NextShardIterator")
            if not page["Records"] and page["MillisBehindLatest"] == 0:
                break
    return found


def user_records(found):
    """What the independent de-aggregator reads: (the shard, the user record, its data)."""
    for shard, record in found:
        for one in iter_deaggregate_records(record, data_format="Boto3"):
            kinesis = one["kinesis"]
            data = base64.b64decode(kinesis["data"]) if kinesis.get("aggregated") else kinesis["data"]
            yield shard, kinesis, data
