"""The house: six wings, imports that run one way, and nothing imported that is not declared."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uss_bench"
SETUP = configparser.ConfigParser()
SETUP.read(PACKAGE.parent / "setup.cfg", encoding="utf-8")


def declared(section, key):
    """Packages that setup.cfg names, as they are imported."""
    return set(re.findall(r"^([\w-]+)", SETUP[section][key], re.MULTILINE))


REQUIRED = declared("options", "install_requires")
OPTIONAL = declared("options.extras_require", "figures") | declared("options.extras_require", "dicom")
# What each wing may import beside itself. The top, modules that lie in no wing, may import anything.
MAY_IMPORT = {
    "runtime": set(),
    "data": {"runtime"},
    "network": {"runtime"},
    "study": {"runtime", "data", "network"},
    "report": {"runtime", "data", "network", "study"},
}
TREES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}
ROOMS = [name for name in TREES if not name.endswith("__init__")]


def imports_of(room, tree):
    """Rooms of the package, as `wing/room` or `room`, that a room imports, wherever in it."""
    folder = room.split("/")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = [*folder[: len(folder) + 1 - node.level]] if node.level else ["", *node.module.split(".")]
            base += node.module.split(".") if node.level and node.module else []
            base = base[2:] if base[:2] == ["", "uss_bench"] else base
            if base[:1] == [""]:
                continue  # a foreign package
            names = ["/".join([*base, alias.name]) for alias in node.names]
            found.update(name if name in TREES else "/".join(base) for name in names)
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found.update("/".join(parts[1:]) for parts in names if parts[0] == "uss_bench" and parts[1:])
    return found - {""}


def wing_of(room):
    return room.split("/")[0] if "/" in room else "top"


def foreign_imports(nodes):
    """Packages that these statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"uss_bench"}


def test_there_are_five_wings_and_a_top_each_with_a_line_that_says_what_it_is():
    assert {wing_of(room) for room in ROOMS} == {"top", *MAY_IMPORT}
    for wing in MAY_IMPORT:
        assert len(ast.get_docstring(TREES[f"{wing}/__init__"]).splitlines()) == 1
        assert len(TREES[f"{wing}/__init__"].body) == 1  # the docstring alone


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_imports_upward(room):
    wing = wing_of(room)
    if wing != "top":
        assert {wing_of(other) for other in imports_of(room, TREES[room])} <= MAY_IMPORT[wing] | {wing}


def test_there_is_no_circle():
    open_rooms = {room: imports_of(room, TREES[room]) & set(ROOMS) for room in ROOMS}
    while open_rooms:
        ground = {room for room, others in open_rooms.items() if not others & open_rooms.keys()}
        assert ground, f"these import each other: {sorted(open_rooms)}"
        open_rooms = {room: others for room, others in open_rooms.items() if room not in ground}


def test_the_parser_of_imports_sees_every_form():
    source = (
        "from .. import config\nfrom ..runtime import storage\nfrom ..runtime.errors import InputError\n"
        "from .tables import x\nfrom . import figures\n"
        "import uss_bench.plan\nfrom uss_bench.data.nifti import y\n"
        "import os\nfrom pathlib import Path\ndef f():\n    from ..study import metrics"
    )
    assert imports_of("report/document", ast.parse(source)) == {
        "config", "runtime/storage", "runtime/errors", "report/tables", "report/figures", "plan",
        "data/nifti", "study/metrics"
    }  # fmt: skip


@pytest.mark.parametrize("room", TREES)
def test_a_room_needs_only_the_required_packages(room):
    """Optional ones may be imported where they are used."""
    tree = TREES[room]
    assert foreign_imports(tree.body) <= REQUIRED
    assert foreign_imports(ast.walk(tree)) <= REQUIRED | OPTIONAL


def test_the_required_packages_are_those_that_were_agreed_on():
    assert {"torch", "numpy", "scipy", "nibabel", "statsmodels"} == REQUIRED


def test_every_room_has_a_test_file_where_it_lies():
    """Except rooms that are tested through others."""
    tests = Path(__file__).parent
    through_others = {
        "request": "test_crash", "identity": "test_crash",
        "cost": "test_plan", "presets": "test_config",
        "pipeline": "test_benchmark and test_crash", "__main__": "test_commands",
        "runtime/errors": "every refusal", "runtime/paths": "names alone",
        "data/layouts": "data/test_datasets",
        "data/dicom": "data/test_datasets", "data/splits": "data/test_datasets",
        "data/nifti_header": "data/test_nifti",
        "data/case_files": "data/test_volumes", "data/resampling": "data/test_volumes",
        "data/painting": "data/test_phantoms", "data/anatomy": "data/test_phantoms",
        "data/organs": "data/test_phantoms",
        "data/livers": "data/test_phantoms", "data/variants": "data/test_phantoms",
        "study/models": "study/test_simulation",
        "study/records": "study/test_simulation",
        "study/surfaces": "study/test_metrics", "report/captions": "report/test_figures",
        "report/plots": "report/test_figures", "report/pictures": "report/test_figures",
        "report/uncertainty_figure": "report/test_uncertainty_section",
        "report/style": "report/test_figures", "report/result_files": "report/test_results",
        "report/words": "report/test_tables",
        "report/across_summary": "report/test_across", "report/across_tables": "report/test_across",
        "report/across_plot": "report/test_across", "report/across_method": "report/test_across",
        "report/summary": "report/test_document",
        "report/appendix": "report/test_document",
    }  # fmt: skip
    without = {
        room for room in ROOMS if not (tests / Path(room).parent / f"test_{Path(room).name}.py").exists()
    }
    assert without == set(through_others)


def test_the_package_alone_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'scipy', 'nibabel', 'statsmodels'}"
    code = f"import sys, uss_bench; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import uss_bench

    assert [name for name in uss_bench.__all__ if getattr(uss_bench, name, None) is None] == []
    assert set(uss_bench.__all__) <= set(dir(uss_bench))
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        uss_bench.nothing_of_ours  # noqa: B018


def test_what_the_default_commands_write_is_ignored_by_git():
    """The checkout stays clean, and nothing that is committed is among what they write."""
    root = PACKAGE.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout")
    written = [
        "data/phantoms/north-01.nii.gz", "runs/quick-seed0/run.json", "reports/quick-seed0/report.md",
        "reports/quick-seeds0-1/report.md", ".hypothesis/constants", "uss_bench.egg-info/PKG-INFO",
    ]  # fmt: skip
    ignored = subprocess.run(["git", "check-ignore", *written], cwd=root, capture_output=True, text=True)
    assert ignored.stdout.split() == written
    tracked = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(tracked, cwd=root, capture_output=True, text=True).stdout == ""


def test_the_tree_in_contributing_names_every_room():
    tree = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"── (\w+\.py)", tree)
    assert [room for room in ROOMS if f"{Path(room).name}.py" not in named] == []
    there = {
        path.name for folder in ("uss_bench", "tests") for path in (PACKAGE.parent / folder).rglob("*.py")
    }
    assert set(named) <= there
