"""A fault proxy: stands between a client and a real test server, and forwards, except where told not to.

    with faults.Proxy(os.environ["AWS_ENDPOINT_URL_KINESIS"]) as proxy:
        proxy.inject(faults.Refuse([0, 3]), operation="PutRecords")
        proxy.inject(faults.Error("SlowDown", 503), operation="PUT", path="/_clickmill/delivery/")
        ...                       # the client talks to proxy.url
        proxy.calls("PutRecords") # what it asked, and what it was told

A fault waits for the next call of its operation (and with that text in its path) and is used up by it. Faults of one operation happen
in the order in which they were injected. `down()` closes the port, `up()` opens it again: connections
are refused meanwhile. Threads of its own; Python's standard library only.

It knows AWS' JSON protocol: the operation is the end of X-Amz-Target ("PUT", "GET", ... where there is
none, as for S3; errors are XML then). Requests with a Content-Length only. The answer to
SubscribeToShard is passed on message by message. It does not speak TLS.
"""

import contextlib
import dataclasses
import http.client
import http.server
import json
import socket
import struct
import threading
import urllib.parse
import zlib

# A forwarded call that takes longer is answered with 502.
UPSTREAM_SECONDS = 60
# What AWS' JSON services answer.
JSON = "application/x-amz-json-1.1"
# Headers of a connection, not of what goes through it.
DROPPED = {"connection", "content-length", "transfer-encoding", "expect"}
# A held-back answer is given up after this, should the client never hang up.
HANG_SECONDS = 120


@dataclasses.dataclass
class Refuse:
    """Some of a call's records are refused, the others forwarded: a partial failure.

    `which`: their places, or a function of a record (as in the request) that says whether.
    """

    which: object
    code: str = "ProvisionedThroughputExceededException"
    forwards = True

    def refuses(self, place, record):
        return self.which(record) if callable(self.which) else place in self.which


@dataclasses.dataclass
class Error:
    """The whole call is refused, nothing is forwarded: a throttle, KMS, an expired iterator, a 5xx."""

    code: str
    status: int = 400
    forwards = False


@dataclasses.dataclass
class Alter:
    """It is forwarded with `request` applied to its JSON, and answered with `answer` applied to the server's."""

    request: object = None
    answer: object = None
    forwards = True


@dataclasses.dataclass
class Reply:
    """It is not forwarded, but answered with what `answer` makes of the request's JSON."""

    answer: object
    forwards = False


@dataclasses.dataclass
class After:
    """`happens` is called, then it is forwarded as it came: something else was first."""

    happens: object
    forwards = True


@dataclasses.dataclass
class LoseReply:
    """It is forwarded and succeeds; the connection breaks before the answer."""

    forwards = True


@dataclasses.dataclass
class Truncate:
    """It is forwarded and succeeds; the answer breaks off after some bytes of its body."""

    length: int = 10
    forwards = True


@dataclasses.dataclass
class Hang:
    """No answer until the client gives up; `forwards` says whether it succeeds all the same."""

    forwards: bool = True


@dataclasses.dataclass
class Break:
    """A stream of events is broken off after so many whole messages and some bytes of the next; with `ends`, it is
    ended in order, as Kinesis does after five minutes.
    """

    messages: int
    length: int = 0
    ends: bool = False
    forwards = True


@dataclasses.dataclass
class Events:
    """`change` is applied to the JSON of each event of a stream; it returns the events to send in its place."""

    change: object
    forwards = True


@dataclasses.dataclass
class Call:
    """What a client asked, and what became of it."""

    operation: str
    # Records in the request; None where it is no call with records.
    records: object
    fault: object = None
    # The status that the client was sent; None where it was sent none, or the call is not over.
    status: object = None
    path: str = ""


