"""The HTTP interface, without Ray."""

import asyncio
import base64
import json
import logging
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import httpx
import numpy as np
import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from openapi_spec_validator import validate

from rayreid.data.decoding import decode_bytes
from rayreid.explain import Explained
from rayreid.serve.api import _refused_by_framework, api
from rayreid.serve.models import Embedded, Explaining, Scored, Served, State, Work
from rayreid.serve.refusals import RefusalError
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.ranking.test_calibration import calibration
from tests.serve.pictures import HEIGHT, PATH, TIMEOUT, WIDTH, in_json, picture, raw

SMALL = Limits(body_bytes=4096, image_bytes=2048, images=3, pairs=4)
SERVED = Served("m", "gmn", "f", "p", HEIGHT, WIDTH, (2,))


class Zeros:
    """Models that decode, and score everything with zeros, or with what ``scores`` says."""

    def __init__(self, scores: Callable[[np.ndarray], np.ndarray] | None = None):
        self.scores = scores or (lambda pairs: np.zeros(len(pairs), np.float32))
        self.served = {"m": SERVED}
        self.works: list[Work] = []

    async def embed(self, name: str, work: Work) -> Embedded:
        self.works.append(work)
        self._decode(work)
        values = np.arange(2 * len(work.images), dtype=np.float32).reshape(-1, 2)
        return Embedded(self.served[name], values, {"decode": 0.001, "embed": 0.002})

    async def score(self, name: str, work: Work, pairs: np.ndarray) -> Scored:
        self.works.append(work)
        self._decode(work)
        seconds = {"decode": 0.001, "embed": 0.002, "score": 0.003}
        return Scored(self.served[name], self.scores(pairs), seconds)

    async def explain(
        self, name: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        self.works.append(work)
        explained = Explained(
            score=lines, says="", grid=(1, 1), sums="each", constant=0, first=[[pair[0]]],
            second=[[pair[1]]],
        )  # fmt: skip
        return Explaining(self.served[name], explained, b"png" if drawn else None, {"explain": 0.1})

    async def states(self) -> dict[str, State]:
        return {name: State(1) for name in self.served}

    def _decode(self, work: Work) -> None:
        for image, name in zip(work.images, work.names, strict=True):
            try:
                decode_bytes(image, name, HEIGHT, WIDTH)
            except ValueError as error:
                raise RefusalError(422, str(error)) from None


def asked(
    models: Zeros | None = None,
    limits: Limits = SMALL,
    method: str = "POST",
    path: str = PATH,
    **request: object,
) -> httpx.Response:
    """Return the interface's answer to a request."""

    async def ask() -> httpx.Response:
        app = api(Service(models or Zeros(), limits))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.request(method, path, timeout=TIMEOUT, **request)

    return asyncio.run(ask())


def form(images: int, pairs: str | None) -> dict[str, object]:
    return {
        "files": [("images", (f"{i}.png", picture(i))) for i in range(images)],
        "data": {} if pairs is None else {"pairs": pairs},
    }


async def streamed(size: int):
    for _ in range(0, size, 512):
        yield b"x" * 512


TWO = [picture(0), picture(1)]
REFUSED = {
    "not JSON": (400, "the body is not JSON", raw(b'{"images": [')),
    "not UTF-8": (400, "the body is not JSON", raw(b'{"images": ["\xff"]}')),
    "not an object": (422, "the body: ", raw(b"[]")),
    "no items": (422, "pairs[0] names item 0 of 0", {"json": {"pairs": [[0, 0]]}}),
    "no pairs field": (422, "there is no field 'pairs'", {"json": {"images": []}}),
    "unknown field": (422, "'url'", {"json": in_json(TWO, [[0, 1]]) | {"url": "http://x"}}),
    "long unknown field": (422, "'kkk", {"json": in_json(TWO, [[0, 1]]) | {"k" * 3000: 0}}),
    "images of another type": (422, "images[0]: ", {"json": {"images": [3], "pairs": [[0, 0]]}}),
    "not base64": (422, "images[1] is not base64", {"json": {"images": ["", "%"], "pairs": []}}),
    "pair of one": (422, "pairs[0][1]: ", {"json": in_json(TWO, [[0]])}),
    "pair of three": (422, "pairs[0]: ", {"json": in_json(TWO, [[0, 1, 1]])}),
    "pair of texts": (422, "pairs[0][0]: ", {"json": in_json(TWO, [["0", "1"]])}),
    "pair of fractions": (422, "pairs[0][1]: ", {"json": in_json(TWO, [[0, 0.5]])}),
    "no pairs": (422, "there are no pairs", {"json": in_json(TWO, [])}),
    "index too large": (
        422,
        "pairs[1] names item 2 of 2",
        {"json": in_json(TWO, [[0, 1], [2, 0]])},
    ),
    "index negative": (422, "pairs[0] names item -1", {"json": in_json(TWO, [[0, -1]])}),
    "index huge": (422, "pairs[0] names item 1000", {"json": in_json(TWO, [[0, 10**30]])}),
    "too many pairs": (422, "5 pairs, more than 4", {"json": in_json(TWO, [[0, 1]] * 5)}),
    "too many images": (422, "4 items, more than 3", {"json": in_json(TWO * 2, [[0, 1]])}),
    "far too many pairs": (413, "the body holds more", {"json": in_json(TWO, [[0, 1]] * 60)}),
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
        "pairs[0] names item 0 of 0",
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
    "form with far too many pairs": (413, "'pairs' holds more", form(2, "[[0,1]," * 60)),
    "form with long pairs": (413, "part exceeded maximum size", form(2, "[" + " " * 2000)),
    "form in a slow charset": (
        415,
        "the form's charset",
        raw(b"x", "multipart/form-data; boundary=b; charset=punycode"),
    ),
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
    assert (response.status_code, set(response.json())) == (status, {"error", "request_id"})
    sentence = response.json()["error"]
    assert reason in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200


@pytest.mark.parametrize("byte", [b"x", b"["])
def test_reading_stops_where_a_body_is_too_large(byte: bytes) -> None:
    sent, most = 0, {b"x": SMALL.body_bytes, b"[": 128}[byte]

    async def endless():
        nonlocal sent
        while True:
            sent += 512
            yield byte * 512

    response = asked(content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert sent <= most + 2 * 512


def peak_of(**request: object) -> tuple[httpx.Response, int]:
    """Return the answer within the default limits, and the most memory that it took."""
    tracemalloc.start()
    try:
        return asked(limits=Limits(), **request), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("again", [b"[0,0],", b"0,", b"{},", b"[", b'{"x":'])
def test_a_body_of_many_values_is_refused_before_it_is_parsed(again: bytes) -> None:
    body = b'{"images":[],"pairs":[' + again * (2**23 // len(again))
    response, peak = peak_of(**raw(body))
    assert response.status_code == 413
    assert "the body holds more JSON values" in response.json()["error"]
    # The body itself, which is made before, is not held again.
    assert peak < 4 * 2**20


def test_a_rare_character_does_not_multiply_a_body() -> None:
    body = b'{"pairs":[[0,0]],"images":["\\ud83d\\ude00' + b"A" * 2**24 + b'"]}'
    response, peak = peak_of(**raw(body))
    assert response.status_code == 413
    assert peak < 2.5 * len(body)


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("as_form", [False, True])
def test_all_that_the_limits_allow_is_accepted(as_form: bool, indent: int | None) -> None:
    limits = Limits()
    images = [picture(0)] * limits.images
    pairs = [[limits.images - 1] * 2] * limits.pairs
    # Some clients escape what need not be.
    text = json.dumps(in_json(images, pairs), indent=indent).replace("/", r"\/")
    request = raw(text.replace("+", r"\u002b").encode())
    if as_form:
        request = form(limits.images, json.dumps(pairs, indent=indent))
    response = asked(limits=limits, **request)
    assert response.status_code == 200, response.text
    assert len(response.json()["scores"]) == limits.pairs


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/x", 404)])
def test_other_routes_answer_in_json(method: str, path: str, status: int) -> None:
    response = asked(method=method, path=path)
    assert response.status_code == status
    assert response.json()["error"].startswith(f"{method} {path}: ")


def test_a_list_of_mistakes_becomes_a_sentence() -> None:
    error = RequestValidationError([{"loc": ("query", "n"), "msg": "Field required"}])
    request = Request({"type": "http", "state": {"request_id": "i"}})
    response = asyncio.run(_refused_by_framework(request, error))
    assert response.status_code == 422
    assert json.loads(response.body) == {"error": "query.n: Field required", "request_id": "i"}


def test_an_answer_says_what_was_done() -> None:
    pairs = [[0, 1], [1, 1]]
    response = asked(json=in_json(TWO, pairs), headers={"X-Request-ID": "mine"})
    answer = response.json()
    assert answer.pop("timings_ms").keys() == {"read", "decode", "embed", "score"}
    assert answer.pop("thresholds")["reason"] == "model 'm' is not calibrated"
    assert answer == {
        "scores": [0.0, 0.0],
        "decisions": ["uncalibrated"] * 2,
        "model": "m",
        "fingerprint": "f",
        "preprocessing": "p",
        "request_id": "mine",
        "embedded": 2,
    }
    assert response.headers["X-Request-Id"] == "mine"


@pytest.mark.parametrize(
    "given", ["", "a b", "a\u00e9".encode().decode("latin-1"), "x" * 129, "a/b"]
)
def test_an_id_that_is_not_plain_is_replaced(given: str) -> None:
    response = asked(json=in_json(TWO, [[0, 1]]), headers={"X-Request-Id": given.encode("latin-1")})
    assert response.json()["request_id"] == response.headers["X-Request-Id"]
    assert len(response.headers["X-Request-Id"]) == 32


def test_images_of_equal_contents_are_sent_to_the_model_once() -> None:
    pairs = []

    def scores(asked_pairs: np.ndarray) -> np.ndarray:
        pairs.extend(asked_pairs.tolist())
        return np.zeros(len(asked_pairs), np.float32)

    models = Zeros(scores)
    images = [picture(1), picture(0), picture(1)]
    answer = asked(models, json=in_json(images, [[0, 1], [0, 2], [2, 1]]))
    assert answer.json()["embedded"] == 2
    assert models.works[0].images == (picture(1), picture(0))
    assert models.works[0].names == ("images[0]", "images[1]")
    assert pairs == [[0, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_no_numbers_reach_no_one(
    score: float, caplog: pytest.LogCaptureFixture
) -> None:
    models = Zeros(lambda _: np.array([0, score], np.float32))
    with caplog.at_level(logging.ERROR):
        response = asked(models, json=in_json(TWO, [[0, 1], [1, 0]]))
    assert response.status_code == 500
    assert response.json()["error"] == "the model's score 1 is no finite number"
    assert "1 of 2 numbers" in caplog.text


def test_a_failure_is_one_sentence_without_its_reason() -> None:
    def scores(_: np.ndarray) -> np.ndarray:
        raise KeyError("secret")

    response = asked(Zeros(scores), json=in_json(TWO, [[0, 1]]))
    assert response.status_code == 500
    assert set(response.json()) == {"error", "request_id"}
    assert "secret" not in response.text


def test_a_pair_is_explained_as_numbers_or_as_a_picture() -> None:
    def explained(images: list[bytes], **rest: object) -> httpx.Response:
        body = in_json(images, None)
        del body["pairs"]
        return asked(path="/v1/explain/pair", json=body | rest)

    told = explained([TWO[0], TWO[0]], lines=3).json()
    # One image twice is decoded once, and is both crops of the pair.
    assert told["explanation"]["first"] == told["explanation"]["second"] == [[0.0]]
    assert told["explanation"]["score"] == 3
    assert told["timings_ms"]["explain"] == 100
    drawn = explained(TWO, format="png")
    assert drawn.headers["content-type"] == "image/png"
    assert drawn.content == b"png"
    assert drawn.headers["x-fingerprint"] == "f"
    refused = explained(TWO[:1])
    assert (refused.status_code, "a pair is two images" in refused.text) == (422, True)


def test_pairs_are_decided_by_the_models_calibration() -> None:
    models = Zeros(lambda pairs: np.linspace(0.3, 0.7, len(pairs), dtype=np.float32))
    models.served = {"m": replace(SERVED, calibration=calibration())}
    told = asked(models, json=in_json(TWO, [[0, 1], [1, 0], [0, 0]])).json()
    assert told["decisions"] == ["no_match", "review", "match"]
    assert told["thresholds"]["match"] == 0.6
    wrong = asked(models, json=in_json(TWO, [[0, 1]]) | {"false_accept_rate": 0.3})
    assert wrong.status_code == 422
    assert "there are 0.1, 0.01, 0.0001" in wrong.json()["error"]
    listed = asked(models, method="GET", path="/v1/models").json()["models"]
    assert listed[0]["calibration"]["default_false_accept_rate"] == 0.01
    bare = asked(json=in_json(TWO, [[0, 1]])).json()
    assert bare["decisions"] == ["uncalibrated"]


def test_the_openapi_document_is_valid_and_complete() -> None:
    document = asked(method="GET", path="/openapi.json").json()
    validate(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            told = operation["responses"]
            assert {"200", "503"} <= told.keys() or {"201", "503"} <= told.keys(), where
            kinds = [k for r in told.values() for k in r.get("content", {}).items()]
            pictures = ("image/png",)  # bytes have no schema in OpenAPI 3.1
            assert all(kind.get("schema") or name in pictures for name, kind in kinds), where
            if method == "post":
                bodies = operation["requestBody"]["content"]
                assert bodies["application/json"]["schema"]["properties"], where


def test_a_form_says_the_rest_in_one_text() -> None:
    models = Zeros()
    text = json.dumps({"queries": [0], "gallery": [1, 0], "model": "m"})
    request = form(2, None) | {"data": {"request": text}}
    answer = asked(models, path="/v1/match/matrix", **request)
    assert answer.json()["scores"] == [[0.0, 0.0]]
    answer = asked(models, path="/v1/embed", files=[("images", picture(0))])
    (embedding,) = answer.json()["embeddings"]
    assert base64.b64decode(embedding["data"]) == np.array([0, 1], "<f4").tobytes()


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/match/pairs", {"pairs": [[0, 0]], "model": "x"}, 404, "there is no model 'x'"),
        ("/v1/match/matrix", {"queries": [], "gallery": [0]}, 422, "no queries"),
        ("/v1/match/matrix", {"queries": [0] * 3, "gallery": [0] * 2}, 422, "6 cells, more than 4"),
        ("/v1/match/matrix", {"queries": [1], "gallery": [0]}, 422, "queries[0] names item 1 of 1"),
        ("/v1/embed", {"images": []}, 422, "no images"),
        ("/v1/embed", {"samples": []}, 422, "'samples'"),
        ("/v1/match/pairs", {"pairs": [[0, 0]], "false_accept_rate": 0}, 422, "false_accept_rate"),
    ],
)
def test_what_makes_no_sense_is_refused(
    path: str, body: dict[str, object], status: int, reason: str
) -> None:
    if "images" not in body:
        body = body | {"images": in_json([picture(0)], [])["images"]}
    response = asked(path=path, json=body)
    assert (response.status_code, reason in response.json()["error"]) == (status, True), (
        response.text
    )


def timing(answer: httpx.Response) -> dict[str, float]:
    """Return what Server-Timing tells, in milliseconds."""
    parts = [part.split(";dur=") for part in answer.headers["Server-Timing"].split(", ")]
    return {name: float(took) for name, took in parts}


def test_every_answer_tells_what_it_took() -> None:
    for path in ("/healthz", "/", "/page/script.js", "/metrics", "/openapi.json", "/v1/models"):
        assert list(timing(asked(method="GET", path=path))) == ["total"]
    for method, path in (("GET", "/nowhere"), ("DELETE", "/healthz"), ("POST", "/v1/embed")):
        answer = asked(method=method, path=path)
        assert answer.status_code >= 400
        assert list(timing(answer)) == ["total"]
    answer = asked(json=in_json(TWO, [[0, 1]]))
    told = timing(answer)
    assert told.pop("total") > 0
    assert told == answer.json()["timings_ms"]
    body = {"images": in_json(TWO, [])["images"]}
    for kind in ("json", "png"):
        answer = asked(path="/v1/explain/pair", json=body | {"format": kind})
        assert answer.headers["content-type"].endswith(kind)
        assert list(timing(answer)) == ["total", "read", "explain"]
        assert timing(answer)["explain"] == 100


def test_a_failure_tells_what_it_took() -> None:
    def fail(_: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    answer = asked(Zeros(fail), json=in_json(TWO, [[0, 1]]))
    assert answer.status_code == 500
    assert list(timing(answer)) == ["total"]
