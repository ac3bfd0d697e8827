"""Figures drawn from made-up result files.

What is plotted equals what `cases.csv` says, computed here without the package.
"""

import csv
import struct
import sys
from collections import defaultdict

import numpy as np
import pytest

from uss_bench.report import captions, figures, pictures, plots, style
from uss_bench.report.results import read_results
from uss_bench.runtime import paths, storage
from uss_bench.study.keys import INITIAL, ModelKey
from uss_bench.study.showcase import save_arrays
from uss_bench.study.strategies import STRATEGIES

pytest.importorskip("matplotlib")

pytestmark = pytest.mark.whole

CONFIG = {
    "inference": {"samples": 10},
    "query": {"min_distance_mm": 30.0},
    "data": {"spacing": [5.0, 4.0, 4.0]},
    "training": {"converged_max_steps": None},
}


def write_report(
    folder, strategies=("UVS", "RVS", "USS", "RSS"), iterations=2, cases=12, missed=False, slices=True
):
    """Result files of random scores.

    With `missed`, the first case of the last iterations' models is missed.
    """
    random = np.random.default_rng(0)
    keys = [("initial", "", 0)]
    keys += [
        ("iteration", strategy, iteration)
        for strategy in strategies
        for iteration in range(1, iterations + 1)
    ]
    keys += [("converged", strategy, iterations) for strategy in strategies] + [("data pool", "", "")]
    case_ids = [f"case-{number}" for number in range(cases)]
    rows = []
    for key in keys:
        for case_id in case_ids:
            dice, rve, msd, hd = random.uniform((0.6, 1, 1, 20), (0.95, 60, 9, 90)).tolist()
            lost = missed and case_id == "case-0" and key[0] == "iteration" and key[2] == iterations
            values = (0.0, 100.0, np.inf, np.inf) if lost else (dice, rve, msd, hd)
            scores = dict(zip(("DICE", "RVE", "MSD", "HD"), values, strict=True))
            rows.append(
                {**_named(key), "seed": 3, "case_id": case_id, "site": "a", **scores, "missed": int(lost)}
            )
    storage.write_csv(folder / paths.CASES, list(rows[0]), rows)
    effort = [
        {"strategy": key[1] or key[0].replace("initial", ""), "iteration": key[2],
         "annotated_slices": 40 + 10 * place,
         "annotated_liver_slices": 20 + 7 * place, "unique_patients": 3}
        for place, key in enumerate(keys) if key[0] != "converged"
    ]  # fmt: skip
    storage.write_csv(folder / paths.ANNOTATION, list(effort[0]), effort)
    training = [{**_named(key), "best_step": 1, "last_step": 2, "best_jaccard": 0.5} for key in keys]
    storage.write_csv(folder / paths.TRAINING, list(training[0]), training)
    queries = [
        {
            "strategy": key[1],
            "iteration": key[2],
            "case_id": "pool-1",
            "slice": "7" * ("SS" in key[1]),
            "score": "",
        }
        for key in keys
        if key[0] == "iteration"
    ]
    storage.write_csv(folder / paths.QUERIES, ["strategy", "iteration", "case_id", "slice", "score"], queries)
    spacing, size = (
        {f"{name}_{axis}": value for axis in "zyx"} for name, value in (("spacing", 2.0), ("size", 100))
    )
    storage.write_csv(
        folder / paths.VOLUMES,
        ["case_id", *spacing, *size],
        [{"case_id": case_id, **spacing, **size} for case_id in case_ids],
    )
    storage.write_json(folder / paths.PROVENANCE, {"seed": 3, "config": CONFIG})
    if slices:
        save_arrays(folder / paths.SLICES, made_up_slices(strategies, case_ids))
    return read_results(folder)


def _named(key):
    return dict(zip(("model", "strategy", "iteration"), key, strict=True))


