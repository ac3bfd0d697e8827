"""Presets: settings that differ from the paper's, by the names of `config.Config`."""

from __future__ import annotations

from typing import Any

# All presets but the paper's look through the usual abdominal window, and predict volumes in one pass.
ABDOMEN = {
    "data.window": (-150.0, 250.0),
    "data.scale": 200.0,
    "inference.tile": None,
}

# What a soft organ needs on a coarse grid of phantoms: batches of many small patches see more of the pool per
# second of a CPU, and the background prior spares the first steps.
PHANTOMS = {
    **ABDOMEN,
    "data.spacing": (6.0, 6.0, 6.0),
    "network.widths": (8, 16, 32),
    "network.prior": 0.05,
    "training.patch": (1, 56, 56),
    "training.batch_size": 8,
    "training.learning_rate": 5e-3,
    "training.max_epochs": 100_000,  # the limit is one of steps
    "query.initial_volumes": 1,
    "query.volumes_per_iteration": 2,
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The phantoms on two CPU cores, in minutes: the same limited training for every model.
    "quick": {
        **PHANTOMS,
        "training.decay": 1.0,
        "training.validate_every": 75,
        "training.max_steps": 450,
        "training.converged_max_steps": 450,
        "training.patience": 6,
        "inference.samples": 10,
        "query.iterations": 3,
    },
    # The phantoms with longer trainings, final ones until they stop improving; an hour or two per seed.
    "study": {
        **PHANTOMS,
        "training.anneal": 500,
        "training.validate_every": 250,
        "training.max_steps": 1000,
        "training.converged_max_steps": 4000,
        "training.patience": 6,
        "inference.samples": 10,
    },
    # Every stage on a few phantoms, in seconds: does it run at all?
    "smoke": {
        **ABDOMEN,
        "data.spacing": (10.0, 10.0, 10.0),
        "data.pool": 6,
        "data.val": 2,
        "data.test": 4,
        "network.widths": (4, 8),
        "network.flat_levels": 1,
        "training.patch": (4, 24, 24),
        "training.learning_rate": 1e-2,
        "training.validate_every": 10,
        "training.max_steps": 20,
        "training.patience": 2,
        "training.converged_max_steps": 40,
        "inference.samples": 3,
        "query.iterations": 2,
        "query.twins": 0,
        "query.initial_volumes": 1,
        "query.volumes_per_iteration": 1,
    },
    # A handful of real CTs on two CPU cores, in a quarter of an hour.
    "real-smoke": {
        **ABDOMEN,
        "data.spacing": (6.0, 4.0, 4.0),
        "network.widths": (8, 16, 32, 64),
        "training.patch": (8, 48, 48),
        "training.learning_rate": 5e-3,
        "training.decay": 1.0,
        "training.validate_every": 100,
        "training.max_epochs": 1000,
        "training.max_steps": 200,
        "training.patience": 4,
        "training.converged_max_steps": 400,
        "inference.samples": 5,
        "query.iterations": 1,
        "query.initial_volumes": 1,
        "query.volumes_per_iteration": 1,
    },
    # The same in earnest. Slices of 5 mm say little of each other, so the network sees one at a time, and all
    # of it: context in the plane keeps islands out of heart and pelvis. One patient validates, too few to
    # choose a state by: only the annealed end of a training is validated.
    "real": {
        **ABDOMEN,
        "data.spacing": (5.0, 4.0, 4.0),
        "network.widths": (8, 16, 32, 64),
        "network.flat_levels": 4,
        "network.prior": 0.05,
        "training.patch": (1, 96, 96),
        "training.batch_size": 8,
        "training.learning_rate": 5e-3,
        "training.decay": 1.0,
        "training.validate_every": 500,
        "training.max_epochs": 100_000,
        "training.max_steps": 250,
        "training.converged_max_steps": 500,
        "inference.samples": 10,
        "query.iterations": 3,
        "query.initial_volumes": 1,
        "query.volumes_per_iteration": 1,
    },
}
