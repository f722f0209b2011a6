"""Galleries on a real Ray Serve: found when acknowledged, erased in every process."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray

from rayreid.checkpoint import Trained
from tests.serve.galleries.test_erasure import quick_traces
from tests.serve.galleries.test_service import enrol, images, ok
from tests.serve.pictures import expected, picture

WAIT = 60
MODELS = ("tiny", "twin")


def found(client: httpx.Client, gallery: str, seed: int, model: str) -> tuple[int, set[str]]:
    """Return the version that was searched, and the samples that were found."""
    body = {"gallery": gallery, "images": images(seed), "top_k": 100, "model": model}
    answer = ok(client.post("/v1/match/search", json=body))
    return answer["snapshot"], {match["sample"] for match in answer["results"][0]["matches"]}


def test_many_enrol_and_search_at_once_and_each_finds_what_it_enrolled(
    client: httpx.Client, trained: Trained
) -> None:
    ok(client.post("/v1/galleries", json={"name": "busy"}))

    def enrol_then_search(seed: int) -> None:
        version = enrol(client, "busy", seed)["version"]
        # The same weights in two processes, each with a snapshot of its own.
        for model in MODELS:
            snapshot, samples = found(client, "busy", seed, model)
            assert snapshot >= version
            assert f"person-{seed}" in samples

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(enrol_then_search, range(24), timeout=WAIT))
    assert ok(client.get("/v1/galleries/busy"))["samples"] == 24
    body = {"gallery": "busy", "images": images(3), "top_k": 100}
    (result,) = ok(client.post("/v1/match/search", json=body))["results"]
    wanted = expected(trained, [picture(s) for s in range(24)], [(3, s) for s in range(24)])
    for match in result["matches"]:
        seed = int(match["sample"].partition("-")[2])
        assert match["score"] == pytest.approx(wanted[seed], abs=1e-4)
    again = client.post(
        "/v1/galleries/busy/samples",
        json={"images": images(0), "identities": ["x"], "ids": ["person-0"]},
    )
    assert again.status_code == 409


def test_a_purge_reaches_every_process_and_leaves_nothing_in_files_or_logs(
    client: httpx.Client, folder: Path
) -> None:
    # Pictures that no other gallery has: their embeddings would rightly be found there.
    secret = "Leonora-Exampleton"
    ok(client.post("/v1/galleries", json={"name": "watched"}))
    enrol(client, "watched", 50, 51)
    enrol(client, "watched", 52, 53, who=secret)
    person = f"/v1/galleries/watched/identities/{secret} 52"
    # Names pass through paths, refusals and retries: none of that is to be written down.
    ok(client.get(person))
    client.patch(person, json={"name": f"{secret} 53"})
    client.get(f"/v1/galleries/watched/identities/{secret} none")
    client.post(
        "/v1/galleries/watched/samples",
        json={"images": images(59), "identities": [secret], "ids": [f"{secret}-52"]},
    )
    for model in MODELS:
        assert f"{secret}-52" in found(client, "watched", 52, model)[1]
    rows = ok(client.post("/v1/embed", json={"images": images(52, 53)}))["embeddings"]
    gone = np.stack([np.frombuffer(base64.b64decode(row["data"]), "<f4") for row in rows])
    assert quick_traces(folder, gone, ())
    receipt = ok(
        client.post(
            "/v1/galleries/watched/purge",
            json={"identities": [f"{secret} 52"], "samples": [f"{secret}-53"]},
        )
    )
    assert (receipt["samples"], receipt["replicas"]) == (2, 2)
    for model in MODELS:
        snapshot, samples = found(client, "watched", 52, model)
        assert (snapshot, samples) == (receipt["version"], {"person-50", "person-51"})
    assert quick_traces(folder, gone, {secret}) == []
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = session / "logs"
    assert quick_traces(logs, gone[:0], {"rayreid__galleries"})
    assert quick_traces(logs, gone, {secret}) == []
