"""Serve's config files, and runs in object stores that they may name."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from rayreid.checkpoint import Trained, load_trained
from rayreid.cli import cli
from rayreid.client import Client
from rayreid.data.storage import Storage, below
from rayreid.ranking.calibration import Calibration
from rayreid.serve.app import _matcher, build, described, refuse_apart
from rayreid.serve.deploying import check_serve_config, serve_config, write_serve_config
from rayreid.serve.models import load
from rayreid.serve.settings import ServiceSettings, load_service, service_of
from tests.nodes import free_ports, loopback_cluster
from tests.ranking.test_calibration import calibration
from tests.serve.pictures import PATH, expected, in_json, picture
from tests.store import ObjectStore

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
    assert check_serve_config(text.replace("{tokens", "{host: 0.0.0.0, tokens"), "f")
    with pytest.raises(
        ValueError, match=r"as if at 127\.0\.0\.1; give http_options and args the same"
    ):
        check_serve_config(text, "f")


def test_an_application_is_built_of_plain_values(run: Path) -> None:
    args = yaml.safe_load(f"models: [{{run: {run}, on_demand: true}}]\nlimits: {{images: 3}}")
    build(args)
    with pytest.raises(ValueError, match="did you mean 'images'"):
        build({**args, "limits": {"image": 3}})
    with pytest.raises(FileNotFoundError, match="no trained run"):
        build({"models": [{"run": str(run.parent)}]})


def test_serve_bounds_only_who_waits_for_a_model_that_is_loaded() -> None:
    def bounds(**model: object) -> tuple[int, int, float | None]:
        settings = ServiceSettings(models=[{"run": "/runs/a", **model}])
        deployment = _matcher(settings.models[0], settings)
        scaling = deployment._deployment_config.autoscaling_config
        return (
            deployment.max_ongoing_requests,
            deployment.max_queued_requests,
            scaling and scaling.target_ongoing_requests,
        )

    # A burst of all that is admitted has room in a replica, and is not refused on its way there.
    assert bounds() == (64, 64, None)
    # Half of the 64 that are admitted are enough for both of two replicas, or all of four.
    assert bounds(on_demand=True, replicas=2) == (64, 24, 16)
    assert bounds(on_demand=True, replicas=4) == (64, 24, 8)


def test_a_folder_of_galleries_is_for_one_machine(tmp_path: Path) -> None:
    kept = service_of([tmp_path / "a"], galleries=str(tmp_path / "kept"))
    refuse_apart(kept, 1)
    with pytest.raises(ValueError, match=f"folder {tmp_path}/kept is on one machine, .* has 3"):
        refuse_apart(kept, 3)
    refuse_apart(service_of([tmp_path / "a"]), 3)
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    refuse_apart(service_of([tmp_path / "a"], galleries="postgresql://u@h/d"), 3)


def test_the_kuberay_file_is_checked_as_any_other() -> None:
    manifest = yaml.safe_load(Path("clusters/rayservice.yaml").read_text())
    text = manifest["spec"]["serveConfigV2"]
    (service,) = check_serve_config(text, "rayservice.yaml")
    assert [model.run for model in service.models] == ["/runs/gmn"]
    assert service.tokens == Path("/callers/tokens")
    for misspelt, reason in {
        text.replace("gpus:", "gpu:"): "args.models.0.gpu",
        text.replace("tokens:", "token:"): "'args.token'; did you mean 'tokens'",
        text.replace("import_path", "import_pth"): "'applications.import_pth'",
    }.items():
        with pytest.raises(ValueError, match=reason):
            check_serve_config(misspelt, "rayservice.yaml")


def kept(run: Path, address: str) -> str:
    """Put a run into a store; return its address."""
    storage = Storage(below(address, "tiny"))
    for file in (run / "best").iterdir():
        storage.upload(file, f"best/{file.name}")
    ranking = {"fingerprint": load_trained(run).fingerprint}
    storage.write("ranking.json", json.dumps(ranking).encode())
    return storage.address


def test_runs_in_a_store_are_served(
    run: Path,
    other_run: Path,
    object_store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    address = kept(run, object_store.address(tmp_path.name))
    (tmp_path / "models.yaml").write_text(f"models: [{{run: '{address}'}}, {{name: b, run: b}}]")
    service = load_service(tmp_path / "models.yaml")
    assert [(model.name, model.run) for model in service.models] == [
        ("tiny", address),
        ("b", str(tmp_path / "b")),
    ]
    file = tmp_path / "serve.yaml"
    asked = ["serve", address, f"--write-serve-config={file}"]
    assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
    (service,) = check_serve_config(file.read_text(), file)
    served = described(service)["tiny"]
    trained = load_trained(run)
    assert (served.fingerprint, served.calibration) == (trained.fingerprint, None)
    # Calibrated later: the weights are here already, the calibration is not.
    mine = calibration(fingerprint=served.fingerprint, preprocessing=served.preprocessing)
    Storage(address).write("best/calibration.json", mine.model_dump_json().encode())
    assert described(service)["tiny"].calibration == Calibration(**mine.model_dump())
    # A replica that starts while the store holds other weights, or is away, has its own still.
    kept(other_run, object_store.address(tmp_path.name))
    assert load(address, served).fingerprint == trained.fingerprint
    with pytest.raises(ValueError, match=r"of weights with the .* calibrate again"):
        described(service)
    Storage(address).remove("best/calibration.json")
    other = described(service)["tiny"]
    assert (other.fingerprint, other.calibration) == (load_trained(other_run).fingerprint, None)


@pytest.mark.parametrize("run", ["s3://", "s3://key:secret@bucket/run", "http://host/run"])
def test_addresses_that_are_none_are_refused(run: str) -> None:
    with pytest.raises(ValueError, match=r"models\.0\.run"):
        service_of([run])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_serve_deploy_puts_it_on_a_cluster(
    run: Path,
    other_run: Path,
    trained: Trained,
    object_store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    (port,) = free_ports(1)
    models, file = tmp_path / "models.yaml", tmp_path / "serve.yaml"
    environment = {
        **object_store.environment,
        "XDG_CACHE_HOME": str(tmp_path / "there"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rayreid.guard.door.middlewares",
    }
    images, pairs = [picture(0), picture(1)], [(0, 1)]

    with loopback_cluster(2, environment=environment) as cluster:

        def serve(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "ray.serve.scripts", *command, "-a", cluster.dashboard],
                env=cluster.environment, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        def deployed(run: str, fingerprint: str) -> None:
            """Deploy by the file that the verb writes, and wait until it answers."""
            models.write_text(f"models: [{{name: tiny, run: '{run}'}}]\nport: {port}\n")
            asked = ["serve", f"--config={models}", f"--write-serve-config={file}"]
            assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
            serve("deploy", str(file))
            deadline, told = time.monotonic() + 120, ""
            while fingerprint not in told:
                assert time.monotonic() < deadline, told + serve("status")
                time.sleep(0.5)
                try:
                    # The HTTP side may be there before the model is.
                    ready = httpx.get(f"{url}/readyz", trust_env=False)
                    told = httpx.get(f"{url}/healthz", trust_env=False).text
                except httpx.TransportError as error:
                    told = str(error)
                else:
                    told = told if ready.status_code == 200 else ready.text

        url = f"http://127.0.0.1:{port}"
        deployed(kept(run, object_store.address(tmp_path.name)), trained.fingerprint)
        with Client(url) as client:
            answer = client.match_pairs(pairs, images=images)
        np.testing.assert_allclose(answer.scores, expected(trained, images, pairs), atol=1e-5)
        assert list((tmp_path / "there").rglob("weights.safetensors")), "fetched where it is loaded"
        long = httpx.get(f"{url}/healthz", headers={"X-Long": "x" * 20_000}, trust_env=False)
        assert long.status_code == 431, "the door stands in the proxy"
        other = load_trained(other_run)
        deployed(str(other_run), other.fingerprint)
        # Until the new replica takes over the old one answers, and says so.
        by = {one.fingerprint: expected(one, images, pairs) for one in (trained, other)}
        deadline, answered = time.monotonic() + 60, {"fingerprint": ""}
        while answered["fingerprint"] != other.fingerprint:
            assert time.monotonic() < deadline, answered
            asked = httpx.post(f"{url}{PATH}", json=in_json(images, pairs), trust_env=False)
            answered = asked.json()
            np.testing.assert_allclose(answered["scores"], by[answered["fingerprint"]], atol=1e-5)
        serve("shutdown", "-y")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", trust_env=False)
