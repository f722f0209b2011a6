"""Search spaces: YAML files of dotted paths and Optuna distributions."""

from collections.abc import Mapping
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


def load_space(path: Path) -> dict[str, BaseDistribution]:
    """Return the distributions of a file by dotted path; errors as `parse_space`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no search space {path}")
    try:
        return parse_space(read_yaml(path.read_text(), path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_space(entries: Mapping[Any, Any]) -> dict[str, BaseDistribution]:
    """Return distributions from ``{path: {kind: {keyword: value}}}``.

    Kinds and keywords are Optuna's: ``float`` (low, high, step, log), ``int`` (likewise),
    ``categorical`` (choices). Raises `ValueError`, one sentence, for anything else.
    """
    if not entries:
        raise ValueError("the search space is empty")
    return {path: _distribution(path, entry) for path, entry in entries.items()}


def _distribution(path: Any, entry: Any) -> BaseDistribution:
    if not isinstance(path, str):
        raise ValueError(f"{path!r} is no setting; a key is a path such as optimiser.lr")
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(
            f"{path}: write one distribution, e.g. {{float: {{low: 0.1, high: 0.7}}}}, "
            f"found {entry!r}"
        )
    ((kind, keywords),) = entry.items()
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
            values["choices"] = [_plain(choice) for choice in values["choices"]]
        return DISTRIBUTIONS[kind](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {kind} cannot be made of {dict(keywords)}: {error}") from None


def start_within(
    space: Mapping[str, BaseDistribution], experiment: Experiment
) -> dict[str, object]:
    """Return the experiment's own values at the space's paths, the first point to try.

    Raises `ValueError` for a path that is no setting, or a value outside its range.
    """
    values = dotted(experiment.tree())
    for path, distribution in space.items():
        if path in values and not path.startswith(SEARCHABLE):
            raise ValueError(
                f"{path} cannot be searched: trials share their data, folds and length; "
                f"what can be begins with {', '.join(SEARCHABLE)}"
            )
        if path not in values:
            raise unknown("setting to search,", path, values)
        value = values[path] = _plain(values[path])
        inner = distribution.to_internal_repr(value) if _fits(distribution, value) else None
        if inner is None or not distribution._contains(inner):
            raise ValueError(
                f"the starting value {value!r} of {path} lies outside its range {distribution}; "
                "widen the range, or set another start"
            )
        for value in _ends(distribution):
            try:
                experiment.replaced({path: value})
            except ValueError as error:
                raise ValueError(f"the range of {path} holds {value!r}, but {error}") from None
    return {path: values[path] for path in space}


def _plain(value: object) -> object:
    """Return a list as text, `rayreid.settings.Numbers`: Optuna stores plain choices alone."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _ends(distribution: BaseDistribution) -> tuple[object, ...]:
    """Return what a distribution can yield at its ends, or all of it where that is a list."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def _fits(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and not isinstance(value, bool)


def refuse_set_and_searched(
    space: Mapping[str, BaseDistribution], assignments: Mapping[str, object]
) -> None:
    """Raise `ValueError` for a path that is both set by hand and searched."""
    for path in assignments:
        if path in space:
            raise ValueError(f"{path} is both set and searched; drop one of the two")
