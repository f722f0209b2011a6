"""Stores to test on: a folder, and a real PostgreSQL where its programs are installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayreid.serve.galleries.opening import open_store
from rayreid.serve.galleries.records import GalleryLimits
from rayreid.serve.galleries.store import Store

LOCK = 0x7261_7972_6569
LIMITS = GalleryLimits(galleries=20, samples=500, tags=3)


@dataclass(frozen=True)
class Postgres:
    """A server that keeps nothing of what is erased, and where its files are."""

    address: str
    folder: Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    found = shutil.which("initdb", path=os.pathsep.join([os.environ["PATH"], *map(str, there)]))
    if found is None:
        pytest.skip("PostgreSQL's programs are not installed")
    programs = Path(found).resolve().parent
    # The server refuses to run as root.
    user: dict[str, object] = {}
    if os.getuid() == 0:
        someone = pwd.getpwnam("postgres")
        user = {"user": someone.pw_uid, "group": someone.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="rayreid-postgres-", dir="/tmp"))
    if user:
        os.chown(folder, someone.pw_uid, someone.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "cwd": "/"}
    initdb = [programs / "initdb", "-D", data, "-U", "reid", "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run([*initdb, "--no-locale"], check=True, **quiet, **user)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "shared_buffers": "16MB",
        "wal_recycle": "off",
        "wal_init_zero": "on",
        "logging_collector": "off",
        # The statements, and not their values: what `remains` of a receipt is empty for.
        "log_statement": "all",
        "log_parameter_max_length": "0",
    }
    command = [programs / "postgres", "-D", data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stderr=log, **quiet, **user) as server,
    ):
        try:
            _await(programs / "pg_isready", port, server)
            yield Postgres(f"postgresql://reid@127.0.0.1:{port}/postgres", folder)
        finally:
            server.terminate()
            server.wait(30)
            shutil.rmtree(folder)


def _await(ready: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "PostgreSQL ended"
        asked = [ready, "-h", "127.0.0.1", "-p", str(port), "-U", "reid", "-d", "postgres"]
        if subprocess.run(asked, stdout=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")


@pytest.fixture(params=["folder", "server"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return where an empty store is: below a folder, or in a server's database."""
    if request.param == "folder":
        yield str(tmp_path / "galleries")
        return
    address = request.getfixturevalue("postgres").address
    yield address
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        # A session ends a moment after it is closed, and with it its lock.
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        found = connection.execute(
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'rayreid%'"
        )
        for (schema,) in found.fetchall():
            connection.execute(f"DROP SCHEMA {schema} CASCADE")
        # This session ends a moment later too, and the next test's store wants the lock.
        connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    store = open_store(address, LIMITS, writable=True)
    yield store
    store.close()


@pytest.fixture
def reader(address: str, store: Store) -> Iterator[Store]:
    store = open_store(address, LIMITS, writable=False)
    yield store
    store.close()
