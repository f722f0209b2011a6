"""What the service is and how it does: models, health, readiness, counts."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from rayreid.serve.envelope import ERRORS, Answer, request_id
from rayreid.serve.refusals import RETRY_AFTER_S, RefusalError
from rayreid.serve.service import Service


class Health(Answer):
    """That the service is alive."""

    status: str
    model: str
    """The default model."""
    fingerprint: str
    """Short hash of the default model's weights."""


class Ready(Answer):
    """That all that it needs is there."""

    status: str


class ModelAnswer(BaseModel):
    """One served model."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    method: str
    fingerprint: str
    """Short hash of its weights."""
    preprocessing: str
    """Short hash of its input's size, resizing and normalisation."""
    input: list[int]
    """Height and width that images are resized to, in pixels."""
    embedding: list[int]
    """Shape of an image's embedding."""
    on_demand: bool
    """Whether it is loaded by the first request that names it."""
    loaded: bool
    replicas: int
    """Processes that hold it now."""
    reason: str
    """Why it is not there, where that is known."""
    calibration: dict[str, Any] | None
    """What its thresholds rest on, and which error rates may be asked for; none where its scores
    were not calibrated."""


class ModelsAnswer(Answer):
    """The served models, the default first."""

    models: list[ModelAnswer]


def router(service: Service) -> APIRouter:
    """Return the routes that tell how the service is."""
    routes = APIRouter(tags=["status"], responses=ERRORS)

    @routes.get("/healthz")
    async def healthz(request: Request) -> Health:
        """Say that the service is alive, and what it serves by default."""
        default = next(iter(service.models.served.values()))
        return Health(
            request_id=request_id(request),
            status="ok",
            model=default.name,
            fingerprint=default.fingerprint,
        )

    @routes.get("/readyz")
    async def readyz(request: Request) -> Ready:
        """Say that every model that is not loaded on demand is there, and the galleries are."""
        if service.places.closed:
            raise RefusalError(503, "the service is stopping", RETRY_AFTER_S)
        for name, state in (await service.models.states()).items():
            if not state.replicas and not service.models.served[name].on_demand:
                why = f": {state.reason}" if state.reason else ""
                raise RefusalError(503, f"model {name!r} is not loaded{why}", RETRY_AFTER_S)
        if service.enrolled is not None:
            await service.enrolled.ready()
        return Ready(request_id=request_id(request), status="ready")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Return the service's counts in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/v1/models")
    async def models(request: Request) -> ModelsAnswer:
        """List the served models, the default first."""
        states = await service.models.states()
        listed = [
            ModelAnswer(
                name=name,
                method=served.method,
                fingerprint=served.fingerprint,
                preprocessing=served.preprocessing,
                input=[served.height, served.width],
                embedding=list(served.embedding),
                on_demand=served.on_demand,
                loaded=states[name].replicas > 0,
                replicas=states[name].replicas,
                reason=states[name].reason,
                calibration=served.calibration and dict(served.calibration.summary()),
            )
            for name, served in service.models.served.items()
        ]
        return ModelsAnswer(request_id=request_id(request), models=listed)

    return routes
