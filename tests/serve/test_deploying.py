"""Serve's config files."""

from pathlib import Path

import pytest
import yaml

from rayreid.serve.app import build, refuse_apart
from rayreid.serve.deploying import check_serve_config, serve_config, write_serve_config
from rayreid.serve.settings import service_of

GOOD = """
http_options: {host: 127.0.0.1, port: 8000}
applications:
  - name: rayreid
    route_prefix: /
    import_path: rayreid.serve.app:build
    args: {models: [{run: /runs/a}]}
    deployments:
      - {name: a, num_replicas: 2, ray_actor_options: {num_gpus: 0.5}}
  - {name: other, import_path: "other:app", route_prefix: /other, args: {free: 1}}
"""


def test_what_is_written_is_what_serve_reads(tmp_path: Path) -> None:
    settings = service_of([tmp_path / "a", tmp_path / "b"], port=8123, limits={"images": 9})
    write_serve_config(settings, tmp_path / "serve.yaml")
    (read,) = check_serve_config((tmp_path / "serve.yaml").read_text(), "serve.yaml")
    assert read == settings
    assert serve_config(settings)["http_options"]["host"] == "127.0.0.1"


def test_a_good_file_is_accepted() -> None:
    (service,) = check_serve_config(GOOD, "f")
    assert service.models[0].name == "a"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (("applications:", "aplications:"), "no key 'aplications'; did you mean 'applications'"),
        (("route_prefix: /\n", "rout_prefix: /\n"), "'applications.rout_prefix'"),
        (("port: 8000", "prot: 8000"), "'http_options.prot'"),
        (("num_replicas: 2", "num_replica: 2"), "'applications.deployments.num_replica'"),
        (("num_gpus", "num_gpu"), "num_gpu"),
        (("{run: /runs/a}", "{rum: /runs/a}"), r"args\.models\.0"),
        (("host: 127.0.0.1, ", ""), "does not say where to listen"),
        (("127.0.0.1", "0.0.0.0"), "set args: {tokens: FILE}"),
    ],
)
def test_mistakes_that_ray_takes_silently_are_told(changed: tuple[str, str], reason: str) -> None:
    assert changed[0] in GOOD
    with pytest.raises(ValueError, match=reason):
        check_serve_config(GOOD.replace(*changed), "serve.yaml")


def test_other_addresses_with_tokens_are_accepted() -> None:
    text = GOOD.replace("127.0.0.1", "0.0.0.0").replace("args: {mod", "args: {tokens: /t, mod")
    assert check_serve_config(text, "f")


def test_an_application_is_built_of_plain_values(run: Path) -> None:
    args = yaml.safe_load(f"models: [{{run: {run}, on_demand: true}}]\nlimits: {{images: 3}}")
    build(args)
    with pytest.raises(ValueError, match="did you mean 'images'"):
        build({**args, "limits": {"image": 3}})
    with pytest.raises(FileNotFoundError, match="no trained run"):
        build({"models": [{"run": str(run.parent)}]})


def test_a_folder_of_galleries_is_for_one_machine(tmp_path: Path) -> None:
    kept = service_of([tmp_path / "a"], galleries=str(tmp_path / "kept"))
    refuse_apart(kept, 1)
    with pytest.raises(ValueError, match=f"folder {tmp_path}/kept is on one machine, .* has 3"):
        refuse_apart(kept, 3)
    refuse_apart(service_of([tmp_path / "a"]), 3)
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    refuse_apart(service_of([tmp_path / "a"], galleries="postgresql://u@h/d"), 3)