def made_up_slices(strategies, case_ids):
    """Arrays as `showcase` describes them, of discs."""
    y, x = np.mgrid[:30, :40]
    disc = ((y - 14) ** 2 + (x - 18) ** 2 < 80).astype(np.uint8)
    shown = case_ids[:3]
    arrays = {
        "case_id": np.array(shown), "case_role": np.array(["best", "worst", "disagreement"][: len(shown)]),
        "case_slice": np.arange(len(shown)), "case_pixel": np.full((len(shown), 2), 1.5),
        "case_models": np.array([*strategies, "data pool"]),
    }  # fmt: skip
    for number in range(len(shown)):
        predictions = np.stack([np.roll(disc, 2 * model, axis=1) for model in range(len(strategies) + 1)])
        predictions[0] = 0
        arrays |= {
            f"case_{number}_ct": disc * 200,
            f"case_{number}_reference": disc,
            f"case_{number}_predictions": predictions,
        }
    if "USS" in strategies:
        profile = np.array([0.1, 0.2, 0.1, 0.3, 0.5, 0.3, 0.1, 0.1, 0.1, 0.4, 0.1], np.float32)
        arrays |= {
            "profile": profile, "profile_candidates": np.array([4, 9]), "profile_chosen": np.array([4]),
            "profile_liver": profile > 0.15, "profile_case": np.array("pool-1"),
            "query_case": np.array(["pool-1", "pool-2"]),
            "query_slice": np.array([4, 6]), "query_score": np.array([0.5, 0.45]),
            "query_rank": np.array([1, 2]),
            "query_count": np.array(2), "query_pixel": np.full((2, 2), 3.0),
        }  # fmt: skip
        for number in range(2):
            images = {
                "ct": disc * 200,
                "reference": disc * number,
                "probability": disc * 90,
                "entropy": (disc / 3).astype(np.float16),
            }
            arrays |= {f"query_{number}_{name}": image for name, image in images.items()}
    return arrays


def csv_scores(folder, metric):
    """`{(model, strategy, iteration as text): list}` straight from the file.

    Infinite distances are replaced by the diagonal of the made-up volume.
    """
    found = defaultdict(list)
    with open(folder / "results" / "cases.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            value = float(row[metric])
            found[row["model"], row["strategy"], row["iteration"]].append(
                value if np.isfinite(value) else 200 * 3**0.5
            )
    return found


def medians(axis):
    """Heights of the median lines of an axis' box plots by their x position."""
    lines = [
        line
        for line in axis.lines
        if line.get_color() == "black" and len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    ]
    return {round(float(np.mean(line.get_xdata())), 3): line.get_ydata()[0] for line in lines}


def test_files_captions_and_alt_texts(tmp_path):
    results = write_report(tmp_path)
    drawn = figures.write_figures(results, tmp_path)
    assert [figure.number for figure in drawn] == [0, 2, 3, 4, 5, 6]
    assert figures.missing_note(results, drawn) == ""
    for figure in drawn:
        header = (tmp_path / figure.file).read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert struct.unpack(">I", header[16:20])[0] >= 800
        assert figure.alt and figure.caption.endswith(".")
        assert figure.markdown.startswith(f"![{figure.alt}]({figure.file})\n\n**{figure.title}.** ")
        if figure.number not in (2, 4, 5):
            assert "n = 12 test cases" in figure.caption
    assert not list((tmp_path / "figures").glob(".partial*"))


# Linear RGB as eyes without the long, the middle or the short cones see it (Machado et al. 2009).
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}  # fmt: skip


