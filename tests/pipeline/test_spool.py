"""`clickmill spool`, the modes of durability, and disks that are full, by the kernel's own errors."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

import support

# Nothing is shipped while a test looks at the spool.
HELD = "[collector]\nbatch_max_wait_ms = 600000\n"


def write(folder, text):
    path = folder / "clickmill.toml"
    path.write_text(text, encoding="utf-8")
    return path


def segments(spool):
    return sorted(spool.glob("*.seg"))


class Spool(support.Case):
    def filled(self, count=40, config=HELD):
        """A killed collector's spool of so many events, each a write of its own."""
        spool = self.folder / "spool"
        self.arguments = ("--config", write(self.folder, config), "--lake", self.folder / "lake", "--spool", spool)
        collector = self.collector(*self.arguments)
        ids = [f"e{n}" for n in range(1, count + 1)]
        ends = []
        for one in ids:
            self.assertEqual(collector.post("/v1/track", support.track(one))[0], 200)
            ends.append(segments(spool)[-1].stat().st_size)
        return collector, spool, ids, ends

    def spool_json(self, verb, spool, code=0):
        return json.loads(self.clickmill("spool", verb, "--spool", spool, "--format", "json", code=code).stdout)

    def test_inspect_and_fsck_read_a_spool_beside_its_collector(self):
        collector, spool, ids, _ = self.filled()
        for verb in ("inspect", "fsck"):
            report = self.spool_json(verb, spool)
            self.assertEqual((report["in_use"], report["damaged"]), (True, False))
            self.assertEqual((report["last_wal_seq"], report["backlog"]), (len(ids), len(ids)))
            held = [(one["first_wal_seq"], one["last_wal_seq"], one["events"]) for one in report["segments"]]
            self.assertEqual(held, [(1, len(ids), len(ids))])
        self.assertIn("running", self.clickmill("spool", "inspect", "--spool", spool).stdout.decode())
        # It took no lock and changed nothing: the collector goes on.
        self.assertEqual(collector.post("/v1/track", support.track("more"))[0], 200)
        collector.kill()
        self.assertFalse(self.spool_json("inspect", spool)["in_use"])

    def test_corrupt_spool_is_reported_by_place_and_the_rest_is_shipped(self):
        collector, spool, ids, ends = self.filled()
        collector.kill()
        last = segments(spool)[-1]
        content = bytearray(last.read_bytes())
        content[ends[9] + 60] ^= 1
        last.write_bytes(content)
        report = self.spool_json("fsck", spool, code=1)
        self.assertEqual(report["lost"], [[11, 11]])
        self.assertEqual(report["segments"][0]["damaged"],
                         [{"segment": 1, "offset": ends[9], "bytes": ends[10] - ends[9], "first_wal_seq": 11,
                           "last_wal_seq": 11}])
        text = self.clickmill("spool", "fsck", "--spool", spool, code=1).stdout.decode()
        self.assertIn(f"segment 1 offset {ends[9]}", text)
        self.assertIn("lost: wal_seq 11 to 11", text)
        collector = self.collector(*self.arguments)
        collector.stop()
        self.assertIn("ERROR", collector.text())
        self.clickmill("etl", "run", "--lake", self.folder / "lake")
        self.assertEqual(sorted(support.event_ids(self.folder / "lake")), sorted(set(ids) - {"e11"}))

    def test_torn_spool_tail_is_no_damage(self):
        collector, spool, _, _ = self.filled(5)
        collector.kill()
        with segments(spool)[-1].open("ab") as segment:
            segment.write(b"CMF2" + os.urandom(700))
        report = self.spool_json("fsck", spool)
        self.assertEqual((report["damaged"], report["segments"][0]["tail_bytes"]), (False, 704))

    def test_replay_fills_a_lake_that_lost_its_end_and_repeats_nothing(self):
        collector, spool, ids, _ = self.filled()
        collector.kill()
        lake = self.folder / "lake"
        replay = ("spool", "replay", "--spool", spool, "--lake", lake)
        self.clickmill(*replay, "--from", "30", code=2)
        self.clickmill(*replay, "--to", "25")
        self.assertEqual(len(support.landed(lake)), 25)
        for _ in range(2):
            self.clickmill(*replay)
            landed = [line["event_id"] for line in support.landed(lake)]
            self.assertEqual(sorted(landed), sorted(ids))
        # A collector on the same spool agrees that there is nothing left.
        collector = self.collector(*self.arguments)
        collector.stop()
        self.assertIn("everything is shipped", collector.text())
        self.assertEqual(len(support.landed(lake)), len(ids))

    def test_replay_says_what_the_spool_has_lost(self):
        collector, spool, ids, ends = self.filled()
        collector.kill()
        last = segments(spool)[-1]
        content = bytearray(last.read_bytes())
        content[ends[9] + 60] ^= 1
        last.write_bytes(content)
        result = self.clickmill("spool", "replay", "--spool", spool, "--lake", self.folder / "lake", code=1)
        self.assertIn("wal_seq 11 to 11", result.stderr.decode())
        self.assertEqual(len(support.landed(self.folder / "lake")), len(ids) - 1)

    def test_replay_sends_a_range_to_a_stream_again(self):
        if not support.KINESIS:
            self.skipTest("no Kinesis: tests/run.py starts one")
        collector, spool, ids, _ = self.filled()
        collector.kill()
        stream = f"replay-{self.folder.name[-8:]}"
        support.kinesis("CreateStream", StreamName=stream, ShardCount=1)

        def active():
            answer = support.kinesis("DescribeStream", StreamName=stream)["StreamDescription"]
            return answer["StreamStatus"] == "ACTIVE"

        support.until(active, 60, "the stream is active")
        self.clickmill("spool", "replay", "--spool", spool, "--sink", f"kinesis={stream}", "--from", "11", "--to", "20")
        self.clickmill("deliver", "--stream", stream, "--once", "--lake", self.folder / "lake")
        self.assertEqual(sorted(line["event_id"] for line in support.landed(self.folder / "lake")), sorted(ids[10:20]))

    def test_no_folder_is_a_usage_error(self):
        for verb in ("inspect", "fsck", "replay"):
            self.clickmill("spool", verb, "--spool", self.folder / "nowhere", code=2)


