"""Clusters by name: a file of addresses, and of where a token lies, never of a token."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import Field, field_validator

from rayreid.cluster.reference import Reference
from rayreid.data.storage import canonical_address, is_remote
from rayreid.settings import Settings, checked, unknown

CLUSTERS_FILE = Path("~/.config/rayreid/clusters.yaml")
"""Where clusters are named, unless ``RAYREID_CLUSTERS`` says otherwise."""


class Cluster(Settings):
    """How a cluster is reached, and what jobs find there."""

    address: str
    """Its dashboard: http://HOST:8265, or https:// where a gateway encrypts."""
    token_file: str | None = None
    """File with its token, mode 0600; by default what Ray itself would read."""
    results: str | None = None
    """Where runs and studies go: s3://, gs://, or a folder that all its nodes share."""
    env: tuple[str, ...] = ()
    """Variables that jobs need, by reference: NAME (set on the nodes) or NAME=@FILE (there)."""
    python: str = "python"
    """The interpreter there; a path where several are installed."""
    without_authentication: bool = False
    """Use it although it asks nobody for a token, and runs code for whoever reaches it."""

    @field_validator("address")
    @classmethod
    def _an_address(cls, address: str) -> str:
        return dashboard_address(address)

    @field_validator("results")
    @classmethod
    def _a_place_for_results(cls, results: str | None) -> str | None:
        return results and shared_results(results)

    @field_validator("env")
    @classmethod
    def _references(cls, env: tuple[str, ...]) -> tuple[str, ...]:
        for text in env:
            Reference.parse(text)
        return env


class Clusters(Settings):
    """The file of clusters."""

    default: str | None = None
    """The cluster that is meant where none is named."""
    clusters: dict[str, Cluster] = Field(default_factory=dict)
    """Clusters by name."""


def load_clusters(path: Path | None = None) -> Clusters:
    """Return the clusters of a file; none where the usual file is not there.

    Raises `FileNotFoundError` for a file that was named and is not there, `ValueError` for one
    that is no such file.
    """
    told = path or (Path(os.environ["RAYREID_CLUSTERS"]) if _told() else None)
    file = (told or CLUSTERS_FILE).expanduser()
    if not file.is_file():
        if told:
            raise FileNotFoundError(f"there is no file of clusters at {file}; check its name")
        return Clusters()
    try:
        tree = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{file} names no clusters; write clusters: {{NAME: {{address: ...}}}}")
    try:
        # One by one: a misspelt setting of a cluster is then told the near one.
        each = tree.get("clusters")
        for name, settings in each.items() if isinstance(each, dict) else ():
            if isinstance(settings, dict):
                checked(Cluster, settings, below=f"clusters.{name}")
        found = checked(Clusters, tree)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if found.default is not None and found.default not in found.clusters:
        raise ValueError(f"{file}: default: {unknown('cluster', found.default, found.clusters)}")
    return found


def choose(named: str | None, clusters: Clusters) -> tuple[str, Cluster]:
    """Return the cluster that a name or an address means, or the only, or the default one.

    Raises `ValueError` where that is none.
    """
    if named and ":" in named:
        return named, checked(Cluster, {"address": named})
    if named:
        if named not in clusters.clusters:
            if not clusters.clusters:
                raise ValueError(
                    f"no cluster is named {named!r}, for none is named at all; write it into "
                    f"{CLUSTERS_FILE}, or give an address, e.g. http://127.0.0.1:8265"
                )
            raise unknown("cluster", named, clusters.clusters)
        return named, clusters.clusters[named]
    if clusters.default:
        return clusters.default, clusters.clusters[clusters.default]
    if len(clusters.clusters) == 1:
        return next(iter(clusters.clusters.items()))
    raise ValueError(
        f"which cluster? add --cluster, one of {', '.join(clusters.clusters)}"
        if clusters.clusters
        else f"which cluster? add --cluster with its address, e.g. http://127.0.0.1:8265, or name "
        f"it in {CLUSTERS_FILE}"
    )


def dashboard_address(address: str) -> str:
    """Return the address of a dashboard in its one form; `ValueError` for any other."""
    parts = urlsplit(address)
    if parts.scheme == "ray" or (not parts.scheme and ":" in address):
        raise ValueError(
            f"{address!r} is no dashboard's address; jobs go to http://HOST:8265, not to Ray's "
            "other ports"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is no dashboard's address; write http://HOST:8265")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"the address of {parts.hostname} carries more than a host; put the token into a file"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def shared_results(results: str) -> str:
    """Return where results go in its one form; `ValueError` for what nodes cannot share."""
    if is_remote(results) or "://" in results:
        return canonical_address(results)
    if not Path(results).is_absolute():
        raise ValueError(
            f"results in {results!r} would lie in a job's own folder, which Ray removes; give "
            "s3://bucket/prefix, or the absolute path of a folder that all nodes share"
        )
    return str(Path(results))


def _told() -> bool:
    return bool(os.environ.get("RAYREID_CLUSTERS"))
