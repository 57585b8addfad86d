"""Who may import whom: read from the source, deferred imports included."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rlkit_es"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From the bottom up: each part may import itself and what is further down.
LAYERS = [["errors"], ["types"], ["core"], ["ranks"], ["models"], ["learners"], ["training"], ["runs"]]
TOP = ["agent", "algorithms", "commands", "run", "cli", "__main__", "_version", "__init__"]
ENVS_MAY_IMPORT = {"rlkit_es.types", "rlkit_es.errors", "rlkit_es.core.running_stats"}


def part_of(module: str) -> str:
    """The first name below the package; `__init__` is the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def imported_by(module: str) -> Iterator[str]:
    """Full names of the modules imported anywhere in the source of ``module``."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in MODULES else source


def internal_imports(module: str) -> set[str]:
    return {name for name in imported_by(module) if name.split(".")[0] == "rlkit_es"}


def of_part(part: str) -> list[str]:
    return [module for module in MODULES if part_of(module) == part]


def test_every_module_has_its_place() -> None:
    known = {"envs", *TOP, *(part for layer in LAYERS for part in layer)}
    assert {part_of(module) for module in MODULES} <= known
    assert all(of_part(part) for part in known)


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_imports_only_itself_and_lower_ones(module: str) -> None:
    below = [part for layer in LAYERS for part in layer]
    part = part_of(module)
    if part == "envs":
        allowed = {"envs"}
        assert {m for m in internal_imports(module) if part_of(m) not in allowed} <= ENVS_MAY_IMPORT
        return
    allowed = {*below, *TOP} if part in TOP else set(below[: below.index(part) + 1])
    if part in ("training", "runs"):
        allowed.add("envs")  # and nobody else
    assert {part_of(m) for m in internal_imports(module)} <= allowed


@pytest.mark.parametrize("module", of_part("core"))
def test_core_imports_torch_and_the_standard_library_alone(module: str) -> None:
    outside = {name.split(".")[0] for name in imported_by(module)} - {"rlkit_es"}
    assert outside - set(sys.stdlib_module_names) <= {"torch"}
    source = MODULES[module].read_text()
    for networks in ("nn.Module", "from torch import nn", "import torch.nn"):
        assert networks not in source
    assert not any(name.startswith("torch.nn") for name in imported_by(module))


@pytest.mark.parametrize("module", [*of_part("errors"), *of_part("_version")])
def test_the_bottom_imports_nothing_of_the_package(module: str) -> None:
    assert not internal_imports(module)


@pytest.mark.parametrize("module", MODULES)
def test_the_library_does_not_import_benchmarks_or_tests(module: str) -> None:
    assert not {name.split(".")[0] for name in imported_by(module)} & {"benchmarks", "tests"}


def test_the_reader_of_imports_sees_the_ones_there_are() -> None:
    assert "rlkit_es.core.losses" in internal_imports("rlkit_es.core.stops")
    assert "rlkit_es.run" in internal_imports("rlkit_es.cli")  # from rlkit_es import run
    assert any(part_of(m) == "envs" for m in internal_imports("rlkit_es.training.trainer"))
