"""Settings: the paper's numbers, what presets change of them, and what overrides may and may not do."""

import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from uss_bench import config
from uss_bench.config import Config, resolve
from uss_bench.runtime.errors import InputError

# The numbers of sections II-A to IV-A.
PAPER = {
    "data.spacing": (1.5, 1.0, 1.0),
    "network.widths": (32, 72, 88, 168, 336),  # those that give the published number of parameters
    "network.dropout": 0.25,
    "network.flat_levels": 2,
    "network.bfloat16": False,
    "training.patch": (4, 180, 180),
    "training.batch_size": 2,
    "training.learning_rate": 1e-5,
    "training.decay": 0,
    "training.anneal": 0,
    "network.prior": None,
    "training.validate_every": 1000,
    "training.max_epochs": 30,
    "training.max_steps": None,
    "training.converged_max_steps": None,
    "inference.samples": 20,
    "query.iterations": 5,
    "query.initial_volumes": 5,
    "query.volumes_per_iteration": 5,
    "query.twins": 1,
    "query.min_distance_mm": 7.5,
    "query.dilation_mm": (7.5, 5.0, 5.0),
}

# One override a setting: text and value.
OVERRIDES = {
    "data.spacing": ("3, 2.5,2", (3.0, 2.5, 2.0)),
    "data.window": ("(-200,300)", (-200.0, 300.0)),
    "data.scale": ("250", 250.0),
    "data.pool": ("7", 7),
    "data.val": ("3", 3),
    "data.test": ("9", 9),
    "network.widths": ("[4, 5, 6]", (4, 5, 6)),
    "network.flat_levels": ("1", 1),
    "network.dropout": ("0", 0.0),
    "network.bfloat16": ("True", True),
    "network.prior": ("0.05", 0.05),
    "training.patch": ("8,32,48", (8, 32, 48)),
    "training.batch_size": ("4", 4),
    "training.learning_rate": ("2e-3", 0.002),
    "training.validate_every": ("17", 17),
    "training.max_epochs": ("2", 2),
    "training.max_steps": ("500", 500),
    "training.patience": ("3", 3),
    "training.anneal": ("40", 40),
    "training.converged_max_steps": ("900", 900),
    "inference.samples": ("6", 6),
    "inference.tile": ("None", None),
    "query.iterations": ("4", 4),
    "query.initial_volumes": ("2", 2),
    "query.volumes_per_iteration": ("1", 1),
    "query.slices_per_iteration": ("200", 200),
    "query.twins": ("2", 2),
    "query.min_distance_mm": ("8", 8.0),
    "query.dilation_mm": ("15,10,10", (15.0, 10.0, 10.0)),
}


def flat(settings):
    return {
        f"{section}.{key}": value
        for section, values in asdict(settings).items()
        for key, value in values.items()
    }


def test_the_paper_preset_holds_the_numbers_of_the_paper():
    assert resolve("paper") == Config()
    assert {name: value for name, value in flat(resolve("paper")).items() if name in PAPER} == PAPER


def test_what_the_paper_leaves_open():
    """Choices of this project, which the README states."""
    settings = resolve("paper")
    assert (settings.data.window, settings.data.scale) == ((-1000, 1000), 1000)
    assert (settings.training.patience, settings.inference.tile) == (50, (32, 244, 244))


@pytest.mark.parametrize("preset", ["quick", "study"])
def test_presets_of_the_phantoms_share_cohort_network_and_batches(preset):
    settings = flat(resolve(preset))
    shared = {
        "data.spacing": (6, 6, 6), "data.window": (-150, 250), "data.scale": 200,
        "data.pool": None, "data.val": None, "data.test": None,
        "network.widths": (8, 16, 32), "network.prior": 0.05,
        "training.patch": (1, 56, 56), "training.batch_size": 8, "training.learning_rate": 5e-3,
        "inference.samples": 10,
        "query.initial_volumes": 1, "query.volumes_per_iteration": 2, "query.twins": 1,
    }  # fmt: skip
    assert {name: settings[name] for name in shared} == shared