class Durability(support.Case):
    def test_stream_mode_answers_once_the_lake_has_the_event(self):
        lake = self.folder / "lake"
        collector = self.collector("--lake", lake, "--spool", self.folder / "spool", "--durability", "stream")
        for n in range(5):
            self.assertEqual(collector.post("/v1/track", support.track(f"e{n}"))[0], 200)
            self.assertIn(f"e{n}", [line["event_id"] for line in support.landed(lake)])
        collector.kill()

    def test_stream_mode_answers_503_while_the_sink_takes_nothing_and_loses_nothing(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            spool = self.folder / "spool"
            collector = self.collector(
                "--sink", "kinesis=nowhere", "--spool", spool, "--durability", "stream",
                env={"AWS_ENDPOINT_URL_KINESIS": dead, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                     "AWS_REGION": "us-east-1"})
            status, answer = collector.post("/v1/track", support.track("kept"))
            self.assertEqual((status, json.loads(answer)["code"]), (503, "sink_unavailable"))
            collector.kill()
        lake = self.folder / "lake"
        self.clickmill("spool", "replay", "--spool", spool, "--lake", lake)
        self.assertEqual([line["event_id"] for line in support.landed(lake)], ["kept"])

    def test_memory_mode_keeps_what_it_acknowledged_when_it_is_killed(self):
        lake, acknowledged = self.folder / "lake", []
        config = write(self.folder, HELD + "durability = \"memory\"\n")
        arguments = ("--config", config, "--lake", lake, "--spool", self.folder / "spool")
        for number in range(5):
            collector = self.collector(*arguments)
            load = support.Load(collector.port, f"round{number}")
            support.until(lambda load=load: len(load.acknowledged) > 100, 60, "some load")
            collector.kill()
            acknowledged += load.stop().acknowledged
        self.collector(*arguments).stop()
        landed = [line["event_id"] for line in support.landed(lake)]
        self.assert_each_once(acknowledged, landed, "the raw zone")

    def test_a_folder_that_goes_away_with_the_container_is_warned_of(self):
        memory = pathlib.Path("/dev/shm")
        if not memory.is_dir() or not os.access(memory, os.W_OK):
            self.skipTest("no /dev/shm to write to")
        spool = tempfile.mkdtemp(prefix="clickmill-test-", dir=memory)
        self.addCleanup(shutil.rmtree, spool, ignore_errors=True)
        collector = self.collector("--lake", self.folder / "lake", "--spool", spool)
        self.assertRegex(collector.text(), r"warning: the spool lies on tmpfs.*--durability stream")
        collector.kill()
        collector = self.collector("--lake", self.folder / "lake", "--spool", spool, "--durability", "stream")
        self.assertNotIn("warning", collector.text())
        collector.kill()


def retry_after(collector, event_id):
    """The status of one event, and after how long a client shall come back. The event does not
    compress and needs several pages: on a full file system the last page of a file has room yet."""
    body = json.dumps(support.track(event_id, filler=os.urandom(10_000).hex())).encode()
    request = urllib.request.Request(f"{collector.url}/v1/track", body, {"Authorization": support.AUTHORIZATION},
                                     method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


class FullDisk(support.Case):
    """No injected errors: the kernel's, from a limit of the process and from a full file system."""

    def recovers(self, collector, spool, restrict, relieve):
        ids = []
        for n in range(5):
            self.assertEqual(collector.post("/v1/track", support.track(f"before-{n}"))[0], 200)
            ids.append(f"before-{n}")
        restrict()
        refused = [retry_after(collector, f"refused-{n}") for n in range(3)]
        for status, after in refused:
            self.assertEqual(status, 503)
            self.assertGreater(int(after), 0)
        with self.assertRaises(urllib.error.HTTPError) as ready:
            urllib.request.urlopen(f"{collector.url}/ready", timeout=30)
        self.assertEqual(ready.exception.code, 503)
        ready.exception.close()
        relieve()
        # By itself: no restart, and the first event that there is room for is taken.
        self.assertEqual(retry_after(collector, "after"), (200, None))
        collector.kill()
        self.clickmill("spool", "fsck", "--spool", spool)
        lake = self.folder / "replayed"
        self.clickmill("spool", "replay", "--spool", spool, "--lake", lake)
        self.assertEqual(sorted(line["event_id"] for line in support.landed(lake)), sorted([*ids, "after"]))

    def test_disk_full_by_a_limit_answers_503_and_is_recovered_from(self):
        spool = self.folder / "spool"
        arguments = ("--config", write(self.folder, HELD), "--lake", self.folder / "lake", "--spool", spool)
        # Ignored, or the limit ends the process; a child inherits that.
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            collector = support.Collector("collect", *arguments, cwd=self.folder, restore_signals=False)
        finally:
            signal.signal(signal.SIGXFSZ, before)
        self.addCleanup(collector.kill)
        pid, free = collector.process.pid, resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE)
        self.recovers(collector, spool, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (60, free[1])),
                      lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, free))

    def test_disk_full_answers_503_and_is_recovered_from(self):
        small = self.folder / "small"
        small.mkdir()
        wrapper = with_small_disk(small)
        arguments = ("--config", write(self.folder, HELD), "--lake", self.folder / "lake", "--spool", small / "spool")
        collector = support.Collector("collect", *arguments, cwd=self.folder, wrapper=wrapper)
        self.addCleanup(collector.kill)
        # What is mounted there is seen by that process alone: it is reached through it.
        inside = pathlib.Path(f"/proc/{collector.process.pid}/root{small}")
        ballast = inside / "ballast"

        def fill():
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 512)

        # The spool is gone with its process: what it held is looked at before.
        kill, copy = collector.kill, self.folder / "copy"

        def copy_and_kill():
            if collector.process.poll() is None and not copy.exists():
                shutil.copytree(inside / "spool", copy)
            kill()

        collector.kill = copy_and_kill
        self.recovers(collector, copy, fill, ballast.unlink)


def with_small_disk(folder):
    """The command that gives the command behind it 256 KiB of its own at `folder`."""
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own, "--mount", "--propagation", "private", "sh", "-c",
            'mount -t tmpfs -o size=256k none "$0" && exec "$@"', str(folder)]


def mounts():
    """Whether a process may mount here: containers often forbid it."""
    if not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([*with_small_disk(folder), "true"], check=False, capture_output=True).returncode == 0


if not mounts():
    # Not a skip: what it tries is tried by the limit of file sizes as well, everywhere.
    print("test_spool: no mount is allowed here; a full disk is tried by a limit of file sizes only", flush=True)
    del FullDisk.test_disk_full_answers_503_and_is_recovered_from
