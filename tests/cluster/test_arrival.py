"""What a job does where it arrives: checks, in a sentence, and secrets from their files."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rayreid.cluster import arrival

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arrived(tmp_path: Path) -> Path:
    shutil.copy(arrival.__file__, tmp_path / "rayreid_arrival.py")
    return tmp_path


def arrive(
    folder: Path, *flags: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *flags, "rayreid_arrival.py", "train", "it's; echo $HOME"], cwd=folder,
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def of_its_own(folder: Path) -> None:
    (folder / "rayreid").mkdir()
    code = "import os, sys; print(sys.argv[1:], len(os.environ.get('KEY', '')))"
    (folder / "rayreid" / "__main__.py").write_text(code)


def test_what_it_needs_is_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, arrival.PYTHON_NEEDED))


def test_the_trees_own_rayreid_runs_with_secrets_from_files(arrived: Path) -> None:
    of_its_own(arrived)
    (arrived / "secret").write_text("hush-hush\n")
    answer = arrive(arrived, RAYREID_REFERENCES=f'["KEY=@{arrived}/secret"]')
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "['train', \"it's; echo $HOME\"] 9\n"


@pytest.mark.parametrize(
    ("reference", "said"),
    [("KEY=@/nowhere/key", "KEY is to be read from /nowhere/key on"), ("KEY", "KEY is not set on")],
)
def test_a_secret_that_is_not_there_is_named(arrived: Path, reference: str, said: str) -> None:
    of_its_own(arrived)
    answer = arrive(arrived, RAYREID_REFERENCES=f'["{reference}"]')
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert said in line


def test_workers_are_given_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    monkeypatch.setenv("RAYREID_REFERENCES", f'["KEY=@{tmp_path}/secret"]')
    monkeypatch.delenv("KEY", raising=False)
    arrival.give_references()
    assert os.environ.pop("KEY") == "hush"
    monkeypatch.setenv("RAYREID_REFERENCES", '["NOT_THERE"]')
    with pytest.raises(RuntimeError, match="NOT_THERE is not set on"):
        arrival.give_references()


def test_another_version_of_rayreid_is_refused(arrived: Path) -> None:
    answer = arrive(arrived, RAYREID_SUBMITTED_BY="9.9.9")
    assert answer.returncode == 2
    assert "and this was submitted by 9.9.9; install 9.9.9 there" in answer.stderr


def test_a_python_without_the_packages_is_told_which(arrived: Path) -> None:
    answer = arrive(arrived, "-S", RAYREID_SUBMITTED_BY="0.1.0")
    assert answer.returncode == 2
    assert "lacks click, optuna" in answer.stderr


def _older_python() -> str | None:
    for place in (*map(shutil.which, ("python3.10", "python3.9")), *Path.home().glob(
        ".pyenv/versions/3.10*/bin/python"
    )):  # fmt: skip
        runs = place and subprocess.run([place, "-c", ""], capture_output=True, check=False)
        if runs and runs.returncode == 0:
            return str(place)
    return None


@pytest.mark.skipif(_older_python() is None, reason="there is no older Python here")
def test_an_older_python_is_refused_in_a_sentence_not_a_traceback(arrived: Path) -> None:
    answer = arrive(arrived, python=str(_older_python()), RAYREID_SUBMITTED_BY="0.1.0")
    assert answer.returncode == 2
    assert "and rayreid needs 3.11 or newer" in answer.stderr
    assert "Traceback" not in answer.stderr
