"""What a study's trials learn from and are ranked on; the guard on the target's labels."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from rayreid.batch import Domain
from rayreid.experiment import Experiment
from rayreid.gallery import Target
from rayreid.protocols import Fold, leave_one_domain_out, refuse_target
from rayreid.run import open_sources
from rayreid.tune.settings import StudySettings

WARNING = (
    "selected on the target: these settings were chosen by the labels of {target}, so figures on "
    "it say nothing about unseen domains"
)


def folds_of(experiment: Experiment, settings: StudySettings, target: str | None) -> list[Fold]:
    """Return the folds of a study; none holds the target, but with ``selection: target``.

    Raises `ValueError` for a target that is a source, too few sources, or a selection on a target
    that is not named.
    """
    refuse_target(experiment.sources, target)
    if settings.selection == "sources":
        return leave_one_domain_out(experiment.sources)
    if target is None:
        raise ValueError("selection=target ranks trials on the target; name it with --target")
    return [Fold(experiment.sources, target)]


def open_folds(experiment: Experiment, folds: list[Fold]) -> Mapping[str, Domain]:
    """Return the domains in the folds by source, decoded; nothing else is opened.

    Raises `ValueError` where one cannot be ranked, and errors as their readers.
    """
    domains = dict(zip(experiment.sources, open_sources(experiment), strict=True))
    for held_out in (fold.held_out for fold in folds):
        if held_out not in domains:  # the test part of a set that is learnt whole, or the target
            (domains[held_out],) = open_sources(experiment.replaced({"sources": [held_out]}))
        # One without a query or gallery is found out here.
        Target(domains[held_out], experiment.loading)
    return domains


def warning_of(settings: StudySettings, target: str | None) -> str | None:
    """Return what is to be said with every figure of a study, where there is something."""
    return None if settings.selection == "sources" else WARNING.format(target=target)


def selection_warning(folder: Path) -> str | None:
    """Return what is to be said with every figure of the study in a folder, by its study.yaml."""
    plan = yaml.safe_load((folder / "study.yaml").read_text())
    return warning_of(StudySettings.model_validate(plan["study"]), plan["target"])
