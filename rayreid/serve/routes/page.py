"""The page at ``/``: three files of this package, which ask the service's own interface."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from rayreid.serve.service import Service

HEADERS: Mapping[str, str] = {
    # Nothing is fetched, framed, or sent but from and to this service; nothing inline runs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
}
"""What is served at which path, as which type; no path of a request is looked up anywhere."""


def router(_: Service) -> APIRouter:
    """Return the routes of the page."""
    routes = APIRouter(include_in_schema=False)
    for path, (name, kind) in FILES.items():
        routes.add_api_route(path, _file(name, kind), methods=["GET", "HEAD"])
    return routes


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    """Return what answers one file of the package, which is read once."""
    content = files("rayreid.serve").joinpath("page", name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=kind, headers=dict(HEADERS))

    return answer
