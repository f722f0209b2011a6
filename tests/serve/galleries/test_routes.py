"""The routes of galleries and of search over HTTP, with a real store and a real model, less Ray."""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from torch import Tensor

from rayreid.checkpoint import Trained
from rayreid.serve.api import api
from rayreid.serve.galleries import searching
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.galleries.keeper import Keeper
from rayreid.serve.galleries.records import GalleryLimits
from rayreid.serve.galleries.search import SearchSettings
from rayreid.serve.galleries.searching import Searched, Searcher, Wanted
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.galleries.snapshot import Snapshot
from rayreid.serve.hosted import Hosted
from rayreid.serve.models import Embedded, Explaining, Scored, Served, State, Work, describe
from rayreid.serve.refusals import RefusalError
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from rayreid.settings import FailureError
from tests.serve.pictures import TIMEOUT, expected, in_json, picture

SEARCH = "/v1/match/search"


class InProcess:
    """One model and its searcher, in this process."""

    def __init__(self, served: Served, hosted: Hosted, settings: GalleriesSettings):
        other = Served("other", "gmn", "beef", served.preprocessing, 64, 32, served.embedding)
        self.served = {served.name: served, "other": other}
        self.hosted, self.searcher = hosted, Searcher(hosted, settings)

    async def embed(self, _: str, work: Work) -> Embedded:
        return await self.hosted.embed(work)

    async def score(self, _: str, work: Work, pairs: np.ndarray) -> Scored:
        return await self.hosted.score(work, pairs)

    async def explain(
        self, _: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        return await self.hosted.explain(work, pair, lines=lines, drawn=drawn)

    async def states(self) -> Mapping[str, State]:
        return {name: State(1) for name in self.served}

    async def search(
        self, _: str, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched:
        return await self.searcher.search(work, groups, wanted)

    async def forget(self) -> int:
        await self.searcher.forget()
        return 1


class Client:
    """Asks the interface, each request in the loop that the model's batches live in."""

    def __init__(self, runner: asyncio.Runner, service: Service):
        self.runner, self.app = runner, api(service)

    def __call__(self, method: str, path: str, **request: object) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                return await client.request(method, path, timeout=TIMEOUT, **request)

        return self.runner.run(ask())

    def ok(self, method: str, path: str, **request: object) -> dict:
        response = self(method, path, **request)
        assert response.is_success, response.text
        answer: dict = response.json()
        return answer

    def enrol(self, who: Sequence[str], seeds: Sequence[int], **more: object) -> dict:
        body = in_json([picture(seed) for seed in seeds], None)
        del body["pairs"]
        ids = [f"s{seed}" for seed in seeds]
        body |= {"identities": list(who), "ids": ids} | more
        return self.ok("POST", "/v1/galleries/hall/samples", json=body)

    def search(self, *seeds: int, **more: object) -> dict:
        body = {"gallery": "hall", "images": in_json([picture(s) for s in seeds], 0)["images"]}
        return self.ok("POST", SEARCH, json=body | more)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def hosted(trained: Trained) -> Hosted:
    return Hosted(describe("tiny", trained), trained)


@pytest.fixture
def client(runner: asyncio.Runner, hosted: Hosted, tmp_path: Path) -> Iterator[Client]:
    settings = GalleriesSettings(
        store=str(tmp_path / "galleries"),
        limits=GalleryLimits(samples=40),
        search=SearchSettings(most=30),
    )
    keeper = Keeper(settings.store, settings.limits)
    models = InProcess(hosted.served, hosted, settings)
    galleries = Galleries(keeper.ask, models, settings)
    client = Client(runner, Service(models, Limits(images=8), galleries))
    client.ok("POST", "/v1/galleries", json={"name": "hall"})
    yield client
    models.searcher.reader.close()
    keeper.close()


def test_a_gallery_tells_whose_embeddings_it_holds(client: Client, trained: Trained) -> None:
    made = client.ok("POST", "/v1/galleries", json={"name": "Ä b?#%", "model": "other"})
    assert made["fingerprint"] == "beef"
    own = client.ok("GET", "/v1/galleries/hall")
    assert own["model"] == "tiny"
    assert own["fingerprint"] == trained.fingerprint
    assert (own["version"], own["identities"], own["samples"]) == (1, 0, 0)
    assert datetime.fromisoformat(own["created"]).tzinfo is not None
    page = client.ok("GET", "/v1/galleries?limit=1")
    assert ([g["name"] for g in page["galleries"]], page["next"]) == (["hall"], "hall")
    page = client.ok("GET", "/v1/galleries?limit=1&after=hall")
    assert ([g["name"] for g in page["galleries"]], page["next"]) == (["Ä b?#%"], None)
    assert client.ok("GET", f"/v1/galleries/{quote('Ä b?#%')}")["name"] == "Ä b?#%"
    client.ok("DELETE", f"/v1/galleries/{quote('Ä b?#%')}")
    assert client("GET", f"/v1/galleries/{quote('Ä b?#%')}").status_code == 404


def test_who_is_enrolled_is_found(client: Client, trained: Trained) -> None:
    answer = client.enrol(["anna", "bo", "anna"], [0, 1, 2], cameras=["door", None, "hall"])
    assert answer["ids"] == ["s0", "s1", "s2"]
    assert set(answer["timings_ms"]) >= {"read", "decode", "embed", "store"}
    found = client.search(7, 1)
    assert found["snapshot"] == answer["version"]
    assert found["enrolled"] == {"identities": 2, "samples": 3}
    assert set(found["timings_ms"]) >= {"read", "decode", "embed", "search"}
    pictures = [picture(seed) for seed in (0, 1, 2, 7)]
    for query, result in zip((3, 1), found["results"], strict=True):
        scores = expected(trained, pictures, [(query, enrolled) for enrolled in range(3)])
        anna = int(scores[2] > scores[0]) * 2
        wanted = sorted(
            [("anna", f"s{anna}", scores[anna]), ("bo", "s1", scores[1])], key=lambda m: -m[2]
        )
        told = [(m["identity"], m["sample"], m["score"]) for m in result["matches"]]
        assert [t[:2] for t in told] == [w[:2] for w in wanted]
        np.testing.assert_allclose([t[2] for t in told], [w[2] for w in wanted], atol=1e-5)
        assert result["searched"] == 3


def test_what_is_acknowledged_is_found_and_what_is_deleted_is_not(client: Client) -> None:
    for seed in range(6):
        version = client.enrol([f"p{seed}"], [seed])["version"]
        found = client.search(seed, top_k=30)
        assert found["snapshot"] == version
        assert f"s{seed}" in [m["sample"] for m in found["results"][0]["matches"]]
    for seed in range(6):
        version = client.ok("DELETE", f"/v1/galleries/hall/samples/s{seed}")["version"]
        found = client.search(seed, top_k=30)
        assert found["snapshot"] == version
        assert f"s{seed}" not in [m["sample"] for m in found["results"][0]["matches"]]
    (result,) = client.search(0)["results"]
    assert (result["decision"], result["matches"], result["searched"]) == ("no_match", [], 0)


def test_several_crops_of_one_query_are_one(client: Client, trained: Trained) -> None:
    client.enrol(["anna", "bo", "cy"], [0, 1, 2])
    pictures = [picture(seed) for seed in (0, 1, 2, 8, 9)]
    scores = expected(trained, pictures, [(q, g) for q in (3, 4) for g in range(3)]).reshape(2, 3)
    for fusion, wanted in {"mean": scores.mean(0), "max": scores.max(0)}.items():
        found = client.search(8, 9, queries=[[0, 1]], fusion=fusion)
        (result,) = found["results"]
        told = {m["sample"]: m["score"] for m in result["matches"]}
        np.testing.assert_allclose([told[f"s{i}"] for i in range(3)], wanted, atol=1e-5)
    assert client.search(8, 9, queries=[[0, 1]])["results"] != found["results"]


def test_filters_choose_who_is_searched(client: Client) -> None:
    client.enrol(
        ["anna", "bo", "cy", "di"],
        [0, 1, 2, 3],
        cameras=["door", "hall", None, "door"],
        times=["2026-01-01T10:00:00Z", "2026-01-01T13:00:00+02:00", None, "2026-01-01T12:00:00Z"],
        tags=[["red", "bag"], ["red"], [], ["bag"]],
    )

    def who(**filters: object) -> str:
        found = client.search(0, filters=filters)["results"][0]
        assert found["searched"] == len(found["matches"])
        return " ".join(sorted(match["identity"] for match in found["matches"]))

    assert who() == "anna bo cy di"
    assert who(cameras=["door"]) == "anna di"
    assert who(cameras=["door", "hall"], tags=["red"]) == "anna bo"
    assert who(tags=["red", "bag"]) == "anna"
    assert who(**{"from": "2026-01-01T11:00:00Z"}) == "bo di"
    assert who(**{"from": "2026-01-01T11:00:00Z", "to": "2026-01-01T12:00:00Z"}) == "bo"
    assert who(cameras=[]) == ""
    matches = client.search(1)["results"][0]["matches"]
    (match,) = [match for match in matches if match["sample"] == "s1"]
    assert datetime.fromisoformat(match["time"]) == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert (match["camera"], match["tags"]) == ("hall", ["red"])


def test_embeddings_and_samples_are_enrolled_and_searched(client: Client) -> None:
    client.enrol(["anna", "bo"], [0, 1])
    body = in_json([picture(2), picture(3)], 0)["images"]
    embedded = client.ok("POST", "/v1/embed", json={"images": body})["embeddings"]
    client.ok(
        "POST",
        "/v1/galleries/hall/samples",
        json={"embeddings": embedded, "identities": ["cy", "di"], "ids": ["s2", "s3"]},
    )
    by_image = client.search(2, 3, 1)["results"]
    by_others = client.ok(
        "POST",
        SEARCH,
        json={
            "gallery": "hall",
            "embeddings": embedded,
            "samples": [{"gallery": "hall", "sample": "s1"}],
        },
    )["results"]
    for one, other in zip(by_image, by_others, strict=True):
        assert [m["sample"] for m in one["matches"]] == [m["sample"] for m in other["matches"]]
        np.testing.assert_allclose(
            [m["score"] for m in one["matches"]], [m["score"] for m in other["matches"]], atol=1e-4
        )
    pairs = {"samples": [{"gallery": "hall", "sample": s} for s in ("s2", "s3")]}
    scored = client.ok("POST", "/v1/match/pairs", json=pairs | {"pairs": [[0, 1]]})["scores"]
    wanted = next(m["score"] for m in by_others[0]["matches"] if m["sample"] == "s3")
    assert scored == pytest.approx([wanted], abs=1e-4)
    bad = dict(embedded[0], data=base64.b64encode(np.full(1, np.nan, "<f4")).decode(), shape=[1])
    response = client(
        "POST", "/v1/galleries/hall/samples", json={"embeddings": [bad], "identities": ["x"]}
    )
    assert response.status_code == 422
    assert "not finite" in response.json()["error"]
    # Finite, and of no model.
    huge = np.full(embedded[0]["shape"], 3e38, "<f4").tobytes()
    bad = dict(embedded[0], data=base64.b64encode(huge).decode())
    for path, body in (
        ("/v1/galleries/hall/samples", {"embeddings": [bad], "identities": ["x"]}),
        (SEARCH, {"embeddings": [bad], "gallery": "hall"}),
    ):
        response = client("POST", path, json=body)
        assert response.status_code == 422
        assert "a number beyond 1,000,000" in response.json()["error"]


def test_a_search_that_fails_takes_no_other_along(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enrol(["anna", "bo"], [0, 1])
    whole = searching.search

    def failing(snapshot: Snapshot, queries: Sequence[Tensor], *rest: object, **more: object):
        if any(len(query) == 2 for query in queries):
            raise FailureError("the model's score of an enrolled sample is no finite number")
        return whole(snapshot, queries, *rest, **more)

    monkeypatch.setattr(searching, "search", failing)
    images = in_json([picture(0), picture(1)], 0)["images"]

    async def all_at_once() -> list[int]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as asker:
            body = {"gallery": "hall", "images": images}
            bodies = [body | {"queries": queries} for queries in ([[0]], [[0, 1]], [[1]])]
            asked = [asker.post(SEARCH, json=body, timeout=TIMEOUT) for body in bodies]
            return [one.status_code for one in await asyncio.gather(*asked)]

    assert client.runner.run(all_at_once()) == [200, 500, 200]


def test_a_form_enrols_and_searches(client: Client) -> None:
    files = [("images", (f"{seed}.png", picture(seed))) for seed in (0, 1)]
    request = json.dumps({"identities": ["anna", "bo"]})
    ids = client.ok("POST", "/v1/galleries/hall/samples", files=files, data={"request": request})[
        "ids"
    ]
    assert len(set(ids)) == 2
    found = client.ok(
        "POST", SEARCH, files=files[1:], data={"request": json.dumps({"gallery": "hall"})}
    )
    (result,) = found["results"]
    assert sorted(match["identity"] for match in result["matches"]) == ["anna", "bo"]


def test_identities_and_samples_are_paged_renamed_and_merged(client: Client) -> None:
    client.enrol(["anna", "bo", "cy", "cy"], [0, 1, 2, 3])
    page = client.ok("GET", "/v1/galleries/hall/identities?limit=2")
    assert page["identities"] == [
        {"name": "anna", "samples": 1},
        {"name": "bo", "samples": 1},
    ]
    rest = client.ok("GET", f"/v1/galleries/hall/identities?limit=2&after={page['next']}")
    assert (rest["identities"], rest["next"]) == ([{"name": "cy", "samples": 2}], None)
    client.ok("PATCH", "/v1/galleries/hall/identities/anna", json={"name": "Anna & Co."})
    client.ok("POST", "/v1/galleries/hall/identities/bo/merge", json={"into": "cy"})
    path = f"/v1/galleries/hall/identities/{quote('Anna & Co.')}"
    assert client.ok("GET", path)["samples"] == 1
    page = client.ok("GET", "/v1/galleries/hall/samples?identity=cy&limit=2")
    assert [s["id"] for s in page["samples"]] == ["s1", "s2"]
    page = client.ok("GET", "/v1/galleries/hall/samples?identity=cy&limit=2&after=s2")
    assert ([s["id"] for s in page["samples"]], page["next"]) == (["s3"], None)
    matches = client.search(1)["results"][0]["matches"]
    assert sorted(match["identity"] for match in matches) == ["Anna & Co.", "cy"]
    client.ok("DELETE", "/v1/galleries/hall/identities/cy")
    assert client.ok("GET", "/v1/galleries/hall")["samples"] == 1


def test_a_purge_answers_a_receipt(client: Client) -> None:
    client.enrol(["anna", "bo", "cy"], [0, 1, 2])
    client.search(0)
    body = {"identities": ["anna", "ghost"], "samples": ["s1"]}
    receipt = client.ok("POST", "/v1/galleries/hall/purge", json=body)
    assert (receipt["identities"], receipt["samples"], receipt["missing"]) == (2, 2, ["ghost"])
    assert receipt["check"]["embeddings"] == 2
    assert receipt["check"]["searched_bytes"] > 0
    assert receipt["check"]["remains"] == []
    assert receipt["replicas"] == 1
    found = client.search(0)
    assert found["snapshot"] == receipt["version"]
    assert [m["identity"] for m in found["results"][0]["matches"]] == ["cy"]
    everybody = client.ok("POST", "/v1/galleries/hall/purge", json={"all": True})
    assert everybody["samples"] == 1


REFUSED = {
    "no gallery": (404, "GET", "/v1/galleries/x", None),
    "no gallery to search": (404, "POST", SEARCH, {"gallery": "x", "images": [""]}),
    "gallery of that name": (409, "POST", "/v1/galleries", {"name": "hall"}),
    "gallery without a name": (422, "POST", "/v1/galleries", {}),
    "gallery of a path": (422, "POST", "/v1/galleries", {"name": "../x"}),
    "gallery of a model that is none": (404, "POST", "/v1/galleries", {"name": "y", "model": "z"}),
    "name with a NUL": (422, "GET", "/v1/galleries/a%00b", None),
    "after a NUL": (422, "GET", "/v1/galleries?after=%00", None),
    "no page": (422, "GET", "/v1/galleries/hall/samples?limit=0", None),
    "no identity": (404, "GET", "/v1/galleries/hall/identities/x", None),
    "identity to rename": (404, "PATCH", "/v1/galleries/hall/identities/x", {"name": "y"}),
    "identity to delete": (404, "DELETE", "/v1/galleries/hall/identities/x", None),
    "merged into itself": (
        422, "POST", "/v1/galleries/hall/identities/anna/merge", {"into": "anna"},
    ),
    "renamed to a path": (422, "PATCH", "/v1/galleries/hall/identities/anna", {"name": "a/b"}),
    "no sample": (404, "DELETE", "/v1/galleries/hall/samples/x", None),
    "nothing to enrol": (422, "POST", "/v1/galleries/hall/samples", {"identities": []}),
    "purge of a typing mistake": (422, "POST", "/v1/galleries/hall/purge", {"identity": ["x"]}),
    "no queries": (422, "POST", SEARCH, {"gallery": "hall"}),
    "no such item": (422, "POST", SEARCH, {"gallery": "hall", "queries": [[0]]}),
    "too many people": (422, "POST", SEARCH, {"gallery": "hall", "samples": ["s0"], "top_k": 31}),
    "time without a zone": (
        422, "POST", SEARCH, {"gallery": "hall", "filters": {"from": "2026-01-01T00:00:00"}},
    ),
    "no such sample": (
        404, "POST", SEARCH, {"gallery": "hall", "samples": [{"gallery": "hall", "sample": "x"}]},
    ),
    "another model": (
        409, "POST", SEARCH,
        {"gallery": "hall", "model": "other", "samples": [{"gallery": "hall", "sample": "s0"}]},
    ),
}  # fmt: skip


def test_a_deletion_that_failed_halfway_can_be_repeated(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def forget(_: InProcess) -> int:
        asked.append(len(asked))
        if len(asked) == 1:
            raise RefusalError(503, "not all replicas have let go of what was erased")
        return 1

    monkeypatch.setattr(InProcess, "forget", forget)
    assert client("DELETE", "/v1/galleries/hall").status_code == 503
    assert asked == [0]
    assert client("DELETE", "/v1/galleries/hall").status_code == 404
    assert asked == [0, 1]


def test_wrong_requests_are_refused_with_one_sentence(client: Client) -> None:
    client.enrol(["anna"], [0])
    for kind, (status, method, path, body) in REFUSED.items():
        response = client(method, path, **({} if body is None else {"json": body}))
        assert response.status_code == status, f"{kind}: {response.text}"
        assert set(response.json()) == {"error", "request_id"}
        assert "\n" not in response.json()["error"]
    assert client.ok("GET", "/v1/galleries/hall")["version"] == 2


def test_a_search_scores_no_more_than_it_may(client: Client) -> None:
    client.enrol(["anna"], [0])
    response = client(
        "POST",
        SEARCH,
        json={"gallery": "hall", "images": in_json([picture(0)] * 6, 0)["images"]}
        | {"shortlist": 10_000},
    )
    assert response.status_code == 422
    assert "60000 exact scores, more than 51200" in response.json()["error"]
    assert client.search(0, 1, 2, 3, 4, shortlist=10_000)["results"]


def test_enrolments_that_cannot_be_done(client: Client) -> None:
    client.enrol(["anna"], [0])
    images = in_json([picture(1)], 0)["images"]
    path = "/v1/galleries/hall/samples"
    refused = {
        "the sample 's0' is enrolled already": (409, {"ids": ["s0"]}),
        "there are 2 identities for 1 crops": (422, {"identities": ["a", "b"]}),
        "there are 0 cameras for 1 crops": (422, {"cameras": []}),
        "outside of the years 1 to 9999": (422, {"times": ["0001-01-01T00:00:00+01:00"]}),
        "no URL can name": (422, {"identities": ["a/b"]}),
        "tags[0]": (422, {"tags": [["x" * 129]]}),
        "more than 16": (422, {"tags": [[str(i) for i in range(17)]]}),
        "is not the one": (409, {"model": "other"}),
    }
    refused["holds embeddings of weights"] = refused.pop("is not the one")
    for sentence, (status, more) in refused.items():
        body = {"images": images, "identities": ["bo"]} | more
        response = client("POST", path, json=body)
        assert (response.status_code, sentence in response.json()["error"]) == (status, True), (
            response.text
        )
    for start in range(1, 40, 8):
        seeds = list(range(start, min(40, start + 8)))
        client.enrol(["crowd"] * len(seeds), seeds)
    response = client("POST", path, json={"images": images, "identities": ["bo"]})
    assert response.status_code == 507
    assert "41 samples, more than 40" in response.json()["error"]


def test_a_service_without_galleries_has_no_such_routes(
    runner: asyncio.Runner, hosted: Hosted, tmp_path: Path
) -> None:
    models = InProcess(hosted.served, hosted, GalleriesSettings(store=str(tmp_path)))
    client = Client(runner, Service(models, Limits()))
    assert client("GET", "/v1/galleries").status_code == 404
    assert client("POST", SEARCH, json={}).status_code == 404
