from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rayreid.experiment import compose
from rayreid.methods import METHODS
from rayreid.quickstart.sizes import OWN, SMALL
from rayreid.quickstart.sizes import SPACES as QUICKSTART
from rayreid.search_space import (
    load_space,
    parse_space,
    refuse_set_and_searched,
    start_within,
)

SPACES = Path(__file__).parents[1] / "search_spaces"


def test_distributions_are_optunas() -> None:
    space = parse_space(
        {
            "a": {"float": {"low": "1e-3", "high": 1, "log": True}},
            "b": {"int": {"low": 0, "high": 9}},
            "c": {"categorical": {"choices": ["x", "y"]}},
        }
    )
    assert space == {
        "a": FloatDistribution(1e-3, 1, log=True),
        "b": IntDistribution(0, 9),
        "c": CategoricalDistribution(("x", "y")),
    }


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({}, "is empty"),
        ({"a": 3}, "a: write one distribution"),
        ({"a": {"flaot": {"low": 0, "high": 1}}}, "did you mean 'float'"),
        ({"a": {"float": {"low": 0}}}, "a: float cannot be made of"),
        ({"a": {"float": {"low": 2, "high": 1}}}, "a: float cannot be made of"),
        ({"a": {"float": {"low": "few", "high": 1}}}, "could not convert"),
        ({"a": {"int": 3}}, "a: int takes keywords"),
        ({"a": {"int": {"low": 0.5, "high": 3}}}, "a: int takes whole numbers"),
        ({1: {"int": {"low": 0, "high": 3}}}, "1 is no setting"),
    ],
)
def test_a_mistake_is_said(entries: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_space(entries)


def test_the_start_lies_inside_or_is_refused() -> None:
    experiment = compose("gmn", {"sources": ["synthetic=snow"]})
    inside = parse_space({"config.dropout_rate": {"float": {"low": 0.1, "high": 0.7}}})
    assert start_within(inside, experiment) == {"config.dropout_rate": 0.5}
    for entry in ({"float": {"low": 0.6, "high": 0.7}}, {"categorical": {"choices": [0.1]}}):
        with pytest.raises(
            ValueError, match=r"starting value 0\.5 of config.dropout_rate lies out"
        ):
            start_within(parse_space({"config.dropout_rate": entry}), experiment)
    with pytest.raises(ValueError, match=r"did you mean 'config\.dropout_rate'"):
        start_within(
            parse_space({"config.dropout_rat": {"int": {"low": 0, "high": 1}}}), experiment
        )


@pytest.mark.parametrize(
    ("path", "entry", "said"),
    [
        ("config.dropout_rate", {"float": {"low": 0, "high": 5}}, "the range of .* holds 5"),
        ("config.dropout_site", {"categorical": {"choices": ["pair", "nope"]}}, "holds 'nope'"),
        ("config.hidden", {"float": {"low": 8, "high": 600.5}}, "holds 600.5"),
        ("optimiser.lr", {"float": {"low": 1e-4, "high": float("inf")}}, "holds inf"),
        ("epochs", {"int": {"low": 1, "high": 99}}, "cannot be searched"),
        ("synthetic.strength", {"float": {"low": 0, "high": 2}}, "cannot be searched"),
        ("loading.height", {"int": {"low": 64, "high": 256}}, "cannot be searched"),
        ("method", {"categorical": {"choices": ["gmn", "baseline"]}}, "cannot be searched"),
    ],
)
def test_what_trials_could_not_honour_is_refused(path: str, entry: object, said: str) -> None:
    made = compose("gmn", {"sources": ["synthetic=snow"]})
    with pytest.raises(ValueError, match=said):
        start_within(parse_space({path: entry}), made)


def test_set_and_searched_is_refused() -> None:
    space = parse_space({"optimiser.lr": {"float": {"low": 0.1, "high": 0.7}}})
    with pytest.raises(ValueError, match=r"optimiser\.lr is both set and searched"):
        refuse_set_and_searched(space, {"optimiser.lr": 0.1})
    refuse_set_and_searched(space, {"epochs": 3})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_space_that_holds_its_recipe(method: str) -> None:
    space = load_space(SPACES / f"{method}.yaml")
    experiment = compose(method, {"sources": ["synthetic=snow"]})
    assert start_within(space, experiment).keys() == space.keys()


def test_gmn_searches_what_its_paper_leaves_open() -> None:
    assert set(load_space(SPACES / "gmn.yaml")) >= {
        "config.dropout_rate",
        "config.dropout_site",
        "config.dropout_warmup_epochs",
        "config.pair_centre_weight",
        "config.pair_weight",
        "optimiser.lr",
    }


@pytest.mark.parametrize("method", QUICKSTART)
def test_the_quickstart_starts_inside_its_space(method: str) -> None:
    start_within(parse_space(QUICKSTART[method]), compose(method, SMALL, OWN[method]))


def test_a_missing_space_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_space(tmp_path / "none.yaml")
