"""Commands that are to run elsewhere: checked here, completed for there."""

import shlex
from pathlib import Path

import click
import pytest

from rayreid.cli import cli
from rayreid.cli.submitted import prepare
from rayreid.cluster.named import Cluster
from rayreid.cluster.submission import Submission

LAB = Cluster(address="http://127.0.0.1:8265", results="s3://runs/reid", env=("KEY=@/run/key",))
BARE = Cluster(address="http://127.0.0.1:8265")
TRAIN = ("train", "gmn", "--source", "synthetic=snow")


def prepared(
    *arguments: str, cluster: Cluster = LAB, name: str | None = None, env: tuple[str, ...] = ()
) -> tuple[Submission, list[str]]:
    return prepare(cli, arguments, cluster, name, env)


def test_results_and_name_are_the_clusters_where_the_command_says_none() -> None:
    submission, _ = prepared(*TRAIN)
    name = submission.name
    assert name.startswith("train-gmn-")
    assert submission.arguments == (*TRAIN, "--results", "s3://runs/reid", "--name", name)
    assert submission.results == f"s3://runs/reid/{name}"
    given, _ = prepared(*TRAIN, "--results=/shared", "--name=run")
    assert (given.name, given.results) == ("run", "/shared/run")
    assert given.arguments == (*TRAIN, "--results=/shared", "--name=run")


def test_the_same_command_has_the_same_name_and_another_another() -> None:
    (one, _), (same, _), (other, _) = (
        prepared(*TRAIN),
        prepared(*TRAIN),
        prepared(*TRAIN, "--set=seed=1"),
    )
    assert one.name == same.name != other.name
    assert prepared(*TRAIN, name="mine")[0].name == "mine"
    assert prepared(*TRAIN, name="mine")[0].results == "s3://runs/reid/mine"


def test_secrets_are_the_clusters_and_the_commands() -> None:
    submission, _ = prepared(*TRAIN, env=("OTHER", "KEY"))
    assert list(map(str, submission.references)) == ["KEY", "OTHER"]
    assert "/run/key" in submission_of_the_clusters().environment(None)["RAYREID_REFERENCES"]


def submission_of_the_clusters() -> Submission:
    return prepared(*TRAIN)[0]


def test_a_run_is_evaluated_where_it_is() -> None:
    bare, _ = prepared("evaluate", "run-1", "--target", "synthetic=law-1")
    assert bare.arguments[1] == bare.results == "s3://runs/reid/run-1"
    assert bare.name.startswith("evaluate-run-1-")
    whole, _ = prepared("evaluate", "s3://b/run-2", "--target", "synthetic=law-1")
    assert whole.results == "s3://b/run-2"


def test_a_benchmark_leaves_its_log() -> None:
    assert prepared("benchmark", "data", cluster=BARE)[0].results is None
    submission, _ = prepared("benchmark", "data", "--to=/shared/figures", cluster=BARE)
    assert submission.results == "/shared/figures"
    assert submission.name.startswith("benchmark-data-")


def test_files_that_a_command_names_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "results").mkdir(parents=True)
    (tree / "results" / "best.yaml").write_text("epochs: 1")
    (tmp_path / "outside.yaml").write_text("")
    monkeypatch.chdir(tree)
    assert prepared(*TRAIN, "--from", "results/best.yaml")[1] == ["results/best.yaml"]
    assert prepared(*TRAIN, "--set=trunk.weights=./results/best.yaml")[1] == ["results/best.yaml"]
    with pytest.raises(ValueError, match=r"\.\./outside.yaml lies outside .*; copy it here"):
        prepared(*TRAIN, "--from", "../outside.yaml")


@pytest.mark.parametrize(
    "word", ["a b", "$HOME", "'; rm -rf /; '", "`id`", "$(id)", "a\nb", "--x=|y", "é", "*"]
)
def test_no_word_reaches_the_shell_as_more_than_a_word(word: str) -> None:
    submission, _ = prepared(*TRAIN, f"--set=config.x={word}")
    line = submission.entrypoint("/opt/my python/bin/python")
    assert shlex.split(line)[2:] == list(submission.arguments)
    assert f"--set=config.x={word}" in shlex.split(line)


MISTAKES = {
    "there is no command of a job 'serve'": ("serve", "run"),
    "there is no command of a job 'trian'; did you mean 'train'": ("trian", "gmn"),
    "No such option.*--sorce": ("train", "gmn", "--sorce", "synthetic=snow"),
    "Missing parameter: method": ("train",),
    "benchmark needs a command of its own": ("benchmark",),
    "No such command 'datta'": ("benchmark", "datta"),
    "would lie in a job's own folder": (*TRAIN, "--results=results"),
    "with a password, which Ray would keep": (*TRAIN, "--set=x=postgresql://a:b@db/x"),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_told_here_before_anything_is_sent(said: str) -> None:
    with pytest.raises((ValueError, click.UsageError), match=said):
        prepared(*MISTAKES[said])


def test_what_knows_no_stores_is_not_sent_to_one() -> None:
    @click.command()
    @click.option("--results", type=click.Path(path_type=Path), default=Path("results"))
    def train(results: Path) -> None:
        raise AssertionError(results)

    root = click.Group(commands={"train": train})
    with pytest.raises(ValueError, match="train keeps its results in folders alone"):
        prepare(root, ["train"], LAB, None, [])


def test_results_that_would_be_lost_are_refused() -> None:
    with pytest.raises(ValueError, match=r"where do the results go.*own folder is removed"):
        prepared(*TRAIN, cluster=BARE)
    with pytest.raises(ValueError, match="is no name of a job"):
        prepared(*TRAIN, name="a/b")
