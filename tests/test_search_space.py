from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rayreid.batch import Census
from rayreid.checkpoint import build
from rayreid.experiment import compose
from rayreid.methods import METHODS
from rayreid.quickstart.sizes import OWN, SMALL
from rayreid.quickstart.sizes import SPACES as QUICKSTART
from rayreid.search_space import (
    Parameter,
    described,
    ends,
    has_conditions,
    holds,
    is_active,
    load_space,
    parse_space,
    plain,
    refuse_set_and_searched,
    start_within,
)
from rayreid.settings import dotted
from tests.miniature import MINIATURE

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
        "a": Parameter(FloatDistribution(1e-3, 1, log=True)),
        "b": Parameter(IntDistribution(0, 9)),
        "c": Parameter(CategoricalDistribution(("x", "y"))),
    }


CONDITIONAL = {
    "d": {"float": {"low": 0, "high": 1}, "when": {"b": [2, 3], "c": ["x"]}},
    "c": {"categorical": {"choices": ["x", "y", [1, 3]]}, "when": {"b": [2]}},
    "b": {"int": {"low": 0, "high": 9}},
}


def test_a_parameter_exists_where_others_have_values() -> None:
    space = parse_space(CONDITIONAL)
    assert list(space) == ["b", "c", "d"], "what others depend on comes first"
    existing = {
        (("b", 2),): {"b", "c"},
        (("b", 2), ("c", "x")): {"b", "c", "d"},
        (("b", 2), ("c", "1,3")): {"b", "c"},
        (("b", 3),): {"b"},
    }
    for values, expected in existing.items():
        assert {p for p, v in space.items() if is_active(v, dict(values))} == expected
    assert has_conditions(space)
    assert not has_conditions(parse_space({"b": CONDITIONAL["b"]}))


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_space_told_is_the_space_read(path: Path) -> None:
    space = load_space(path)
    told = yaml.safe_load(yaml.safe_dump(described(space)))
    assert parse_space(told) == space


@given(
    low=st.floats(1e-6, 1, allow_subnormal=False), span=st.floats(0, 10), log=st.booleans(),
    start=st.integers(-5, 5), more=st.integers(0, 9), step=st.integers(1, 3),
    choices=st.lists(st.one_of(st.booleans(), st.text(max_size=3), st.integers()), min_size=1),
)  # fmt: skip
def test_any_space_told_is_the_space_read(
    low: float, span: float, log: bool, start: int, more: int, step: int, choices: list[object]
) -> None:
    space = {
        "a": Parameter(FloatDistribution(low, low + span, log=log)),
        "b": Parameter(FloatDistribution(0, 3, step=step / 2)),
        "c": Parameter(IntDistribution(start, start + more * step, step=step)),
        "d": Parameter(CategoricalDistribution(choices), {"c": (start,)}),
    }
    assert parse_space(yaml.safe_load(yaml.safe_dump(described(space)))) == space


def conditional(**changes: object) -> dict[str, object]:
    return {"child": {"float": {"low": 0, "high": 1}, "when": changes}} | {
        "kind": {"categorical": {"choices": ["x", "y"]}},
        "rate": {"float": {"low": 0, "high": 1}},
        "size": {"int": {"low": 1, "high": 9}},
    }


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"kinds": ["x"]}, "child could depend on, 'kinds'; did you mean 'kind'"),
        ({"kind": ["z"]}, "child depends on kind being 'z', which lies outside the range"),
        ({"size": [12]}, "child depends on size being 12, which lies outside"),
        ({"rate": [0.5]}, "child depends on rate, a float"),
        ({"kind": []}, "child: when takes values by parameter"),
        ({"kind": "x"}, "child: when takes values by parameter"),
        ({"child": [0.5]}, "child depends on child, a float"),
    ],
)
def test_a_mistaken_condition_is_said(when: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_space(conditional(**when))


def test_a_circle_of_conditions_is_said() -> None:
    circle = {
        "a": {"int": {"low": 0, "high": 1}, "when": {"b": [1]}},
        "b": {"int": {"low": 0, "high": 1}, "when": {"a": [1]}},
        "c": {"int": {"low": 0, "high": 1}},
    }
    with pytest.raises(ValueError, match="a, b depend on each other in a circle"):
        parse_space(circle)
    with pytest.raises(ValueError, match="when takes values by parameter"):
        parse_space({"a": {"int": {"low": 0, "high": 1}, "when": 3}})


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


def test_what_does_not_exist_at_the_start_may_lie_anywhere() -> None:
    made = compose("qaconv_ms", {"sources": ["synthetic=snow"], "config.margin": 99.0})
    entries = {
        "config.loss": {"categorical": {"choices": ["pairs", "triplet"]}},
        "config.margin": {"float": {"low": 4, "high": 32}, "when": {"config.loss": ["triplet"]}},
    }
    assert start_within(parse_space(entries), made) == {"config.loss": "pairs"}
    with pytest.raises(ValueError, match="starting value 99"):
        start_within(parse_space(entries), made.replaced({"config.loss": "triplet"}))
    entries["config.margin"]["float"]["low"] = -1
    with pytest.raises(ValueError, match=r"the range of config.margin holds -1"):
        start_within(parse_space(entries), made)


def test_set_and_searched_is_refused() -> None:
    space = parse_space({"optimiser.lr": {"float": {"low": 0.1, "high": 0.7}}})
    with pytest.raises(ValueError, match=r"optimiser\.lr is both set and searched"):
        refuse_set_and_searched(space, {"optimiser.lr": 0.1})
    refuse_set_and_searched(space, {"epochs": 3})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("file", ["its own", "shared"])
def test_every_key_is_a_setting_whose_range_holds_the_recipe(method: str, file: str) -> None:
    space = load_space(SPACES / f"{method if file == 'its own' else file}.yaml")
    experiment = compose(method, {"sources": ["synthetic=snow"]})
    start = start_within(space, experiment)
    values = dotted(experiment.tree())
    for path, parameter in space.items():
        assert path in values
        # Even what exists only under other values.
        assert holds(parameter.distribution, plain(values[path]))
        assert (path in start) == is_active(parameter, start)


def test_every_space_is_of_a_method_or_shared() -> None:
    assert {path.stem for path in SPACES.glob("*.yaml")} == {*METHODS, "shared"}


@pytest.mark.parametrize("method", METHODS)
def test_every_end_of_a_range_makes_a_method(method: str) -> None:
    small = {k: v for k, v in MINIATURE.items() if k.startswith(("trunk", "loading", "sources"))}
    narrow = {"config.channels": 16, "config.hidden": 16, "config.global_hidden": 16}
    made = compose(method, small, narrow if method == "qaconv_ms" else {})
    census = Census({"snow": 4, "subway": 3})
    for file in (method, "shared"):
        for path, parameter in load_space(SPACES / f"{file}.yaml").items():
            under = {other: wanted[0] for other, wanted in parameter.when.items()}
            for value in ends(parameter.distribution):
                build(made.replaced(under | {path: value}), census)


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
