"""Which scope of a token each route needs, and who therefore may reach it."""

import re
from dataclasses import dataclass

from rayreid.guard.tokens import Scope

OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
"""Paths for everybody, with the page's files."""

NEEDED = {
    "GET /metrics": Scope.MATCH,
    "GET /v1/models": Scope.MATCH,
    "POST /v1/embed": Scope.MATCH,
    "POST /v1/match/pairs": Scope.MATCH,
    "POST /v1/match/matrix": Scope.MATCH,
    "POST /v1/match/search": Scope.MATCH,
    "POST /v1/explain/pair": Scope.MATCH,
    "POST /v1/galleries": Scope.ENROL,
    "GET /v1/galleries": Scope.ENROL,
    "GET /v1/galleries/{gallery}": Scope.ENROL,
    "POST /v1/galleries/{gallery}/samples": Scope.ENROL,
    "GET /v1/galleries/{gallery}/samples": Scope.ENROL,
    "GET /v1/galleries/{gallery}/identities": Scope.ENROL,
    "GET /v1/galleries/{gallery}/identities/{identity}": Scope.ENROL,
    "PATCH /v1/galleries/{gallery}/identities/{identity}": Scope.ENROL,
    "POST /v1/galleries/{gallery}/identities/{identity}/merge": Scope.ENROL,
    "DELETE /v1/galleries/{gallery}": Scope.ERASE,
    "DELETE /v1/galleries/{gallery}/samples/{sample}": Scope.ERASE,
    "DELETE /v1/galleries/{gallery}/identities/{identity}": Scope.ERASE,
    "POST /v1/galleries/{gallery}/purge": Scope.ERASE,
}
"""The scope of each route that is not open."""

STRONGEST = Scope.ERASE
"""What a request needs that no rule names: a route that is added later is closed by oversight."""

_PATTERNS = {
    rule: re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(rule))) for rule in NEEDED
}
_PAGE = re.compile(r"/page/[A-Za-z0-9_.-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def needed(method: str, path: str, *, metrics_open: bool = False) -> Scope | None:
    """Return the scope that a request needs; None for what is open to everybody.

    ``path`` may be a route's template. A slash at the end changes nothing: routers redirect there.
    """
    path = path.rstrip("/") or "/"
    if _is_open(path) or (path == "/metrics" and metrics_open):
        return None
    rule, _ = rule_of(method, path)
    return NEEDED[rule] if rule else STRONGEST


def is_named(method: str, path: str) -> bool:
    """Return whether a rule says what a request needs, or it is open."""
    path = path.rstrip("/") or "/"
    return _is_open(path) or rule_of(method, path)[0] is not None


def rule_of(method: str, path: str) -> tuple[str | None, dict[str, str]]:
    """Return the rule of `NEEDED` that a request falls under, and the names in its path."""
    asked = f"{method} {path.rstrip('/')}"
    for rule, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(asked):
            return rule, found.groupdict()
    return None, {}


def has_control_characters(path: str) -> bool:
    """Return whether a path has characters that no name has, and that routers read differently.

    Starlette's patterns end in ``$``, which holds before a line feed at the end as well.
    """
    return _CONTROL.search(path) is not None


@dataclass(frozen=True)
class Permit:
    """What a caller may reach, for the application to ask once it knows the route.

    The guard decides by the path, before anything is done. That decides nothing where a router
    reads a path in another way than it, so the route that will answer is asked about again.
    """

    scopes: frozenset[Scope] | None
    """Those of the caller's token, none without a token; or None where everybody may do all."""
    metrics_open: bool = False
    """Whether /metrics is for everybody."""

    def allows(self, method: str, route: str) -> bool:
        """Return whether the route with this template may answer."""
        wanted = needed(method, route, metrics_open=self.metrics_open)
        return wanted is None or self.scopes is None or wanted in self.scopes


def _is_open(path: str) -> bool:
    return path in OPEN or _PAGE.fullmatch(path) is not None
