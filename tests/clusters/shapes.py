"""The shapes of what KubeRay and Kubernetes read, as far as our manifests use them.

The manifests were compared once with KubeRay's own definitions (v1 of August 2026: every field
known, every type right). Here a field that is not listed is refused: what is new in a manifest is
to be looked up, and added.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from rayreid.settings import Settings

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
QUANTITY = r"^[0-9]+(m|Mi|Gi)?$"


class Shape(Settings):
    model_config = ConfigDict(alias_generator=to_camel)


class Named(Shape):
    name: str = Field(pattern=NAME)


class Metadata(Named):
    pass


class Port(Named):
    container_port: int = Field(ge=1, le=65535, strict=True)


class EnvFrom(Shape):
    secret_ref: Named


class Mount(Named):
    mount_path: str = Field(pattern="^/")
    read_only: bool = False


class EmptyDir(Shape):
    medium: Literal["Memory"]
    size_limit: str = Field(pattern=QUANTITY)


class Claim(Shape):
    claim_name: str = Field(pattern=NAME)
    read_only: bool = False


class Secret(Shape):
    secret_name: str = Field(pattern=NAME)
    default_mode: Literal[0o600]


class Volume(Named):
    empty_dir: EmptyDir | None = None
    persistent_volume_claim: Claim | None = None
    secret: Secret | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Volume":
        kinds = (self.empty_dir, self.persistent_volume_claim, self.secret)
        assert sum(kind is not None for kind in kinds) == 1, f"volume {self.name} is not one kind"
        return self


class Resources(Shape):
    requests: dict[Literal["cpu", "memory", "nvidia.com/gpu"], str]
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], str]

    @model_validator(mode="after")
    def _are_guaranteed(self) -> "Resources":
        import re

        assert self.requests == self.limits, "Ray plans with the limits: they must be what is had"
        assert self.limits.keys() >= {"cpu", "memory"}
        assert all(re.match(QUANTITY, amount) for amount in self.limits.values())
        return self


class Variable(Shape):
    name: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    value: str


class Container(Named):
    image: str = Field(pattern=r"^[a-z0-9.-]+:[0-9.]+$")
    env: tuple[Variable, ...] = ()
    ports: tuple[Port, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    resources: Resources
    volume_mounts: tuple[Mount, ...] = ()


class SecurityContext(Shape):
    fs_group: int


class PodSpec(Shape):
    containers: tuple[Container] = Field(min_length=1, max_length=1)
    security_context: SecurityContext | None = None
    volumes: tuple[Volume, ...] = ()

    @model_validator(mode="after")
    def _mounts_what_there_is(self) -> "PodSpec":
        mounted = {mount.name for mount in self.containers[0].volume_mounts}
        assert mounted == {volume.name for volume in self.volumes}
        return self


class Template(Shape):
    spec: PodSpec


class Group(Shape):
    ray_start_params: dict[str, str]
    template: Template


class WorkerGroup(Group):
    group_name: str = Field(pattern=NAME)
    replicas: int = Field(ge=0, strict=True)
    min_replicas: int = Field(ge=0, strict=True)
    max_replicas: int = Field(ge=1, strict=True)

    @model_validator(mode="after")
    def _bounds_hold(self) -> "WorkerGroup":
        assert self.min_replicas <= self.replicas <= self.max_replicas
        return self


class AuthOptions(Shape):
    mode: Literal["token"]
    secret_name: str = Field(pattern=NAME)


class AutoscalerOptions(Shape):
    version: Literal["v2"]
    idle_timeout_seconds: int = Field(60, ge=1)


class RayClusterSpec(Shape):
    ray_version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    # Not optional here: a cluster without it runs code for whoever reaches it.
    auth_options: AuthOptions
    enable_in_tree_autoscaling: bool = False
    autoscaler_options: AutoscalerOptions | None = None
    head_group_spec: Group
    worker_group_specs: tuple[WorkerGroup, ...]

    @model_validator(mode="after")
    def _scales_if_it_says_so(self) -> "RayClusterSpec":
        assert self.enable_in_tree_autoscaling or self.autoscaler_options is None
        bounds = [(g.min_replicas, g.max_replicas) for g in self.worker_group_specs]
        assert self.enable_in_tree_autoscaling or all(low == high for low, high in bounds)
        return self


class RayJobSpec(Shape):
    entrypoint: str
    submission_mode: Literal["K8sJobMode"]
    shutdown_after_job_finishes: Literal[True]
    ttl_seconds_after_finished: int = Field(ge=1)
    active_deadline_seconds: int = Field(ge=60)
    ray_cluster_spec: RayClusterSpec


class RayServiceSpec(Shape):
    serve_config_v2: str = Field(alias="serveConfigV2")
    ray_cluster_config: RayClusterSpec


SPECS: dict[str, type[Shape]] = {
    "RayCluster": RayClusterSpec, "RayJob": RayJobSpec, "RayService": RayServiceSpec,
}  # fmt: skip


def read(document: dict[str, Any]) -> Any:
    """Return the spec of a manifest in its shape; raise what is wrong with it."""
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert document["apiVersion"] == "ray.io/v1"
    Metadata.model_validate(document["metadata"])
    return SPECS[document["kind"]].model_validate(document["spec"])
