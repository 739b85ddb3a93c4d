"""One word, one thing: in the names of the code, and in the glossary."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from support.paths import PACKAGES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
# They say nothing of what they name.
EMPTY_WORDS = {"util", "utils", "helper", "helpers", "manager", "data", "info", "process", "misc"}


def modules(folders: Iterable[str] = PACKAGES) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def defined(module: ast.Module) -> Iterator[str]:
    """Gives the names of a module's classes, type variables and type aliases."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name[0].isupper() and not name.isupper():
                yield name


def used(module: ast.Module) -> Iterator[tuple[str | None, int]]:
    """Gives each name that a module uses, and the line: of variables, arguments and the like."""
    for node in ast.walk(module):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=name):
                yield name, node.lineno
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                yield name, node.lineno


def test_no_name_of_a_type_has_two_meanings() -> None:
    places = defaultdict(list)
    for path, module in modules():
        for name in defined(module):
            if not name.startswith("_"):
                places[name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_file_function_or_class_has_a_name_that_says_nothing() -> None:
    names = set()
    for path, module in modules():
        names.add(path.stem)
        names |= {
            node.name
            for node in ast.walk(module)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
    assert {name.strip("_").lower() for name in names} & EMPTY_WORDS == set()


def test_contents_are_named_rather_than_that_they_were_found() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, module in modules((*PACKAGES, "tests", "benchmarks"))
        for name, line in used(module)
        if name == "found"
    ]
    assert places == []


def test_the_glossary_names_what_there_is() -> None:
    there = {name for _, module in modules() for name in defined(module)}
    rows = [line for line in GLOSSARY.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row)}
    assert len(named) > 30
    assert named - there == set()


def test_the_glossary_has_each_word_once() -> None:
    words = re.findall(r"^\| ([a-z][a-z -]+) \|", GLOSSARY, re.MULTILINE)
    assert len(words) > 30
    assert len(words) == len(set(words))
