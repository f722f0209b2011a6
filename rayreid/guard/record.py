"""The lines of one request in the audit log."""

import time
from collections.abc import Mapping

from starlette.types import Scope

from rayreid.guard import tokens as kept
from rayreid.guard.audit import Audit
from rayreid.guard.origins import READS
from rayreid.guard.scopes import rule_of


class Record:
    """What the audit log is told of a request.

    One that may change what is kept has a line when it begins, with the status null, so that
    nothing is done which could not be logged; and one more when it is answered, like all others.
    """

    begun = ended = False

    def __init__(self, audit: Audit, scope: Scope, id: str, token: str | None, wanted: kept.Scope):
        self.audit, self.scope, self.id, self.token, self.wanted = audit, scope, id, token, wanted
        self.started = time.time()
        self.client: str = (scope.get("client") or ("", 0))[0]

    def begin(self) -> None:
        """Write that a request begins which may change something; raises `OSError`."""
        if self.wanted != kept.Scope.MATCH and self.scope["method"] not in READS:
            rule, names = rule_of(self.scope["method"], self.scope["path"])
            route = rule and rule.partition(" ")[2]
            self.audit.write(self._entry(route, None), names)
            self.begun = True

    def end(self, status: int) -> None:
        """Write how a request ended, unless that was tried; raises `OSError`."""
        if self.ended:
            return
        self.ended = True
        route = getattr(self.scope.get("route"), "path", None)
        names = {kind: str(name) for kind, name in self.scope["path_params"].items()}
        if self.begun and route is None:
            # It was refused before its route was known; its two lines have the same names.
            rule, names = rule_of(self.scope["method"], self.scope["path"])
            route = rule and rule.partition(" ")[2]
        self.audit.write(self._entry(route, status), names)

    def write_apart(self, entry: Mapping[str, object]) -> None:
        """Write a line of something else; raises `OSError`."""
        self.audit.write(entry, {})

    def _entry(self, route: str | None, status: int | None) -> dict[str, object]:
        ms = None if status is None else round((time.time() - self.started) * 1000, 1)
        return {
            "time": round(self.started, 3),
            "request_id": self.id,
            "token": self.token,
            "client": self.client,
            "scope": self.wanted,
            "method": self.scope["method"],
            "route": route,
            "status": status,
            "ms": ms,
        }
