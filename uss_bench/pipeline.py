"""From the command line's arguments to a report: reads the manifest, makes phantoms and volumes, simulates, writes, in that order."""

import os
import sys
from pathlib import Path

import torch

from . import InputError, across, config, report, results
from .manifest import SPLITS, read_manifest
from .phantoms import write_missing_phantoms
from .plan import check_plan, describe_plan, model_count
from .progress import Progress
from .showcase import write_showcase
from .simulation import Simulation
from .storage import PROVENANCE, SLICES, read_json, write_json
from .strategies import STRATEGIES
from .volumes import load_volume

NO_AIR = -200  # HU; every CT shows air around the patient or within


def run_seeds(seeds, preset, reports, name=None, dry_run=False, **options):
    """Run every seed, and with several write the report across them. Arguments and errors as for `run`."""
    names = {seed: f"{name or preset}-seed{seed}" if len(seeds) > 1 or not name else name for seed in seeds}
    for seed in seeds:
        run(preset=preset, seed=seed, reports=reports, name=names[seed], dry_run=dry_run, **options)
    if len(seeds) > 1 and not dry_run:
        folder = Path(reports) / (name or f"{preset}-seeds{'-'.join(map(str, seeds))}")
        path = across.write_across(folder, {seed: Path(reports) / names[seed] for seed in seeds})
        print(f"report across seeds: {path}", file=sys.stderr)


def run(manifest, strategies, preset, overrides, seed, device, runs, reports, name, workers=None, dry_run=False, report_only=False):
    """Run the benchmark, continue it, or with `report_only` rebuild the report from its results. Returns the path of the report.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest or data, before any training.
    """
    report_folder = Path(reports) / name
    if report_only:
        path = report.write_report(report_folder)
        print(f"report: {path}", file=sys.stderr)
        return path

    settings = config.resolve(preset, overrides)
    device = _device(device)
    _make_deterministic()
    manifest_cases = read_manifest(manifest)
    cases = _chosen_cases(manifest_cases, settings.data)
    check_plan(settings, cases, strategies)
    if dry_run:
        print(describe_plan(settings, cases, strategies, device, runs, workers or _workers(device)))
        return None

    origin = results.provenance(settings, manifest, manifest_cases, seed, strategies, device)
    run_folder = Path(runs) / name
    _refuse_another_run(run_folder / "run.json", origin)
    written = write_missing_phantoms(cases)
    progress = Progress(total=model_count(settings, strategies))
    if written:
        progress.say(f"made {written} phantom(s)")
    volumes = _load_volumes(cases, settings.data.spacing, Path(runs) / "cache", progress)
    if not (run_folder / "run.json").exists():
        write_json(run_folder / "run.json", origin)
    simulation = Simulation(settings, volumes, run_folder, seed, device, progress, workers or _workers(device))
    records = simulation.run(strategies)
    results.write_results(report_folder, records, volumes, seed)
    write_showcase(simulation, records, report_folder / SLICES)
    notes = [f"{record.name}: {note}" for record in records for note in record.notes]
    write_json(report_folder / PROVENANCE, {**origin, "notes": notes})
    path = report.write_report(report_folder)
    progress.say(f"report: {path}")
    return path


def _device(name):
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device; use --device cpu, or install a CUDA build of PyTorch")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _workers(device):
    """Models worked on at a time: one on a GPU, which it fills; on a CPU one a core, but no more than there are strategies."""
    return 1 if device.type == "cuda" else min(len(STRATEGIES), os.cpu_count() or 1)


def _make_deterministic():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, which has not happened yet
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums split over threads would depend on their number; models, not sums, are worked on side by side


def _chosen_cases(cases, data):
    """The first cases of each split, as many as the settings allow."""
    return [case for split in SPLITS for case in [case for case in cases if case.split == split][: getattr(data, split)]]


def _refuse_another_run(path, origin):
    """Check that a `run.json` that is there already belongs to this very run."""
    if not path.exists():
        return
    before = read_json(path)
    changes = [
        f"{key}: {before.get(key)} there, {origin[key]} now"
        for key in ("uss_bench", "seed", "manifest_sha256")
        if before.get(key) != origin[key]
    ]
    changes += [f"{key}: {old} there, {new} now" for key, old, new in config.differences(before["config"], origin["config"])]
    if changes:
        raise InputError(
            "\n  ".join([f"{path.parent} holds another run; choose another --name, or remove the folder. It differs in", *changes])
        )


def _load_volumes(cases, spacing, cache, progress):
    """Volumes by split and case id, all cases read before anything is trained on; all faulty ones are named together."""
    volumes, problems, first_of = {split: {} for split in SPLITS}, [], {}
    for number, case in enumerate(cases, start=1):
        progress.now(f"reading case {number} of {len(cases)}")
        try:
            volume = volumes[case.split][case.case_id] = load_volume(case, spacing, cache)
        except InputError as error:
            text = str(error)
            problems.append(text if text.startswith("case ") else f"case {case.case_id}: {text}")
            continue
        same = first_of.setdefault(volume.image_digest, case.case_id)
        if same != case.case_id:
            problems.append(f"case {case.case_id}: {case.image}: the very image of case {same}; keep one of the two")
        if not volume.liver_voxels and case.split != "pool":
            problems.append(f"case {case.case_id}: {case.label}: no liver, and {case.split} cases need one; check label_values")
        elif not volume.liver_voxels:
            progress.say(f"warning: case {case.case_id}: {case.label}: no liver in it; check label_values")
        if volume.darkest > NO_AIR:
            progress.say(f"warning: case {case.case_id}: {case.image}: nothing below {volume.darkest:g} HU, so perhaps no CT in HU")
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} case(s) cannot be used", *problems]))
    return volumes
