"""Search spaces: YAML files of dotted paths, Optuna distributions and conditions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rayreid.experiment import Experiment
from rayreid.settings import dotted, read_yaml, unknown

DISTRIBUTIONS: dict[str, type[BaseDistribution]] = {
    "float": FloatDistribution,
    "int": IntDistribution,
    "categorical": CategoricalDistribution,
}

SEARCHABLE = ("config.", "optimiser.", "sampling.", "trunk.", "views.")
"""Settings that a trial may have to itself."""


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched."""

    distribution: BaseDistribution
    when: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """It is searched only where each of these others has one of these values."""


Space = Mapping[str, Parameter]
"""Parameters by dotted path, those that others depend on first."""


def load_space(path: Path) -> dict[str, Parameter]:
    """Return the space in a file; errors as `parse_space`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no search space {path}")
    try:
        return parse_space(read_yaml(path.read_text(), path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_space(entries: Mapping[Any, Any]) -> dict[str, Parameter]:
    """Return the space of ``{path: {kind: {keyword: value}, when: {path: [value, ...]}}}``.

    Kinds and keywords are Optuna's: ``float`` (low, high, step, log), ``int`` (likewise),
    ``categorical`` (choices). ``when`` may be left away; with it, the parameter exists only in
    trials in which each path named there, itself a parameter, exists and has one of the values.
    Raises `ValueError`, one sentence, for anything else.
    """
    if not entries:
        raise ValueError("the search space is empty")
    space = {path: _parameter(path, entry) for path, entry in entries.items()}
    for path, parameter in space.items():
        _check_condition(space, path, parameter)
    return _parents_first(space)


def described(space: Space) -> dict[str, Any]:
    """Return a space as plain values, which `parse_space` reads again."""
    found: dict[str, Any] = {}
    for path, parameter in space.items():
        distribution = parameter.distribution
        # Those that Optuna would fill in itself are left away.
        filled = {"step": 1 if isinstance(distribution, IntDistribution) else None, "log": False}
        keywords = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in distribution._asdict().items()
            if name not in filled or value != filled[name]
        }
        (kind,) = (name for name, made in DISTRIBUTIONS.items() if type(distribution) is made)
        found[path] = {kind: keywords}
        if parameter.when:
            found[path]["when"] = {other: list(values) for other, values in parameter.when.items()}
    return found


def is_active(parameter: Parameter, values: Mapping[str, object]) -> bool:
    """Return whether a parameter exists where those that do have these values."""
    return all(
        other in values and values[other] in wanted for other, wanted in parameter.when.items()
    )


def has_conditions(space: Space) -> bool:
    """Return whether some parameter exists only under values of others."""
    return any(parameter.when for parameter in space.values())


def _parameter(path: Any, entry: Any) -> Parameter:
    if not isinstance(path, str):
        raise ValueError(f"{path!r} is no setting; a key is a path such as optimiser.lr")
    kinds = {k: v for k, v in entry.items() if k != "when"} if isinstance(entry, Mapping) else {}
    if len(kinds) != 1:
        raise ValueError(
            f"{path}: write one distribution, e.g. {{float: {{low: 0.1, high: 0.7}}}}, "
            f"found {entry!r}"
        )
    ((kind, keywords),) = kinds.items()
    return Parameter(_distribution(path, kind, keywords), _condition(path, entry.get("when", {})))


def _distribution(path: str, kind: Any, keywords: Any) -> BaseDistribution:
    if kind not in DISTRIBUTIONS:
        raise unknown(f"distribution for {path}:", str(kind), DISTRIBUTIONS)
    if not isinstance(keywords, Mapping):
        raise ValueError(f"{path}: {kind} takes keywords such as low and high, found {keywords!r}")
    if kind == "int" and any(isinstance(value, float) for value in keywords.values()):
        raise ValueError(f"{path}: int takes whole numbers, found {dict(keywords)}")
    try:
        # YAML reads 1e-4 as text; bounds are numbers.
        values: dict[str, Any] = {
            name: float(value) if kind == "float" and isinstance(value, str) else value
            for name, value in keywords.items()
        }
        if isinstance(values.get("choices"), list):
            values["choices"] = [plain(choice) for choice in values["choices"]]
        return DISTRIBUTIONS[kind](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {kind} cannot be made of {dict(keywords)}: {error}") from None


def _condition(path: str, when: Any) -> dict[str, tuple[object, ...]]:
    if not isinstance(when, Mapping) or not all(
        isinstance(values, list) and values for values in when.values()
    ):
        raise ValueError(
            f"{path}: when takes values by parameter, "
            f"e.g. {{config.dropout_site: [pair, trunk]}}, found {when!r}"
        )
    return {str(other): tuple(map(plain, values)) for other, values in when.items()}


def _check_condition(space: Space, path: str, parameter: Parameter) -> None:
    """Raise `ValueError` for a condition on what is not searched, or on what it never is."""
    for other, values in parameter.when.items():
        if other not in space:
            raise unknown(f"parameter that {path} could depend on,", other, space)
        distribution = space[other].distribution
        if isinstance(distribution, FloatDistribution):
            raise ValueError(
                f"{path} depends on {other}, a float, which hardly takes a value twice; "
                "a condition is on a categorical or an int"
            )
        for value in values:
            if not holds(distribution, value):
                raise ValueError(
                    f"{path} depends on {other} being {value!r}, which lies outside the range "
                    f"{distribution}"
                )


def _parents_first(space: Space) -> dict[str, Parameter]:
    """Return the space in an order in which conditions look back; `ValueError` for a circle."""
    ordered: dict[str, Parameter] = {}
    while len(ordered) < len(space):
        ready = {
            path: parameter
            for path, parameter in space.items()
            if path not in ordered and ordered.keys() >= parameter.when.keys()
        }
        if not ready:
            circle = ", ".join(path for path in space if path not in ordered)
            raise ValueError(f"{circle} depend on each other in a circle; drop one condition")
        ordered |= ready
    return ordered


def start_within(space: Space, experiment: Experiment) -> dict[str, object]:
    """Return the experiment's own values of what exists under them: the first point to try.

    Raises `ValueError` for a path that is no setting, or a value outside its range.
    """
    values = dotted(experiment.tree())
    start: dict[str, object] = {}
    for path, parameter in space.items():
        if path in values and not path.startswith(SEARCHABLE):
            raise ValueError(
                f"{path} cannot be searched: trials share their data, folds and length; "
                f"what can be begins with {', '.join(SEARCHABLE)}"
            )
        if path not in values:
            raise unknown("setting to search,", path, values)
        value = plain(values[path])
        if is_active(parameter, start):
            if not holds(parameter.distribution, value):
                raise ValueError(
                    f"the starting value {value!r} of {path} lies outside its range "
                    f"{parameter.distribution}; widen the range, or set another start"
                )
            start[path] = value
        under = {other: wanted[0] for other, wanted in parameter.when.items()}
        for value in ends(parameter.distribution):
            try:
                experiment.replaced(under | {path: value})
            except ValueError as error:
                raise ValueError(f"the range of {path} holds {value!r}, but {error}") from None
    return start


def plain(value: object) -> object:
    """Return a list as text, `rayreid.settings.Numbers`: Optuna stores plain choices alone."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def holds(distribution: BaseDistribution, value: object) -> bool:
    """Return whether a distribution can yield a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def ends(distribution: BaseDistribution) -> tuple[object, ...]:
    """Return what a distribution can yield at its ends, or all of it where that is a list."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def refuse_set_and_searched(space: Iterable[str], assignments: Mapping[str, object]) -> None:
    """Raise `ValueError` for a path that is both set by hand and searched."""
    for path in space:
        if path in assignments:
            raise ValueError(f"{path} is both set and searched; drop one of the two")
