"""Who has no token cannot fill what the door holds for those who have one."""

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.middleware import Middleware

from rayreid.guard.access import Guard
from rayreid.guard.callers import NO, YES, Callers
from rayreid.guard.connections import DoorSettings
from rayreid.guard.tokens import Scope, Tokens, add_token
from rayreid.serve.api import api
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.guard.servers import TIMEOUT, behind_the_door, received, request, send, status
from tests.serve.pictures import in_json, picture
from tests.serve.test_api import Zeros

SETTINGS = DoorSettings(held_bytes=200_000, strangers_bytes=50_000, body_seconds=10)
BODY = json.dumps(in_json([picture(0)], [[0, 0]])).encode().ljust(40_000)


def asking(token: str | None) -> bytes:
    headers = [b"Content-Type: application/json"]
    headers += [b"Authorization: Bearer " + token.encode()] if token else []
    return request(BODY, *headers).replace(b" / ", b" /v1/match/pairs ", 1)


@pytest.mark.parametrize("token", [None, "rayreid_guess"])
def test_strangers_leave_room(tmp_path: Path, token: str | None) -> None:
    tokens = tmp_path / "tokens.json"
    known, late = (add_token(tokens, name, [Scope.MATCH], 1000.0) for name in ("known", "late"))
    guard = Middleware(Guard, tokens=Tokens(tokens), loopback=True)
    with (
        behind_the_door(api(Service(Zeros(), Limits()), guards=[guard]), SETTINGS) as port,
        ExitStack() as opened,
    ):
        answer = send(port, asking(known))
        assert status(answer) == 200
        assert b"x-rayreid" not in answer, "what the guard tells the door is for the door"
        strangers = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
            for _ in range(10)
        ]
        for stranger in strangers:
            stranger.sendall(asking(token)[:-100])
        time.sleep(0.3)
        refused = [s for s in strangers if _answered(s)]
        assert len(refused) == 9, "of what they may hold, one body is a large part"
        assert {status(received(s)) for s in refused} == {503}
        assert status(send(port, asking(known))) == 200
        assert status(send(port, asking(late))) == 503, "it is a stranger yet"
        health = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        bare = health + b"Authorization: Bearer " + late.encode() + b"\r\n\r\n"
        assert status(send(port, bare)) == 200, "what has no body is asked all the same"
        assert status(send(port, asking(late))) == 200
    with behind_the_door(api(Service(Zeros(), Limits()), guards=[guard]), SETTINGS) as port:
        assert status(send(port, asking(token))) == 401
        assert status(send(port, asking(known))) == 200, "what was held is given back"


def _answered(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        client.settimeout(TIMEOUT)


def test_without_tokens_everybody_is_known_by_the_first_answer() -> None:
    guard = Middleware(Guard, tokens=None, loopback=True)
    with (
        behind_the_door(api(Service(Zeros(), Limits()), guards=[guard]), SETTINGS) as port,
        ExitStack() as opened,
    ):
        assert status(send(port, asking(None))) == 200
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
            opened.enter_context(client).sendall(asking(None)[:-100])
        time.sleep(0.2)
        assert status(send(port, asking(None))) == 200


def test_callers_are_remembered_and_forgotten() -> None:
    callers = Callers(most=2)
    a, b, c = ([(b"host", b"h"), (b"authorization", b"Bearer " + x)] for x in (b"a", b"b", b"c"))
    assert not callers.is_known(a)
    callers.learn(a, b"")
    callers.learn(b, NO)
    assert not callers.is_known(a)
    for headers in (a, b, a, c):
        callers.learn(headers, YES)
    assert [callers.is_known(x) for x in (a, b, c)] == [True, False, True]
    callers.learn(c, b"")
    callers.learn(a, NO)
    assert [callers.is_known(x) for x in (a, b, c)] == [False, False, True]
    assert b"Bearer" not in b"".join(callers.known)
