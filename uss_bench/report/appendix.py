"""The end of the report: the paper and this run, where the numbers come from, and how to cite them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.manifest import SPLITS
from ..runtime import paths
from ..study.strategies import BUDGET, STRATEGIES
from .results import Results
from .words import commit_text, markdown_table

PAPER = (
    "G. Chlebus, A. Schenk, H. K. Hahn, B. van Ginneken, H. Meine: *Robust Segmentation Models using an "
    "Uncertainty Slice Sampling Based Annotation Workflow*"
)


def notes(results: Results) -> str:
    """What was unusual about the simulation; empty if nothing was."""
    found = results.provenance["notes"]
    return "## Notes of the simulation\n\n" + "\n".join(f"- {note}" for note in found) if found else ""


def settings(results: Results) -> str:
    """Every setting that differs from those of the preset `paper`, made from the settings of both."""
    paper, here = (_by_name(results.provenance.get(name, {})) for name in ("paper_config", "config"))
    rows = [
        [name, paper.get(name, "not known"), value]
        for name, value in here.items()
        if paper.get(name, ...) != value
    ]
    table = markdown_table(["setting", "`paper`", "here"], rows) if rows else "None differs."
    return (
        "### Settings that differ\n\nThe preset `paper` has the paper's settings, and this project's where "
        f"the paper gives none: widths, window and scale of intensities, tiles, patience.\n\n{table}"
    )


def _by_name(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}


def deviations(results: Results) -> str:
    """How this benchmark settles what the paper leaves open, and where it deviates whatever the settings."""
    data, query, training = (
        results.provenance["config"][section] for section in ("data", "query", "training")
    )
    points = [
        "The network's widths are not published; (32, 72, 88, 168, 336) meet the published geometry and "
        "parameter count. Dropout is element-wise, behind every concatenation.",
        "Weights start by the rule of He et al., the same for all models of a seed except twins, which the "
        "paper does not train; final models are trained anew, not continued, and the data pool's like "
        "them. Converged means that validations brought nothing better for as long as the "
        f"patience{_ended(results)}.",
        *_length(training),
        "On CUDA, convolutions round their inputs to TF32, as is PyTorch's default, where the device can.",
        f"Intensities are clipped to {data['window']} HU and divided by {data['scale']:g}. The halo of a "
        "patch is real context where the volume has it, and reflected where it has not.",
        "An epoch is one pass over the cells that hold an annotated voxel; a lone annotated slice lies at a "
        "random depth of its cell. Every mini-batch holds a patch with annotated liver. The loss is "
        "equation 1 over the mini-batch, with weight 1 on annotated slices and 0 elsewhere.",
        "Monte Carlo dropout: batch normalization stays in evaluation mode, and all strategies share the "
        "masks.",
        *_rules(results),
        f"The predicted liver is dilated by {query['dilation_mm']} mm (z, y, x), slice candidates lie at "
        f"least {query['min_distance_mm']:g} mm apart: the lengths of the paper's grid, rounded to voxels, "
        "distances up, at least one. The first and the last slice of a volume are never candidates.",
        "Effort counts the pool alone: validation cases are annotated in full, for all strategies alike.",
        "MSD is the mean of the two directed mean distances, HD the larger directed maximum, on the native "
        "grid of the reference; surface voxels have a 6-neighbour outside the mask or the image. A missed "
        "liver counts with the diagonal of its volume. Percentiles are interpolated linearly.",
        "p comes from exchanging models within cases, intervals from resampling cases; the paper has "
        "Wilcoxon's test against the best, and a regression that takes all results for independent.",
    ]
    listing = "\n".join(f"- {point}" for point in points)
    return (
        "### What the paper leaves open, and deviations from it\n\n"
        f"The method is that of {PAPER}. Settled by this benchmark:\n\n{listing}"
    )


def _ended(results: Results) -> str:
    """What decided on the length of the trainings that could converge."""
    if len(results.stopped) == sum(key.converges for key in results.scores):
        return ". Here none did: the limit of steps ended all"
    return "; few validation cases decide on it, so trainings differ in length by chance too (Table 3)"


def _length(training: Mapping[str, Any]) -> list[str]:
    """How long trainings are and which state is evaluated, where the settings are not as in the paper."""
    points = []
    if steps := training["max_steps"]:
        points.append(
            f"Models of iterations are trained for at most {steps} steps whatever is annotated, the paper's "
            "for 30 epochs: here, the more is annotated, the less often it is seen."
        )
    if anneal := training.get("anneal"):
        points.append(
            f"Over the last {anneal} steps of a training its rate falls to zero, and the state after them is "
            "evaluated; the paper takes the best validated one."
        )
    return points


def _rules(results: Results) -> list[str]:
    """What the strategies that ran ask for, where the paper leaves it open."""
    ran = [STRATEGIES[name] for name in results.strategies if name in STRATEGIES]
    rules = [f"{strategy.name} {strategy.rule}." for strategy in ran if strategy.rule]
    if any(strategy.by_slices for strategy in ran):
        rules.append(
            f"N_S is a third of the mean number of liver slices that an iteration of {BUDGET} adds, "
            "unless it is set; the paper rounds it to 200."
        )
    for name, origin in results.provenance.get("further_strategies", {}).items():
        what = f"repeats the queries of {origin['replays']} from" if "replays" in origin else "is defined in"
        rules.append(f"{name} {what} `{origin['file']}`.")
    return [" ".join(rules)] if rules else []


def provenance(results: Results) -> str:
    """Versions, digests and settings behind the numbers."""
    origin = results.provenance
    counts = [
        f"{split} {sum(volume['split'] == split for volume in results.volumes)} of "
        f"{origin['manifest_cases'][split]}"
        for split in SPLITS
    ]
    rows = [
        ["uss-bench", origin["uss_bench"]],
        ["git commit", commit_text(origin["git"])],
        ["Python", origin["python"]],
        *([name, number] for name, number in origin["libraries"].items()),
        ["device", origin["device"]],
        ["deterministic algorithms", "on" if origin["deterministic_algorithms"] else "off"],
        ["seed", origin["seed"]],
        ["manifest", f"{origin['manifest']}, SHA-256 {origin['manifest_sha256']}"],
        [
            "cases used, of those in the manifest",
            f"{', '.join(counts)} (data.pool, data.val and data.test limit them)",
        ],
        ["settings", f"SHA-256 {origin['config_sha256']}"],
    ]
    files = [paths.CASES, paths.ANNOTATION, paths.QUERIES, paths.TRAINING]
    if len(results.contenders) > 1:
        files.append(paths.TESTS)
    if results.uncertainties:
        files += [paths.UNCERTAINTY, paths.CALIBRATION]
    links = ", ".join(map(_link, files))
    return "\n\n".join(
        [
            f"## Provenance\n\nChecksums of all images and labels: {_link(paths.VOLUMES)}. "
            f"Scores, effort, queries, training, tests and uncertainties of this run: {links}.",
            markdown_table(["", "value"], rows),
            *_sources(results),
        ]
    )


def _sources(results: Results) -> list[str]:
    """Files of the strategies that do not ship, and what those say that choose for themselves."""
    further = results.provenance.get("further_strategies", {})
    if not further:
        return []
    rows = [[name, f"`{origin['file']}`", origin["sha256"]] for name, origin in further.items()]
    files = {origin["file"]: origin["source"] for origin in further.values() if "source" in origin}
    return [
        "### Strategies that do not ship",
        markdown_table(["strategy", "file", "SHA-256"], rows),
        *(f"`{file}`:\n\n````python\n{source.strip()}\n````" for file, source in files.items()),
    ]


def _link(path: str) -> str:
    return f"[{path}]({path})"


def citation(results: Results) -> str:
    """BibTeX entries of this program and of the paper."""
    version, git = results.provenance["uss_bench"], results.provenance["git"]
    code = f"commit {commit_text(git)}" if git else f"SHA-256 of its code {results.provenance['code_sha256']}"
    title = "uss-bench: a reproducible benchmark of uncertainty slice sampling for {3D} {CT} segmentation"
    return f"""## How to cite

```bibtex
@software{{uss_bench,
  author  = {{{{The uss-bench developers}}}},
  title   = {{{title}}},
  version = {{{version}}},
  note    = {{{code}}}
}}

@article{{chlebus_uss,
  author  = {{Chlebus, Grzegorz and Schenk, Andrea and Hahn, Horst K. and van Ginneken, Bram
             and Meine, Hans}},
  title   = {{Robust Segmentation Models using an Uncertainty Slice Sampling Based Annotation Workflow}},
  journal = {{IEEE Access}},
  volume  = {{10}},
  pages   = {{4728--4738}},
  year    = {{2022}},
  doi     = {{10.1109/ACCESS.2022.3141021}}
}}
```"""
