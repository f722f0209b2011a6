"""The service over HTTP, on a real Ray Serve."""

import base64
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from click.testing import CliRunner

from rayreid import serve
from rayreid.benchmark import bare_serve
from rayreid.benchmark.bare_serve import bare
from rayreid.checkpoint import Trained
from rayreid.cli import cli
from rayreid.client import Client, ServiceError
from rayreid.data.decoding import decode_bytes
from rayreid.explain import explain_pair
from rayreid.serve.settings import Limits, service_of
from tests.nodes import free_ports
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


def test_rays_processes_have_few_arenas_of_malloc(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    told = ray.get(ray.remote(os.getenv).options(num_cpus=0).remote("MALLOC_ARENA_MAX"))
    assert told == str(len(os.sched_getaffinity(0)))


def test_serve_alone_answers_beside_the_service(client: httpx.Client) -> None:
    with bare():
        assert client.post(bare_serve.PATH, content=b"x" * 1000).json() == 1000
        assert client.get("/healthz").status_code == 200
    assert client.post(bare_serve.PATH, content=b"x").status_code == 404


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


def test_a_pair_is_explained(client: httpx.Client, trained: Trained) -> None:
    images = [picture(0), picture(1)]
    with Client(str(client.base_url)) as asked:
        told = asked.explain(*images, lines=3)
        drawn = asked.explain_png(*images)
    size = trained.experiment.loading
    pixels = [decode_bytes(image, "", size.height, size.width) for image in images]
    wanted = explain_pair(trained.method, np.stack(pixels), lines=3)
    assert told.explanation["score"] == pytest.approx(wanted.score, abs=1e-5)
    np.testing.assert_allclose(told.explanation["first"], wanted.first, atol=1e-4)
    assert told.fingerprint == trained.fingerprint
    assert drawn.startswith(b"\x89PNG")


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


def test_the_doors_counts_are_in_metrics_and_what_it_is_told_is_not_passed_on(
    client: httpx.Client,
) -> None:
    answer = client.get("/metrics")
    assert 'rayreid_door_refused_total{reason="requests",status="503"}' in answer.text
    assert "rayreid_requests_total" in answer.text
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert not [name for name in answer.headers if name.startswith("x-rayreid")]
    assert answer.headers["Server-Timing"].startswith("total;dur=")
    assert client.get("/v1/models%0A").status_code == 404


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
        serve.start(service_of([run], port=free_ports(1)[0]))
    assert client.get("/healthz").status_code == 200


def test_embeddings_can_be_sent_instead_of_images(client: httpx.Client, trained: Trained) -> None:
    images = [picture(0), picture(1), picture(0)]
    with Client(str(client.base_url)) as ours:
        embedded = ours.embed(images)
        assert (embedded.embedded, embedded.fingerprint) == (2, trained.fingerprint)
        assert embedded.embeddings[0] == embedded.embeddings[2]
        mixed = ours.match_pairs(
            [(0, 1), (1, 2), (2, 0)], images=[picture(2)], embeddings=embedded.embeddings[:2]
        )
        matrix = ours.match_matrix([0, 1], [2, 0, 1], images=[picture(2), *images[:2]])
    everybody = [picture(2), *images[:2]]
    np.testing.assert_allclose(
        mixed.scores, expected(trained, everybody, [(0, 1), (1, 2), (2, 0)]), atol=1e-5
    )
    wanted = expected(trained, everybody, [(q, g) for q in (0, 1) for g in (2, 0, 1)])
    np.testing.assert_allclose(np.ravel(matrix.scores), wanted, atol=1e-5)


def test_others_embeddings_are_refused(client: httpx.Client) -> None:
    with Client(str(client.base_url)) as ours:
        (own,) = ours.embed([picture(0)]).embeddings
        another = replace(own, fingerprint="0" * 16)
        with pytest.raises(ServiceError, match="embed the image again") as refusal:
            ours.match_pairs([(0, 0)], embeddings=[another])
        assert refusal.value.status == 409
        broken = base64.b64encode(np.full(own.shape, np.nan, "<f4").tobytes()).decode()
        with pytest.raises(ServiceError, match="not finite") as refusal:
            ours.match_pairs([(0, 0)], embeddings=[replace(own, data=broken)])
        assert refusal.value.status == 422
        with pytest.raises(ServiceError, match="shape") as refusal:
            ours.match_pairs([(0, 0)], embeddings=[replace(own, shape=[1, *own.shape])])
        assert refusal.value.status == 422


def test_the_verb_asks_the_service(client: httpx.Client, trained: Trained, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    url = f"--url={client.base_url}"
    a, b = str(tmp_path / "0.png"), str(tmp_path / "1.png")
    shown = CliRunner().invoke(cli, ["match", a, b, url], catch_exceptions=False).output
    wanted = expected(trained, [picture(0), picture(1)], [(0, 1)])[0]
    assert f"{wanted:.4f}" in shown
    assert trained.fingerprint in shown
    told = CliRunner().invoke(cli, ["match", a, str(tmp_path), url, "--json", "--top=2"])
    rows = [json.loads(line) for line in told.output.splitlines()]
    assert len(rows) == 2
    assert rows[0]["score"] >= rows[1]["score"]
    (tmp_path / "pairs.csv").write_text("0.png,1.png\n2.png, 0.png\n")
    told = CliRunner().invoke(cli, ["match", "--pairs", str(tmp_path / "pairs.csv"), url, "--json"])
    scores = [json.loads(line)["score"] for line in told.output.splitlines()]
    images = [picture(number) for number in range(3)]
    np.testing.assert_allclose(scores, expected(trained, images, [(0, 1), (2, 0)]), atol=1e-5)


def test_models_and_readiness_are_told(client: httpx.Client, trained: Trained) -> None:
    assert client.get("/readyz").json()["status"] == "ready"
    with Client(str(client.base_url)) as ours:
        assert ours.ready()
        first, twin, second = ours.models()
    assert (first.name, first.fingerprint, first.input) == ("tiny", trained.fingerprint, [64, 32])
    assert (first.loaded, first.replicas, first.on_demand) == (True, 1, False)
    assert (second.name, second.loaded, second.on_demand) == ("spare", False, True)
    assert (twin.name, twin.loaded, twin.fingerprint) == ("twin", True, trained.fingerprint)
    assert first.preprocessing == second.preprocessing


def counts(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (
        line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}  # fmt: skip


def test_what_is_done_is_counted(client: httpx.Client) -> None:
    client.post(PATH, json=in_json([picture(0), picture(1)], [[0, 1]]))
    before = counts(client)
    for n in range(5):
        images = [picture(3), picture(n)]
        client.post(PATH, json=in_json(images, [[0, 1], [1, 0], [0, 0]]))
    client.post(PATH, json=in_json([b"nothing"], [[0, 0]]))
    after = counts(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    of = 'method="POST",route="/v1/match/pairs"'
    assert more(f'rayreid_requests_total{{{of},status="200"}}') == 5
    assert more(f'rayreid_requests_total{{{of},status="422"}}') == 1
    assert more('rayreid_pairs_scored_total{model="tiny"}') == 15
    assert more('rayreid_images_embedded_total{model="tiny"}') == 9
    assert more('rayreid_batch_size_sum{model="tiny",stage="embed"}') == 9
    assert more('rayreid_batch_size_sum{model="tiny",stage="score"}') == 5
    assert after['rayreid_model_loads_total{model="tiny"}'] == 1
    assert after["rayreid_requests_admitted"] == after["rayreid_requests_queued"] == 0


def test_too_many_requests_are_told_to_come_back(client: httpx.Client) -> None:
    # Places for 32, of whom 16 are worked on: whatever the machine, 64 at once are too many.
    images = [picture(i) for i in range(32)]
    body = json.dumps(in_json(images, [[i, j] for i in range(32) for j in range(32)])).encode()

    def ask(_: int) -> httpx.Response:
        return client.post(PATH, **raw(body), timeout=3 * TIMEOUT)

    with ThreadPoolExecutor(64) as threads:
        responses = list(threads.map(ask, range(96), timeout=6 * TIMEOUT))
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) >= 1
            assert "waiting" in response.json()["error"]
    assert client.get("/healthz").status_code == 200
