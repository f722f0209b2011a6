"""The service as a Ray Serve application, for `rayreid.serve.start` and for Serve's config files.

In a config file, or in KubeRay's ``serveConfigV2``: ``import_path: rayreid.serve.app:build``, with
the contents of a models.yaml as ``args``.
"""

from collections.abc import Mapping
from typing import Any

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from rayreid.checkpoint import load_trained
from rayreid.results import fetched
from rayreid.serve.galleries.keeper import Keeper
from rayreid.serve.galleries.opening import is_served
from rayreid.serve.ingress import Ingress
from rayreid.serve.matcher import Matcher
from rayreid.serve.models import Served, calibration_of, describe
from rayreid.serve.refusals import RETRY_AFTER_S
from rayreid.serve.settings import HTTP_SIDE, ModelSettings, ServiceSettings
from rayreid.settings import checked

KEEPER = "_galleries"
"""Name of the deployment that writes galleries: none that a model may have."""
DRAIN_S = 30.0
"""How long a replica that is to go has for the requests that it works on."""

FLOOD = 1024
"""Requests beyond which the HTTP side is not even asked to refuse."""

QUIET = LoggingConfig(enable_access_log=False)
"""Serve would log every path: what is erased from a gallery would stay in its logs."""

_PROMPT = serve.deployment(
    max_constructor_retry_count=1,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=DRAIN_S,
    # A replacement comes before the old one goes.
    max_surge_percent=1,
    logging_config=QUIET,
)
"""Failing and ending are a matter of seconds: a run that cannot be loaded now never can."""


def build(args: Mapping[str, Any]) -> Application:
    """Return the application of a service's settings as plain values, as Serve's files hold them.

    Raises `ValueError` for settings that are misspelt or make no sense, and as `described` and
    `refuse_apart`.
    """
    settings = checked(ServiceSettings, args).absolute()
    return application(settings, described(settings))


def described(settings: ServiceSettings) -> dict[str, Served]:
    """Return what each model is, by name.

    Raises `FileNotFoundError` or `ValueError` for a run that cannot be served, `OSError` for a
    store that cannot be read.
    """
    found = {}
    for model in settings.models:
        run = fetched(model.run)
        trained = load_trained(run)
        found[model.name] = describe(
            model.name,
            trained,
            on_demand=model.on_demand,
            calibration=calibration_of(run, trained),
        )
    return found


def refuse_apart(settings: ServiceSettings, machines: int) -> None:
    """Raise `ValueError` for galleries in one machine's folder where replicas may be on others."""
    galleries = settings.galleries
    if galleries is not None and not is_served(galleries.store) and machines > 1:
        raise ValueError(
            f"the galleries' folder {galleries.store} is on one machine, and the cluster has "
            f"{machines}; give galleries: postgresql://user@host/database, which all reach"
        )


def _machines() -> int:
    """Return how many machines replicas may be put on, as far as is known now."""
    if not ray.is_initialized():
        return 1
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def application(settings: ServiceSettings, served: Mapping[str, Served]) -> Application:
    """Return the application: a deployment a model, and the HTTP side.

    Raises `ValueError` as `refuse_apart`.
    """
    refuse_apart(settings, _machines())
    sharing = sum(model.replicas for model in settings.models if not model.on_demand)
    models = {
        model.name: _matcher(model, settings).bind(
            model.run,
            served[model.name],
            max(1, sharing),
            model.gpus > 0,
            settings.galleries,
        )
        for model in settings.models
    }
    ingress = _PROMPT(serve.ingress()(Ingress)).options(
        name=HTTP_SIDE,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        # It bounds its requests itself; this is for a flood that it could not even refuse.
        max_ongoing_requests=FLOOD,
        max_queued_requests=FLOOD,
        backpressure_config={"status_code": 503, "retry_after_s": RETRY_AFTER_S},
    )
    return ingress.bind(settings, served, models, _keeper(settings))


def _keeper(settings: ServiceSettings) -> Application | None:
    """Return the galleries' one writer."""
    galleries, limits = settings.galleries, settings.limits
    if galleries is None:
        return None
    keeper = _PROMPT(Keeper).options(
        name=KEEPER,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=limits.admitted,
        max_queued_requests=limits.waiting,
        # Two would want to write: the old one goes before the new one comes.
        max_surge_percent=0,
    )
    return keeper.bind(galleries.store, galleries.limits)


def _matcher(model: ModelSettings, settings: ServiceSettings) -> serve.Deployment:
    limits = settings.limits
    matcher = _PROMPT(Matcher).options(
        name=model.name,
        ray_actor_options={"num_cpus": model.cpus, "num_gpus": model.gpus},
        max_ongoing_requests=limits.matching,
        # The HTTP side bounds them; Serve counts those of a burst as queued that have room.
        max_queued_requests=limits.admitted,
        max_surge_percent=1 if model.surge else 0,
    )
    if not model.on_demand:
        return matcher.options(num_replicas=model.replicas)
    return matcher.options(
        # While it is loaded, it must not take all the places of the others.
        max_queued_requests=limits.waiting,
        autoscaling_config={
            "min_replicas": 0,
            "max_replicas": model.replicas,
            "initial_replicas": 0,
            # All of them run once half of what is admitted is theirs.
            "target_ongoing_requests": max(1, limits.admitted // (2 * model.replicas)),
            "upscale_delay_s": 0,
            "downscale_delay_s": model.idle_seconds,
        },
    )
