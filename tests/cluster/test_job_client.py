"""A cluster that cannot be used, each way in a sentence; and a token that nobody else is told.

Where Ray itself can be had, tests/cluster/test_live.py uses it; what answers here is what it cannot
be: older, another program, or a listener that writes down what it is told.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rayreid.cluster.job_client import JobClient
from rayreid.cluster.named import Cluster

Heard = list[tuple[str, str | None]]


@contextmanager
def answering(answers: dict[str, tuple[int, object]]) -> Iterator[tuple[str, Heard]]:
    """Answer paths as told, and write down who asked with which authorisation."""
    heard: Heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers.get("Authorization")))
            code, body = answers.get(self.path, (404, "nothing here"))
            text = body if isinstance(body, str) else json.dumps(body)
            self.send_response(code)
            if code == 302:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("hush")
    return str(path)


TOKEN_MODE = {"/api/authentication_mode": (200, {"authentication_mode": "token"})}


def ray(version: str) -> dict[str, tuple[int, object]]:
    return {**TOKEN_MODE, "/api/version": (200, {"ray_version": version, "version": "4"})}


def test_a_head_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(
        ConnectionError, match=r"no head answers at .*:1 \(Connection refused\); is"
    ):
        JobClient("lab", Cluster(address="http://127.0.0.1:1"))
    with pytest.raises(ConnectionError, match=r"no head answers at http://nowhere.invalid:8265 \("):
        JobClient("lab", Cluster(address="http://nowhere.invalid:8265"))


def test_what_is_no_dashboard_is_told_apart() -> None:
    with (
        answering({"/api/authentication_mode": (200, "<html>")}) as (address, _),
        pytest.raises(ConnectionError, match="is no dashboard of Ray; check host and port"),
    ):
        JobClient("lab", Cluster(address=address))
    with (
        answering({"/api/authentication_mode": (302, "https://login")}) as (address, _),
        pytest.raises(ConnectionError, match="answers with 302"),
    ):
        JobClient("lab", Cluster(address=address))


@pytest.mark.parametrize("told", ["2.59.1", "2.9.3"])
def test_an_older_ray_is_refused_with_both_versions(token_file: str, told: str) -> None:
    with (
        answering(ray(told)) as (address, _),
        pytest.raises(ValueError, match=f"runs Ray {told}, and rayreid .* needs 2.60 or newer"),
    ):
        JobClient("lab", Cluster(address=address, token_file=token_file))
    # One from before tokens has no such page.
    with answering({}) as (address, _), pytest.raises(ConnectionError, match="unlike a dashboard"):
        JobClient("lab", Cluster(address=address))


def test_a_newer_ray_is_used(token_file: str) -> None:
    with answering(ray("2.61.0")) as (address, heard):
        client = JobClient("lab", Cluster(address=address, token_file=token_file))
    assert client.ray == "2.61.0"
    assert ("/api/version", "Bearer hush") in heard


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_no_token_is_sent_to_who_does_not_ask_or_where_there_is_none(
    token_file: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    disabled = {"/api/authentication_mode": (200, {"authentication_mode": "disabled"})}
    with answering({**ray("2.60.0"), **disabled}) as (address, heard):
        cluster = Cluster(address=address, token_file=token_file)
        with pytest.raises(
            PermissionError, match=r"runs code for whoever reaches it.*say --without"
        ):
            JobClient("lab", cluster)
        JobClient("lab", cluster, without_authentication=True)
        assert {told for _, told in heard} == {None}
        with pytest.raises(PermissionError, match="asks for no token"):
            JobClient("lab", Cluster(address=address))
    with (
        answering(ray("2.60.0")) as (address, _),
        pytest.raises(PermissionError, match="asks for a token, and there is none here"),
    ):
        JobClient("lab", Cluster(address=address))


def test_a_token_goes_to_no_other_address(token_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(ray("2.60.0")) as (address, heard), answering(ray("2.60.0")) as (other, also):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", other)
        monkeypatch.setenv("RAY_ADDRESS", other)
        JobClient("lab", Cluster(address=address, token_file=token_file))
        assert also == []
        assert ("/api/version", "Bearer hush") in heard
    with (
        answering(ray("2.60.0")) as (elsewhere, also),
        answering({**TOKEN_MODE, "/api/version": (302, f"{elsewhere}/api/version")}) as (lab, _),
        pytest.raises(ConnectionError, match="sends one on to"),
    ):
        JobClient("lab", Cluster(address=lab, token_file=token_file))
    assert also == []


def test_a_token_in_clear_text_is_noticed(token_file: str) -> None:
    with answering(ray("2.60.0")) as (address, _):
        near = JobClient("lab", Cluster(address=address, token_file=token_file))
        assert not near.unencrypted
        near.cluster = Cluster(address="http://ray.example.org:8265")
        assert near.unencrypted
        near.cluster = Cluster(address="https://ray.example.org")
        assert not near.unencrypted
