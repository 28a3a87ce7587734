"""A page in headless Chromium, from an origin that is not the collector's.

Skipped, with the reason, where Chromium cannot run; in CI a skip is a failure.
"""

import functools
import http.server
import json
import subprocess
import threading
import unittest
import urllib.parse

import support

PAGES = support.CLIENTS / "pages"
# Bounds against a hang. The slowest is a retry of RudderStack's SDK.
REPORT_SECONDS = 120
CLOSE_SECONDS = 60


@functools.lru_cache(maxsize=None)
def why_not():
    """Why Chromium does not run here; empty where it does."""
    if not support.CHROMIUM:
        return "no Chromium: run tests/run.py"
    page = "data:text/html,<script>console.log('report:' + 6 * 7)</script>"
    command = [support.NODE, str(support.CLIENTS / "browser.mjs"), support.CHROMIUM, page]
    try:
        result = subprocess.run(command, cwd=support.NPM, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, timeout=CLOSE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Chromium does not start: {error}"
    if result.stdout.strip() != b"42":
        return f"Chromium ends with {result.returncode}: {result.stderr.decode(errors='replace')[-300:]}"
    return ""


def needed(test):
    """Decorates a test case that needs Chromium."""
    set_up = test.setUp

    @functools.wraps(set_up)
    def checked(self):
        if why_not():
            raise unittest.SkipTest(why_not())
        set_up(self)

    test.setUp = checked
    return test


class Handler(http.server.BaseHTTPRequestHandler):
    """The shop: its pages, and the vendors' scripts from node_modules."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urllib.parse.urlparse(self.path).path
        roots = {"/npm/": (support.NPM + "/node_modules/", 5), "/vocabulary.json": (str(support.CLIENTS) + "/", 1)}
        root, cut = next((found for start, found in roots.items() if path.startswith(start)), (f"{PAGES}/", 1))
        # A single-page application serves its page for every path.
        name = "tracker.html" if path.startswith("/spa/") else path[cut:]
        try:
            with open(root + name, "rb") as file:
                body, status = file.read(), 200
        except OSError:
            body, status = b"", 404
        kinds = {"js": "text/javascript", "html": "text/html", "json": "application/json"}
        self.send_response(status)
        self.send_header("Content-Type", f"{kinds.get(name.rsplit('.', 1)[-1], 'text/plain')}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Page:
    """One page, open until `close`; what it reported is in `sent` (ids) and `reports` (the rest)."""

    def __init__(self, path, headers=None, **parameters):
        """`headers` go with every request of the browser."""
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.shop = f"http://localhost:{self.server.server_port}"
        self.url = f"{self.shop}/{path}?{urllib.parse.urlencode(parameters)}"
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [support.NODE, str(support.CLIENTS / "browser.mjs"), support.CHROMIUM, self.url,
             json.dumps(headers or {})], cwd=support.NPM,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.sent, self.reports, self.errors = [], [], []
        self.readers = [threading.Thread(target=self._read, daemon=True),
                        threading.Thread(target=self._read_errors, daemon=True)]
        for reader in self.readers:
            reader.start()

    def _read(self):
        for line in self.process.stdout:
            report = json.loads(line)
            (self.sent if "messageId" in report else self.reports).append(report)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace"))

    @property
    def ids(self):
        return [one["messageId"] for one in self.sent]

    def said(self, name):
        """The first report with that key, waited for."""
        def found():
            assert self.process.poll() is None, f"the browser ended:\n{self.text()}"
            return [one for one in self.reports if name in one]
        try:
            return support.until(found, REPORT_SECONDS, f"the page reports {name}")[0][name]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def until(self, condition, what):
        try:
            return support.until(condition, REPORT_SECONDS, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def run(self, expression):
        self.process.stdin.write(expression.encode() + b"\n")
        self.process.stdin.flush()

    def text(self):
        return "".join(self.errors[-40:])

    def close(self):
        """Closes the browser, which must end in order."""
        self.process.stdin.close()
        code = self.process.wait(CLOSE_SECONDS)
        for reader in self.readers:
            reader.join()
        self.release()
        assert code == 0, f"the browser ended with {code}:\n{self.text()}"

    def release(self):
        """Whatever happened: nothing stays. By SIGTERM, which takes the browser along; SIGKILL would not."""
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()
        self.server.shutdown()
        self.server.server_close()
