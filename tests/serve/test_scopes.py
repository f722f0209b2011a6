"""No way of writing a path leads to a route whose scope the token has not."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import fastapi.routing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from rayreid.guard.access import Guard
from rayreid.guard.audit import Audit
from rayreid.guard.scopes import NEEDED, Permit, has_control_characters, is_named, needed
from rayreid.guard.tokens import Scope, Tokens, add_token
from rayreid.serve.api import api
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.refusals import RefusalError
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.serve.test_api import Zeros
from tests.serve.test_attacks import EVERY_ROUTE

ROUTES = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/page/script.js"): None,
    ("GET", "/metrics"): Scope.MATCH,
    ("GET", "/v1/models"): Scope.MATCH,
    ("POST", "/v1/embed"): Scope.MATCH,
    ("POST", "/v1/embed/"): Scope.MATCH,
    ("POST", "/v1/match/search"): Scope.MATCH,
    ("POST", "/v1/galleries"): Scope.ENROL,
    ("GET", "/v1/galleries/g"): Scope.ENROL,
    ("DELETE", "/v1/galleries/g"): Scope.ERASE,
    ("POST", "/v1/galleries/g/samples"): Scope.ENROL,
    ("DELETE", "/v1/galleries/g/samples/s"): Scope.ERASE,
    ("POST", "/v1/galleries/purge/samples"): Scope.ENROL,
    ("POST", "/v1/galleries/g/purge"): Scope.ERASE,
    ("POST", "/v1/galleries/g/purge/"): Scope.ERASE,
    # What no rule names needs the strongest one.
    ("POST", "/v1/galleries\n"): Scope.ERASE,
    ("GET", "/healthz\n"): Scope.ERASE,
    ("GET", "/page/../metrics"): Scope.ERASE,
    ("GET", "/page/a\n"): Scope.ERASE,
    ("GET", "/v2/whatever"): Scope.ERASE,
    ("GET", "//healthz"): Scope.ERASE,
    ("GET", "/healthz/../v1/models"): Scope.ERASE,
    ("GET", "/v1/embed"): Scope.ERASE,
    ("POST", "/V1/embed"): Scope.ERASE,
    ("PUT", "/v1/galleries/g/samples/s"): Scope.ERASE,
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_routes_need_their_scopes(method: str, path: str) -> None:
    assert needed(method, path) == ROUTES[method, path]


def test_metrics_are_open_on_loopback_alone() -> None:
    assert needed("GET", "/metrics", metrics_open=True) is None
    assert needed("GET", "/metrics/", metrics_open=False) == Scope.MATCH


def test_the_rules_are_those_that_this_file_knows() -> None:
    known = {route: scope for scope, routes in EVERY_ROUTE.items() for route in routes if scope}
    assert known == NEEDED
    assert is_named("GET", "/")
    assert is_named("GET", "/v1/galleries/{gallery}")
    assert not is_named("POST", "/healthz2")


@pytest.mark.parametrize(
    ("path", "has"),
    [("/v1/galleries\n", True), ("/a\0", True), ("/a\x9f", True), ("/a b\xe9", False)],
)
def test_control_characters(path: str, has: bool) -> None:
    assert has_control_characters(path) == has


def test_a_permit_is_asked_by_the_route() -> None:
    assert Permit(None).allows("POST", "/v1/galleries/{gallery}/purge")
    assert Permit(frozenset()).allows("GET", "/healthz")
    assert not Permit(frozenset()).allows("GET", "/metrics")
    assert Permit(frozenset(), metrics_open=True).allows("GET", "/metrics")
    some = Permit(frozenset({Scope.MATCH, Scope.ENROL}))
    assert some.allows("POST", "/v1/galleries")
    assert not some.allows("POST", "/v1/galleries/{gallery}/purge")
    assert not some.allows("GET", "/of/tomorrow")


class Searching(Zeros):
    """Models that have nothing to let go of."""

    async def search(self, *_: object) -> object:
        raise RefusalError(418, "searched")

    async def forget(self) -> int:
        return 0


class Whole:
    """The real application behind the real guard; it tells which handlers have run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        tokens = folder / "tokens.json"
        self.secrets: dict[frozenset[Scope], str] = {frozenset(): "rayreid_none"}
        for scopes in ([s] for s in Scope):
            self.secrets[frozenset(scopes)] = add_token(tokens, scopes[0], scopes, 1e6)
        two = [Scope.MATCH, Scope.ENROL]
        self.secrets[frozenset(two)] = add_token(tokens, "two", two, 1e6)
        self.audit = Audit(folder / "audit.jsonl")

        async def ask(*_: object) -> object:
            raise RefusalError(418, "the keeper was asked")

        models = Searching()
        enrolled = Galleries(ask, models, GalleriesSettings(store=str(folder / "galleries")))
        guard = Middleware(Guard, tokens=Tokens(tokens), loopback=False, audit=self.audit)
        self.app = api(Service(models, Limits(), enrolled), guards=[guard])
        self.routes = {
            route.endpoint: (route.methods, route.path)
            for route in fastapi.routing.iter_route_contexts(self.app.routes)
        }
        self.ran: list[object] = []
        self.runner = asyncio.Runner()
        run: Callable[..., object] = fastapi.routing.run_endpoint_function

        async def noted(**given: object) -> object:
            self.ran.append(given["dependant"].call)
            return await run(**given)

        monkeypatch.setattr(fastapi.routing, "run_endpoint_function", noted)

    def asked(self, method: str, path: str, scopes: frozenset[Scope]) -> int:
        """Return the status of an answer to a decoded path, as uvicorn gives it."""
        return self.runner.run(self._asked(method, path, scopes))

    async def _asked(self, method: str, path: str, scopes: frozenset[Scope]) -> int:
        told: list[int] = []
        secret = self.secrets[scopes].encode()
        body = json.dumps({"name": "g", "images": [], "pairs": [], "identities": ["a"]}).encode()

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                told.append(message["status"])

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
            "method": method, "path": path, "raw_path": quote(path).encode(), "root_path": "",
            "query_string": b"", "client": ("10.0.0.1", 1), "server": ("h", 80), "headers": [
                (b"host", b"h"), (b"authorization", b"Bearer " + secret),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }  # fmt: skip
        await self.app(scope, receive, send)
        (status,) = told
        return status

    def ran_within(self, scopes: frozenset[Scope]) -> bool:
        """Return whether only handlers have run that the token is for, and forget them."""
        ran, self.ran = self.ran, []
        for endpoint in ran:
            methods, path = self.routes[endpoint]
            for method in methods:
                wanted = [s for s, routes in EVERY_ROUTE.items() if f"{method} {path}" in routes]
                page = path == "/" or path.startswith("/page/")
                if wanted != [None] and not page and not set(wanted) & scopes:
                    return False
        return True


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        whole = Whole(tmp_path_factory.mktemp("service"), patch)
        yield whole
        whole.runner.close()


