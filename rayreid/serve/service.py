"""A service as its routes see it: its models and whatever else answers, its limits, its counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rayreid.serve.bodies import SampleBody
from rayreid.serve.metrics import Metrics
from rayreid.serve.models import Given, Models, Served
from rayreid.serve.settings import Limits


@runtime_checkable
class Enrolled(Protocol):
    """What the routes that match need of the galleries."""

    async def ready(self) -> None:
        """Return when the store can be asked; raises `RefusalError` 503."""

    async def embeddings(self, samples: Sequence[SampleBody], served: Served) -> list[Given]:
        """Return the embeddings of enrolled samples, in order.

        Raises `RefusalError`: 404 where one is not enrolled, 409 where a gallery is another
        model's.
        """


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes are made of."""

    models: Models
    limits: Limits
    enrolled: Enrolled | None = None
    metrics: Metrics = field(default_factory=Metrics)
