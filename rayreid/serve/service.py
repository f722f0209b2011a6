"""A service as its routes see it: its models and whatever else answers, its limits, its counts."""

from dataclasses import dataclass, field

from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.metrics import Metrics
from rayreid.serve.models import Models
from rayreid.serve.settings import Limits


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes are made of."""

    models: Models
    limits: Limits
    enrolled: Galleries | None = None
    metrics: Metrics = field(default_factory=Metrics)
