"""Clusters by name: the file, what is meant, and a sentence for each mistake."""

from pathlib import Path

import pytest

from rayreid.cluster.named import Cluster, Clusters, choose, load_clusters
from rayreid.settings import checked

TWO = """
default: lab
clusters:
  lab: {address: "http://127.0.0.1:8265/", token_file: ~/lab.token, results: "s3://runs/reid/"}
  kube: {address: "https://ray.example.org", env: [AWS_ACCESS_KEY_ID, KEY=@/run/secrets/key]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clusters.yaml"
    path.write_text(TWO)
    monkeypatch.setenv("RAYREID_CLUSTERS", str(path))
    return path


@pytest.mark.usefixtures("file")
def test_a_cluster_is_meant_by_name_by_address_or_by_default() -> None:
    clusters = load_clusters()
    name, lab = choose(None, clusters)
    assert (name, lab.address, lab.results) == ("lab", "http://127.0.0.1:8265", "s3://runs/reid")
    assert choose("kube", clusters)[1].env == ("AWS_ACCESS_KEY_ID", "KEY=@/run/secrets/key")
    assert choose("http://10.0.0.1:8265", clusters)[1].address == "http://10.0.0.1:8265"
    only = Clusters(clusters={"kube": clusters.clusters["kube"]})
    assert choose(None, only)[0] == "kube"


@pytest.mark.usefixtures("file")
def test_an_unknown_name_is_told_the_near_one() -> None:
    with pytest.raises(ValueError, match="there is no cluster 'lap'; did you mean 'lab'"):
        choose("lap", load_clusters())
    with pytest.raises(ValueError, match="none is named at all; write it into"):
        choose("lap", Clusters())
    with pytest.raises(ValueError, match=r"which cluster.*--cluster with its address"):
        choose(None, Clusters())
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:8265' is no dashboard's address"):
        choose("127.0.0.1:8265", Clusters())
    two = Clusters(clusters=load_clusters().clusters)
    with pytest.raises(ValueError, match=r"which cluster.*one of lab, kube"):
        choose(None, two)


MISTAKES = {
    "clusters.lab.adress.*did you mean 'address'": "clusters: {lab: {adress: 'http://h'}}",
    "default: there is no cluster 'lap'": "default: lap\nclusters: {lab: {address: 'http://h:1'}}",
    "not to Ray's other ports": "clusters: {lab: {address: 'ray://h:10001'}}",
    "write http://HOST:8265": "clusters: {lab: {address: 'h'}}",
    "would lie in a job's own folder": "clusters: {lab: {address: 'http://h:1', results: runs}}",
    "was given with credentials": "clusters: {lab: {address: 'http://h:1', results: 's3://a:b@c'}}",
    "put the token into a file": "clusters: {lab: {address: 'http://user:secret@h:1'}}",
    "KEY was given with a value": "clusters: {lab: {address: 'http://h:1', env: [KEY=hush]}}",
    "no readable YAML": "clusters: {",
    "names no clusters": "[]",
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_in_the_file_names_the_file_and_the_setting(said: str, file: Path) -> None:
    file.write_text(MISTAKES[said])
    with pytest.raises(ValueError, match=said) as told:
        load_clusters()
    assert str(file) in str(told.value)
    assert "hush" not in str(told.value)
    assert "secret" not in str(told.value)


def test_a_file_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYREID_CLUSTERS", "/nowhere/clusters.yaml")
    with pytest.raises(FileNotFoundError, match="there is no file of clusters at /nowhere"):
        load_clusters()
    monkeypatch.setenv("RAYREID_CLUSTERS", "")
    monkeypatch.setenv("HOME", "/nowhere")
    assert load_clusters() == Clusters()


def test_results_may_be_a_folder_that_nodes_share() -> None:
    assert checked(Cluster, {"address": "http://h:1", "results": "/shared/"}).results == "/shared"
