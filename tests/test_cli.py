"""The verbs: what they print, and that mistakes are one sentence."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayreid.__main__ import interrupted, main
from rayreid.cli import cli, make_experiment
from rayreid.search_space import load_space
from tests.miniature import MINIATURE

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SMALL = [
    "--source=synthetic=snow",
    "--source=synthetic=subway",
    *(f"--set={path}={value}" for path, value in MINIATURE.items() if path != "sources"),
    "--set=epochs=2",
]


def rayreid(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    code = "from rayreid.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env={**os.environ, **(environment or {})},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of results with one trained run, trained over the command line."""
    folder = tmp_path_factory.mktemp("results")
    answer = rayreid("train", "gmn", *SMALL, f"--results={folder}", "--name=run", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert "epoch 2/2" in answer.stdout
    assert "new people of snow: mAP" in answer.stdout
    return folder


def test_a_finished_run_is_not_trained_again(results: Path) -> None:
    answer = rayreid("train", "gmn", *SMALL, f"--results={results}", "--name=run", cwd=results)
    assert "is finished" in answer.stdout
    again = f"--from={results / 'run' / 'experiment.yaml'}"
    answer = rayreid("train", "gmn", again, f"--results={results}", "--name=run", cwd=results)
    assert "is finished" in answer.stdout, "its experiment.yaml is complete"


def test_evaluate_prints_the_method_beside_the_reference(results: Path) -> None:
    target = "synthetic=law-3"
    answer = rayreid("evaluate", "run", "--target", target, "--target", "synthetic=snow",
                     cwd=results)  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in answer.stdout.splitlines()]
    names = [row[1:3] for row in rows if len(row) > 3 and row[1].startswith("synthetic")]
    assert names[:2] == [[target, "gmn"], [target, "colour histogram"]]
    assert "synthetic=snow is a source of this run: not an unseen domain" in answer.stdout
    kept = json.loads((results / "run" / "ranking.json").read_text())["targets"][target]
    assert kept["method"].keys() >= {"mAP", "rank1", "mINP", "queries", "unmatched"}


def test_what_adapted_to_a_target_says_so_wherever_it_is_ranked(tmp_path: Path) -> None:
    target = "synthetic=law-3"
    given = (*SMALL, "--set=epochs=1", "--results=.", "--name=run")
    answer = rayreid("train", "daam", *given, f"--set=target={target}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert json.loads((tmp_path / "run" / "ranking.json").read_text())["adapted_to"] == target
    answer = rayreid("evaluate", "run", "--target", target, "--target", "synthetic=law-4",
                     cwd=tmp_path)  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in answer.stdout.splitlines()]
    assert ["synthetic=law-3", "daam (adapted)"] in [row[1:3] for row in rows]
    assert ["synthetic=law-4", "daam"] in [row[1:3] for row in rows]
    assert f"daam has learnt from unlabelled crops of {target}" in answer.stdout
    answer = rayreid("train", "daam", *SMALL, "--results=.", "--name=other", cwd=tmp_path)
    assert answer.returncode == 2
    assert "daam adapts to a target, of which it needs unlabelled crops" in answer.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["multiviewx_a", "multiviewx_b"])
def test_evaluate_ranks_input_that_was_not_drawn_here(results: Path, name: str) -> None:
    answer = rayreid("evaluate", "run", "--target", f"market1501={SHARED / name}", cwd=results)
    assert answer.returncode == 0, answer.stderr
    kept = json.loads((results / "run" / "ranking.json").read_text())["targets"]
    found = kept[f"market1501={(SHARED / name).resolve()}"]
    reference = {"multiviewx_a": 0.5747498, "multiviewx_b": 0.7618684}[name]
    assert found["colour histogram"]["mAP"] == pytest.approx(reference, abs=1e-3)
    assert 0 < found["method"]["mAP"] < 1


MISTAKES = {
    "there is no method 'gnm'; did you mean 'gmn'?": ["train", "gnm", "--source=synthetic=snow"],
    "no domain to learn from; add --source": ["train", "gmn"],
    "'snow' is not a data set": ["train", "gmn", "--source=snow"],
    "did you mean 'dropout_rate'": [
        "train", "gmn", *SMALL, "--set=config.dropout_rat=0.3",
    ],
    "is not an assignment": ["train", "gmn", *SMALL, "--set=config.dropout_rate"],
    "no data set at": ["train", "gmn", *SMALL, "--source=market1501=nowhere"],
    "there is no settings file": ["train", "gmn", "--from=nowhere.yaml"],
    "is no trained run": ["evaluate", "nowhere", "--target=synthetic=snow"],
    "Not a directory": ["train", "gmn", *SMALL, "--results=/dev/null"],
    "is no folder; give one": ["quickstart", "--to=/dev/null"],
    "these are settings of baseline, not of gmn": [
        "train", "gmn", *SMALL, "--set=method=baseline",
    ],
    "is no name of a .png file": ["data", "sheet", "snow", "--people=1", "--to=/tmp"],
    "there is no search space": ["tune", "gmn", "nowhere.yaml", *SMALL],
}  # fmt: skip


@pytest.fixture
def mistaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Yield what runs a command line that is wrong, in this process, and returns what it says."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rayreid", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capfd.readouterr().err

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_one_sentence_and_code_2(said: str, mistaken: Callable[..., str]) -> None:
    (line,) = mistaken(*MISTAKES[said]).splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_weights_that_cannot_be_fetched_are_named(tmp_path: Path) -> None:
    answer = rayreid("train", "gmn", *SMALL, "--set=trunk.weights=timm", cwd=tmp_path,
                     environment={"HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert answer.returncode == 2
    assert "the weights of test_resnet could not be had from timm's hub" in answer.stderr
    assert "set trunk.weights to a file" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_set_and_searched_is_a_mistake(mistaken: Callable[..., str]) -> None:
    space = ROOT / "search_spaces" / "gmn.yaml"
    said = mistaken("tune", "gmn", str(space), *SMALL, "--set=optimiser.lr=1")
    assert "optimiser.lr is both set and searched" in said
    assert "optimiser.lr" in load_space(space)


def test_what_breaks_on_ctrl_c_is_no_mistake() -> None:
    def error() -> BaseException:
        try:
            try:
                raise KeyboardInterrupt
            finally:
                Path("no such lock").rename("elsewhere")
        except OSError as error:
            return error

    assert interrupted(error())
    assert not interrupted(OSError("disk full"))


def test_methods_lists_what_a_method_can_be_told() -> None:
    shown = CliRunner().invoke(cli, ["methods"]).output
    assert "baseline" in shown
    assert "gmn" in shown
    shown = CliRunner().invoke(cli, ["methods", "gmn"]).output
    assert "config.dropout_rate = 0.5" in shown
    assert "Share of channels that DP drops." in shown
    assert "0.00035" in shown


def test_a_sheet_is_drawn(tmp_path: Path) -> None:
    to = tmp_path / "sheet.png"
    shown = CliRunner().invoke(
        cli, ["data", "sheet", "snow", "--people=2", "--cameras=2", "--height=32", f"--to={to}"]
    )
    assert shown.exit_code == 0, shown.exception
    assert to.read_bytes().startswith(b"\x89PNG")


def test_set_wins_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "start.yaml"
    path.write_text("method: gmn\nepochs: 7\noptimiser: {lr: 2e-3}\nsources: [synthetic=snow]\n")
    made = make_experiment("gmn", [], path, ["epochs=9"])
    assert (made.epochs, made.optimiser.lr) == (9, 2e-3)
    with pytest.raises(ValueError, match="settings of gmn, not of baseline"):
        make_experiment("baseline", [], path, [])
