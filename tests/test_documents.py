"""What is written beside the code is true of it: committed reports, and the README's Python."""

import re
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import ROOT

from uss_bench import config
from uss_bench.model_file import write_model
from uss_bench.network.aunet import AUNet
from uss_bench.network.inference import predict
from uss_bench.report import across, document
from uss_bench.runtime import paths
from uss_bench.runtime.storage import read_json

COMMITTED = sorted(path.parents[1] for path in (ROOT / "reports").rglob("results/provenance.json"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
ABOUT_FIGURES = ("![", "**Key figure", "**Figure", "Not drawn:", "No figure without")


def paragraphs(report):
    """All but pictures, their captions, and why they are not there."""
    text = (report / "report.md").read_text(encoding="utf-8")
    return [part for part in text.split("\n\n") if not part.startswith(ABOUT_FIGURES)]


@pytest.mark.whole
@pytest.mark.parametrize("report", COMMITTED, ids=lambda folder: folder.name)
def test_a_committed_report_is_what_its_results_give_today(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shutil.copytree(report / "results", tmp_path / "results")
    remade = [name for name in (paths.TESTS, paths.SEEDS, paths.COMPARISONS) if (tmp_path / name).exists()]
    for name in remade:
        (tmp_path / name).unlink()
    several = "seeds" in read_json(tmp_path / paths.PROVENANCE)
    (across if several else document).write_report(tmp_path)
    assert paragraphs(tmp_path) == paragraphs(report)
    assert remade and [name for name in remade
                       if (tmp_path / name).read_bytes() != (report / name).read_bytes()] == []  # fmt: skip


@pytest.mark.parametrize("report", COMMITTED, ids=lambda folder: folder.name)
def test_a_committed_report_has_its_pictures(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures and all((report / picture).is_file() for picture in pictures)


def block_with(text):
    """The one Python block of the README that holds a text."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if text in block]
    return block


def test_what_nobody_has_annotated_gets_the_ignore_code(tmp_path, monkeypatch):
    """Of 50 slices, 40, 41 and 42 were finished."""
    drawn = np.zeros((4, 5, 50), np.uint8)
    drawn[1, 1, 41] = drawn[2, 2, 10] = 1
    nib.save(nib.Nifti1Image(drawn, np.eye(4)), tmp_path / "drawn.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(block_with("drawn.nii.gz"), {})
    label = np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj)
    finished = np.isin(np.arange(50), [40, 41, 42])
    assert (label[..., finished] == drawn[..., finished]).all() and (label[..., ~finished] == 2).all()


def test_a_model_file_is_read_as_the_readme_says(tmp_path, monkeypatch):
    settings = config.resolve("smoke")
    model = AUNet(settings.network.widths, settings.network.flat_levels)
    model.draw_weights(torch.Generator().manual_seed(0))
    origin = {"config": config.as_dict(settings)}
    write_model(tmp_path / "model.pt", model.state_dict(), origin, {}, {"cases": 1, "slices": 2})
    hu = 400 * np.random.default_rng(0).normal(size=(5, 12, 10))
    monkeypatch.chdir(tmp_path)
    names = {"AUNet": AUNet, "predict": predict, "hu": hu}
    exec(block_with('torch.load("model.pt"'), names)
    low, high = settings.data.window
    expected = predict(model, np.clip(hu, low, high) / settings.data.scale)
    np.testing.assert_allclose(names["probability"], expected, atol=1e-6)
