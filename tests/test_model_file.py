"""Model files: read back, readable by PyTorch alone, and refused in one line where they are none."""

import pytest
import torch

from uss_bench import config
from uss_bench.model_file import VERSION, read_model, write_model
from uss_bench.network.aunet import AUNet
from uss_bench.runtime.checkpoints import load_checkpoint, save_checkpoint
from uss_bench.runtime.errors import InputError
from uss_bench.runtime.storage import file_digest


@pytest.fixture
def origin():
    return {"uss_bench": "0.1.0", "seed": 7, "config": config.as_dict(config.resolve("smoke"))}


@pytest.fixture
def path(tmp_path, origin):
    model = AUNet((4, 8), flat_levels=1)
    write_model(tmp_path / "model.pt", model.state_dict(), origin, {"best_step": 3}, {"slices": 9})
    return tmp_path / "model.pt"


def test_a_model_file_is_read_back(path, origin):
    model = read_model(path)
    assert model.settings == config.resolve("smoke") and model.seed == 7
    assert model.digest == file_digest(path)
    AUNet(**vars(model.settings.network)).load_state_dict(model.state)


def test_pytorch_alone_reads_it_without_unpickling_anything_but_tensors_and_plain_values(path, origin):
    content = torch.load(path, weights_only=True)
    assert content["provenance"] == origin
    assert content["training"] == {"best_step": 3} and content["annotated"] == {"slices": 9}


def test_equal_content_gives_equal_bytes(path, origin):
    state, written = torch.load(path, weights_only=True)["state"], []
    for name in ("a.pt", "another.pt"):
        write_model(path.with_name(name), state, origin, {"best_step": 3}, {"slices": 9})
        written.append(path.with_name(name).read_bytes())
    assert written[0] == written[1]


def change(path, **entries):
    save_checkpoint(path, {**load_checkpoint(path), **entries})


def other_settings(origin, section, **settings):
    values = {**origin["config"], section: {**origin["config"][section], **settings}}
    return {**origin, "config": values}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path, origin: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path, origin: path.write_bytes(b""), "no model file, or a damaged one"),
        (
            lambda path, origin: path.write_text("case_id,site\n" * 99, encoding="utf-8"),
            "no model file, or a damaged one",
        ),
        (lambda path, origin: path.write_bytes(path.read_bytes()[:-1]), "no model file, or a damaged one"),
        (lambda path, origin: torch.save({}, path), "no model file, or a damaged one"),
        (lambda path, origin: save_checkpoint(path, {"w": torch.ones(1)}), "weights alone"),
        (lambda path, origin: change(path, version=VERSION + 1), f"version {VERSION + 1} of the format"),
        (lambda path, origin: change(path, provenance=other_settings(origin, "data", grid=1)), "settings of"),
        (lambda path, origin: change(path, provenance={**origin, "config": {}}), "settings of another"),
        (
            lambda path, origin: change(path, provenance=other_settings(origin, "data", scale=0)),
            "settings of",
        ),
    ],
)
def test_what_is_no_model_file_of_this_version_is_refused_in_one_line(path, origin, damage, says):
    damage(path, origin)
    with pytest.raises(InputError) as error:
        read_model(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message
    assert ("uss-bench 0.1.0" in message) == ("another version" in message or "of the format" in message)


def test_a_folder_is_refused_too(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_model(tmp_path)
