"""Attacks on the whole service, each tried for real: what is refused, and at what cost."""

import base64
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest

from rayreid.benchmark.fuzzing import bombs, mutated
from rayreid.checkpoint import Trained
from rayreid.data.decoding import decode_bytes, pixels_of
from rayreid.guard.scopes import needed
from rayreid.guard.tokens import Scope, add_token
from tests.guard.servers import send, status
from tests.serve.pictures import HEIGHT, PATH, TIMEOUT, WIDTH, expected, in_json, picture, raw
from tests.serve.whole import whole

EMBED = "/v1/embed"


@pytest.fixture(scope="module")
def port(run: Path) -> Iterator[int]:
    with whole(run) as port:
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
        yield client


def sentence(response: httpx.Response) -> str:
    told = response.json()
    assert set(told) == {"error", "request_id"}
    assert "\n" not in told["error"]
    assert "Traceback" not in told["error"]
    return str(told["error"])


def peak() -> int:
    """Return the most bytes that this process has held since `lowered`."""
    told = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", told)[0])


def lowered() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


BOMBS = bombs()


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_cost_nothing(client: httpx.Client, kind: str) -> None:
    before = lowered()
    files = [("images", ("0", BOMBS[kind]))]
    response = client.post(EMBED, files=files)
    harmless = kind in ("webp of 100 frames", "png of 100 frames")
    assert response.status_code in ((200,) if harmless else (413, 422)), response.text
    if not harmless:
        assert "images[0]" in sentence(response) or "larger than" in sentence(response)
    # The body itself is held a few times on its way.
    assert peak() - before < 100e6 + 4 * len(BOMBS[kind])


def test_many_large_images_are_refused_before_any_is_decoded(client: httpx.Client) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (3000, 2500)).save(file, "PNG")
    before = lowered()
    response = client.post(EMBED, files=[("images", ("0", file.getvalue()))] * 9)
    assert response.status_code == 413
    assert "64,000,000 pixels" in sentence(response)
    assert peak() - before < 50e6
    large = io.BytesIO()
    Image.new("L", (4000, 2500)).save(large, "PNG")
    response = client.post(EMBED, files=[("images", ("0", large.getvalue()))])
    assert (response.status_code, "8,847,360 pixels" in sentence(response)) == (413, True)


TAILS = {
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "html": b"<html><script>alert(1)</script></html>",
    "pickle": b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
    "php": b"<?php system($_GET['c']); ?>",
}


@pytest.mark.parametrize("kind", TAILS)
def test_a_polyglot_is_an_image_or_nothing(
    client: httpx.Client, trained: Trained, kind: str
) -> None:
    images = [picture(0, "JPEG") + TAILS[kind], picture(1, "PNG") + TAILS[kind]]
    answer = client.post(PATH, json=in_json(images, [[0, 1]]))
    assert answer.status_code == 200
    wanted = expected(trained, [picture(0, "JPEG"), picture(1)], [(0, 1)])
    np.testing.assert_allclose(answer.json()["scores"], wanted, atol=1e-5)
    assert answer.headers["content-type"] == "application/json"
    refused = client.post(PATH, json=in_json([TAILS[kind] + picture(0)], [[0, 0]]))
    assert refused.status_code == 422
    assert "script" not in refused.text


def embedding(client: httpx.Client, values: list[float] | None = None) -> dict[str, object]:
    answer = client.post(EMBED, json={"images": in_json([picture(0)], [])["images"]})
    (given,) = answer.json()["embeddings"]
    if values is not None:
        size = int(np.prod(given["shape"]))
        data = np.resize(np.array(values, "<f4"), size).tobytes()
        given["data"] = base64.b64encode(data).decode()
    return dict(given)


