"""What deploy/ installs: the unit's own command line, and what the image holds."""

import pathlib
import re
import shlex
import subprocess

import support

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
# What gcr.io/distroless/cc-debian12 has: glibc and libgcc.
IN_THE_IMAGE = {"linux-vdso", "libc", "libm", "libgcc_s", "libdl", "libpthread", "librt", "ld-linux-x86-64", "ld-linux-aarch64"}


class Unit(support.Case):
    def test_its_command_line_collects_and_drains(self):
        unit = (DEPLOY / "clickmill-collect.service").read_text()
        (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
        state, credentials = self.folder / "state", self.folder / "credentials"
        state.mkdir()
        credentials.mkdir()
        (credentials / "clickmill.toml").write_text('[collector.write_keys]\n"key1" = "shop"\n')
        command = command.replace("${CREDENTIALS_DIRECTORY}", str(credentials)).replace("/var/lib/clickmill", str(state))
        program, verb, *arguments = shlex.split(command)
        self.assertEqual((program, verb), ("/usr/bin/clickmill", "collect"))
        collector = self.collector(*arguments, cwd=state)
        answer = collector.post("/v1/track", {"writeKey": "key1", **support.track("unit-1")})
        self.assertEqual(answer[0], 200)
        self.assertEqual(collector.post("/v1/track", {"writeKey": "other", **support.track("unit-2")})[0], 401)
        collector.stop()
        self.assertIn("everything is shipped", collector.text())
        self.clickmill("etl", "run", "--lake", state / "lake")
        self.assertEqual(support.query(state / "lake", "SELECT event_id, app_id FROM {events}"), [("unit-1", "shop")])


class Image(support.Case):
    def test_the_binary_needs_only_libraries_that_the_image_has(self):
        listed = subprocess.run(["ldd", support.BIN], stdout=subprocess.PIPE, text=True, check=True).stdout
        needed = {pathlib.Path(line.split()[0]).name.split(".so")[0] for line in listed.splitlines()}
        self.assertIn("libc", needed)
        self.assertEqual(needed - IN_THE_IMAGE, set())

    def test_its_build_is_the_one_that_users_run(self):
        text = (DEPLOY / "Dockerfile").read_text()
        self.assertIn("RUN cargo build --release --locked --bin clickmill\n", text)
        (version,) = re.findall(r"^FROM rust:(\S+)-slim-bookworm AS build$", text, re.MULTILINE)
        manifest = (DEPLOY.parent / "Cargo.toml").read_text()
        (oldest,) = re.findall(r'^rust-version = "(.+)"$', manifest, re.MULTILINE)
        number = lambda text: [int(part) for part in text.split(".")]
        self.assertGreaterEqual(number(version), number(oldest))
