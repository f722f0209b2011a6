"""The README's walk from a laptop to a cluster, word for word, on nodes of this machine.

With RAYREID_TRANSCRIPT=clusters/walk.md in the environment, what was printed is written there.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rayreid.cluster.named import Cluster, Clusters
from rayreid.cluster.package import pack
from rayreid.run import commit
from rayreid.settings import checked
from tests.nodes import loopback_cluster
from tests.store import ObjectStore

ROOT = Path(__file__).parents[2]

HEAD = """# The walk of the README, as it was printed

Made by `RAYREID_TRANSCRIPT=clusters/walk.md .venv/bin/python -m pytest -m slow
tests/cluster/test_walk.py` at commit {commit}: two nodes of one machine ({cores} cores), started
by `ray start` with a token, and a server that speaks S3 (moto, which checks signatures). Times are
of a machine that did other work, and addresses are those of that day.
"""


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found, mark
    return found[1]


def commands() -> list[str]:
    """Return the commands of the walk, each with its continuation lines."""
    return re.findall(r"(?m)^rayreid(?:.*\\\n)*.*$", block("cluster walk"))


def test_the_readmes_file_of_clusters_is_one() -> None:
    tree = yaml.safe_load(block("cluster file"))
    for name, settings in tree["clusters"].items():
        assert set(settings) <= set(Cluster.model_fields), name
    checked(Clusters, tree)
    words = [command.split()[1] for command in commands()]
    assert {"clusters", "submit", "logs", "jobs", "fetch", "stop"} <= set(words)


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_the_walk_works_word_for_word(store_server: ObjectStore, tmp_path: Path) -> None:
    home, tree = tmp_path / "home", tmp_path / "rayreid"
    for file in pack(ROOT).files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tree / file)
    secrets = {"AWS_ACCESS_KEY_ID": store_server.key, "AWS_SECRET_ACCESS_KEY": store_server.secret}
    for name, value in secrets.items():
        path = tmp_path / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(value)
    without_aws = {"AWS_EC2_METADATA_DISABLED": "true"}
    with loopback_cluster(2, head=2, environment=without_aws, bare=True) as cluster:
        lab = yaml.safe_load(block("cluster file"))["clusters"]["lab"] | {
            "address": cluster.dashboard,
            "token_file": str(cluster.token_file),
            "results": store_server.address("results"),
            "env": [f"{name}=@{tmp_path}/secrets/{name}" for name in secrets],
        }
        file = home / ".config" / "rayreid" / "clusters.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump({"clusters": {"lab": lab}}))
        environment = {
            **store_server.environment,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        said, printed = HEAD.format(commit=commit(), cores=os.cpu_count()), {}
        for command in commands():
            began = time.monotonic()
            answer = subprocess.run(
                ["bash", "-c", command], cwd=tree, env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
            )  # fmt: skip
            took = time.monotonic() - began
            said += f"\n```\n$ {command}\n{answer.stdout}```\n\n{took:.0f} s\n"
            assert answer.returncode == 0, said
            printed[command.split("--name ")[-1].split()[0] if "--name" in command else command] = (
                answer.stdout
            )
    assert "epoch 4/4" in printed["rayreid logs first --follow"]
    assert "first succeeded" in printed["rayreid jobs"]
    assert re.search(r"\| synthetic=law-3 \| +gmn \|", printed["ranked"])
    assert "long stopped" in printed["rayreid stop long"]
    run = tree / "results" / "first"
    assert (run / "best" / "experiment.yaml").is_file()
    assert "synthetic=law-3" in (run / "ranking.json").read_text()
    study = tree / "results" / "small"
    assert {"best.yaml", "report.html", "trials.parquet"} <= {f.name for f in study.iterdir()}
    assert store_server.secret not in said
    if target := os.environ.get("RAYREID_TRANSCRIPT"):
        (ROOT / target).write_text(said)
