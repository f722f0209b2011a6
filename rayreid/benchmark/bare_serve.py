"""Ray Serve with nothing behind it: what it costs to pass requests on, whatever a model does.

Of the service's shape: a proxy, a process that reads bodies, a replica that is asked by it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
from fastapi import FastAPI, Request
from ray import serve
from ray.serve.handle import DeploymentHandle

from rayreid.serve.app import QUIET

_NAME, _PREFIX, _ROUTE = "bare", "/bare", "/ask"
PATH = _PREFIX + _ROUTE


class Nothing:
    """In the place of a model."""

    async def ask(self, body: bytes) -> int:
        """Return the length of what it is given."""
        return len(body)


class Passing:
    """In the place of what reads requests: it passes their bodies on as they are."""

    def __init__(self, behind: DeploymentHandle[Nothing]):
        self.behind = behind

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP interface; Serve calls this in the replica."""
        app = FastAPI()

        @app.post(_ROUTE)
        async def passed(request: Request) -> int:
            length: int = await self.behind.ask.remote(await request.body())
            return length

        return app


@contextmanager
def bare() -> Iterator[None]:
    """Have a Serve that runs answer at `PATH` too, for the body."""
    deployed = serve.deployment(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=64,
        logging_config=QUIET,
    )
    app = deployed(serve.ingress()(Passing)).bind(deployed(Nothing).bind())
    try:
        serve.run(app, name=_NAME, route_prefix=_PREFIX)
        yield
    finally:
        serve.delete(_NAME)
