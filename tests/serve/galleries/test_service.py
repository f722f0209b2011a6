"""Galleries of a server that is killed: all that was acknowledged is there when it starts again."""

import base64
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.nodes import free_ports
from tests.serve.pictures import picture

WAIT = 60


def ok(response: httpx.Response) -> dict:
    assert response.is_success, response.text
    answer: dict = response.json()
    return answer


def images(*seeds: int) -> list[str]:
    return [base64.b64encode(picture(seed)).decode() for seed in seeds]


def enrol(client: httpx.Client, gallery: str, *seeds: int, who: str = "person") -> dict:
    body = {
        "images": images(*seeds),
        "identities": [f"{who} {seed}" for seed in seeds],
        "ids": [f"{who}-{seed}" for seed in seeds],
    }
    return ok(client.post(f"/v1/galleries/{gallery}/samples", json=body))


SERVER = """
import sys
from rayreid.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_killed_while_enrolling_has_all_that_it_acknowledged(
    run: Path, tmp_path: Path
) -> None:
    (port,), store = free_ports(1), tmp_path / "galleries"
    config = tmp_path / "models.yaml"
    config.write_text(f"models:\n- run: {run}\ngalleries: {store}\n")
    acknowledged: list[int] = []
    for turn in range(3):
        log = tmp_path / f"log-{turn}"
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, "serve", "--config", str(config), f"--port={port}"],
                env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=WAIT, trust_env=False) as client:
                await_ready(client, server, log)
                if turn == 0:
                    ok(client.post("/v1/galleries", json={"name": "hall"}))
                for number in acknowledged:
                    path = f"/v1/galleries/hall/identities/person {number}"
                    assert ok(client.get(path))["samples"] == 1
                count = ok(client.get("/v1/galleries/hall"))["samples"]
                assert len(acknowledged) <= count <= len(acknowledged) + 4 * turn
                stop_at = time.monotonic() + 2.0 + turn / 3

                def enrol_until(first: int) -> None:
                    for number in range(first, first + 1000):
                        try:
                            enrol(client, "hall", number)
                        except (httpx.HTTPError, AssertionError):
                            return  # killed before it was answered
                        acknowledged.append(number)

                with ThreadPoolExecutor(4) as threads:
                    working = [
                        threads.submit(enrol_until, 10_000 * turn + 1000 * n) for n in range(4)
                    ]
                    time.sleep(max(0.0, stop_at - time.monotonic()))
                    kill_family(server)
                    for one in working:
                        one.result(WAIT)
        finally:
            kill_family(server)
    assert len(acknowledged) > 20


def await_ready(client: httpx.Client, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 150
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)


def kill_family(server: subprocess.Popen) -> None:
    """Kill -9 a server and all that it started, at once."""
    if not psutil.pid_exists(server.pid):
        return
    parent = psutil.Process(server.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    server.wait(30)
    psutil.wait_procs(family, timeout=30)
