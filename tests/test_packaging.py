"""What a wheel and a source distribution hold."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, so that building leaves nothing in it, with both distributions in dist/."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rlkit_es", copy / "rlkit_es", ignore=unwanted)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    build = (
        "from setuptools import build_meta; build_meta.build_wheel('dist'); build_meta.build_sdist('dist')"
    )
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    return copy / "dist"


def test_a_wheel_has_every_module_and_the_type_marker(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "rlkit_es").rglob("*.py")}
    assert names == modules | {"rlkit_es/py.typed"}


def test_a_source_distribution_has_what_builds_the_wheel_and_no_part_of_the_tests(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "rlkit_es/py.typed"} <= names
    assert not any(name.startswith("tests") for name in names)
