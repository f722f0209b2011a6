"""The files for Ray's cluster launcher: Ray's own validator, and what it does not look into."""

from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[2] / "clusters"
LAUNCHED = ("local", "aws", "gcp")


def load(name: str) -> dict[str, Any]:
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_it(name: str) -> None:
    validate_config(prepare_config(load(name)))


def test_ray_would_refuse_a_misspelt_key() -> None:
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config({**load("aws"), "idle_timeout_minute": 5}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_asks_for_the_token_and_the_dashboard_is_the_heads_alone(name: str) -> None:
    config = load(name)
    (token,) = config["file_mounts"].items()
    assert token == ("~/.ray/auth_token", f"~/.config/rayreid/{token[1].split('/')[-1]}")
    assert token[1].endswith(".token"), "outside the repository"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    (worker,) = [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    assert head.startswith("RAY_AUTH_MODE=token ")
    assert worker.startswith("RAY_AUTH_MODE=token ")
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head.split()


def test_local_machines_are_all_meant() -> None:
    config = load("local")
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])


def refused_by_ec2(node: dict[str, Any]) -> str:
    """Return what EC2 would refuse in a node's settings, by the definition of its own client."""
    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    return str(report.generate_report())


def test_aws_knows_every_key_of_its_nodes() -> None:
    types = load("aws")["available_node_types"]
    for kind in types.values():
        assert refused_by_ec2(kind["node_config"]) == ""
    assert "InstanceTyp" in refused_by_ec2({"InstanceTyp": "m5.large"})
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"], "a driver lives there"


GCP = {
    "machineType": str,
    "disks": [{
        "boot": bool, "autoDelete": bool, "type": str,
        "initializeParams": {"diskSizeGb": int, "sourceImage": str},
    }],
    "scheduling": {
        "provisioningModel": str, "instanceTerminationAction": str, "onHostMaintenance": str,
        "automaticRestart": bool,
    },
}  # fmt: skip
"""Fields of Compute Engine's instance, compared once with its published definition."""


def misfits(given: Any, shape: Any, path: str = "node") -> list[str]:
    if isinstance(shape, type):
        return [] if type(given) is shape else [path]
    if isinstance(shape, list):
        return [m for i, item in enumerate(given) for m in misfits(item, shape[0], f"{path}[{i}]")]
    return [f"{path}.{key}" for key in given if key not in shape] + [
        m for key in given if key in shape for m in misfits(given[key], shape[key], f"{path}.{key}")
    ]


def test_google_knows_every_key_of_its_nodes() -> None:
    types = load("gcp")["available_node_types"]
    for kind in types.values():
        assert misfits(kind["node_config"], GCP) == []
    assert misfits({"machinType": "x", "disks": [{"boot": 1}]}, GCP) == [
        "node.machinType", "node.disks[0].boot",
    ]  # fmt: skip
    spot = types["gpu"]["node_config"]["scheduling"]
    assert (spot["provisioningModel"], spot["onHostMaintenance"]) == ("SPOT", "TERMINATE")
    assert "scheduling" not in types["head"]["node_config"], "a driver lives there"


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_nothing_but_the_head_stays_without_work(name: str) -> None:
    config = load(name)
    assert config["provider"]["cache_stopped_nodes"] is False
    workers = {k: v for k, v in config["available_node_types"].items() if k != "head"}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