@pytest.mark.parametrize(
    "values",
    [[np.nan], [np.inf], [-np.inf], [3e38], [-3e38, 3e38], [1e20, -1e20], [1e-45]],
    ids=str,
)
def test_embeddings_of_no_image_are_no_failure_of_ours(
    client: httpx.Client, values: list[float]
) -> None:
    given = embedding(client, values)
    body = {"embeddings": [given, embedding(client)], "pairs": [[0, 1], [1, 0], [0, 0]]}
    answer = client.post(PATH, json=body)
    assert answer.status_code in (200, 422), answer.text
    if not np.isfinite(values).all():
        assert "not finite" in sentence(answer)
    if answer.status_code == 200:
        assert np.isfinite(answer.json()["scores"]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**24] * 8},
        {"shape": [0]},
        {"shape": [-1]},
        {"shape": []},
        {"shape": [1e30]},
        {"fingerprint": "../../../etc/passwd"},
        {"fingerprint": "\0"},
        {"fingerprint": "x" * 10_000},
        {"data": "!!!!"},
        {"data": ""},
        {"data": "A" * 1_000_000},
    ],
    ids=str,
)
def test_embeddings_that_lie_are_refused(client: httpx.Client, change: dict[str, object]) -> None:
    body = {"embeddings": [embedding(client) | change], "pairs": [[0, 0]]}
    answer = client.post(PATH, json=body)
    assert answer.status_code in (409, 422), answer.text
    assert len(sentence(answer)) < 400


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a\0b",
    "%2e%2e%2f",
    "http://169.254.169.254/latest",
    "file:///etc/passwd",
    "a" * 100_000,
    "\N{GRINNING FACE}",
    "{{7*7}}",
    "'; DROP TABLE samples; --",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_names_are_no_paths(client: httpx.Client, name: str) -> None:
    answer = client.post(PATH, json=in_json([picture(0)], [[0, 0]]) | {"model": name})
    assert answer.status_code == 404
    assert len(sentence(answer)) < 300
    sample = {"gallery": name, "sample": name}
    answer = client.post(PATH, json={"samples": [sample], "pairs": [[0, 0]]})
    assert answer.status_code in (404, 422)


@pytest.mark.parametrize(
    "path",
    [
        b"/../../etc/passwd",
        b"/page/../../etc/passwd",
        b"/page/%2e%2e/%2e%2e/etc/passwd",
        b"/page/..%2f..%2fetc%2fpasswd",
        b"/page//etc/passwd",
        b"/page/%00",
        b"/v1/%ff%fe",
        b"//evil.example/",
        b"/v1/models/..;/",
        b"/v1/galleries/%2e%2e/samples",
        b"/v1/galleries/a%00b/samples",
    ],
)
def test_paths_lead_nowhere(port: int, path: bytes) -> None:
    answer = send(port, b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path)
    assert status(answer) in (400, 404, 405, 422), answer
    assert b"root:" not in answer
    assert b"location: //" not in answer.lower()


BODIES = {
    "deep lists": b'{"images":[],"pairs":' + b"[" * 500 + b"]" * 500 + b"}",
    "very deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 900 + b"1" + b"}" * 900,
    "long number": b'{"images":[],"pairs":[[0,' + b"9" * 1_000_000 + b"]]}",
    "long fraction": b'{"images":[],"pairs":[[0,0.' + b"9" * 1_000_000 + b"]]}",
    "large exponent": b'{"images":[],"pairs":[[0,1e999999999]]}',
    "not a number": b'{"images":[],"pairs":[[0,NaN]]}',
    "half a surrogate": b'{"images":["\\ud800"],"pairs":[[0,0]]}',
    "long key": b'{"' + b"k" * 1_000_000 + b'":1}',
    "same key twice": b'{"pairs":[[0,0]],"pairs":[[5,5]],"images":[]}',
    "byte order mark": b'\xef\xbb\xbf{"images":[],"pairs":[[0,0]]}',
    "utf-16": '{"images":[],"pairs":[[0,0]]}'.encode("utf-16"),
    "nothing": b"",
    "null": b"null",
}


@pytest.mark.parametrize("kind", BODIES)
def test_json_that_means_harm_is_refused_at_once(client: httpx.Client, kind: str) -> None:
    started = time.perf_counter()
    answer = client.post(PATH, **raw(BODIES[kind]))
    assert answer.status_code in (400, 413, 422), answer.text
    assert len(sentence(answer)) < 400
    assert time.perf_counter() - started < 5


def part(head: bytes, body: bytes = b"x") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n"


