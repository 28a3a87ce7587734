"""What stands between a client and a collector, and fails as told.

A client keeps one address while its collector is killed and started again. What
becomes of its requests is a list of actions, one for each request that carries
events, in the order of their arrival; then all pass:

    pass    goes to the collector and back, byte by byte
    refuse  the collector's own 503, with Retry-After
    crash   kill -9 in the middle of the request, no answer; the collector is
            started again on the same spool before the next request goes on
    lose    the collector stores it, the answer is lost
    restart SIGTERM just before the request, which may still be taken; the collector
            must end in order, and is started again before the next request goes on

So a test does not depend on how fast either side is. Preflights, settings,
scripts and health always pass.
"""

import http.client
import http.server
import sys
import threading

SECONDS = 60
# A browser takes neither answer nor Retry-After without these.
REFUSAL = b'{"code":"overloaded","message":"too many requests at once; try again shortly"}'
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *request):
        # A client that hangs up (a browser that closes) is no news; all else is told.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*request)


class Front:
    """Listens on a free port until `close`."""

    def __init__(self, start, plan=()):
        self.start = start
        self.collector = start()
        self.plan = list(plan)
        self.done = []
        self.acknowledged = []
        self.refused = []
        self.lock = threading.Lock()
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                front.handle(self)

            do_GET = do_POST = do_HEAD = do_OPTIONS = answer

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def stop(self):
        """Closes, and lets the collector end in order."""
        self.close()
        self.collector.stop()

    def recover(self):
        """From now on everything passes."""
        with self.lock:
            self.plan.clear()

    def delivered(self, ids):
        """True once each of these ids stood in a request that was answered 200."""
        with self.lock:
            text = b"\n".join(self.acknowledged)
        return all(one.encode() in text for one in ids)

    def handle(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self.lock:
            # While a crash has the lock, everybody waits for the collector.
            action = self.plan.pop(0) if self.plan and carries_events(request) else "pass"
            if carries_events(request):
                self.done.append(action)
                if action == "refuse":
                    self.refused.append(body)
            if action == "crash":
                self.collector.kill()
                self.collector = self.start()
            port = self.collector.port
            if action == "restart":
                return self.restart(request, body)
        if action == "crash":
            return drop(request)
        if action == "refuse":
            return self.refuse(request)
        try:
            status, headers, answer = forward(request, body, port)
        except (OSError, http.client.HTTPException):
            # It went down with a crash that another request met.
            return drop(request)
        if action == "lose":
            return drop(request)
        with self.lock:
            self.note(request, body, status)
        return send(request, status, headers, answer)

    def note(self, request, body, status):
        if status == 200 and carries_events(request):
            self.acknowledged += [request.path.encode(), body]

    def restart(self, request, body):
        """With the lock: everybody else waits for the new collector."""
        self.collector.process.terminate()
        try:
            status, headers, answer = forward(request, body, self.collector.port)
        except (OSError, http.client.HTTPException):
            # It does not listen any more.
            status = None
        self.collector.stop()
        self.collector = self.start()
        if status is None:
            return drop(request)
        self.note(request, body, status)
        return send(request, status, headers, answer)

    def refuse(self, request):
        headers = [("Content-Type", "application/json"), ("Retry-After", "1"), ("Vary", "Origin"),
                   ("Access-Control-Expose-Headers", "Retry-After")]
        origin = request.headers.get("Origin")
        if origin:
            headers += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
        return send(request, 503, headers, REFUSAL)


def carries_events(request):
    path = request.path.split("?")[0]
    if request.command == "POST":
        return not path.endswith("/m")
    return request.command == "GET" and (path == "/i" or path.startswith("/pixel/"))


def forward(request, body, port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def send(request, status, headers, body):
    try:
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                request.send_header(name, value)
        if status != 304:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
    except OSError:
        # The client has gone; that is its right.
        request.close_connection = True


def drop(request):
    """No answer, and the connection closed."""
    request.close_connection = True
