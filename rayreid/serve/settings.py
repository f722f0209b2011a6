"""What a service is: its models, its limits, where it listens; as a file, a models.yaml."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from rayreid.data.storage import canonical_address, is_remote, last_part
from rayreid.guard.origins import is_loopback
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.settings import Settings, checked, read_yaml

MIB = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HTTP_SIDE = "ingress"
"""Name of the deployment that reads requests, beside those named by their models."""


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:64]!r} is no name of a model; use 1 to 64 letters, digits, '.', '_' and '-', "
            "the first a letter or a digit"
        )
    if name == HTTP_SIDE:
        raise ValueError(f"{name!r} is a part of the service; give the model another name")
    return name


ModelName = Annotated[str, AfterValidator(_plain)]
RunAddress = Annotated[
    str,
    BeforeValidator(lambda run: str(run) if isinstance(run, Path) else run),
    AfterValidator(lambda run: canonical_address(run) if "://" in run else run),
]


class Limits(Settings):
    """How much one request may hold, and how many requests are held at once."""

    body_bytes: int = Field(32 * MIB, ge=1)
    """Largest body, in bytes."""
    image_bytes: int = Field(8 * MIB, ge=1)
    """Largest encoded image, in bytes; the decoder bounds its pixels."""
    images: int = Field(256, ge=1)
    """Most items of a request: images, embeddings and enrolled samples together."""
    pixels: int = Field(4096 * 2160, ge=1)
    """Most pixels of an image: a whole picture of a 4K camera has as many. A small file can ask for
    seconds and hundreds of megabytes."""
    all_pixels: int = Field(64_000_000, ge=1)
    """Most pixels of all images of a request."""
    pairs: int = Field(4096, ge=1)
    """Most pairs of a request; of a matrix, most cells."""
    admitted: int = Field(64, ge=1)
    """Requests that the HTTP side holds at once; more wait in Serve's proxy."""
    matching: int = Field(64, ge=1)
    """Requests that a replica of a model works on at once; more wait on the HTTP side, which asks
    after room at growing intervals: with fewer than ``admitted`` a replica idles between them."""
    waiting: int = Field(24, ge=0)
    """Requests that may wait at each of the two places; further ones are answered 503."""
    seconds: float = Field(60, gt=0)
    """Longest that a request may take, its body's arrival included."""


class ModelSettings(Settings):
    """One served model: which run, under which name, on how much of the machine."""

    name: ModelName = ""
    """What requests call it; by default the run's folder."""
    run: RunAddress
    """A run's folder, or its ``best``, on a cluster where all nodes find it; or s3://bucket/run or
    gs://bucket/run, from where whoever loads it fetches it."""
    replicas: int = Field(1, ge=1)
    """Processes that hold it; where it is loaded on demand, the most of them."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of a replica; a fraction shares one."""
    cpus: float = Field(0.0, ge=0)
    """CPUs that a replica reserves of a cluster that does other work too; 0 reserves none."""
    on_demand: bool = False
    """Whether it is loaded by the first request that names it, instead of at the start."""
    idle_seconds: float = Field(300, gt=0)
    """How long one that was loaded on demand stays without requests. Serve counts them over half
    a minute, which comes on top."""
    surge: bool = True
    """Whether a replacement is loaded before the old replica goes. It takes room for one replica
    more; where a GPU has none, turn it off: requests then wait while the new one loads."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_run(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("name") and values.get("run"):
            run = str(values["run"])
            name = Path(run).parent.name if Path(run).name == "best" else last_part(run)
            return {**values, "name": name}
        return values

    def below(self, folder: Path) -> "ModelSettings":
        """Return the same with an absolute run's folder, if relative then to ``folder``."""
        if is_remote(self.run):
            return self
        path = (folder / Path(self.run).expanduser()).absolute()
        return self.model_copy(update={"run": str(path)})


class ServiceSettings(Settings):
    """A service, complete."""

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    """What is served; the first is the default."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but loopback needs ``tokens``."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen at."""
    tokens: Path | None = None
    """File of the tokens that callers must hold (mode 0600); without one, callers need none."""
    hosts: tuple[str, ...] = ()
    """Further names in ``Host`` headers of a service on loopback, e.g. that of a gateway before it.
    Others are refused there: a web page could make its own name mean this machine."""
    audit: Path | None = None
    """File of the audit log, made with mode 0600; without one, none is kept."""
    galleries: GalleriesSettings | None = None
    """Where enrolled people are kept: a folder, or more; without it, none are kept."""
    limits: Limits = Limits()
    """How much a request may hold, and how many are held at once."""

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are named {name!r}; give each a name of its own")
        return models

    @model_validator(mode="after")
    def _open_to_none_but_us(self) -> "ServiceSettings":
        if self.tokens is None and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines, and without a file of tokens "
                "anyone there may ask; set tokens, or listen at 127.0.0.1"
            )
        return self

    def absolute(self) -> "ServiceSettings":
        """Return the same with absolute paths, as processes with other working folders need."""
        moved: dict[str, object] = {
            "models": tuple(model.below(Path.cwd()) for model in self.models)
        }
        for name in ("tokens", "audit"):
            path: Path | None = getattr(self, name)
            moved[name] = path and path.expanduser().absolute()
        moved["galleries"] = self.galleries and self.galleries.below(Path.cwd())
        return self.model_copy(update=moved)


def service_of(
    runs: Sequence[str | Path], *, replicas: int = 1, gpus: float = 0.0, **settings: object
) -> ServiceSettings:
    """Return a service of some runs, each named by its folder; ``settings`` as in the file."""
    models = [{"run": run, "replicas": replicas, "gpus": gpus} for run in runs]
    return checked(ServiceSettings, {"models": models, **settings})


def load_service(file: Path, **settings: object) -> ServiceSettings:
    """Return the service that a models.yaml describes, with some of its settings replaced.

    Paths in the file are relative to it. Raises `FileNotFoundError`, or `ValueError` with a
    sentence for each setting that is misspelt or makes no sense.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; give a models.yaml (see README, Serve)")
    tree = read_yaml(file.read_text(), file)
    service = checked(ServiceSettings, {**tree, **settings})
    here = file.absolute().parent
    moved: dict[str, object] = {"models": tuple(model.below(here) for model in service.models)}
    for name in ("tokens", "audit"):
        path: Path | None = getattr(service, name)
        if path is not None and name not in settings:
            moved[name] = here / path.expanduser()
    if service.galleries is not None and "galleries" not in settings:
        moved["galleries"] = service.galleries.below(here)
    return service.model_copy(update=moved).absolute()