IMAGE = b'Content-Disposition: form-data; name="images"; filename="0"'
FORMS = {
    "100,000 parts": part(IMAGE) * 100_000,
    "100,000 texts": part(b'Content-Disposition: form-data; name="pairs"') * 100_000,
    "a part of 50,000 headers": part(b"A: b\r\n" * 50_000 + IMAGE),
    "a header of 5 MB": part(b"A: " + b"b" * 5_000_000 + b"\r\n" + IMAGE),
    "a file's name of 5 MB": part(IMAGE[:-1] + b"a" * 5_000_000 + b'"'),
    "a field's name of 1 MB": part(b'Content-Disposition: form-data; name="%s"' % (b"a" * 10**6)),
    "no end": part(IMAGE)[:-10],
    "no disposition": part(b"A: b"),
    "a path as a file's name": part(IMAGE[:-2] + b'../../../etc/cron.d/x"', picture(0)),
    "encoded": part(IMAGE + b"\r\nContent-Transfer-Encoding: base64", b"AAAA"),
    "boundaries alone": b"--b\r\n" * 200_000,
    "dashes": b"-" * 1_000_000,
    "nested": part(IMAGE + b"\r\nContent-Type: multipart/mixed; boundary=c", b"--c\r\n\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_forms_that_mean_harm_are_refused_at_once(client: httpx.Client, kind: str) -> None:
    started, before = time.perf_counter(), lowered()
    body = FORMS[kind] + part(b'Content-Disposition: form-data; name="pairs"', b"[[0,0]]")
    answer = client.post(PATH, **raw(body + b"--b--\r\n", "multipart/form-data; boundary=b"))
    fine = kind == "a path as a file's name"
    assert answer.status_code in ((200,) if fine else (400, 413, 422)), answer.text
    assert time.perf_counter() - started < 10
    assert peak() - before < 100e6


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=" + "b" * 100_000,
        "multipart/form-data; boundary=\xff",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b; charset=idna",
        "multipart/form-data;" + ";" * 5000,
        "application/json; charset=utf-7",
        "application/x-python-pickle",
        "application/x-www-form-urlencoded",
        "text/plain",
        "*/*",
        ",",
    ],
    ids=lambda kind: kind[:50],
)
def test_content_types_that_make_no_sense(client: httpx.Client, kind: str) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = client.post(PATH, content=b"--b\r\n", headers=headers)
    assert answer.status_code in (400, 415, 422, 431)


def test_damaged_images_are_no_failure_of_ours(client: httpx.Client) -> None:
    counts: dict[int, int] = {}
    for data in islice(mutated(), 30):
        answer = client.post(EMBED, files=[("images", ("0", data))])
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
    assert {200, 422} <= set(counts) <= {200, 413, 422}


