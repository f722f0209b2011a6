"""The service's HTTP interface, assembled of its routes and of what surrounds them."""

import logging
from collections.abc import Sequence

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayreid.guard.scopes import Permit
from rayreid.serve.admission import Admission
from rayreid.serve.envelope import RequestIds, error_response, refusal_response
from rayreid.serve.metrics import Counted
from rayreid.serve.refusals import RefusalError
from rayreid.serve.routes import explaining, galleries, matching, page, search, status
from rayreid.serve.service import Service

log = logging.getLogger(__name__)

ROUTERS = (
    status.router,
    matching.router,
    galleries.router,
    search.router,
    explaining.router,
    page.router,
)
"""Each makes the routes of a topic of a service."""


def api(service: Service, guards: Sequence[Middleware] = ()) -> FastAPI:
    """Return the HTTP interface of a service.

    Requests pass, from the outside in: their ids, the counts, the ``guards`` (ASGI middleware
    that may refuse), the admission, the routes.
    """
    app = FastAPI(
        title="rayreid",
        description="Person re-identification: embeddings, matches, galleries.",
        version="1",
        # Its pages of documentation would load scripts from other hosts; /openapi.json does not.
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_permitted)],
        middleware=[
            Middleware(RequestIds),
            Middleware(Counted, metrics=service.metrics),
            Middleware(Failures),
            *guards,
            Middleware(Admission, places=service.places, metrics=service.metrics),
        ],
    )
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _refused_by_framework)
    app.add_exception_handler(RequestValidationError, _refused_by_framework)
    for router in ROUTERS:
        app.include_router(router(service))
    return app


async def _permitted(request: Request) -> None:
    """Refuse a route that the guard's caller may not reach, however its path was written.

    The route is known only here: what the guard decided by the path was a first look.
    """
    permit = request.scope["state"].get("permit")
    if permit is None:
        return  # there is no guard
    assert isinstance(permit, Permit)
    if not permit.allows(request.method, request.scope["route"].path):
        raise RefusalError(403, "the token's scopes do not include what this route needs")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusalError)
    return refusal_response(request.scope, error)


async def _refused_by_framework(request: Request, error: Exception) -> JSONResponse:
    """Turn what FastAPI refuses by itself (routes, methods, its lists of mistakes) into ours."""
    if isinstance(error, HTTPException):
        sentence = f"{request.method} {request.url.path[:128]}: {error.detail}"
        return error_response(request.scope, error.status_code, sentence, dict(error.headers or {}))
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    sentence = f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}"
    return error_response(request.scope, 422, sentence)


class Failures:
    """ASGI middleware: a failure of ours is one sentence to the client, its reason in the log."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; where that fails, answer 500, and let the error go on to the log."""
        begun = False

        async def seen(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, seen)
        except Exception as error:
            # The route alone: a path may name somebody who will be erased.
            route = getattr(scope.get("route"), "path", "?")
            log.error("%s %s failed: %r", scope.get("method"), route, error)
            if not begun:
                sentence = "the service failed at this request; the reason is in its log"
                await error_response(scope, 500, sentence)(scope, receive, send)
            raise
