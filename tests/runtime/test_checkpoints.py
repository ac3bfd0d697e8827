"""Checkpoints read back bit for bit, or not at all."""

import os

import pytest
import torch

from uss_bench.runtime.checkpoints import load_checkpoint, save_checkpoint
from uss_bench.runtime.errors import InputError


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def same(one, other):
    """Whether two checkpoints are equal in types, orders and every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture
def checkpoint():
    return {
        "model": {
            "weight": torch.randn(3, 4),
            "mean": torch.tensor([float("nan"), -0.0]),
            "steps": torch.tensor(7),
        },
        "curve": [(1000, 0.25), (2000, 0.5)],
        "generator": torch.get_rng_state()[:16],
        "best": None,
    }


def test_a_checkpoint_reads_back_bit_for_bit(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "model.pt", checkpoint)
    assert same(load_checkpoint(tmp_path / "model.pt"), checkpoint)
    assert same(
        torch.load(tmp_path / "model.pt", weights_only=True), checkpoint
    )  # PyTorch alone reads it too
    assert list(tmp_path.iterdir()) == [tmp_path / "model.pt"]


def test_a_missing_checkpoint_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"model\.pt: missing; remove its folder, and the model is trained"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_checkpoint_cut_short_is_bad_input(tmp_path, checkpoint):
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    for length in reversed([*range(0, len(content), 13), *range(len(content) - 40, len(content))]):
        os.truncate(path, length)
        with pytest.raises(InputError, match=rf"{path}: damaged \(.+\); remove"):
            load_checkpoint(path)


@pytest.mark.parametrize("flip", [0x01, 0x08, 0x10, 0xFF])
def test_a_checkpoint_with_a_damaged_byte_is_bad_input_or_as_saved(tmp_path, checkpoint, flip):
    """At every byte: of tensors and of the zip archive around them.

    PyTorch alone accepts a tensor whose archive states a wrong size, and fills it from memory.
    """
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(path.read_bytes()):
            file.seek(position)
            file.write(bytes([byte ^ flip]))
            try:
                assert same(load_checkpoint(path), checkpoint), position
            except InputError as error:
                assert str(error).startswith(f"{path}: damaged"), position
            file.seek(position)
            file.write(bytes([byte]))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    save_checkpoint(tmp_path / "model.pt", {"weight": Trap(tmp_path / "ran")})
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()