def test_decoders_refuse_what_is_damaged_in_one_way() -> None:
    decoded = 0
    for data in islice(mutated(), 2000):
        assert pixels_of(data) >= 0
        with suppress(ValueError):
            decoded += decode_bytes(data, "image", HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert 100 < decoded < 1000


def test_a_page_of_another_host_reaches_nothing(client: httpx.Client) -> None:
    body = in_json([picture(0)], [[0, 0]])
    assert client.post(PATH, json=body).status_code == 200
    evil = {"Origin": "http://evil.example"}
    assert client.post(PATH, json=body, headers=evil).status_code == 403
    # What a form of a page can send without asking first.
    files = [("images", ("0", picture(0)))]
    assert client.post(EMBED, files=files, headers=evil).status_code == 403
    assert (
        client.post(EMBED, files=files, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    )
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert client.post(PATH, json=body, headers=rebound).status_code == 403
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403


def test_no_token_no_work(run: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    secret = add_token(tokens, "one", [Scope.MATCH], 1000.0)
    log = tmp_path / "audit.jsonl"
    with whole(run, host="0.0.0.0", tokens=tokens, audit=log) as port:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
            body = in_json([picture(0)], [[0, 0]])
            given = {"Authorization": f"Bearer {secret}"}
            assert client.post(PATH, json=body).status_code == 401
            assert client.post(PATH, json=body, headers=given).status_code == 200
            assert client.get("/metrics").status_code == 401
            assert client.get("/healthz").status_code == 200
            assert client.get("/openapi.json").status_code == 200
            assert client.delete("/v1/galleries/g", headers=given).status_code == 403
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [401, 200, 401, 403]
    assert lines[1]["route"] == PATH


EVERY_ROUTE = {
    Scope.MATCH: {
        "GET /v1/models", "POST /v1/embed", "POST /v1/match/pairs", "POST /v1/match/matrix",
        "POST /v1/match/search", "POST /v1/explain/pair", "GET /metrics",
    },
    Scope.ENROL: {
        "POST /v1/galleries", "GET /v1/galleries", "GET /v1/galleries/{gallery}",
        "POST /v1/galleries/{gallery}/samples", "GET /v1/galleries/{gallery}/samples",
        "GET /v1/galleries/{gallery}/identities",
        "GET /v1/galleries/{gallery}/identities/{identity}",
        "PATCH /v1/galleries/{gallery}/identities/{identity}",
        "POST /v1/galleries/{gallery}/identities/{identity}/merge",
    },
    Scope.ERASE: {
        "DELETE /v1/galleries/{gallery}", "DELETE /v1/galleries/{gallery}/samples/{sample}",
        "DELETE /v1/galleries/{gallery}/identities/{identity}",
        "POST /v1/galleries/{gallery}/purge",
    },
    None: {"GET /healthz", "GET /readyz"},
}  # fmt: skip


def test_every_documented_route_needs_its_scope(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path, them in paths.items() for method in them}
    # Those of galleries are there where a service keeps some; one that is not above has no scope.
    assert there <= set().union(*EVERY_ROUTE.values())
    for scope, routes in EVERY_ROUTE.items():
        for route in routes:
            method, path = route.split()
            assert needed(method, re.sub("{.*?}", "x", path)) == scope, route


_HOOKED: list[tuple[str, object]] = []
_ARMED: list[int] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _ARMED and threading.get_ident() != _ARMED[0]:
        _HOOKED.append((event, arguments[:1]))


def _hooked() -> list[str]:
    """Return what the hook makes of a file that is opened in another thread."""
    sys.addaudithook(_hook)
    thread = threading.Thread(target=lambda: os.close(os.open("/dev/null", os.O_RDONLY)))
    _ARMED.append(threading.get_ident())
    thread.start()
    thread.join()
    _ARMED.clear()
    seen = [event for event, _ in _HOOKED if event == "open"]
    _HOOKED.clear()
    return seen


def test_no_request_reaches_files_or_hosts(client: httpx.Client) -> None:
    given = embedding(client)

    def corpus() -> None:
        for name in NAMES[:4]:
            items = {"embeddings": [given], "pairs": [[0, 1]]}
            images = in_json([picture(0)], [])["images"]
            client.post(PATH, json=items | {"images": images, "model": name})
            client.post(PATH, json={"samples": [{"gallery": name, "sample": name}], "pairs": []})
            client.post(PATH, json={"images": [name], "pairs": [[0, 0]]})
            client.post(PATH, json={"images": [base64.b64encode(name.encode()[:99]).decode()],
                                    "pairs": [[0, 0]]})  # fmt: skip
            client.post(EMBED, files=[("images", (name[:99].replace("\0", ""), picture(0)))])
            client.post(PATH, json=items | {"url": name})
        for data in islice(mutated(500), 8):
            client.post(EMBED, files=[("images", ("0", data))])
        for path in (
            "/v1/models",
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/v1/x/../y",
        ):
            client.get(path)
        client.post(PATH, json=in_json([picture(0), picture(1)], [[0, 1]]))

    corpus()  # what is imported when it is first needed is read from files
    assert _hooked() == ["open"], "the hook sees what it is to see"
    _ARMED.append(threading.get_ident())
    try:
        corpus()
    finally:
        _ARMED.clear()
    kinds = ("open", "os.", "shutil.", "socket.connect", "socket.getaddrinfo", "socket.sendto",
             "subprocess.", "urllib.", "pickle.", "import", "ctypes.", "pathlib.", "tempfile.",
             "glob.", "marshal.")  # fmt: skip
    # How much memory there is, which tiles are made to fit.
    memory = {("/proc/meminfo",), ("/sys/fs/cgroup/memory.max",)}
    touched = [(kind, what) for kind, what in _HOOKED if kind.startswith(kinds)]
    touched = [event for event in touched if event[1] not in memory]
    _HOOKED.clear()
    assert not touched
