"""The verb that serves: how it ends, and how it is told to read its runs again."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from rayreid.checkpoint import load_trained
from tests.serve.pictures import PATH, TIMEOUT, in_json, picture

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Verb:
    """A running ``rayreid serve``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int):
        self.process, self.log, self.url = process, log, f"http://127.0.0.1:{port}"

    def await_line(self, line: str) -> None:
        deadline = time.monotonic() + 150
        while line not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[Verb]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    code = "from rayreid.__main__ import main; main()"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(folder), f"--port={port}"],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    verb = Verb(process, log, port)
    try:
        verb.await_line("Ctrl-C stops it")
        family = psutil.Process(process.pid).children(recursive=True)
        yield verb
        assert process.wait(90) == 0, log.read_text()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_what_is_under_way_is_answered_before_the_end(run: Path, tmp_path: Path, by: str) -> None:
    images = [picture(n) for n in range(32)]
    body = in_json(images, [[a, b] for a in range(32) for b in range(32)])
    with serving(run, tmp_path / "log") as verb, ThreadPoolExecutor(8) as threads:
        ended = threading.Event()

        def flow(_: int) -> list[int | None]:
            """Ask until the end; None where the connection was cut once a request was sent."""
            seen: list[int | None] = []
            with httpx.Client(base_url=verb.url, timeout=3 * TIMEOUT, trust_env=False) as client:
                while not ended.is_set():
                    try:
                        seen.append(client.post(PATH, json=body).status_code)
                    except httpx.ConnectError:
                        return seen  # it stopped listening, as it should
                    except httpx.TransportError:
                        seen.append(None)
                        return seen
                    if seen[-1] != 200:
                        time.sleep(0.05)
            return seen

        flows = [threads.submit(flow, n) for n in range(8)]
        time.sleep(3)
        if by == "Ctrl-C":
            os.killpg(verb.process.pid, signal.SIGINT)
        else:
            verb.process.send_signal(signal.SIGTERM)
        verb.process.wait(90)
        ended.set()
        each = [flow.result(2 * TIMEOUT) for flow in flows]
    for flow_seen in each:
        # What was cut came after a refusal: nothing that was admitted is lost.
        assert None not in flow_seen or flow_seen[-2] in (503, 404), flow_seen
    seen = [status for flow_seen in each for status in flow_seen]
    # Refused since the stop: 503, by the service while it drains or by Serve when it is gone; what
    # was refused so was never begun.
    assert seen.count(200) > 8
    assert set(seen) <= {200, 503, 404, None}, seen
    assert seen.count(500) == 0
    log.warning("%s: %s", by, {status: seen.count(status) for status in set(seen)})


def test_runs_are_read_again(run: Path, other_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(run, folder)
    before, after = load_trained(run).fingerprint, load_trained(other_run).fingerprint
    with serving(folder, tmp_path / "log") as verb:
        body = in_json([picture(0), picture(1)], [[0, 1]])

        def fingerprint() -> str:
            answer = httpx.post(f"{verb.url}{PATH}", json=body, timeout=TIMEOUT, trust_env=False)
            assert answer.status_code == 200, answer.text
            found: str = answer.json()["fingerprint"]
            return found

        assert fingerprint() == before
        (folder / "best" / "weights.safetensors").write_bytes(b"nothing")
        verb.process.send_signal(signal.SIGHUP)
        verb.await_line("still serving as before")
        assert fingerprint() == before
        shutil.rmtree(folder)
        shutil.copytree(other_run, folder)
        verb.process.send_signal(signal.SIGHUP)
        verb.await_line("anew")
        assert fingerprint() == after
        verb.process.send_signal(signal.SIGTERM)
        verb.process.wait(90)
