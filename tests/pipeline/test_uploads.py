"""Large files of the tables go to S3 in parts: does every row stand there once, whatever happens on the way?

The rows of the landing fault matrix that are about multipart uploads. Raw objects are single PUTs (test_deliver.py).
"""

import deliveries
import support
from deliveries import Stream, faults

# What S3 calls the requests of an upload, as the proxy sees them.
CREATE = {"operation": "POST", "path": "?uploads"}
PART = {"operation": "PUT", "path": "partNumber="}
COMPLETE = {"operation": "POST", "path": "?uploadId="}


class Uploads(deliveries.OnS3):
    EVENTS = 24

    def setUp(self):
        super().setUp()
        # 16 MB of events that compress to about 12: a part and a rest.
        proxy, self.stream = self.proxied(support.KINESIS), Stream(1)
        self.stream.fill(self.EVENTS)
        proxy.inject(*[faults.Alter(answer=deliveries.grown)] * 5, operation="GetRecords")
        self.clickmill(*self.arguments(self.stream, "--once", lake=self.bucket),
                       env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})

    def etl(self, code=0):
        result = self.clickmill("--lake", self.bucket, "etl", "run", code=code, env={"AWS_ENDPOINT_URL_S3": self.s3.url})
        self.assertEqual(self.s3.left(), 0, "a fault that was never met")
        return result.stderr.decode(errors="replace")

    def check_tables(self):
        found = support.query(self.fetched(), "SELECT event_id FROM {events}")
        self.assertEqual(sorted(one for (one,) in found), sorted(self.stream.ids))

    def met(self, operation, path):
        return [call.status for call in self.s3.calls(operation) if path in call.path]

    def test_killed_before_and_after_create_multipart_part_and_complete_each_row_is_there_once(self):
        for point in ("upload.before_create", "upload.created", "upload.before_part", "upload.part:2",
                      "upload.before_complete", "upload.completed"):
            self.assertTrue(support.died_at(point, "--lake", self.bucket, "etl", "run"), point)
        self.etl()
        self.check_tables()

    def test_503_and_lost_answers_at_create_multipart_part_and_complete_are_waited_out(self):
        for request in (CREATE, PART, COMPLETE):
            self.s3.inject(faults.Error("SlowDown", 503), **request)
        self.s3.inject(faults.LoseReply(), **PART)
        self.s3.inject(faults.LoseReply(), **CREATE)
        self.etl()
        self.check_tables()
        self.assertGreaterEqual(len(self.met(**PART)), 4)  # Two parts, each of them twice.

    def test_no_such_upload_after_complete_is_success_where_the_object_is_whole_and_else_fails_the_run(self):
        self.s3.inject(faults.Error("NoSuchUpload", 404), **COMPLETE)
        self.assertIn("NoSuchUpload", self.etl(code=1))
        # It goes on with the same batch.
        self.s3.inject(faults.LoseReply(), faults.Error("NoSuchUpload", 404), **COMPLETE)
        self.etl()
        self.check_tables()
        self.assertEqual(self.met(**COMPLETE)[:3], [404, None, 404])
