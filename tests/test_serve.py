import asyncio
import base64
import io
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.exceptions import RequestValidationError
from PIL import Image

from rayreid import match_api, match_deployments, serve
from rayreid.batch import Census
from rayreid.checkpoint import Trained, build, load_trained, save_trained
from rayreid.data.decoding import decode_bytes
from rayreid.data.views import as_images
from rayreid.experiment import compose
from rayreid.match_api import Matched, Served, Work, api
from rayreid.match_pairs import (
    WASTE,
    Comparison,
    blocks,
    call_cost,
    embed_distinct,
    score_pairs,
    score_together,
)
from rayreid.match_request import Limits
from rayreid.matching.metric_network import squared_difference
from rayreid.method import Method

HEIGHT, WIDTH = 64, 32
TIMEOUT = 20
PATH = "/v1/match/pairs"


def picture(seed: int, kind: str = "PNG") -> bytes:
    """Return an encoded image of coloured blocks."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((40, 80), Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def in_json(images: list[bytes], pairs: object) -> dict[str, object]:
    return {"images": [base64.b64encode(image).decode() for image in images], "pairs": pairs}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny GMN whose scores differ well from pair to pair."""
    experiment = compose(
        "gmn",
        {
            "trunk.name": "test_resnet",
            "trunk.weights": "none",
            "config.hidden": 16,
            "loading.height": HEIGHT,
            "loading.width": WIDTH,
            "sources": ["synthetic=plaza-noon"],
        },
    )
    census = Census({"plaza-noon": 4})
    method = build(experiment, census)
    images = as_images(torch.from_numpy(np.stack([decoded(picture(seed)) for seed in range(8)])))
    a, b = torch.triu_indices(8, 8, 1)
    with torch.no_grad():
        for _ in range(10):
            # Statistics of these pictures: with those of no data all scores would be alike.
            f = method.embed(images)
            method.metric(squared_difference(f[a], f[b]))
        # As far apart as those of a trained one.
        method.metric.logit.weight.mul_(50)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_trained(folder / "best", experiment, census, method.state_dict())
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> Trained:
    return load_trained(run)


def decoded(image: bytes) -> np.ndarray:
    return decode_bytes(image, "image", HEIGHT, WIDTH)


def expected(trained: Trained, images: list[bytes], pairs: list[tuple[int, int]]) -> np.ndarray:
    """Return the scores by the method alone, an image and a pair at a time."""
    with torch.inference_mode():
        f = [trained.method.embed(as_images(torch.from_numpy(decoded(i))[None])) for i in images]
        return np.array([trained.method.score(f[a], f[b]).item() for a, b in pairs])


class Counting(Method):
    """Scores by the sum of an image's pixels, and counts what it is asked."""

    def __init__(self, bytes_of_pair: int = 4):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.embedded: list[int] = []
        self.scored: list[int] = []
        self.bytes_of_pair = bytes_of_pair

    def embed(self, images):
        self.embedded.append(len(images))
        return images.flatten(1).sum(1, keepdim=True)

    def score(self, queries, gallery):
        self.scored.append(len(queries) * len(gallery))
        return queries - gallery.T / 2

    def pair_bytes(self, _embedding):
        return self.bytes_of_pair

    def forward(self, _batch):
        return {}


# Pairs


def some_pairs() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "one": np.array([[3, 4]]),
        "itself": np.array([[3, 3]]),
        "disjoint": np.arange(40).reshape(20, 2),
        "one to all": np.stack([np.full(40, 7), np.arange(40)], 1),
        "all": np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2),
        "each with each": np.stack(np.triu_indices(40, 1), 1),
        "random": draws.integers(0, 40, (300, 2)),
        "repeated": draws.integers(0, 3, (50, 2)),
        "none": np.zeros((0, 2), np.int64),
    }


@pytest.mark.parametrize("free", [1, 30, 4096])
@pytest.mark.parametrize("kind", some_pairs())
def test_pairs_score_as_in_the_matrix_of_all(trained: Trained, kind: str, free: int) -> None:
    pairs = some_pairs()[kind]
    channels = trained.method.metric.norm.num_features
    embeddings = torch.randn(40, channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        matrix = trained.method.score(embeddings, embeddings).numpy()
    scores = score_pairs(trained.method, list(embeddings), pairs, free=free)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, matrix[pairs[:, 0], pairs[:, 1]], atol=1e-5)


