"""The guard before the application: hosts and pages, tokens, scopes, rates, the audit log."""

import logging
import math
from collections.abc import Collection, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayreid.guard import tokens as kept
from rayreid.guard.answers import LATER, Refused, answer, request_id
from rayreid.guard.audit import Audit
from rayreid.guard.callers import ACCEPTED, NO, YES
from rayreid.guard.origins import foreign_host, foreign_page
from rayreid.guard.rates import Rates
from rayreid.guard.record import Record
from rayreid.guard.scopes import Permit, has_control_characters, is_named, needed
from rayreid.guard.thinned import Thinned
from rayreid.guard.tokens import Token, Tokens

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware that lets pass who may.

    Without ``tokens`` everybody may do everything, which is for loopback addresses alone; there,
    ``loopback`` says, ``Host`` has to be one of this machine's names or of ``hosts``. ``replicas``
    of the guard share the rates. What changes something begins once a line of it is in the
    ``audit`` log, and any answer leaves once its line is.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        loopback: bool,
        hosts: Collection[str] = (),
        audit: Audit | None = None,
        replicas: int = 1,
    ):
        assert tokens is not None or loopback, "open to everybody"
        self.app, self.tokens, self.audit = app, tokens, audit
        self.loopback, self.hosts = loopback, frozenset(host.lower() for host in hosts)
        self.rates, self.thinned = Rates(replicas), Thinned()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        id = scope.get("state", {}).get("request_id") or request_id(scope["headers"])
        scope["path_params"] = {}
        scope_needed = needed(scope["method"], scope["path"], metrics_open=self.loopback)
        token, refused = self._admit(scope, scope_needed)
        scope["state"] = {**scope.get("state", {}), "permit": self._permit(token)}
        send = self._telling(send, token, refused)
        if self.audit is None or scope_needed is None:
            await self._pass(scope, receive, send, refused, id)
            return
        record = Record(self.audit, scope, id, token.name if token else None, scope_needed)
        try:
            self.thinned.tell(record.write_apart)
            if refused is None:
                record.begin()
            elif token is None or refused.status == 429:
                # What a token's rate does not bound has no line each.
                record.ended = not self.thinned.lets((record.client, record.token, refused.status))
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)
            await answer(send, _UNWRITTEN, id)
            return
        await self._recorded(record, scope, receive, send, refused, id)

    async def _recorded(
        self,
        record: Record,
        scope: Scope,
        receive: Receive,
        send: Send,
        refused: Refused | None,
        id: str,
    ) -> None:
        """Answer a request once its line is written."""
        dropped = False

        async def send_recorded(message: Message) -> None:
            nonlocal dropped
            if message["type"] == "http.response.start":
                try:
                    record.end(message["status"])
                except OSError as error:
                    log.error("the audit log cannot be written: %s", error)
                    dropped = True
                    lost = _unwritten_after(message["status"]) if record.begun else _UNWRITTEN
                    await answer(send, lost, id)
            if not dropped:
                await send(message)

        status = 499
        try:
            await self._pass(scope, receive, send_recorded, refused, id)
        except Exception:
            status = 500  # who answers for the failure is outside of the guard
            raise
        finally:
            # A client that went away was not answered, and is in the log all the same.
            try:
                record.end(status)
            except OSError as error:
                log.error("the audit log cannot be written: %s", error)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, refused: Refused | None, id: str
    ) -> None:
        if refused is not None:
            await answer(send, refused, id)
        else:
            await self.app(scope, receive, send)

    def _admit(
        self, scope: Scope, scope_needed: kept.Scope | None
    ) -> tuple[Token | None, Refused | None]:
        """Return who asks, and why they may not, or None where they may."""
        if has_control_characters(scope["path"]):
            return None, _NOTHING
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        if len(hosts) > 1:
            return None, Refused(400, "there is more than one Host header")
        host = hosts[0] if hosts else "localhost"
        if self.loopback and foreign_host(host, self.hosts):
            return None, Refused(
                403,
                "the Host header is not one of this machine's; ask it as 127.0.0.1, or name the "
                "host among the service's hosts",
            )
        site = "".join(_values(headers, b"sec-fetch-site"))
        if foreign_page(scope["method"], host, origins, site):
            return None, Refused(403, "a web page of another host may not ask for this")
        if self.tokens is None or scope_needed is None:
            return None, None
        given = [value for name, value in headers if name == b"authorization"]
        kind, _, secret = given[0].strip().partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if kind.lower() != b"bearer":
            return None, _unknown("send a token as: Authorization: Bearer TOKEN")
        try:
            token = self.tokens.find(secret.strip())
        except (OSError, ValueError) as error:
            log.error("the tokens cannot be read: %s", error)
            return None, Refused(503, "the service cannot read its tokens; try again later", LATER)
        if token is None:
            return None, _unknown("the token is not known; it may have been revoked")
        if wait := self.rates.wait(token.name, token.rate):
            return token, Refused(
                429,
                f"the token's rate is {token.rate:g} requests a second; try again later",
                ((b"retry-after", b"%d" % math.ceil(wait)),),
            )
        if scope_needed not in token.scopes:
            if not is_named(scope["method"], scope["path"]):
                return token, _NOTHING
            return token, Refused(
                403, f"the token's scopes do not include {scope_needed!s}, which this needs"
            )
        return token, None

    def _telling(self, send: Send, token: Token | None, refused: Refused | None) -> Send:
        """Return what tells the door, with the answer, whether this caller was accepted."""
        accepted = token is not None or (self.tokens is None and refused is None)
        unknown = refused is not None and refused.status == 401
        if not (accepted or unknown):
            return send

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (ACCEPTED, YES if accepted else NO)]
                message = {**message, "headers": headers}
            await send(message)

        return telling

    def _permit(self, token: Token | None) -> Permit:
        """Return what a caller may reach, whatever the router makes of the path."""
        if self.tokens is None:
            return Permit(None)
        return Permit(frozenset(token.scopes if token else ()), metrics_open=self.loopback)


_NOTHING = Refused(404, "there is nothing at this path for this method")
_UNWRITTEN = Refused(503, "the audit log cannot be written; try again later", LATER)


def _unwritten_after(status: int) -> Refused:
    """Return what is told where something may have been changed: never that it can be repeated."""
    return Refused(
        500,
        f"the request was dealt with (status {status}), but the audit log cannot hold that; look "
        "at what is there before it is sent again",
    )


def _unknown(sentence: str) -> Refused:
    return Refused(401, sentence, ((b"www-authenticate", b"Bearer"),))


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]
