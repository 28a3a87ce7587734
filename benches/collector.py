"""The collector against a bare server, nginx and the disk, in one run.

All answer the same requests: 8.8 KB bodies of ten Segment events over 64
kept-alive connections. `bare` is hyper that reads the body and answers 200;
`nginx` writes the bodies to a buffered log, unsynced; `disk` is what the disk
takes when each MiB is synced. clickmill answers after fdatasync, while its
shipper lands what was taken in a lake on the same disk.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

CONNECTIONS = 64
EVENTS_A_REQUEST = 10
MIB = 2**20
# Of the rate that is taken while the backlog grows.
SHARES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
# `collector.batch_max_events`, as it comes.
BATCH_EVENTS = 20_000

NGINX = """
worker_processes auto;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 64k;
  client_body_in_single_buffer on;
  keepalive_requests 1000000000;
  log_format body escape=none '$request_body';
  access_log off;
  upstream answer {{ server unix:{folder}/answer.sock; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen unix:{folder}/answer.sock; location / {{ return 200 '{{"success":true}}'; }} }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      # nginx reads a body only when something takes it.
      proxy_pass http://answer;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_body "";
      access_log {folder}/bodies.log body buffer=1m flush=1s;
    }}
  }}
}}
"""


class Server:
    """A process that listens, its peak memory and what it wrote."""

    def __init__(self, command, address, log, cwd=None):
        self.address, self.log = address, log
        self.process = subprocess.Popen([str(part) for part in command], stdout=log.open("wb"),
                                        stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True)

    def wait(self, seconds=20):
        host, port = self.address.split(":")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return self
            time.sleep(0.05)
        sys.exit(f"{self.process.args[0]} does not answer:\n{self.log.read_text(errors='replace')[-2000:]}")

    def rss(self):
        """Resident bytes now, of it and its children."""
        return sum(status(pid, "VmRSS") for pid in family(self.process.pid))

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def family(pid):
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += family(int(child))
    return found


def status(pid, name):
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found.group(1)) * 1024 if found else 0
    return 0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Bench:
    def __init__(self, binary, load, nginx, folder, seconds, events):
        self.binary, self.load, self.nginx = binary, load, nginx
        self.folder, self.seconds, self.events = folder, seconds, events

    def run(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        disk = self.tool("disk", self.folder)["bytes_a_second"]
        note("bare hyper")
        with self.bare() as server:
            bare = self.drive(server)
        nginx = None
        if self.nginx:
            note("nginx into a log")
            with self.nginx_server() as server:
                nginx = self.drive(server)
        note("clickmill, a burst with the shipper waiting: what the spool makes of a body")
        burst, ratio = self.burst()
        note("clickmill, all it takes, the shipper landing in the lake")
        saturated, growing = self.shipping()
        note("clickmill, the highest rate at which the backlog stays flat")
        sustained, backlog = self.flat(saturated, growing)
        note("clickmill at half of that rate")
        half = self.half(sustained["rate"] / 2)
        note(f"clickmill's memory over {self.events:,} events")
        memory = self.memory()
        shutil.rmtree(self.folder, ignore_errors=True)
        return report(disk, bare, nginx, burst, ratio, saturated, growing, sustained, backlog, half, memory, self.seconds)

    def tool(self, *arguments):
        done = subprocess.run([str(part) for part in (self.load, *arguments)], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"the load generator failed: {arguments}")
        return json.loads(done.stdout)

    def drive(self, server, *extra, seconds=None):
        return self.tool("load", "--to", server.address, "--connections", CONNECTIONS,
                         "--seconds", seconds or self.seconds, *extra)

    @contextlib.contextmanager
    def server(self, command, address, name):
        server = Server(command, address, self.folder / f"{name}.log", cwd=self.folder).wait()
        try:
            yield server
        finally:
            server.stop()

    def bare(self):
        address = f"127.0.0.1:{free_port()}"
        return self.server([self.load, "bare", "--listen", address], address, "bare")

    def nginx_server(self):
        port, folder = free_port(), self.folder / "nginx"
        folder.mkdir()
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port))
        return self.server([self.nginx, "-p", folder, "-c", config], f"127.0.0.1:{port}", "nginx")

    def collector(self, name, settings=""):
        address, folder = f"127.0.0.1:{free_port()}", self.folder / name
        folder.mkdir()
        config = folder / "clickmill.toml"
        config.write_text(settings)
        return self.server([self.binary, "--config", config, "--lake", folder / "lake", "collect", "--listen", address,
                            "--spool", folder / "spool"], address, name)

    def burst(self):
        """The rate while nothing is shipped, and body bytes for each byte of the spool."""
        waits = "[collector]\nbatch_max_wait_ms = 3600000\nbatch_max_events = 1000000000\nbatch_max_bytes = 1000000000000\n"
        with self.collector("burst", waits) as server:
            seen = self.drive(server, seconds=min(self.seconds, 5.0))
            spooled = health(server)["spool_bytes"]
            server.process.kill()
        return seen, seen["requests"] * seen["body_bytes"] / max(spooled, 1)

    def shipping(self, *extra):
        """The rate while the shipper lands, and the backlog in events, a second apart."""
        with self.collector(f"shipping{len(list(self.folder.glob('shipping*.log')))}") as server:
            samples, done = [], threading.Event()

            def watch():
                while not done.wait(1.0):
                    with contextlib.suppress(OSError):
                        samples.append(health(server)["backlog"])

            watcher = threading.Thread(target=watch)
            watcher.start()
            seen = self.drive(server, *extra)
            done.set()
            watcher.join()
        return seen, samples

    def flat(self, saturated, backlog):
        """The first of `SHARES` of the saturated rate at which the second half's backlog is no larger
        than the first half's, but for the batch that is being filled."""
        seen = saturated
        for share in SHARES:
            half = len(backlog) // 2
            if max(backlog[half:]) <= max(backlog[:half]) + BATCH_EVENTS:
                return seen, backlog
            seen, backlog = self.shipping("--rate", saturated["rate"] * share)
        sys.exit("the backlog grows at every rate")

    def half(self, rate):
        with self.collector("half") as server:
            return self.drive(server, "--rate", rate)

    def memory(self):
        """(events so far, resident bytes), five times."""
        samples = []
        with self.collector("memory", "[collector]\nspool_max_bytes = 17179869184\n") as server:
            for part in range(1, 6):
                self.drive(server, "--requests", self.events // EVENTS_A_REQUEST // 5, seconds=3600)
                samples.append((self.events // 5 * part, server.rss()))
        return samples


def health(server):
    with urllib.request.urlopen(f"http://{server.address}/health", timeout=5) as answer:
        return json.load(answer)


def report(disk, bare, nginx, burst, ratio, saturated, growing, sustained, backlog, half, memory, seconds):
    body = bare["body_bytes"]
    of_bare = sustained["rate"] / bare["rate"]
    of_disk = sustained["rate"] * body / (disk * ratio)
    rows = [("bare hyper", bare), ("nginx, bodies into a log, unsynced", nginx),
            ("clickmill, burst, nothing shipped", burst), ("clickmill, all it takes, shipping", saturated),
            ("clickmill, sustained with a flat backlog", sustained)]
    lines = [
        f"{CONNECTIONS} connections, bodies of {body:,} bytes with {EVENTS_A_REQUEST} events, {seconds:.0f} s each; "
        "the load generator shares the machine.",
        "",
        "| server | requests/s | of bare | p50 ms | p99 ms | refused |",
        "|---|---|---|---|---|---|",
    ]
    for name, seen in rows:
        if seen:
            lines.append(f"| {name} | {seen['rate']:,.0f} | {seen['rate'] / bare['rate']:.2f} | {seen['p50_ms']:.2f} "
                         f"| {seen['p99_ms']:.2f} | {seen['refused']} |")
    lines += [
        f"| clickmill at half of its sustained rate, open loop | {half['rate']:,.0f} | {half['rate'] / bare['rate']:.2f} "
        f"| {half['p50_ms']:.2f} | {half['p99_ms']:.2f} | {half['refused']} |",
        "",
        f"Disk: {disk / MIB:,.0f} MiB/s synced; a body is {ratio:.1f} times as large as what the spool keeps of it. "
        f"Sustained, bodies arrive at {of_disk:.2f} of what the disk takes of them, and at {of_bare:.2f} of the bare rate.",
        "",
        f"Backlog in events, in the course of that: {series(backlog)}. At all it takes: {series(growing)}.",
        "",
        "| events so far | resident MiB |",
        "|---|---|",
    ]
    lines += [f"| {events:,} | {rss / MIB:,.0f} |" for events, rss in memory]
    return "\n".join(lines)


def series(samples):
    """About ten of them."""
    return ", ".join(f"{n:,}" for n in samples[:: max(1, len(samples) // 10)])


def note(text):
    print(text, file=sys.stderr, flush=True)
