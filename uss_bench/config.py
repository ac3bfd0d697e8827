"""Settings: dataclasses that hold the paper's values, and `section.key=value` overrides.

`Config()` is the preset `paper`; `presets` holds the others. Fields carry their help text and their range,
from which the command line's help and the checks are made.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .presets import PRESETS
from .runtime.errors import InputError, refuse

Nested = Mapping[str, Mapping[str, Any]]  # settings by section and name, as `as_dict` gives them


def _setting(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True)
class Data:
    spacing: tuple[float, float, float] = _setting((1.5, 1.0, 1.0), "working grid (z, y, x) in mm", 0.1, 50.0)
    window: tuple[float, float] = _setting(
        (-1000.0, 1000.0), "HU are clipped to this range", -32768.0, 32767.0
    )
    scale: float = _setting(1000.0, "clipped HU are divided by this number", 1e-3)
    pool: int | None = _setting(None, "use the manifest's first N pool cases (None: all)", 1)
    val: int | None = _setting(None, "use the first N validation cases (None: all)", 1)
    test: int | None = _setting(None, "use the first N test cases (None: all)", 1)


@dataclass(frozen=True)
class Network:
    widths: tuple[int, ...] = _setting((32, 72, 88, 168, 336), "channels of each level, the finest first", 1)
    flat_levels: int = _setting(2, "levels, from the finest, that convolve in x and y only", 0)
    dropout: float = _setting(0.25, "rate behind each concatenation", 0.0, 0.99)
    bfloat16: bool = _setting(
        False, "compute convolutions in bfloat16, with float32 weights, normalization statistics and loss"
    )
    prior: float | None = _setting(
        None,
        "probability of liver at which training starts, by the classifier's bias (None: about 1/2)",
        1e-6,
        1 - 1e-6,
    )


@dataclass(frozen=True)
class Training:
    patch: tuple[int, int, int] = _setting(
        (4, 180, 180), "output patch (z, y, x) in voxels, enlarged to the next valid size", 1
    )
    batch_size: int = _setting(
        2, "patches in a mini-batch, at least one with annotated liver where there is any", 2
    )
    learning_rate: float = _setting(1e-5, "Adam's learning rate", 0.0)
    decay: float = _setting(
        0.0, "exponent with which the rate falls to zero at the limit of steps (0: constant rate)", 0.0
    )
    anneal: int = _setting(
        0,
        "steps at the end, within the limits of steps, in which the rate falls to zero; the model is what "
        "they end with, not that of the best validation (0: none)",
        0,
    )
    validate_every: int = _setting(1000, "steps between validations", 1)
    max_epochs: int = _setting(30, "most epochs of the initial and the iterations' models", 1)
    max_steps: int | None = _setting(
        None, "most steps of the initial and the iterations' models (None: epochs alone)", 1
    )
    patience: int = _setting(
        50, "validations without a better Jaccard index that end the training of a converged model", 1
    )
    converged_max_steps: int | None = _setting(
        None, "limit of the converged and data pool models, in steps", 1
    )


@dataclass(frozen=True)
class Inference:
    samples: int = _setting(20, "Monte Carlo dropout passes", 1)
    tile: tuple[int, int, int] | None = _setting(
        (32, 244, 244), "largest output tile (z, y, x) of one pass (None: the volume)", 1
    )


@dataclass(frozen=True)
class Query:
    iterations: int = _setting(5, "active learning iterations", 1)
    initial_volumes: int = _setting(5, "fully annotated volumes of the initial model", 1)
    volumes_per_iteration: int = _setting(5, "volumes that a volume strategy adds", 1)
    slices_per_iteration: int | None = _setting(
        None, "slices that a slice strategy adds (None: a third of the liver slices that UVS adds)", 1
    )
    twins: int = _setting(1, "further models of the initial volumes, with other first weights and batches", 0)
    min_distance_mm: float = _setting(7.5, "least distance between slice candidates of a volume, in mm", 0.0)
    dilation_mm: tuple[float, float, float] = _setting(
        (7.5, 5.0, 5.0), "reach (z, y, x) of the dilation of the predicted liver in mm", 0.0
    )


@dataclass(frozen=True)
class Config:
    data: Data = Data()
    network: Network = Network()
    training: Training = Training()
    inference: Inference = Inference()
    query: Query = Query()

    def digest(self) -> str:
        """SHA-256 of the settings, as hexadecimal text."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def resolve(preset: str, overrides: Iterable[str] = ()) -> Config:
    """Config of a preset with `section.key=value` overrides applied.

    Raises
    ------
    InputError
        An unknown preset, section or key, or a value of the wrong type or out of range. All faulty overrides
        are named together.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: unknown; choose one of {', '.join(PRESETS)}")
    config, problems = Config(), []
    for name, value in PRESETS[preset].items():
        config = _with(config, name, value)
    for override in overrides:
        try:
            config = _with(config, *_parse_override(override))
        except InputError as error:
            problems.append(str(error))
    problems += _combination_problems(config)
    refuse(f"{len(problems)} problem(s) with the settings" if len(problems) > 1 else "", problems)
    return config


def from_dict(values: Nested) -> Config:
    """Config of which `as_dict` made these nested dictionaries.

    Raises
    ------
    InputError
        Another version did: a setting is unknown or missing, or its value is out of range.
    """
    config = Config()
    if {name: set(group) for name, group in as_dict(config).items()} != {
        name: set(group) for name, group in values.items()
    }:
        raise InputError("not the settings of this version")
    for section, settings in values.items():
        for key, value in settings.items():
            config = _with(config, f"{section}.{key}", value)
    return config


def _parse_override(override: str) -> tuple[str, Any]:
    name, separator, text = override.partition("=")
    if not separator:
        raise InputError(
            f"--set {override}: no '='; write section.key=value, for example training.max_steps=500"
        )
    try:
        return name.strip(), ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"--set {override}: {text!r} is not a number, True, False, None or a tuple such as 1.5,1.0,1.0"
        ) from None


def differences(before: Nested, after: Nested) -> list[tuple[str, Any, Any]]:
    """Names and values `(name, before, after)` in which two configs, given as nested dictionaries, differ."""
    before, after = (
        {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
        for config in (before, after)
    )
    return [
        (name, before.get(name), after.get(name))
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def as_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested dictionary of plain JSON types, equal to what reading it back from JSON gives."""
    return json.loads(json.dumps(asdict(config)))


