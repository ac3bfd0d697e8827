"""The package's floors: a module imports from floors below its own, and nothing that is not declared."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uss_bench"
FLOORS = [
    "manifest nifti config seeding storage stopping aunet metrics statistics annotation published painting prefetch",
    "anatomy",
    "livers organs",
    "variants",
    "volumes phantoms cohort patches uncertainty strategies dicom layouts progress lock team",
    "training inference evaluation results plan datasets status",
    "models tables intake",
    "simulation showcase",
    "comparison captions across",
    "figures",
    "report",
    "pipeline",
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules.split()}
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}
REQUIRED = {"torch", "numpy", "scipy", "nibabel", "statsmodels"}


def imports_within(tree):
    """Modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = [*(["uss_bench"] if node.level else []), *(node.module.split(".") if node.module else [])]
            if path[0] == "uss_bench":
                found.update([path[1]] if len(path) > 1 else [alias.name for alias in node.names if alias.name in MODULES])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("uss_bench."))
    return found


def foreign_imports(tree):
    """Packages that a module imports when it is imported itself."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"uss_bench"}


def test_every_module_is_on_a_floor():
    assert set(MODULES) - {"__init__"} == set(FLOOR)
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]  # flat rooms


@pytest.mark.parametrize("module", FLOOR)
def test_a_module_imports_only_from_lower_floors(module):
    upwards = {name for name in imports_within(MODULES[module]) if FLOOR.get(name, len(FLOORS)) >= FLOOR[module]}
    assert not upwards


def test_the_parser_of_imports_sees_every_form():
    source = "from . import InputError, config\nfrom .volumes import x\nimport uss_bench.plan\nfrom uss_bench.report import y\nimport os"
    source += "\ndef f():\n    from . import tables\nfrom uss_bench import results"
    assert imports_within(ast.parse(source)) == {"config", "volumes", "plan", "report", "tables", "results"}


def test_the_package_itself_imports_nothing():
    assert not imports_within(MODULES["__init__"])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_needs_only_the_required_packages(module):
    assert foreign_imports(MODULES[module]) <= REQUIRED