class Proxy:
    """See the module's head."""

    def __init__(self, upstream):
        self.upstream = urllib.parse.urlsplit(upstream)
        self._lock = threading.Lock()
        self._faults = []
        self._calls = []
        self._server = None
        self._open = set()
        self.port = 0
        self.up()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def inject(self, *injected, operation, path=""):
        """These happen to the next calls of that operation with that text in their path, one each."""
        with self._lock:
            self._faults += [(operation, path, fault) for fault in injected]

    def left(self):
        """Faults that have not happened yet."""
        with self._lock:
            return len(self._faults)

    def replace(self, *injected, operation):
        """These happen to the next calls of that operation, and not what was injected for it before."""
        with self._lock:
            kept = [one for one in self._faults if one[0] != operation]
            self._faults = kept + [(operation, "", fault) for fault in injected]

    def calls(self, operation=None):
        """The calls so far, in the order of their arrival."""
        with self._lock:
            return [call for call in self._calls if operation in (None, call.operation)]

    def up(self):
        """Listens, on the same port as before."""
        if self._server:
            return
        handler = type("_Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self):
        """Closes the port and every connection."""
        server, self._server = self._server, None
        if not server:
            return
        server.shutdown()
        server.server_close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _begin(self, operation, records, path):
        """Notes a call and takes its fault."""
        with self._lock:
            call = Call(operation, records, path=path)
            for place, (wanted, part, fault) in enumerate(self._faults):
                if wanted == operation and part in path:
                    call.fault = fault
                    del self._faults[place]
                    break
            self._calls.append(call)
            return call


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # Else `down` would wait for a call that hangs.
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that hangs up is what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: without this, they wait for each other's acknowledgement.
    disable_nagle_algorithm = True
    proxy = None

    def setup(self):
        super().setup()
        with self.proxy._lock:  # pylint: disable=protected-access
            self.proxy._open.add(self.connection)  # pylint: disable=protected-access

    def finish(self):
        with self.proxy._lock:  # pylint: disable=protected-access
            self.proxy._open.discard(self.connection)  # pylint: disable=protected-access
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Says nothing."""

    def handle_call(self):
        """One request: forwards it, or does to it what the fault says."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self._answer(411, b"the fault proxy takes bodies with a Content-Length only")
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2] or self.command
        request = _json_object(body)
        records = request.get("Records")
        count = len(records) if isinstance(records, list) else None
        call = self.proxy._begin(operation, count, self.path)  # pylint: disable=protected-access
        fault = call.fault
        if operation == "SubscribeToShard" and (fault is None or isinstance(fault, (Break, Events))):
            self._relay(body, call)
            return
        if fault is None:
            status, headers, answer = self._forward(body)
        elif isinstance(fault, Refuse):
            status, headers, answer = self._forward_some(request, fault)
        elif isinstance(fault, Error):
            status, headers, answer = fault.status, [("Content-Type", JSON)], {"__type": fault.code, "message": "injected"}
            answer = json.dumps(answer).encode()
            if "X-Amz-Target" not in self.headers:
                headers = [("Content-Type", "application/xml")]
                answer = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
        elif isinstance(fault, Alter):
            if fault.request:
                body = json.dumps(fault.request(request)).encode()
            status, headers, answer = self._forward(body)
            if fault.answer:
                answer = json.dumps(fault.answer(_json_object(answer))).encode()
        elif isinstance(fault, Reply):
            status, headers, answer = 200, [("Content-Type", JSON)], json.dumps(fault.answer(request)).encode()
        elif isinstance(fault, After):
            fault.happens()
            status, headers, answer = self._forward(body)
        else:
            if fault.forwards:
                status, headers, answer = self._forward(body)
            if isinstance(fault, Truncate):
                self._answer(status, answer, headers, send=answer[:fault.length])
            elif isinstance(fault, Hang):
                self.connection.settimeout(HANG_SECONDS)
                with contextlib.suppress(OSError):
                    self.rfile.read(1)  # Nothing more comes: it returns when the client hangs up.
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        call.status = status
        self._answer(status, answer, headers)

    def _connect(self):
        upstream = self.proxy.upstream
        return http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=UPSTREAM_SECONDS)

    def _ask(self, connection, body):
        """Forwards the request; the server's own response, its body unread."""
        # The Host header goes as it came: a signature holds it.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in DROPPED:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def _forward(self, body):
        """The server's own status, headers and body."""
        connection = self._connect()
        try:
            response = self._ask(connection, body)
            answer = response.read()
            # The answer to a HEAD tells the length of what it does not send.
            kept = DROPPED - {"content-length"} if self.command == "HEAD" else DROPPED
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in kept]
            return response.status, headers, answer
        except (OSError, http.client.HTTPException) as error:
            return 502, [], f"the fault proxy got no answer: {error}".encode()
        finally:
            connection.close()

    def _relay(self, body, call):
        """Passes on a stream of events, message by message."""
        connection, fault = self._connect(), call.fault
        try:
            response = self._ask(connection, body)
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in DROPPED]
            call.status = response.status
            if response.status != 200:
                self._answer(response.status, response.read(), headers)
                return
            self.send_response_only(200)
            for name, value in [*headers, ("Transfer-Encoding", "chunked")]:
                self.send_header(name, value)
            self.end_headers()
            left = fault.messages if isinstance(fault, Break) else -1
            message = _message(response)
            while message and left != 0:
                for one in _changed(message, fault.change) if isinstance(fault, Events) else [message]:
                    self._chunk(one)
                left -= 1
                message = _message(response)
            if message is None or fault.ends:
                self._chunk(b"")
                return
            if fault.length:
                self._chunk(message[:fault.length])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.close()

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _forward_some(self, request, fault):
        """Forwards the records that are not refused, and puts the refusals among the results."""
        records = request["Records"]
        refused = [fault.refuses(place, record) for place, record in enumerate(records)]
        kept = [record for record, is_refused in zip(records, refused) if not is_refused]
        results, headers = [], [("Content-Type", JSON)]
        is_firehose = "DeliveryStreamName" in request
        name, failed = ("RequestResponses", "FailedPutCount") if is_firehose else ("Records", "FailedRecordCount")
        whole = {}
        if kept:
            status, headers, answer = self._forward(json.dumps(dict(request, Records=kept)).encode())
            if status != 200:
                return status, headers, answer
            whole = _json_object(answer)
            results = whole[name]
        results = iter(results)
        refusal = {"ErrorCode": fault.code, "ErrorMessage": "injected"}
        whole[name] = [refusal if is_refused else next(results) for is_refused in refused]
        whole[failed] = sum("ErrorCode" in result for result in whole[name])
        return 200, headers, json.dumps(whole).encode()

    def _answer(self, status, body, headers=(), send=None):
        """Sends it; `send` is the part of the body that goes out, if not all of it."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if send is None else send)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_call


def _message(response):
    """The next message of a stream of events, as it came; None at its end."""
    length = response.read(4)
    return length + response.read(struct.unpack(">I", length)[0] - 4) if len(length) == 4 else None


def _changed(message, change):
    """What `change` makes of a message's event; the message as it is where it holds none.

    A message: its length, that of its headers and a checksum of both; headers, payload, a checksum of everything.
    """
    end = 12 + struct.unpack(">I", message[4:8])[0]
    headers, event = message[12:end], _json_object(message[end:-4])
    if "Records" not in event:
        return [message]
    changed = []
    for event in change(event):
        payload = json.dumps(event).encode()
        prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
        whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
        changed.append(whole + struct.pack(">I", zlib.crc32(whole)))
    return changed


def _json_object(body):
    """The body as an object; an empty one where it is none."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