def lab(colour, vision):
    """CIELAB of a colour as an eye sees it."""
    rgb = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ seen / [0.9505, 1.0, 1.089])  # bright enough for the cubic part
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_strategies_stay_apart_for_every_eye():
    """Two strategies differ in the marker; if not, in line and, as any eye sees it, in colour."""
    names = [*STRATEGIES, *(f"MINE {number}" for number in range(len(style.SPARE)))]
    style.adopt(names)
    shipped = {looks for name in STRATEGIES for looks in (style.COLOURS[name], style.MARKERS[name])}
    assert shipped.isdisjoint(looks for spare in style.SPARE for looks in spare)
    for place, one in enumerate(names):
        for other in names[:place]:
            apart = {
                vision: np.linalg.norm(lab(style.COLOURS[one], vision) - lab(style.COLOURS[other], vision))
                for vision in VISIONS
            }
            assert apart["usual"] > 12, (one, other)
            if style.MARKERS[one] == style.MARKERS[other]:
                assert style.LINES[one] != style.LINES[other] and min(apart.values()) > 15, (one, other)


@pytest.mark.slow
def test_many_strategies_are_drawn_below_each_other_and_oracles_marked(tmp_path):
    results = write_report(tmp_path, [*STRATEGIES, "MINE"], slices=False)
    drawn = figures.write_figures(results, tmp_path)
    assert [figure.number for figure in drawn] == [0, 3, 6]
    assert "Whiskers" not in drawn[0].caption
    for draw in (plots.iterations_figure, plots.converged_figure):
        assert len(draw(results).axes) == 4 and draw(results).get_figheight() > 10
    ticks = [label.get_text() for label in plots.converged_figure(results).axes[0].get_xticklabels()]
    assert ticks == [*(f"{name}†" if name == "OSS" else name for name in STRATEGIES), "MINE", "data pool"]
    legend = [text.get_text() for text in plots.effort_figure(results).legends[0].get_texts()]
    assert "OSS†" in legend and "OSS" not in legend and "MINE" in legend


def test_key_figure_shows_means_against_effort(tmp_path):
    """A third of the liver slices of volumes, 20 at first, and all slices asked for one by one."""
    axes = plots.effort_figure(write_report(tmp_path, missed=True)).axes
    with open(tmp_path / "results" / "annotation.csv", encoding="utf-8", newline="") as file:
        effort = {
            (row["strategy"], row["iteration"]): int(row["annotated_liver_slices"])
            for row in csv.DictReader(file)
        }
    for axis, metric in zip(axes, ("DICE", "HD"), strict=True):
        scores = csv_scores(tmp_path, metric)
        lines = {line.get_color(): line for container in axis.containers for line in [container.lines[0]]}
        assert len(lines) == 4
        for strategy in ("UVS", "RVS", "USS", "RSS"):
            keys = [("initial", "", "0"), ("iteration", strategy, "1"), ("iteration", strategy, "2")]
            liver = np.array([effort[key[1:]] for key in keys])
            expected = 20 / 3 + liver - 20 if strategy in ("USS", "RSS") else liver / 3
            line = lines[style.COLOURS[strategy]]
            np.testing.assert_allclose(np.array(line.get_xdata(), float), expected)
            np.testing.assert_allclose(line.get_ydata(), [np.mean(scores[key]) for key in keys])
        flat = [line.get_ydata()[0] for line in axis.lines[:2]]
        np.testing.assert_allclose(
            flat, [np.mean(scores["initial", "", "0"]), np.mean(scores["data pool", "", ""])]
        )


def whiskers(container):
    """Ends `(points, 2)` of the error bars of a line."""
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])


def test_whiskers_of_the_key_figure_are_of_what_differs_from_the_initial_model(tmp_path):
    """USS differs by 0.05 in every case: no doubt, however much cases spread. UVS differs at random."""
    results = write_report(tmp_path, strategies=("UVS", "USS"), iterations=1)
    initial = results.scores[INITIAL]
    shifted = {metric: values + 0.05 for metric, values in initial.items()}
    results.scores[ModelKey.of_iteration("USS", 1)] = shifted
    random, certain = plots.effort_figure(results).axes[0].containers
    np.testing.assert_allclose(whiskers(certain)[1], initial["DICE"].mean() + 0.05)
    low, high = whiskers(random)[1]
    difference = results.scores[ModelKey.of_iteration("UVS", 1)]["DICE"] - initial["DICE"]
    normal = 2 * 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
    assert low < random.lines[0].get_ydata()[1] < high
    assert high - low == pytest.approx(normal, rel=0.25)
    for container in (random, certain):
        np.testing.assert_allclose(whiskers(container)[0], initial["DICE"].mean())


