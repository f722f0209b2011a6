"""Studies: Optuna on Ray Tune, judged by leave-one-domain-out over the sources."""

from rayreid.tune.studies import study  # first: it sets what ray reads on import

# isort: split
from rayreid.tune.folds import selection_warning
from rayreid.tune.objectives import METRIC
from rayreid.tune.search import Search
from rayreid.tune.settings import StudySettings

__all__ = ["METRIC", "Search", "StudySettings", "selection_warning", "study"]
