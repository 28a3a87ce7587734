"""A MariaDB for the tests: the machine's own, else what Debian's archive has, unpacked without root.

`find` answers the program, or why there is none; `start` makes a server of its own with TLS.
"""

import os
import pathlib
import re
import shutil
import subprocess

# What a package of Debian's needs and every machine has, or must not have twice.
NOT_UNPACKED = ("libc6", "libgcc-s1", "libstdc++6")
# The two names of what makes the system's tables, before and since MariaDB 11.
SYSTEM_TABLES = ("{}_system_tables.sql", "{}_performance_tables.sql", "{}_system_tables_data.sql")
# A certificate authority, and a certificate of it for localhost; by the package that moto needs as well.
CERTIFICATES = """
import datetime, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
now = datetime.datetime.now(datetime.timezone.utc)
name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
def certificate(subject, key, issuer, signer, is_ca):
    made = (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True))
    if not is_ca:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
for folder in sys.argv[1:]:
    ca, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    private = server.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                   serialization.NoEncryption())
    for file, content in (("ca.pem", certificate("ca of " + folder, ca, "ca of " + folder, ca, True)),
                          ("server.pem", certificate("localhost", server, "ca of " + folder, ca, False)),
                          ("server.key", private)):
        with open(folder + "/" + file, "wb") as out:
            out.write(content)
"""


def find(home):
    """(the program, None), or (None, why there is none). Downloads once, into `home`."""
    own = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if own:
        return pathlib.Path(own).resolve(), None
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return None, "there is neither mariadbd nor apt-get on this machine"
    folder = home / "mariadb"
    program = folder / "usr" / "sbin" / "mariadbd"
    if program.exists():
        return program, None
    work = home / "mariadb.new"
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists" / "partial").mkdir(parents=True)
    try:
        options = download(work, ["mariadb-server-core"], ["-o", "Acquire::Retries=5"])
        missing = missing_libraries(work)
        if missing:
            download(work, dependencies(options), options)
            missing = missing_libraries(work)
        if missing:
            return None, f"Debian's mariadbd lacks {', '.join(missing)}"
    except subprocess.CalledProcessError as error:
        return None, f"`{' '.join(map(str, error.cmd))}` failed: {error.stderr.strip()[-500:]}"
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return program, None


def download(work, packages, options):
    """Unpacks packages into `work`; the options with which apt found them."""
    try:
        quiet(["apt-get", *options, "download", *packages], work)
    except subprocess.CalledProcessError:
        if any(option.startswith("Dir::State::Lists=") for option in options):
            raise
        # This machine has no lists of packages: its own are made beside the download, which needs no root.
        options = [*options, "-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work}",
                   "-o", "Debug::NoLocking=1"]
        quiet(["apt-get", *options, "update"], work)
        quiet(["apt-get", *options, "download", *packages], work)
    for package in work.glob("*.deb"):
        quiet(["dpkg", "-x", package, work], work)
        package.unlink()
    return options


def dependencies(options):
    listed = quiet(["apt-cache", *options, "depends", "--no-recommends", "--no-suggests", "mariadb-server-core"],
                   pathlib.Path("/"))
    named = re.findall(r"^ +\|?Depends: (lib[^\s<>]+)$", listed, re.MULTILINE)
    return [name for name in named if name not in NOT_UNPACKED]


def missing_libraries(work):
    found = quiet(["ldd", work / "usr" / "sbin" / "mariadbd"], work, environment(work / "usr" / "sbin" / "mariadbd"))
    return re.findall(r"^\s*(\S+) => not found", found, re.MULTILINE)


def quiet(command, folder, env=None):
    return subprocess.run([str(part) for part in command], cwd=folder, env=env, check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout


def environment(program):
    """Finds the libraries that were unpacked beside it."""
    root = program.parent.parent.parent
    folders = [str(path) for path in (root / "usr" / "lib").glob("*-linux-gnu*")] if root != pathlib.Path("/") else []
    folders += [str(path) for path in (root / "lib").glob("*-linux-gnu*")] if root != pathlib.Path("/") else []
    known = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ, LD_LIBRARY_PATH=":".join(folders + ([known] if known else [])))


def start(program, data, port, python, user, password):
    """Makes its system tables and certificates: the command that starts it, and its environment.

    `data/mariadb/ca.pem` has signed its certificate, `data/other-ca/ca.pem` has not.
    """
    folder, other = data / "mariadb", data / "other-ca"
    tables = folder / "data"
    for made in (tables, other):
        made.mkdir(parents=True)
    quiet([python, "-c", CERTIFICATES, folder, other], data)
    share = next((path for path in (program.parent.parent / "share" / name for name in ("mariadb", "mysql"))
                  if (path / "english" / "errmsg.sys").exists()), None)
    scripts = [share / script.format(name) for name in ("mariadb", "mysql") for script in SYSTEM_TABLES]
    command = [program, "--no-defaults", f"--datadir={tables}", f"--lc-messages-dir={share}",
               f"--character-sets-dir={share / 'charsets'}", f"--socket={folder / 'socket'}",
               f"--tmpdir={folder}", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0",
               "--innodb-log-file-size=16M"]
    if os.geteuid() == 0:
        command.append("--user=root")
    sql = "CREATE DATABASE mysql;\nUSE mysql;\n"
    sql += "\n".join(path.read_text(encoding="utf-8") for path in scripts if path.exists())
    subprocess.run([str(part) for part in command] + ["--bootstrap", "--silent-startup"], input=sql, text=True,
                   check=True, env=environment(program), cwd=folder, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)
    (folder / "users.sql").write_text(
        f"CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO '{user}'@'%';\n", encoding="utf-8")
    command += [f"--port={port}", "--bind-address=127.0.0.1", f"--init-file={folder / 'users.sql'}",
                f"--ssl-ca={folder / 'ca.pem'}", f"--ssl-cert={folder / 'server.pem'}",
                f"--ssl-key={folder / 'server.key'}", f"--pid-file={folder / 'pid'}"]
    return command, environment(program)