def test_twins_stand_beside_the_initial_model(tmp_path):
    results = write_report(tmp_path, strategies=("USS",), iterations=1)
    twin = ModelKey.of_twin(1)
    results.scores[twin] = {metric: values + 0.01 for metric, values in results.scores[INITIAL].items()}
    results.effort[twin] = results.effort[INITIAL]
    figure = plots.effort_figure(results)
    (line,) = (c.lines[0] for c in figure.axes[0].containers if c.get_label() == "retrained")
    assert line.get_xdata() == [20 / 3]
    assert line.get_ydata() == pytest.approx([results.scores[INITIAL]["DICE"].mean() + 0.01])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "USS" and set(labels[1:]) == {"retrained", "initial model", "data pool model"}
    assert "Grey crosses" in captions.describe_effort(results, {})[1]


def test_boxes_over_iterations(tmp_path):
    axes = plots.iterations_figure(write_report(tmp_path)).axes
    for axis, metric in zip(axes, ("DICE", "RVE", "MSD", "HD"), strict=True):
        scores, drawn = csv_scores(tmp_path, metric), medians(axis)
        assert len(drawn) == 2 + 2 * 4
        assert drawn[0.0] == pytest.approx(np.median(scores["initial", "", "0"]))
        assert drawn[3.0] == pytest.approx(np.median(scores["data pool", "", ""]))
        for place, strategy in enumerate(("UVS", "RVS", "USS", "RSS")):
            for iteration in (1, 2):
                position = round(iteration + (place - 1.5) * 0.21, 3)
                assert drawn[position] == pytest.approx(
                    np.median(scores["iteration", strategy, str(iteration)])
                )


def test_boxes_of_converged_models(tmp_path):
    axes = plots.converged_figure(write_report(tmp_path, strategies=("RVS", "USS"))).axes
    for axis, metric in zip(axes, ("DICE", "RVE", "MSD", "HD"), strict=True):
        scores, drawn = csv_scores(tmp_path, metric), medians(axis)
        expected = {2.0: scores["data pool", "", ""]}
        for place, strategy in enumerate(("RVS", "USS")):
            expected |= {
                place - 0.19: scores["iteration", strategy, "2"],
                place + 0.19: scores["converged", strategy, "2"],
            }
        assert drawn == pytest.approx({position: np.median(values) for position, values in expected.items()})


def test_few_cases_are_shown_one_by_one(tmp_path):
    results = write_report(tmp_path, strategies=("RSS",), iterations=1, cases=2)
    axis = plots.iterations_figure(results).axes[0]
    dots = np.concatenate([line.get_ydata() for line in axis.lines if line.get_marker() == "."])
    shown = [
        value
        for key, values in csv_scores(tmp_path, "DICE").items()
        if key[0] != "converged"
        for value in values
    ]
    assert sorted(dots) == pytest.approx(sorted(shown))
    assert "every case as a dot" in captions.describe_iterations(results, {})[1]


def test_missed_livers_are_named_and_set_the_scale(tmp_path):
    results = write_report(tmp_path, missed=True)
    # 10 models, one case of each last iteration
    assert "4 of the 120 results missed the liver" in captions.describe_iterations(results, {})[1]
    assert "4 of the 108 results missed the liver" in captions.describe_converged(results, {})[1]
    msd = plots.iterations_figure(results).axes[2]
    assert msd.get_yscale() == "log" and "log scale" in msd.get_title("left")
    assert plots.iterations_figure(write_report(tmp_path)).axes[2].get_yscale() == "linear"


