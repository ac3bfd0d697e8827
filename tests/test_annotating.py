"""The README's six lines for annotators, on phantoms: fit, suggest, correct, and again.

The annotator's part is filled in from the truth.
"""

import glob
import os
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ROOT

from uss_bench import commands
from uss_bench.data.manifest import Case, read_manifest, write_manifest
from uss_bench.data.nifti import read_nifti, write_on_grid
from uss_bench.data.nifti_header import read_header
from uss_bench.data.phantoms import write_missing_phantom
from uss_bench.data.volumes import load_volume
from uss_bench.model_file import read_model
from uss_bench.runtime import stopping
from uss_bench.runtime.storage import read_csv
from uss_bench.study.annotation import Annotations
from uss_bench.study.evaluation import validation_jaccard
from uss_bench.study.keys import FITTED
from uss_bench.study.models import Models
from uss_bench.study.records import TrainingSet
from uss_bench.study.simulation import Simulation
from uss_bench.study.strategies import named

pytestmark = [pytest.mark.whole, pytest.mark.slow]

SITES = ("north", "east", "south", "west", "island")
UNKNOWN = 2  # code
QUIET = SimpleNamespace(now=lambda text: None, say=lambda text: None)
# In place of the README's preset, which is for real CTs.
TINY = (
    "smoke --set data.pool=None --set training.max_steps=150 --set training.validate_every=75 "
    "--set network.prior=0.05"
)


def lines_of_the_readme():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## For annotators", 1)[1]
    return re.search(r"\n\n((?:    .*\n)+)", section)[1].replace("\n    ", "\n").strip().splitlines()


def fill_in(manifest, truth):
    """What an annotator does: on every slice that is not to be ignored, the truth instead of a proposal."""
    for case in read_manifest(manifest):
        label, liver = read_nifti(case.label)[0], read_nifti(truth[case.case_id].label)[0]
        assert case.ignore_value == UNKNOWN and (label != liver).any()
        corrected = np.where(label == UNKNOWN, UNKNOWN, liver).astype(np.uint8)
        write_on_grid(case.label, corrected, read_header(case.image))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve CTs in ct/; of two, manifest.csv has six slices of the middle of the liver annotated."""
    folder = tmp_path_factory.mktemp("annotating")
    names = {"ct": ["south-1", "south-2"], "test": [f"{site}-5" for site in SITES]}
    names["ct"] += [f"{site}-{number}" for site in SITES for number in (3, 4)]
    placed = {
        name: Case(
            name, name.split("-")[0], "pool", folder / place / f"{name}.nii.gz",
            folder / "truth" / f"{name}.nii.gz", name, extra={"phantom": "normal"},
        )
        for place, group in names.items()
        for name in group
    }  # fmt: skip
    for case in placed.values():
        write_missing_phantom(case)
    rows = []
    for case in list(placed.values())[:2]:
        label, path = read_nifti(case.label)[0].copy(), folder / f"{case.case_id}_few.nii.gz"
        middle = int(np.median(np.flatnonzero(label.any(axis=(1, 2)))))
        label[[z for z in range(len(label)) if not middle - 3 <= z < middle + 3]] = UNKNOWN
        write_on_grid(path, label, read_header(case.image))
        rows.append(
            replace(case, label=path, label_values=(1,), ignore_value=UNKNOWN, split="pool", extra={})
        )
    write_manifest(folder / "manifest.csv", rows)
    return SimpleNamespace(folder=folder, truth=placed, test=[placed[name] for name in names["test"]])


@pytest.fixture(scope="module")
def done(world):
    """The world after the six lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.folder)
        patch.setattr(stopping, "install", lambda: None)
        lines = lines_of_the_readme()
        assert len(lines) == 6
        for line in lines:
            if line.startswith("#"):
                (folder,) = re.findall(r"(\S+)/\*_todo", line)
                fill_in(f"{folder}/manifest.csv", world.truth)
                continue
            words = shlex.split(line.replace("--preset real", f"--preset {TINY}"))
            words = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
            assert words.pop(0) == "uss-bench" and commands.main(words) == 0
    return world


def fitted(world, name, volumes):
    model = read_model(world.folder / name)
    models = Models(model.settings, {"pool": volumes}, world.folder, model.seed, torch.device("cpu"), QUIET)
    models.use(FITTED, model.state)
    return models


def volumes_of(world, cases, spacing):
    return {case.case_id: load_volume(case, spacing, world.folder / "runs" / "cache") for case in cases}


def annotations_of(world, manifest, spacing):
    """What a manifest has annotated on the working grid, and the volumes that say so."""
    volumes = volumes_of(world, read_manifest(world.folder / manifest), spacing)
    return Annotations({name: volume.annotated for name, volume in volumes.items()}), volumes


def test_the_second_model_is_better_on_other_patients(done):
    spacing = read_model(done.folder / "model.pt").settings.data.spacing
    volumes, quality = volumes_of(done, done.test, spacing), {}
    for name in ("model.pt", "model-2.pt"):
        models = fitted(done, name, volumes)
        scores = [
            validation_jaccard(models.predict(models.trained(FITTED), volume), volume)
            for volume in volumes.values()
        ]
        quality[name] = np.mean(scores)
    print(quality)
    assert quality["model-2.pt"] > quality["model.pt"] + 0.02


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [("model.pt", "manifest.csv", "todo/manifest.csv"),
     ("model-2.pt", "todo/manifest.csv", "todo-2/manifest.csv")],
)  # fmt: skip
def test_annotations_are_those_of_a_simulation_with_the_same_queries(done, model, before, after):
    """The simulated annotator has whole references; the loop has files that were corrected slice by slice."""
    settings = read_model(done.folder / model).settings
    whole = volumes_of(done, [case for case in done.truth.values() if case not in done.test],
                       settings.data.spacing)  # fmt: skip
    models = fitted(done, model, whole)
    known, _ = annotations_of(done, before, settings.data.spacing)
    simulation = Simulation(settings, {"pool": whole}, done.folder / "s", 0, torch.device("cpu"), QUIET)
    scores = [models.score(FITTED, name) for name in whole]
    asking = TrainingSet(FITTED, known)
    queried = simulation.querying.query(*named(["uss"]), asking, 20, scores)["queries"]
    simulated = simulation._annotated(known, queried)
    found, volumes = annotations_of(done, after, settings.data.spacing)
    assert found.as_dict() == simulated.as_dict()
    for case_id in found:
        for z in found.of(case_id):
            np.testing.assert_array_equal(volumes[case_id].label[z], whole[case_id].label[z])


def test_the_folder_says_where_to_find_the_slices_in_a_viewer(done):
    """Viewers count along the file's own axis; nibabel, told nothing of RAS, does the same."""
    import nibabel as nib

    rows = read_csv(done.folder / "todo" / "slices.csv")
    assert len(rows) == 20
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        image = nib.load(done.folder / "todo" / row["file"])
        todo = nib.load(done.folder / "todo" / f"{os.path.basename(row['file'])[:-7]}_todo.nii.gz")
        np.testing.assert_array_equal(todo.affine, image.affine)
        assert todo.shape == image.shape
        axis = [abs(code) for code in image.affine[2, :3]].index(max(map(abs, image.affine[2, :3])))
        middle = [(length - 1) / 2 for length in image.shape]
        middle[axis] = int(row["slice"])
        assert (image.affine @ [*middle, 1])[2] == pytest.approx(float(row["position_mm"]), abs=1e-3)
        for number in range(int(row["first"]), int(row["last"]) + 1):
            assert (np.take(todo.dataobj, number, axis) != UNKNOWN).all()
