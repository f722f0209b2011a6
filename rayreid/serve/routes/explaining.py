"""Which regions of two images matched."""

import time

from fastapi import APIRouter, Request
from fastapi.responses import Response

from rayreid.explain import Explained
from rayreid.serve.bodies import ExplainBody, documented
from rayreid.serve.envelope import ERRORS, Envelope, enveloped
from rayreid.serve.models import distinct, named
from rayreid.serve.reading import read
from rayreid.serve.refusals import RefusalError
from rayreid.serve.service import Service


class ExplainAnswer(Envelope):
    """What the score of two images comes from."""

    explanation: Explained


def router(service: Service) -> APIRouter:
    """Return the route that explains."""
    routes = APIRouter(prefix="/v1", tags=["matching"], responses=ERRORS)

    @routes.post(
        "/explain/pair",
        openapi_extra=documented(ExplainBody),
        response_model=ExplainAnswer,
        responses={200: {"content": {"image/png": {}}}},
    )
    async def explain(request: Request) -> ExplainAnswer | Response:
        """Show which regions of two images matched, as numbers or as a picture.

        With a picture, whose model it is of is in the headers X-Model and X-Fingerprint.
        """
        started = time.perf_counter()
        asked = await read(request, service.limits, ExplainBody)
        if len(asked.images) != 2:
            raise RefusalError(422, f"a pair is two images, found {len(asked.images)}")
        served = named(service.models, asked.body.model)
        items = distinct(asked.images, ())
        pair = (int(items.number[0]), int(items.number[1]))
        reading = time.perf_counter() - started
        drawn = asked.body.format == "png"
        found = await service.models.explain(
            served.name, items.work, pair, lines=asked.body.lines, drawn=drawn
        )
        fields = enveloped(request, found.served, {"read": reading, **found.seconds})
        if found.png is not None:
            told = {
                "X-Model": found.served.name,
                "X-Fingerprint": found.served.fingerprint,
                "X-Preprocessing": found.served.preprocessing,
            }
            return Response(found.png, media_type="image/png", headers=told)
        return ExplainAnswer(**fields, explanation=found.explained)

    return routes