@pytest.mark.parametrize("free", [1, 30, 4096])
@pytest.mark.parametrize("kind", some_pairs())
def test_blocks_hold_every_pair_once_and_little_else(kind: str, free: int) -> None:
    pairs = some_pairs()[kind]
    seen: list[int] = []
    for lefts, rights, asked in blocks(pairs, free):
        assert len(set(lefts)) == len(lefts)
        assert len(set(rights)) == len(rights)
        assert set(pairs[asked, 0]) == set(lefts)
        assert set(pairs[asked, 1]) == set(rights)
        distinct = len(np.unique(pairs[asked], axis=0))
        assert len(lefts) * len(rights) <= max(free, WASTE * distinct)
        seen += asked
    assert sorted(seen) == list(range(len(pairs)))


def test_pairs_are_scored_in_tiles_of_bounded_memory() -> None:
    method = Counting(bytes_of_pair=64 * 2**20)
    embeddings = [torch.full((1,), float(i)) for i in range(40)]
    scores = score_pairs(method, embeddings, some_pairs()["all"])
    assert max(method.scored) <= 4
    np.testing.assert_array_equal(scores, [a - b / 2 for a, b in some_pairs()["all"]])


def test_disjoint_pairs_do_not_cost_the_matrix_of_all() -> None:
    method = Counting()
    score_pairs(method, [torch.zeros(1)] * 40, some_pairs()["disjoint"], free=16)
    assert sum(method.scored) == 5 * 16


def test_a_call_costs_a_bounded_number_of_pairs(trained: Trained) -> None:
    channels = trained.method.metric.norm.num_features
    assert 1 <= call_cost(trained.method, torch.zeros(channels)) <= 4096


def test_images_of_one_key_are_embedded_once() -> None:
    method = Counting()
    a, b = decoded(picture(0)), decoded(picture(1))
    embeddings = embed_distinct(method, ["a", "b", "a", "b", "a"], [a, b, a, b, a])
    assert method.embedded == [2]
    sums = [float(pixels.astype(float).sum() / 255) for pixels in (a, b)]
    assert [e.item() for e in embeddings] == pytest.approx([*sums, *sums, sums[0]], rel=1e-5)


def test_requests_scored_together_get_their_own_scores() -> None:
    method = Counting()
    one = Comparison(["a", "b"], [torch.tensor([1.0]), torch.tensor([2.0])], np.array([[0, 1]]))
    two = Comparison(
        ["c", "b", "a"],
        [torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0])],
        np.array([[2, 1], [0, 0], [0, 1]]),
    )
    first, second = score_together(method, [one, two], free=1)
    assert first.tolist() == [1 - 2 / 2]
    assert second.tolist() == [1 - 2 / 2, 3 - 3 / 2, 3 - 2 / 2]
    # (a, b), (c, c), (c, b): the pair that both asked for is scored once.
    assert sum(method.scored) == 3


# The HTTP interface, without Ray

SMALL = Limits(body_bytes=4096, image_bytes=2048, images=3, pairs=4)


def asked(
    match: Callable[[Work], Awaitable[Matched]] | None = None,
    limits: Limits = SMALL,
    method: str = "POST",
    path: str = PATH,
    **request: object,
) -> httpx.Response:
    """Return the interface's answer to a request, ``match`` matching (by default with zeros)."""

    async def zeros(work: Work) -> Matched:
        return Matched(np.zeros(len(work.pairs), np.float32), 0.001, 0.002)

    async def alive() -> None:
        return None

    async def ask() -> httpx.Response:
        app = api(Served("m", "f", HEIGHT, WIDTH), limits, match or zeros, alive)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.request(method, path, timeout=TIMEOUT, **request)

    return asyncio.run(ask())


def form(images: int, pairs: str | None) -> dict[str, object]:
    return {
        "files": [("images", (f"{i}.png", picture(i))) for i in range(images)],
        "data": {} if pairs is None else {"pairs": pairs},
    }


def raw(body: bytes, kind: str = "application/json") -> dict[str, object]:
    return {"content": body, "headers": {"Content-Type": kind}}


async def streamed(size: int):
    for _ in range(0, size, 512):
        yield b"x" * 512


