"""What is installed is what lies in the tree, and every example in it is true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import PACKAGES, ROOT

import twinlens


def modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(twinlens.__path__, "twinlens.")]


def test_the_wheel_has_every_module_of_the_tree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("twinlens/")}
    tree = {
        f"twinlens/{path.relative_to(ROOT)}"
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == tree | {"twinlens/__init__.py", "twinlens/py.typed"}


@pytest.mark.parametrize("folder", PACKAGES)
def test_the_bare_folders_are_no_modules(folder: str) -> None:
    code = f"import {folder}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr


def test_each_part_of_models_can_be_imported_first() -> None:
    names = [name for name in modules() if name.startswith("twinlens.models.")]
    code = "import importlib, sys\n" + "\n".join(
        f"importlib.import_module({name!r})\n"
        "for each in [m for m in sys.modules if m.startswith('twinlens')]: del sys.modules[each]"
        for name in names
        if not name.endswith("refresh")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in modules() if "wsgi" not in name])
def test_the_examples_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_all_that_make_installs_is_pinned_by_its_hash() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs
    # --no-deps: the project itself.
    pinned = ("--require-hashes", "--no-deps")
    assert [one for one in installs if not any(word in one for word in pinned)] == []
