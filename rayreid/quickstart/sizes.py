"""What the quickstart learns, from what, and how much of it fits into minutes."""

from collections.abc import Mapping

SOURCES = ("synthetic=plaza-noon", "synthetic=subway", "synthetic=snow")
"""Three named domains to learn from."""
UNSEEN = tuple(f"synthetic=law-{seed}" for seed in range(101, 109))
"""Eight domains drawn from the law of domains: folds vary more than seeds, so many are ranked."""
SMALL: Mapping[str, object] = {
    "sources": SOURCES,
    "trunk.name": "test_resnet",
    "trunk.weights": "none",
    "trunk.stages": 4,
    "trunk.stride_one_stages": 2,
    "trunk.ibn": "none",
    "trunk.frozen_norms": False,
    "trunk.normalise": "imagenet",
    "loading.height": 64,
    "loading.width": 32,
    "sampling.kind": "identities",
    "sampling.identities": 6,
    "sampling.crops": 4,
    "optimiser.name": "adamw",
    "optimiser.lr": 5e-3,
    "optimiser.weight_decay": 1e-3,
    "optimiser.schedule": "one_cycle",
    "optimiser.trunk_rate": 1.0,
    "optimiser.clip": 8.0,
    # Strong colour variation needs more steps than these to pay.
    "views.brightness": 0.0,
    "views.contrast": 0.0,
    "epochs": 5,
    "steps_per_epoch": 40,
}
"""What two cores learn in seconds: a 0.4 M-parameter trunk on 64x32 crops, from scratch."""
FEW: Mapping[str, object] = {"sampling.identities": 3}
"""Each of two workers draws its own, so a step learns from as many as one process does in SMALL;
the study's trials learn from what one worker does."""
OWN: Mapping[str, Mapping[str, object]] = {
    "baseline": {"config.margin": 0.0},
    "gmn": {
        "config.margin": 0.0,
        "config.hidden": 128,
        "config.pair_weight": 3.0,
        "config.pair_centre_weight": 0.01,
        "config.dropout_rate": 0.2,
        "config.dropout_warmup_epochs": 2,
    },
    "snr": {},
    "qaconv_ms": {"config.channels": 64, "config.hidden": 128, "config.global_hidden": 128},
    "daam": {
        "config.margin": 0.0,
        "config.target_from_epoch": 4,
        "config.target_weight": 0.2,
        "config.dbscan_radius": 0.45,
    },
}
"""The methods' own settings at this size."""
SPACES: Mapping[str, Mapping[str, object]] = {
    "gmn": {
        "config.dropout_rate": {"float": {"low": 0.0, "high": 0.7}},
        "config.dropout_site": {
            "categorical": {"choices": ["pair", "instance_shared", "instance_independent", "trunk"]}
        },
        "config.dropout_warmup_epochs": {"int": {"low": 0, "high": 4}},
        "config.pair_centre_weight": {"float": {"low": 1e-3, "high": 1.0, "log": True}},
        "config.pair_weight": {"float": {"low": 0.3, "high": 10.0, "log": True}},
        "optimiser.lr": {"float": {"low": 2e-3, "high": 1e-2, "log": True}},
    },
    "qaconv_ms": {
        "config.scales": {"categorical": {"choices": [[], [1], [1, 3], [1, 3, 5], [3], [3, 5]]}},
        "config.global_branch": {"categorical": {"choices": [True, False]}},
        "config.orthogonal_norm": {"categorical": {"choices": [True, False]}},
        "optimiser.lr": {"float": {"low": 2e-3, "high": 1e-2, "log": True}},
    },
}
"""What the study searches, of the method that it is asked to tune."""
SHARED = ("optimiser.",)
"""Settings that all take over from the study, so that they learn alike; they were chosen for the
method that was tuned, which favours it if anything."""
STUDIES: Mapping[str, Mapping[str, object]] = {
    "gmn": {"trials": 8, "grace_epochs": 2, "finalists": 0},
    "qaconv_ms": {"trials": 5, "grace_epochs": 1, "finalists": 0},
}
"""How much is searched: a trial of qaconv_ms takes as long as three of gmn."""
WORKERS = 2
ADAPTED_TO = UNSEEN[0]
"""The domain whose unlabelled crops what adapts has."""
HISTOGRAM, ADABN = "colour histogram", "baseline, AdaBN"
ADAPTING = (ADABN, "daam")