def test_quick_trains_all_models_alike_and_study_its_final_ones_longer():
    quick, study = resolve("quick"), resolve("study")
    assert quick.training.max_steps == quick.training.converged_max_steps == 450
    assert quick.training.patience * quick.training.validate_every >= 450  # so that none ends earlier
    assert (study.training.max_steps, study.training.converged_max_steps) == (1000, 4000)
    assert (quick.training.decay, quick.training.anneal) == (1, 0)
    assert (study.training.decay, study.training.anneal) == (0, 500)
    assert (quick.query.iterations, study.query.iterations) == (3, 5)


@pytest.mark.parametrize("preset", config.PRESETS)
def test_a_preset_differs_from_the_paper_in_the_fields_it_names_and_no_other(preset):
    paper, settings = flat(Config()), flat(resolve(preset))
    assert {name for name in paper if settings[name] != paper[name]} == set(config.PRESETS[preset])
    assert {name: settings[name] for name in config.PRESETS[preset]} == config.PRESETS[preset]


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_changes_its_setting_alone(name):
    text, value = OVERRIDES[name]
    before, after = flat(Config()), flat(resolve("paper", [f"{name}={text}"]))
    assert after.pop(name) == value != before.pop(name)
    assert after == before


def test_every_setting_can_be_overridden():
    # The rate of decay needs two limits beside it; see below.
    assert {*OVERRIDES, "training.decay"} == set(flat(Config()))
    limits = ["training.max_steps=10", "training.converged_max_steps=20"]
    assert resolve("paper", [*limits, "training.decay=0.9"]).training.decay == 0.9


def test_values_take_the_type_of_their_setting():
    settings = resolve(
        "paper",
        [
            "data.spacing=3,2,1",
            "data.scale=1",
            " network.flat_levels = 1 ",
            "network.widths=4",
            "data.pool=None",
        ],
    )
    assert [type(value) for value in settings.data.spacing] == [float] * 3
    assert type(settings.data.scale) is float
    assert settings.network.widths == (4,)  # one number is a tuple of one
    assert settings.data.pool is None


def test_later_overrides_win_over_earlier_ones_and_over_the_preset():
    assert resolve("smoke", ["inference.samples=4", "inference.samples=5"]).inference.samples == 5


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=5",  # unknown key
        "train.max_steps=5",  # unknown section
        "max_steps=5",
        "training=5",
        "=5",
        "training.max_steps",  # no value
        "training.max_steps=",
        "training.max_steps=many",
        "training.max_steps=5 steps",
        "training.max_steps=__import__('os')",
        "training.max_steps={[]: 1}",
        "training.max_steps=2.0",  # wrong type
        "training.max_steps=True",
        "training.max_steps='5'",
        "training.max_steps=1,2",
        "training.max_epochs=None",
        "training.learning_rate='fast'",
        "training.learning_rate=1j",
        "data.scale=None",
        "data.spacing=1,2,x",
        "data.spacing=(1,2),3,4",
        "data.spacing={1: 2}",
        "network.widths=1.5,2",
        "network.bfloat16=1",
        "network.bfloat16=None",
        "training.max_steps=0",  # out of range
        f"training.max_steps={'9' * 400}",
        "training.batch_size=1",
        "training.learning_rate=-1",
        "network.dropout=1",
        "network.widths=8,0",
        "data.spacing=1,1,0",
        "data.scale=0",
        "data.scale=1e999",
        f"data.scale=1{400 * '0'}",  # no float at all
        "data.spacing=1,1",  # wrong length
        "data.spacing=1",
        "data.window=1,2,3",
        "network.widths=()",
        "inference.tile=4,4",
    ],
)
def test_a_faulty_override_is_an_input_error_that_names_it(override):
    with pytest.raises(InputError) as error:
        resolve("paper", [override])
    assert override.partition("=")[0] in str(error.value)
    assert "--set" in str(error.value)


