"""The client, against answers that a real socket sends as they are written here."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rayreid.client import Client, ServiceError
from rayreid.client.answers import Pairs, Search, made

PAIRS = {
    "scores": [0.5], "decisions": ["match"], "thresholds": {"match": 0.4, "reason": ""},
    "embedded": 2, "model": "m", "fingerprint": "f", "preprocessing": "p",
    "request_id": "r", "timings_ms": {"embed": 1.0},
}  # fmt: skip


class Script:
    """What a server is to answer, in turn, and what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, object], dict[str, str]] | None] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def will(self, status: int, body: dict[str, object], **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, body, named))

    def will_hang_up(self) -> None:
        self.answers.append(None)


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers), body))
            answer = script.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, tree, headers = answer
            content = json.dumps(tree).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield script
        server.shutdown()
        thread.join()
    assert not script.answers, "not all was asked for"


def test_a_busy_service_is_asked_again_when_it_says(script: Script) -> None:
    script.will(503, {"error": "busy"}, Retry_After="0")
    script.will(429, {"error": "slower"}, Retry_After="0")
    script.will(200, PAIRS)
    with Client(script.url, token="secret") as client:
        assert client.match_pairs([(0, 1)], images=[b"a", b"b"]).scores == [0.5]
    ids = {headers["X-Request-Id"] for _, _, headers, _ in script.asked}
    assert len(ids) == 1
    assert {headers["Authorization"] for _, _, headers, _ in script.asked} == {"Bearer secret"}


def test_a_wait_beyond_patience_is_the_error(script: Script) -> None:
    script.will(503, {"error": "busy"}, Retry_After="3600")
    with Client(script.url, patience=1.0) as client, pytest.raises(ServiceError) as error:
        client.models()
    assert (error.value.status, error.value.retry_after) == (503, 3600)
    assert str(error.value) == "busy"


def test_tries_are_counted(script: Script) -> None:
    for _ in range(3):
        script.will(503, {"error": "busy"}, Retry_After="0")
    with Client(script.url, retries=2) as client, pytest.raises(ServiceError, match="busy"):
        client.models()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_other_errors_are_not_tried_again(script: Script, status: int) -> None:
    script.will(status, {"error": "no", "request_id": "r"}, X_Request_Id="r")
    with Client(script.url) as client, pytest.raises(ServiceError, match="no") as error:
        client.embed([b"a"])
    assert (error.value.status, error.value.request_id) == (status, "r")


def test_a_lost_answer_is_asked_for_again_where_that_is_safe(script: Script) -> None:
    script.will_hang_up()
    script.will(200, {"models": []})
    with Client(script.url) as client:
        assert client.models() == []


def test_what_has_no_id_is_not_sent_twice(script: Script) -> None:
    enrolled = PAIRS | {"gallery": "g", "version": 1, "ids": ["1"]}
    script.will_hang_up()
    with Client(script.url) as client:
        with pytest.raises(ServiceError, match="does not answer") as error:
            client.enrol("g", ["ann"], images=[b"a"])
        assert error.value.status == 0
        script.will(503, {"error": "busy"}, Retry_After="0")
        with pytest.raises(ServiceError, match="busy"):
            client.enrol("g", ["ann"], images=[b"a"])
        script.will_hang_up()
        script.will(201, enrolled)
        assert client.enrol("g", ["ann"], images=[b"a"], ids=["1"]).ids == ["1"]


def test_lists_are_fetched_page_by_page(script: Script) -> None:
    script.will(200, {"identities": [{"name": "a b/ü", "samples": 1}], "next": "a b/ü"})
    script.will(200, {"identities": [{"name": "c", "samples": 2}], "next": None})
    with Client(script.url) as client:
        names = [identity.name for identity in client.identities("g/..")]
    assert names == ["a b/ü", "c"]
    paths = [path for _, path, _, _ in script.asked]
    assert paths == [
        "/v1/galleries/g%2F../identities?limit=500",
        "/v1/galleries/g%2F../identities?after=a+b%2F%C3%BC&limit=500",
    ]


def test_an_error_that_is_not_the_services_own_is_told(script: Script) -> None:
    script.will(502, {"detail": "gateway"})
    with Client(script.url) as client, pytest.raises(ServiceError, match="answered 502"):
        client.models()


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", retries=1) as client:
        with pytest.raises(ServiceError, match="does not answer") as error:
            client.models()
        assert error.value.status == 0


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Client(url)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        Client(token_file=file)
    file.chmod(0o600)
    assert Client(token_file=file).connection.token == "secret"


def test_answers_are_values_and_what_is_new_is_left_alone() -> None:
    assert made(Pairs, PAIRS | {"novelty": 1}).timings_ms == {"embed": 1.0}
    match = {"identity": "ann", "sample": "1", "score": 0.5, "decision": "match", "tags": ["x"]}
    search = made(
        Search,
        PAIRS | {"results": [{"decision": "match", "matches": [match], "searched": 3,
                              "thresholds": {"match": None, "reason": "few"}}],
                 "gallery": "g", "snapshot": 2, "enrolled": {"samples": 1}, "threshold": None},
    )  # fmt: skip
    assert search.results[0].matches[0].identity == "ann"


def test_the_client_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, rayreid.client, rayreid.cli.matching; "
        "print(sorted({'torch', 'ray', 'numpy', 'fastapi'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
