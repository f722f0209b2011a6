"""All of clusters/: versions that agree, head comments, no secrets, no hosts; the image's paths."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def test_they_are_those() -> None:
    assert FILES == [
        "Dockerfile", "aws.yaml", "gcp.yaml", "local.yaml", "raycluster.yaml", "rayjob.yaml",
        "rayservice.yaml", "slurm.sh",
    ]  # fmt: skip
    readme = (FOLDER / "README.md").read_text()
    assert all(name in readme for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_says_what_it_starts_how_it_ends_and_what_it_costs_to_forget(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    head = [line for line in lines[:40] if line.startswith("#")]
    said = "\n".join(head)
    assert "# What it starts" in said
    assert re.search(r"# (Start|Build) ", said)
    assert re.search(r"# (Stop|Remove) ", said)
    assert "# If forgotten" in said


@pytest.mark.parametrize("name", FILES)
def test_images_are_named_without_a_registry_and_versions_agree(name: str) -> None:
    text = (FOLDER / name).read_text()
    for image in re.findall(r"image: *(\S+)", text):
        assert image == f"rayreid:{PROJECT['version']}", image
    ray = re.search(r"ARG RAY=(\S+)", DOCKERFILE)
    assert ray
    for version in re.findall(r"rayVersion: (\S+)", text):
        assert version == ray[1]
    assert not re.search(
        r"[a-z0-9-]+\.(io|com|dev|cloud)/", re.sub("ray.io/v1|nvidia.com/gpu", "", text)
    )


def test_the_image_is_of_this_project() -> None:
    for line in re.findall(r"(?m)^COPY (.+)$", DOCKERFILE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    copied = {word for line in re.findall(r"(?m)^COPY (.+)$", DOCKERFILE) for word in line.split()}
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "rayreid"} <= copied
    python = re.search(r"ARG PYTHON=(\S+)", DOCKERFILE)
    ray = re.search(r"ARG RAY=(\S+)", DOCKERFILE)
    assert python
    assert ray
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    assert python[1] in SpecifierSet(PROJECT["requires-python"])
    (needed,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray"]
    assert ray[1] in needed.specifier
    assert f"rayreid:{PROJECT['version']}" in DOCKERFILE