def describe() -> Iterator[str]:
    """Lines `section.key  help (default)` for every field, for the command line's help."""
    config = Config()
    for section in fields(config):
        for setting in fields(getattr(config, section.name)):
            name = f"{section.name}.{setting.name}"
            yield f"  {name:<29} {setting.metadata['help']} ({setting.default})"


def _with(config: Config, name: str, value: Any) -> Config:
    section, _, key = name.partition(".")
    names = {
        f"{group.name}.{setting.name}"
        for group in fields(config)
        for setting in fields(getattr(config, group.name))
    }
    if name not in names:
        raise InputError(f"--set {name}: no such setting; `uss-bench run --help` lists them")
    group = getattr(config, section)
    setting = next(setting for setting in fields(group) if setting.name == key)
    annotation = typing.get_type_hints(type(group))[key]
    return replace(
        config, **{section: replace(group, **{key: _checked(name, value, annotation, setting.metadata)})}
    )


def _checked(name: str, value: Any, annotation: Any, limits: Mapping[str, float | None]) -> Any:
    if isinstance(annotation, types.UnionType):
        if value is None:
            return None
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is tuple:
        kinds = typing.get_args(annotation)
        length = None if kinds[-1] is Ellipsis else len(kinds)
        value = value if isinstance(value, (tuple, list)) else (value,)
        if not value or (length and len(value) != length):
            raise InputError(
                f"--set {name}: {value} has {len(value)} value(s); give {length or 'one or more'}, as 1,2,3"
            )
        return tuple(_checked(name, item, kinds[0], limits) for item in value)
    if annotation is bool:
        if not isinstance(value, bool):
            raise InputError(f"--set {name}: {value!r} is neither True nor False")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float) if annotation is float else int):
        raise InputError(
            f"--set {name}: {value!r} is not {'a number' if annotation is float else 'a whole number'}"
        )
    try:
        value = annotation(value)
        math.isfinite(value)
    except OverflowError:  # more digits than any float has
        value = math.inf
    low, high = limits["low"], limits["high"]
    if not math.isfinite(value) or not (low is None or value >= low) or not (high is None or value <= high):
        raise InputError(
            f"--set {name}: {value} is out of range; "
            f"it must lie in [{low}, {'...' if high is None else high}]"
        )
    return value


def _combination_problems(config: Config) -> list[str]:
    data, network, training = config.data, config.network, config.training
    problems = []
    if data.window[0] >= data.window[1]:
        problems.append(f"--set data.window: {data.window} is empty; give the lower bound first")
    if training.decay and None in (training.max_steps, training.converged_max_steps):
        problems.append(
            "--set training.decay: a rate that falls to zero needs training.max_steps and "
            "training.converged_max_steps"
        )
    if training.anneal and training.decay:
        problems.append(
            "--set training.anneal: the rate falls either at the end or, "
            f"by training.decay={training.decay}, all the time; set one of them to 0"
        )
    for name in ("max_steps", "converged_max_steps"):
        limit = getattr(training, name)
        if training.anneal and limit is not None and limit <= training.anneal:
            problems.append(
                f"--set training.anneal: {training.anneal} steps leave none of training.{name}={limit} "
                "at the full rate; give fewer"
            )
    if network.flat_levels > len(network.widths):
        problems.append(
            f"--set network.flat_levels: {network.flat_levels} levels asked for, "
            f"widths name {len(network.widths)}"
        )
    return problems
