"""Serve's own config files: written for a service, and checked where Ray itself does not.

Ray accepts a misspelt key silently, and a file without a host binds every address.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from rayreid.guard.origins import is_loopback
from rayreid.serve.app import QUIET
from rayreid.serve.ingress import APPLICATION
from rayreid.serve.settings import ServiceSettings
from rayreid.settings import checked, read_yaml, unknown

IMPORT_PATH = "rayreid.serve.app:build"


def serve_config(settings: ServiceSettings) -> dict[str, Any]:
    """Return the Serve config of a service, as ``serve deploy`` and KubeRay take it."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": settings.limits.seconds,
        },
        "logging_config": QUIET.model_dump(exclude_defaults=True),
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": settings.absolute().model_dump(mode="json", exclude_defaults=True),
            }
        ],
    }


def write_serve_config(settings: ServiceSettings, file: Path) -> None:
    """Write the Serve config of a service."""
    text = yaml.safe_dump(serve_config(settings), sort_keys=False)
    file.write_text(f"# serve deploy {file.name} puts this service on the cluster at hand.\n{text}")


def check_serve_config(text: str, where: object) -> list[ServiceSettings]:
    """Return the services of ours that a Serve config deploys.

    Raises `ValueError` for a key that Serve does not know, a value that it refuses, settings of
    ours that are misspelt or make no sense, a host that lets strangers in, and one that the service
    itself is not told of.
    """
    tree = read_yaml(text, where)
    for path, known in _unknown_keys(ServeDeploySchema, tree):
        raise ValueError(f"{where}: {unknown('key', path, known)}")
    ServeDeploySchema.model_validate(tree)
    options = tree.get("http_options") or {}
    if "host" not in options:
        raise ValueError(
            f"{where} does not say where to listen, and Serve would bind every address; "
            "add http_options: {host: 127.0.0.1}"
        )
    services = [
        checked(ServiceSettings, one.get("args", {}), below="args")
        for one in tree["applications"]
        if one.get("import_path") == IMPORT_PATH
    ]
    for service in services:
        if service.tokens is None and not is_loopback(str(options["host"])):
            raise ValueError(
                f"{where}: {options['host']} can be reached from other machines, and without a "
                "file of tokens anyone there may ask; set args: {tokens: FILE}, or listen at "
                "127.0.0.1"
            )
        if is_loopback(service.host) != is_loopback(str(options["host"])):
            raise ValueError(
                f"{where}: Serve would listen at {options['host']}, and the service would judge "
                f"its callers' hosts as if at {service.host}; give http_options and args the same "
                "host"
            )
    return services


def _unknown_keys(
    kind: type[BaseModel], tree: Mapping[str, Any], below: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each key that a schema does not know, and those that it knows there."""
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, value in tree.items():
        if name not in fields:
            yield below + str(name), [below + known for known in fields]
            continue
        for inner in _models_in(fields[name].annotation):
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Mapping):
                    yield from _unknown_keys(inner, one, f"{below}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schemas that a field's values may have; none where any mapping will do."""
    if isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation):
        inner = [_models_in(one) for one in typing.get_args(annotation)]
        plain = any(typing.get_origin(one) is dict for one in typing.get_args(annotation))
        return [] if plain else [kind for kinds in inner for kind in kinds]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []
