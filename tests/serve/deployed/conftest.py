"""One service on a real Ray Serve, which all tests of this folder ask."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rayreid import serve
from tests.nodes import free_ports
from tests.serve.deployed.settings import settings_of
from tests.serve.pictures import TIMEOUT


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the service keeps its galleries."""
    return tmp_path_factory.mktemp("kept") / "galleries"


@pytest.fixture(scope="package")
def client(
    run: Path,
    folder: Path,
    ray_session: None,  # noqa: ARG001 - it runs
) -> Iterator[httpx.Client]:
    """Yield a client of the service; it ends with this folder's tests."""
    (port,) = free_ports(1)
    url = serve.start(settings_of(run, port, folder), timeout=240.0)
    assert url == f"http://127.0.0.1:{port}"
    with httpx.Client(
        base_url=url, timeout=TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=64)
    ) as client:
        yield client
    serve.stop()
    deadline = time.monotonic() + TIMEOUT
    while listens(port):
        assert time.monotonic() < deadline, f"something listens at port {port} still"
        time.sleep(0.2)


def listens(port: int) -> bool:
    """Return whether something takes connections at a port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