def test_profile_shows_candidates_choice_and_liver(tmp_path):
    results = write_report(tmp_path)
    slices = made_up_slices(results.strategies, results.cases)
    lines = {
        line.get_label(): line.get_xydata() for line in plots.profile_figure(results, slices).axes[0].lines
    }
    np.testing.assert_allclose(lines["slice uncertainty"][:, 1], slices["profile"])
    np.testing.assert_allclose(lines["candidate"], [[4, 0.5], [9, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(lines["chosen"], [[4, 0.5]])
    assert lines["lowest score chosen"][0, 1] == 0.45


def test_segmentations_name_whole_case_scores(tmp_path):
    results = write_report(tmp_path)
    slices = made_up_slices(results.strategies, results.cases)
    labels = [axis.get_xlabel() for axis in pictures.cases_figure(results, slices).axes]
    dice, hd = csv_scores(tmp_path, "DICE"), csv_scores(tmp_path, "HD")
    keys = [
        *(("converged", strategy, "2") for strategy in ("UVS", "RVS", "USS", "RSS")),
        ("data pool", "", ""),
    ]
    assert labels == [
        f"DICE {dice[key][case]:.3f}, HD {hd[key][case]:.0f} mm" for case in range(3) for key in keys
    ]


def test_images_lie_as_radiologists_look_at_them(tmp_path):
    """The patient's right is at the left, the front at the top."""
    results = write_report(tmp_path)
    slices = made_up_slices(results.strategies, results.cases)
    slices["case_0_ct"][-1, -1] = 255  # front right
    shown = pictures.cases_figure(results, slices).axes[0].images[0]
    assert shown.get_array()[0, 0] == 255 and shown.origin == "upper"


def test_contours_lie_where_the_images_do(tmp_path):
    results = write_report(tmp_path)
    slices = made_up_slices(results.strategies, results.cases)
    reference = np.zeros_like(slices["case_0_reference"])
    reference[-6:-2, -6:-2] = 1  # front right
    slices["case_0_reference"] = reference
    contour = pictures.cases_figure(results, slices).axes[0].collections[0]
    vertices = np.concatenate([path.vertices for path in contour.get_paths()])
    assert vertices.min() > 1 and vertices.max() < 6


def test_without_slices_or_uss_the_rest_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save", lambda *_: None)  # drawing takes most of the time
    results = write_report(tmp_path / "a", slices=False)
    drawn = figures.write_figures(results, tmp_path / "a")
    assert [figure.number for figure in drawn] == [0, 3, 6]
    assert figures.missing_note(results, drawn).startswith(
        "Not drawn: Figure 2 (slice profile), Figure 4 (queried slices) and Figure 5"
    )

    results = write_report(tmp_path / "b", strategies=("RVS",), iterations=1, cases=1)
    drawn = figures.write_figures(results, tmp_path / "b")
    assert [figure.number for figure in drawn] == [0, 3, 5, 6]
    assert "USS" in figures.missing_note(results, drawn)


def test_without_matplotlib_nothing_is_drawn_and_the_note_says_how_to(tmp_path, monkeypatch):
    results = write_report(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert figures.write_figures(results, tmp_path) == []
    assert not (tmp_path / "figures").exists()
    assert "pip install matplotlib" in figures.missing_note(results, [])


def test_the_last_bits_of_a_layout_do_not_show(tmp_path):
    """The layout's solver gives other ones in every process."""
    pytest.importorskip("matplotlib")
    for name, noise in (("a", 0.0), ("b", 3e-13)):
        figure, axes = style.canvas(1, 1, height=2)
        figure.set_layout_engine("none")
        axes[0, 0].set_position([0.125 + noise, 0.25 - noise, 0.5 + noise, 0.625])
        axes[0, 0].plot([0, 1, 3], [2, 0, 1])
        style.save(figure, tmp_path / name)
        assert axes[0, 0].get_position().bounds == (0.125, 0.25, 0.5, 0.625)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
