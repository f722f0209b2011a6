"""States of a trial: the newest whole one serves, and there are never more than two."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from rayreid.batch import Domain
from rayreid.experiment import Experiment, compose
from rayreid.learner import STATE, Learner
from rayreid.run import open_sources
from rayreid.tune.states import REPORT, States
from tests.miniature import MINIATURE


@pytest.fixture(scope="module")
def learnt() -> tuple[Experiment, list[Domain], Learner]:
    experiment = compose("baseline", MINIATURE, {"steps_per_epoch": 1})
    sources = open_sources(experiment)
    learner = Learner(experiment, sources, None, rank=0, world=1, device=torch.device("cpu"))
    learner.advance()
    return experiment, sources, learner


def saved(folder: Path, learner: Learner, epochs: int) -> States:
    states = States(folder)
    for epoch in range(1, epochs + 1):
        states.save([learner, learner], {"epoch": epoch})
    return states


def test_two_states_are_kept_and_the_newest_is_found(
    tmp_path: Path, learnt: tuple[Experiment, list[Domain], Learner]
) -> None:
    *_, learner = learnt
    states = saved(tmp_path / "states", learner, 3)
    kept = sorted(path.name for path in states.folder.iterdir())
    assert kept == ["epoch_00002", "epoch_00003"]
    found = states.newest()
    assert found is not None
    assert found[1] == {"epoch": 3}
    states.clear()
    assert states.newest() is None
    assert not states.folder.exists()


@pytest.mark.parametrize("broken", ["cut short", "no report", "a report cut short", "a fold lost"])
def test_of_a_broken_state_the_one_before_serves_and_it_is_said(
    tmp_path: Path,
    learnt: tuple[Experiment, list[Domain], Learner],
    broken: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    experiment, sources, learner = learnt
    states = saved(tmp_path, learner, 2)
    newest = tmp_path / "epoch_00002"
    if broken == "cut short":
        weights = newest / "fold_1" / STATE
        weights.write_bytes(weights.read_bytes()[:-100])
    elif broken == "no report":
        (newest / REPORT).unlink()
    elif broken == "a report cut short":
        (newest / REPORT).write_text('{"row": {"epo')
    else:
        shutil.rmtree(newest / "fold_0")
    with caplog.at_level(logging.WARNING):
        found = states.newest()
    assert found is not None
    assert found[0].name == "epoch_00001"
    assert f"the state {newest} is broken" in caplog.text
    again = Learner(experiment, sources, None, rank=0, world=1, device=torch.device("cpu"))
    again.load(found[0] / "fold_1")
    for name, value in learner.method.state_dict().items():
        assert torch.equal(value, again.method.state_dict()[name])


def test_what_a_process_left_unfinished_is_dropped(
    tmp_path: Path, learnt: tuple[Experiment, list[Domain], Learner]
) -> None:
    states = saved(tmp_path, learnt[2], 1)
    shutil.copytree(tmp_path / "epoch_00001", tmp_path / ".draft-of-another")
    assert states.newest() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_00001"]
    # Another process of this trial has been as far.
    states.save([learnt[2]], {"epoch": 1})
    found = states.newest()
    assert found is not None
    assert not (found[0] / "fold_1").exists()
