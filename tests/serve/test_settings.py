"""A models.yaml, read and refused."""

from pathlib import Path

import pytest

from rayreid.serve.galleries.opening import check_address
from rayreid.serve.settings import ServiceSettings, load_service, service_of

FILE = """
models:
  - {run: runs/a, replicas: 2, gpus: 0.5}
  - {name: spare, run: /elsewhere/b/best, on_demand: true}
tokens: tokens.json
limits: {images: 7}
"""


def test_a_file_describes_a_service(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(FILE)
    service = load_service(file, port=9000)
    first, second = service.models
    assert (first.name, first.run, first.replicas) == ("a", str(tmp_path / "runs/a"), 2)
    assert (second.name, second.run) == ("spare", "/elsewhere/b/best")
    assert (service.tokens, service.port) == (tmp_path / "tokens.json", 9000)
    assert service.limits.images == 7
    plain = service.model_dump(mode="json")
    assert ServiceSettings.model_validate(plain) == service


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (("replicas", "replica"), "no setting 'models.0.replica'"),
        (("images: 7", "image: 7"), "no setting 'limits.image'; did you mean 'images'"),
        (("name: spare", "name: a"), "two models are named 'a'"),
        (("name: spare", "name: a/b"), "no name of a model"),
        (("name: spare", "name: ingress"), "a part of the service"),
        (("gpus: 0.5", "gpus: -1"), "models.0.gpus"),
        (("tokens: tokens.json", "host: 0.0.0.0"), "set tokens, or listen at 127.0.0.1"),
        (("tokens: tokens.json", "host: example.org"), "can be reached from other machines"),
        (("limits: {images: 7}", "limits: {"), "not readable as YAML"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, changed: tuple[str, str], reason: str) -> None:
    file = tmp_path / "models.yaml"
    assert changed[0] in FILE
    file.write_text(FILE.replace(*changed))
    with pytest.raises(ValueError, match=reason):
        load_service(file)


def test_the_readmes_file_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (text,) = (part for part in readme.split("```yaml\n")[1:] if part.startswith("models:"))
    (tmp_path / "models.yaml").write_text(text.split("```")[0])
    service = load_service(tmp_path / "models.yaml")
    assert [model.name for model in service.models] == ["gmn", "qaconv"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"models\.yaml"):
        load_service(tmp_path / "models.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert service_of([Path("results/best")], host=host).models[0].name == "results"


@pytest.mark.parametrize("address", ["postgresql://u:p@h/d", "postgresql://u@h/d?password=p"])
def test_a_database_is_given_without_its_password(address: str) -> None:
    with pytest.raises(ValueError, match="put it into PGPASSWORD"):
        check_address(address)