EVERY = sorted(route for routes in EVERY_ROUTE.values() for route in routes)
WRITTEN: dict[str, Callable[[str], str]] = {
    "line feed": lambda path: path + "\n",
    "carriage return": lambda path: path + "\r",
    "both": lambda path: path + "\r\n",
    "nul": lambda path: path + "\0",
    "line separator": lambda path: path + "\u2028",
    "next line": lambda path: path + "\x85",
    "slash": lambda path: path + "/",
    "slash and line feed": lambda path: path + "/\n",
    "two slashes": lambda path: path.replace("/", "//"),
    "two slashes at first": lambda path: "/" + path,
    "upper case": str.upper,
    "up and down": lambda path: "/x/.." + path,
    "still encoded": lambda path: path + "%0A",
    "encoded letter": lambda path: path.replace("e", "%65"),
    "line feed within": lambda path: path.replace("/", "/\n", 1),
    "a parameter": lambda path: path + ";a=b",
    "as it is": lambda path: path,
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("route", EVERY)
def test_no_handler_answers_without_its_scope(service: Whole, route: str, how: str) -> None:
    method, template = route.split()
    path = WRITTEN[how](re.sub("{.*?}", "x", template))
    for scopes in service.secrets:
        for verb in {method, "POST", "DELETE"}:
            status = service.asked(verb, path, scopes)
            assert service.ran_within(scopes), (verb, path, scopes, status)
            if has_control_characters(path):
                assert status == 404


PARTS = ["v1", "galleries", "x", "purge", "samples", "identities", "merge", "embed", "metrics",
         "match", "search", "healthz", "page", "script.js", "", ".", "..", "{gallery}"]  # fmt: skip
TAILS = ["", "\n", "\r", "\0", "/", "//", "\n\n", "%0A", "\x85", "\u2028", " ", "?", "#", ";"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS", "post", ""]),
    st.lists(
        st.one_of(st.sampled_from(PARTS), st.tuples(st.sampled_from(PARTS), st.text(max_size=2)))
    ).map(lambda parts: "/" + "/".join("".join(part) for part in parts)),
    st.sampled_from(TAILS),
    st.integers(0, 4),
)
def test_no_path_leads_to_more_than_the_token_allows(
    service: Whole, method: str, path: str, tail: str, who: int
) -> None:
    scopes = list(service.secrets)[who]
    service.asked(method, path + tail, scopes)
    assert service.ran_within(scopes)


def test_the_way_is_open_to_who_may(service: Whole) -> None:
    """The tests above would pass where nobody is let in."""
    assert service.asked("GET", "/v1/galleries", frozenset({Scope.ENROL})) == 418
    assert service.asked("DELETE", "/v1/galleries/x", frozenset({Scope.ERASE})) == 418
    assert service.asked("GET", "/v1/models", frozenset({Scope.MATCH})) == 200
    assert len(service.ran) == 3
    assert service.ran_within(frozenset(Scope))


def test_what_is_not_there_is_said_to_be_not_there(service: Whole) -> None:
    for scopes, wanted in ((Scope.MATCH, 404), (Scope.ERASE, 405)):
        assert service.asked("GET", "/v1/embed", frozenset({scopes})) == wanted
    assert service.asked("GET", "/v1/nothing", frozenset()) == 401
    assert service.asked("GET", "/v1/models", frozenset({Scope.ERASE})) == 403
    assert service.asked("POST", "/v1/embed/", frozenset({Scope.MATCH})) == 307


def test_the_route_decides_where_the_guard_is_mistaken(
    service: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that takes any path for one of matching lets no other route answer."""
    monkeypatch.setattr("rayreid.guard.access.needed", lambda *_, **__: Scope.MATCH)
    monkeypatch.setattr("rayreid.guard.access.has_control_characters", lambda _: False)
    for path in ("/v1/galleries", "/v1/galleries\n", "/v1/galleries/x/purge\n"):
        assert service.asked("POST", path, frozenset({Scope.MATCH})) == 403
    assert not service.ran
