"""A service as its routes see it: its models and whatever else answers, its limits, its counts."""

from dataclasses import dataclass, field

from rayreid.serve.admission import Places
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.metrics import Metrics
from rayreid.serve.models import Models
from rayreid.serve.settings import Limits


@dataclass(eq=False)
class Service:
    """What the routes are made of."""

    models: Models
    limits: Limits
    enrolled: Galleries | None = None
    metrics: Metrics = field(default_factory=Metrics)
    places: Places = field(init=False)
    """Who is admitted."""

    def __post_init__(self) -> None:
        """Make the places that the limits allow."""
        self.places = Places(self.limits)
