"""`clickmill collect` towards the network: numbers for the operator, and no file descriptors left."""

import re
import resource
import socket
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

import support

# More than the collector opens for itself, and less than the sockets below.
DESCRIPTORS = 64


class Edge(support.Case):
    def test_metrics_are_read_by_prometheus_own_parser_on_the_operators_address(self):
        server = self.collector("--write-key", "test", "--admin-listen", "127.0.0.1:0")
        for _ in range(3):
            status, _ = server.post("/v1/track", {"event": "e", "anonymousId": "a"})
            self.assertEqual(status, 200)
        self.assertEqual(server.post("/v1/track", b"{")[0], 400)
        admin = re.search(r"metrics on (http://\S+/metrics)", server.text())[1]
        with urllib.request.urlopen(admin, timeout=30) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        values = {(sample.name, *sorted(sample.labels.items())): sample.value
                  for family in families for sample in family.samples}
        self.assertEqual(values["clickmill_events_accepted_total", ("protocol", "segment")], 3)
        self.assertEqual(values["clickmill_events_rejected_total", ("protocol", "segment"),
                                ("reason", "malformed")], 1)
        self.assertEqual(values["clickmill_http_request_seconds_bucket", ("le", "+Inf")],
                         values["clickmill_http_request_seconds_count",])
        kinds = {family.type for family in families}
        self.assertEqual(kinds, {"counter", "gauge", "histogram"})
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(server.url + "/metrics", timeout=30)
        self.assertEqual(refused.exception.code, 403)

    def test_it_goes_on_after_it_ran_out_of_file_descriptors(self):
        server = self.collector("--write-key", "test")
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
        sockets = [socket.create_connection(("127.0.0.1", server.port))
                   for _ in range(2 * DESCRIPTORS)]
        support.until(lambda: "cannot accept connections" in server.text(), support.READY_SECONDS,
                      "it runs out of descriptors")
        for one in sockets:
            one.close()
        status, _ = server.post("/v1/track", {"event": "e", "anonymousId": "a"})
        self.assertEqual(status, 200)
        server.stop()
