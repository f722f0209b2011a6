"""The service over HTTP, on a real Ray Serve."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray

from rayreid import serve
from rayreid.checkpoint import Trained
from rayreid.serve.settings import Limits, service_of
from tests.serve.pictures import PATH, TIMEOUT, expected, in_json, picture, raw


def test_what_is_no_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no trained run"):
        serve.start(service_of([tmp_path]))


def test_a_broken_run_is_refused_before_anything_starts(run: Path, tmp_path: Path) -> None:
    for file in (run / "best").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is broken"):
        serve.start(service_of([tmp_path]))


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match="choose another port"):
            serve._refuse_taken("127.0.0.1", other.getsockname()[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def client(run: Path, ray_session: None) -> Iterator[httpx.Client]:  # noqa: ARG001 - it runs
    port = free_port()
    # Room for the 24 requests of one test, not for the 64 of another.
    settings = service_of([run], port=port, limits=Limits(admitted=16, waiting=16))
    url = serve.start(settings, timeout=60.0)
    assert url == f"http://127.0.0.1:{port}"
    with httpx.Client(
        base_url=url, timeout=TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=64)
    ) as client:
        yield client
    serve.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def test_health(client: httpx.Client, trained: Trained) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() | {"request_id": ""} == {
        "request_id": "",
        "status": "ok",
        "model": "tiny",
        "fingerprint": trained.fingerprint,
    }


def test_scores_are_the_methods_own(client: httpx.Client, trained: Trained) -> None:
    images = [picture(0), picture(1, "JPEG"), picture(2), picture(0)]
    pairs = [(0, 1), (1, 0), (2, 1), (0, 3), (3, 2)]
    wanted = expected(trained, images, pairs)
    assert np.ptp(wanted) > 1e-2, "a mix-up would not show"
    files = [("images", (f"{i}", image)) for i, image in enumerate(images)]
    by_json = client.post(PATH, json=in_json(images, pairs)).json()
    by_form = client.post(PATH, files=files, data={"pairs": json.dumps(pairs)}).json()
    for answer in (by_json, by_form):
        np.testing.assert_allclose(answer["scores"], wanted, atol=1e-5)
        assert answer["embedded"] == 3
        assert answer["fingerprint"] == trained.fingerprint


def test_requests_at_once_each_get_their_own_scores(client: httpx.Client, trained: Trained) -> None:
    draws = np.random.default_rng(0)
    requests = []
    for n in range(24):
        # Every request shares its first image with all others, and has others of its own.
        images = [picture(0), *(picture(100 * n + i) for i in range(1, 2 + n % 4))]
        pairs = draws.integers(0, len(images), (1 + n % 7, 2)).tolist()
        requests.append((images, pairs))

    def ask(request: tuple[list[bytes], list[tuple[int, int]]]) -> list[float]:
        response = client.post(PATH, json=in_json(*request))
        assert response.status_code == 200, response.text
        scores: list[float] = response.json()["scores"]
        return scores

    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(ask, requests, timeout=2 * TIMEOUT))
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer, expected(trained, *request), atol=1e-5)


def test_refusals_reach_the_client(client: httpx.Client) -> None:
    large = Limits().body_bytes
    requests = {
        400: raw(b"{"),
        413: {
            "content": (b"x" * 2**20 for _ in range(large // 2**20 + 4)),
            "headers": {"Content-Type": "application/json"},
        },
        415: raw(b"x", "text/plain"),
        422: {"json": in_json([picture(0), b"nothing"], [[0, 1]])},
    }
    for status, request in requests.items():
        response = client.post(PATH, **request)
        assert (response.status_code, set(response.json())) == (status, {"error", "request_id"})


def test_serves_proxy_has_the_door(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Long": "x" * 20_000}).status_code == 431
    # Serve itself would take off the time limit, or fail at bytes that are no text.
    steering = {"X-Request-Timeout-Seconds": "0", "Serve-Multiplexed-Model-Id": b"\xff"}
    answer = client.get("/healthz", headers=steering | {"X-Request-Id": b"\xff"})
    assert answer.status_code == 200
    assert len(answer.headers.get_list("x-request-id")) == 1
    lost = client.post(PATH, content=b"x" * 65 * 2**20, headers={"Content-Type": "text/plain"})
    assert (lost.status_code, set(lost.json())) == (413, {"error", "request_id"})


def test_no_log_of_serves_has_what_a_path_names(client: httpx.Client) -> None:
    name = f"anna-{time.time_ns()}"
    client.get(f"/v1/galleries/lobby/samples/{name}")
    client.delete(f"/v1/galleries/lobby/samples/{name}?identity={name}")
    client.get(f"/{name}")
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any("ServeReplica" in file.name or "serve" in str(file) for file in files)
    assert not [file for file in files if name.encode() in file.read_bytes()]


def test_another_address_than_serves_own_is_refused(client: httpx.Client, run: Path) -> None:
    with pytest.raises(ValueError, match="already running on this cluster, and not at"):
        serve.start(service_of([run], port=free_port()))
    assert client.get("/healthz").status_code == 200


def test_too_many_requests_are_told_to_come_back(client: httpx.Client, run: Path) -> None:
    # Room for two at a time: whatever the machine, sixteen clients at once are too many.
    port = client.base_url.port
    assert port is not None
    serve.start(
        service_of([run], port=port, limits=Limits(admitted=1, matching=1, waiting=1)),
        timeout=60.0,
    )
    images = [picture(i) for i in range(32)]
    body = json.dumps(in_json(images, [[i, j] for i in range(32) for j in range(32)])).encode()

    def ask(_: int) -> httpx.Response:
        return client.post(PATH, **raw(body))

    with ThreadPoolExecutor(16) as threads:
        responses = list(threads.map(ask, range(48), timeout=3 * TIMEOUT))
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_the_verb_serves_until_ctrl_c(run: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    code = "from rayreid.__main__ import main; main()"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(run), f"--port={port}"],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 100
    while "Ctrl-C stops it" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    answer = httpx.post(
        f"http://127.0.0.1:{port}{PATH}", json=in_json([picture(0), picture(1)], [[0, 1]]),
        timeout=TIMEOUT, trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 200
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in log.read_text()