TWO = [picture(0), picture(1)]
REFUSED = {
    "not JSON": (400, "the body is not JSON", raw(b'{"images": [')),
    "not UTF-8": (400, "the body is not JSON", raw(b'{"images": ["\xff"]}')),
    "not an object": (422, "the body: ", raw(b"[]")),
    "no images field": (422, "there is no field 'images'", {"json": {"pairs": []}}),
    "no pairs field": (422, "there is no field 'pairs'", {"json": {"images": []}}),
    "unknown field": (422, "'url'", {"json": in_json(TWO, [[0, 1]]) | {"url": "http://x"}}),
    "images of another type": (422, "images[0]: ", {"json": {"images": [3], "pairs": [[0, 0]]}}),
    "not base64": (422, "images[1] is not base64", {"json": {"images": ["", "%"], "pairs": []}}),
    "pair of one": (422, "pairs[0][1]: ", {"json": in_json(TWO, [[0]])}),
    "pair of three": (422, "pairs[0]: ", {"json": in_json(TWO, [[0, 1, 1]])}),
    "pair of texts": (422, "pairs[0][0]: ", {"json": in_json(TWO, [["0", "1"]])}),
    "pair of fractions": (422, "pairs[0][1]: ", {"json": in_json(TWO, [[0, 0.5]])}),
    "no pairs": (422, "there are no pairs", {"json": in_json(TWO, [])}),
    "index too large": (
        422,
        "pairs[1] names image 2 of 2",
        {"json": in_json(TWO, [[0, 1], [2, 0]])},
    ),
    "index negative": (422, "pairs[0] names image -1", {"json": in_json(TWO, [[0, -1]])}),
    "index huge": (422, "pairs[0] names image 1000", {"json": in_json(TWO, [[0, 10**30]])}),
    "too many pairs": (422, "5 pairs, more than 4", {"json": in_json(TWO, [[0, 1]] * 5)}),
    "too many images": (422, "4 images, more than 3", {"json": in_json(TWO * 2, [[0, 1]])}),
    "image unreadable": (422, "images[1]", {"json": in_json([TWO[0], b"nothing"], [[0, 1]])}),
    "image empty": (422, "images[1]", {"json": in_json([TWO[0], b""], [[0, 0]])}),
    "image truncated": (422, "images[0]", {"json": in_json([TWO[0][:60]], [[0, 0]])}),
    "image too large": (413, "images[0] is larger", {"json": in_json([b"x" * 2049], [[0, 0]])}),
    "body too large": (413, "the body is larger than 4096", raw(b"x" * 5000)),
    "body too large, streamed": (
        413,
        "the body is larger than 4096",
        {"content": streamed(8192), "headers": {"Content-Type": "application/json"}},
    ),
    "another type": (415, "'text/plain'", raw(b"x", "text/plain")),
    "no type": (415, "the content type is missing", {"content": b"{}"}),
    "compressed": (
        415,
        "compressed",
        {"json": in_json(TWO, [[0, 1]]), "headers": {"Content-Encoding": "gzip"}},
    ),
    "form without a boundary": (400, "boundary", raw(b"x", "multipart/form-data")),
    "form unreadable": (400, "the form is refused", raw(b"x", "multipart/form-data; boundary=b")),
    "form without pairs": (422, "there is no field 'pairs'", form(2, None)),
    "form without images": (
        422,
        "there is no field 'images'",
        {"files": [("pairs", (None, "[[0, 1]]"))]},
    ),
    "form with pairs twice": (
        422,
        "more than one field 'pairs'",
        {"files": [("images", TWO[0]), ("pairs", (None, "[]")), ("pairs", (None, "[]"))]},
    ),
    "form with another field": (422, "'gallery'", {"files": [("gallery", TWO[0])]}),
    "form with an image as text": (422, "'images'", {"files": [("images", (None, "text"))]}),
    "form with pairs not JSON": (400, "the field 'pairs' is not JSON", form(2, "0,1")),
    "form with pairs of texts": (422, "pairs[0]: ", form(2, '["01"]')),
    "form with too many images": (
        422,
        "too many",
        form(4, "[[0, 1]]") | {"limits": Limits(images=3)},
    ),
    "form with a large image": (
        413,
        "images[0] is larger",
        {"files": [("images", b"x" * 2049)], "data": {"pairs": "[[0, 0]]"}},
    ),
    "form too large": (413, "the body is larger", {"files": [("images", b"x" * 5000)]}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_requests_are_refused_with_one_sentence(kind: str) -> None:
    status, reason, request = REFUSED[kind]
    response = asked(**request)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    sentence = response.json()["error"]
    assert reason in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200


def test_reading_stops_where_a_body_is_too_large() -> None:
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 512
            yield b"x" * 512

    response = asked(content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert sent <= SMALL.body_bytes + 2 * 512


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/x", 404)])
def test_other_routes_answer_in_json(method: str, path: str, status: int) -> None:
    response = asked(method=method, path=path)
    assert response.status_code == status
    assert response.json()["error"].startswith(f"{method} {path}: ")


def test_a_list_of_mistakes_becomes_a_sentence() -> None:
    error = RequestValidationError([{"loc": ("query", "n"), "msg": "Field required"}])
    response = asyncio.run(match_api._refused_by_framework(None, error))
    assert response.status_code == 422
    assert json.loads(response.body) == {"error": "query.n: Field required"}


def test_an_answer_says_what_was_done() -> None:
    pairs = [[0, 1], [1, 1]]
    answer = asked(json=in_json(TWO, pairs), headers={"X-Request-ID": "mine"}).json()
    assert answer.pop("timings_ms").keys() == {"decode", "embed", "score"}
    assert answer == {
        "scores": [0.0, 0.0],
        "model": "m",
        "fingerprint": "f",
        "request_id": "mine",
        "embedded": 2,
    }
    assert asked(json=in_json(TWO, pairs)).json()["request_id"]


def test_images_of_equal_contents_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def decode(data: bytes, name: str, height: int, width: int) -> np.ndarray:
        names.append(name)
        return decode_bytes(data, name, height, width)

    works = []

    async def match(work: Work) -> Matched:
        works.append(work)
        return Matched(np.zeros(len(work.pairs), np.float32), 0.0, 0.0)

    monkeypatch.setattr(match_api, "decode_bytes", decode)
    images = [picture(1), picture(0), picture(1)]
    answer = asked(match, json=in_json(images, [[0, 1], [0, 2], [2, 1]]))
    assert answer.json()["embedded"] == 2
    assert sorted(names) == ["images[0]", "images[1]"]
    assert works[0].pairs.tolist() == [[0, 1], [0, 0], [0, 1]]
    np.testing.assert_array_equal(works[0].pixels, [decoded(picture(1)), decoded(picture(0))])


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_no_numbers_reach_no_one(
    score: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def match(_: Work) -> Matched:
        return Matched(np.array([0, score], np.float32), 0.0, 0.0)

    with caplog.at_level(logging.ERROR):
        response = asked(match, json=in_json(TWO, [[0, 1], [1, 0]]))
    assert response.status_code == 500
    assert response.json() == {"error": "the model's score of pairs[1] is no finite number"}
    assert "1 of 2 scores" in caplog.text


def test_a_failure_is_one_sentence_without_its_reason() -> None:
    async def match(_: Work) -> Matched:
        raise KeyError("secret")

    response = asked(match, json=in_json(TWO, [[0, 1]]))
    assert response.status_code == 500
    assert list(response.json()) == ["error"]
    assert "secret" not in response.text


def test_a_queue_that_is_full_is_answered_try_again() -> None:
    async def full(_: Work) -> Matched:
        raise match_deployments.BackPressureError(8, 8)

    response = asked(
        lambda work: match_deployments.answered(full, work), json=in_json(TWO, [[0, 1]])
    )
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "try again later" in response.json()["error"]


# Starting


def test_what_is_no_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no trained run"):
        serve.start(tmp_path)


def test_a_broken_run_is_refused_before_anything_starts(run: Path, tmp_path: Path) -> None:
    for file in (run / "best").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is broken"):
        serve.start(tmp_path)


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match="choose another port"):
            serve._refuse_taken("127.0.0.1", other.getsockname()[1])


# Over HTTP


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def client(run: Path, ray_session: None) -> Iterator[httpx.Client]:  # noqa: ARG001 - it runs
    port = free_port()
    # Room for the 24 requests of one test, not for the 64 of another.
    url = serve.start(run, port=port, limits=Limits(admitted=16, waiting=16), timeout=60.0)
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
    assert response.json() == {
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
        assert (response.status_code, list(response.json())) == (status, ["error"])


def test_another_address_than_serves_own_is_refused(client: httpx.Client, run: Path) -> None:
    with pytest.raises(ValueError, match="already running on this cluster, and not at"):
        serve.start(run, port=free_port())
    assert client.get("/healthz").status_code == 200


def test_too_many_requests_are_told_to_come_back(client: httpx.Client) -> None:
    images = [picture(i) for i in range(32)]
    body = in_json(images, [[i, j] for i in range(32) for j in range(32)])

    def ask(_: int) -> httpx.Response:
        return client.post(PATH, json=body)

    with ThreadPoolExecutor(64) as threads:
        responses = list(threads.map(ask, range(64), timeout=3 * TIMEOUT))
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/healthz").status_code == 200
