"""The manifests for KubeRay: shapes, the token, a Serve file that Serve reads, a real command."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from rayreid.cli import cli
from rayreid.cli.submitted import _parsed
from rayreid.serve import app
from rayreid.serve.settings import ServiceSettings
from rayreid.settings import checked
from tests.clusters.shapes import read

FOLDER = Path(__file__).parents[2] / "clusters"
MANIFESTS = ("raycluster", "rayjob", "rayservice")


def load(name: str) -> dict[str, Any]:
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert isinstance(document, dict)
    return document


def cluster_of(spec: Any) -> Any:
    return getattr(spec, "ray_cluster_spec", getattr(spec, "ray_cluster_config", spec))


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_its_shape_and_asks_for_a_token(name: str) -> None:
    cluster = cluster_of(read(load(name)))
    assert cluster.auth_options.secret_name == "rayreid-token"
    assert cluster.head_group_spec.ray_start_params["num-cpus"] == "0"
    ports = {p.name: p.container_port for p in _containers(cluster)[0].ports}
    assert {"gcs": 6379, "dashboard": 8265}.items() <= ports.items()
    for container in _containers(cluster)[1:]:
        assert container.resources.limits["nvidia.com/gpu"] == "1"


def _containers(cluster: Any) -> list[Any]:
    groups = [cluster.head_group_spec, *cluster.worker_group_specs]
    return [group.template.spec.containers[0] for group in groups]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpecs"), {}),
        (("spec", "authOptions", "mode"), "disabled"),
        (("spec", "authOptions"), None),
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 8),
        (("spec", "workerGroupSpecs", 0, "minReplicas"), 9),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"), []),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "volumes"), []),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("metadata", "name"), "Under_score"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(path: tuple[str | int, ...], value: object) -> None:
    document: Any = copy.deepcopy(load("raycluster"))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ValidationError):
        read(document)


def test_the_jobs_command_is_one() -> None:
    words = shlex.split(read(load("rayjob")).entrypoint)
    assert words[:3] == ["python", "-m", "rayreid"]
    said = _parsed(cli, words[3:]).params
    assert str(said["results"]).startswith("s3:/"), "a pod's own folder ends with it"
    assert said["workers"] == read(load("rayjob")).ray_cluster_spec.worker_group_specs[0].replicas


def unknown_keys(given: Any, known: Any, path: str = "") -> list[str]:
    """Return the keys of a file that its schema does not have; Serve takes them in silence."""
    if isinstance(given, list) and isinstance(known, list):
        pairs = zip(given, known, strict=True)
        return [key for i, (g, k) in enumerate(pairs) for key in unknown_keys(g, k, f"{path}[{i}]")]
    if not isinstance(given, dict) or not isinstance(known, BaseModel):
        return []
    fields = type(known).model_fields
    return [f"{path}.{key}" for key in given if key not in fields] + [
        deeper
        for key, value in given.items()
        if key in fields and key not in ("args", "user_config", "runtime_env")
        for deeper in unknown_keys(value, getattr(known, key), f"{path}.{key}")
    ]


def test_the_services_file_is_serves_own_without_a_misspelt_key() -> None:
    given = yaml.safe_load(read(load("rayservice")).serve_config_v2)
    schema = ServeDeploySchema.model_validate(given)
    assert unknown_keys(given, schema) == []
    wrong = copy.deepcopy(given)
    wrong["applications"][0]["rout_prefix"] = "/"
    wrong["http_option"] = {}
    known = ServeDeploySchema.model_validate(wrong)
    assert unknown_keys(wrong, known) == [".http_option", ".applications[0].rout_prefix"]
    (application,) = schema.applications
    assert application.import_path == "rayreid.serve.app:build"
    service = read(load("rayservice")).ray_cluster_config
    served = {port.container_port for c in _containers(service) for port in c.ports}
    assert application.args["port"] == schema.http_options.port
    assert schema.http_options.port in served
    # Serve's port asks for no token of Ray's: the application asks for its own.
    mounts = {m.mount_path for c in _containers(service) for m in c.volume_mounts}
    assert str(Path(application.args["tokens"]).parent) in mounts
    assert all(str(Path(model["run"]).parent) in mounts for model in application.args["models"])


def test_the_services_builder_takes_the_services_settings() -> None:
    args = yaml.safe_load(read(load("rayservice")).serve_config_v2)["applications"][0]["args"]
    assert checked(ServiceSettings, args).models[0].name == "gmn"
    assert callable(app.build)
