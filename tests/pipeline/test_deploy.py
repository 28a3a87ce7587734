"""What deploy/ installs: the unit's own command line, and what the image holds."""

import json
import os
import pathlib
import re
import shlex
import shutil
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

    def test_its_steps_make_a_layout_in_which_its_user_collects(self):
        """What `RUN`, `COPY`, `USER`, `WORKDIR` and `ENTRYPOINT` do, done here without an engine."""
        text = (DEPLOY / "Dockerfile").read_text()
        source, root = self.folder / "src", self.folder / "rootfs"
        (source / "target" / "release").mkdir(parents=True)
        shutil.copy(support.BIN, source / "target" / "release" / "clickmill")
        (layout,) = re.findall(r"^RUN (mkdir .+)$", text, re.MULTILINE)
        subprocess.run(["sh", "-ec", layout.replace("/rootfs", str(root))], cwd=source, check=True)
        (owner,) = re.findall(r"^COPY --from=build --chown=(\d+:\d+) /rootfs /$", text, re.MULTILINE)
        last_stage = text.rpartition("\nFROM ")[2]
        (user,), (place,) = (re.findall(rf"^{word} (\S+)$", last_stage, re.MULTILINE) for word in ("USER", "WORKDIR"))
        (volume,) = re.findall(r"^VOLUME (\S+)$", text, re.MULTILINE)
        self.assertEqual((user, volume), (owner, place))
        (entry,) = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[0])
        program, data = root / entry[1:], root / place[1:]
        wrapper = []
        if os.geteuid() == 0:
            # As the image's user, in the folder that it owns; the way there is anybody's.
            self.folder.chmod(0o755)
            for path in (root, *root.rglob("*")):
                os.chown(path, *map(int, owner.split(":")))
            uid, gid = user.split(":")
            wrapper = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        help_text = subprocess.run([*wrapper, program, *json.loads(re.findall(r"^CMD (.+)$", text, re.MULTILINE)[0])],
                                   cwd=data, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.assertIn("collect", help_text)
        collector = support.Collector("collect", "--write-key", "key1", cwd=data, wrapper=wrapper, program=program)
        self.addCleanup(collector.kill)
        self.assertEqual(collector.post("/v1/track", {"writeKey": "key1", **support.track("image-1")})[0], 200)
        collector.stop()
        self.assertEqual([line["event_id"] for line in support.landed(data / "lake")], ["image-1"])
        self.assertTrue((data / "clickmill-spool" / "collector_id").exists())

    def test_what_is_copied_into_the_build_is_a_whole_workspace(self):
        ignored = (DEPLOY.parent / ".dockerignore").read_text().split("\n")
        source = self.folder / "src"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=DEPLOY.parent, check=True, stdout=subprocess.PIPE)
        for name in filter(None, tracked.stdout.decode().split("\0")):
            if any(name == one or name.startswith(f"{one}/") for one in ignored if one and not one.startswith("#")):
                continue
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(DEPLOY.parent / name, source / name)
        command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]
        metadata = json.loads(subprocess.run(command, cwd=source, check=True, stdout=subprocess.PIPE).stdout)
        self.assertIn("clickmill", [package["name"] for package in metadata["packages"]])

    def test_its_build_is_the_one_that_users_run(self):
        text = (DEPLOY / "Dockerfile").read_text()
        self.assertIn("RUN cargo build --release --locked --bin clickmill\n", text)
        (version,) = re.findall(r"^FROM rust:(\S+)-slim-bookworm AS build$", text, re.MULTILINE)
        manifest = (DEPLOY.parent / "Cargo.toml").read_text()
        (oldest,) = re.findall(r'^rust-version = "(.+)"$', manifest, re.MULTILINE)
        number = lambda text: [int(part) for part in text.split(".")]
        self.assertGreaterEqual(number(version), number(oldest))