def test_all_faulty_overrides_are_named_in_one_message():
    faulty = [
        "training.max_stepz=3",
        "network.dropout=2",
        "data.window=5,5",
        "training.max_steps",
        "query.iterations=many",
    ]
    with pytest.raises(InputError) as error:
        resolve("paper", [*faulty[:2], "inference.samples=4", *faulty[2:]])
    title, *lines = str(error.value).split("\n  ")
    assert title == "5 problem(s) with the settings"
    assert sorted(line.split(":")[0] for line in lines) == sorted(f"--set {name}" for name in (
        "training.max_stepz", "network.dropout", "training.max_steps", "query.iterations=many", "data.window"
    ))  # fmt: skip
    with pytest.raises(InputError, match=r"^--set network\.dropout: 2"):  # one alone needs no title
        resolve("paper", [faulty[1]])


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["data.window=100,100"], "data.window"),
        (["data.window=100,-100"], "data.window"),
        (["training.decay=1"], "training.decay"),
        (["training.decay=1", "training.max_steps=5"], "training.decay"),
        (["training.anneal=9", "training.max_steps=9"], "training.anneal"),
        (["training.anneal=9", "training.converged_max_steps=8"], "training.anneal"),
        (
            [
                "training.anneal=1",
                "training.decay=1",
                "training.max_steps=5",
                "training.converged_max_steps=5",
            ],
            "training.anneal",
        ),
        (["network.widths=4,8", "network.flat_levels=3"], "network.flat_levels"),
    ],
)
def test_settings_that_do_not_go_together_are_an_input_error(overrides, name):
    with pytest.raises(InputError, match=name):
        resolve("paper", overrides)


def test_an_unknown_preset_is_an_input_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match=r"--preset huge.*paper, quick, study, smoke, real-smoke, real"):
        resolve("huge")


@pytest.mark.parametrize("name", OVERRIDES)
def test_the_digest_changes_with_every_setting(name):
    assert resolve("paper", [f"{name}={OVERRIDES[name][0]}"]).digest() != Config().digest()


def test_the_digest_depends_on_values_alone():
    assert resolve("paper", ["data.window=-1000,1000", "data.scale=1000"]).digest() == Config().digest()
    elsewhere = subprocess.run(
        [sys.executable, "-c", "from uss_bench.config import resolve; print(resolve('quick').digest())"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == resolve("quick").digest()


@pytest.mark.parametrize("preset", config.PRESETS)
def test_a_config_as_dictionary_survives_json(preset):
    stored = config.as_dict(resolve(preset))
    assert json.loads(json.dumps(stored)) == stored
    assert stored["network"]["widths"] == list(resolve(preset).network.widths)


@pytest.mark.parametrize("preset", config.PRESETS)
def test_a_config_comes_back_from_its_dictionary(preset):
    settings = config.resolve(preset)
    assert config.from_dict(json.loads(json.dumps(config.as_dict(settings)))) == settings


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("query"),
        lambda values: values["data"].pop("scale"),
        lambda values: values["data"].update(colour=1),
        lambda values: values["data"].update(spacing=[1.0, 1.0]),
        lambda values: values["network"].update(dropout=2.0),
    ],
)
def test_a_dictionary_of_another_version_is_refused(change):
    values = config.as_dict(config.Config())
    change(values)
    with pytest.raises(InputError):
        config.from_dict(values)


def test_differences_name_what_changed_in_both_directions():
    before, after = (
        config.as_dict(resolve("paper", overrides))
        for overrides in ([], ["inference.samples=3", "data.spacing=2,2,2"])
    )
    assert config.differences(before, before) == []
    assert config.differences(before, after) == [
        ("data.spacing", [1.5, 1.0, 1.0], [2.0, 2.0, 2.0]),
        ("inference.samples", 20, 3),
    ]
    del before["inference"]["samples"], after["data"]["spacing"]  # settings of another version
    assert config.differences(before, after) == [
        ("data.spacing", [1.5, 1.0, 1.0], None),
        ("inference.samples", None, 3),
    ]


def test_the_help_lists_every_setting_with_its_text_and_default():
    lines = list(config.describe())
    settings = [
        (f"{section.name}.{setting.name}", setting)
        for section in fields(Config)
        for setting in fields(section.default)
    ]
    assert len(lines) == len(settings) == len(flat(Config()))
    for line, (name, setting) in zip(lines, settings, strict=True):
        assert line.split()[0] == name
        assert setting.metadata["help"] in line
        assert line.endswith(f"({setting.default})")
