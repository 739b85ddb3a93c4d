"""What a shell is offered to complete a command with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from support.played import Service, as_json_page, listening

from twinlens.cli.main import main
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import ModelSummary


def model(name: str) -> ModelSummary:
    return ModelSummary(
        name=name,
        version="1",
        title=name,
        dimension=8,
        metric="L2",
        input={},
        weight=1,
        licence="none",
        source="here",
        sha256="0" * 64,
    )


@pytest.fixture
def url() -> Iterator[str]:
    service = Service()
    libraries = [new_library(name, ["phash@1"]) for name in ("cats", "cars", "dogs")]
    service.answers["/v1/libraries"] = lambda _: as_json_page(libraries)
    models = [model(name) for name in ("lite", "lite2", "phash")]
    service.answers["/v1/models"] = lambda _: as_json_page(models)
    with listening(service) as address:
        yield address


def offered(*words: str) -> list[str]:
    """Returns what the last word may become."""
    *before, begun = words
    completion = ShellComplete(main, {}, "twinlens", "_TWINLENS_COMPLETE")
    return [one.value for one in completion.get_completions(before, begun)]


def test_commands_and_options_are_offered() -> None:
    assert offered("li") == ["libraries"]
    assert offered("images", "") == ["count", "delete", "list", "show"]
    assert "--json" in offered("stats", "--")


def test_libraries_of_the_service_are_offered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("search", "--url", url, "--library", "ca") == ["cats", "cars"]
    monkeypatch.setenv("TWINLENS_URL", url)
    assert offered("search", "--library", "d") == ["dogs"]
    assert offered("libraries", "remove", "d") == ["dogs"]


def test_its_models_are_offered_after_each_comma(url: str) -> None:
    at = ("search", "--url", url, "--models")
    assert offered(*at, "li") == ["lite", "lite2"]
    assert offered(*at, "phash,li") == ["phash,lite", "phash,lite2"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nothing"])
def test_where_nothing_answers_nothing_is_offered(url: str) -> None:
    assert offered("search", "--url", url, "--library", "") == []


def test_files_are_offered_as_files(tmp_path: Path) -> None:
    completion = ShellComplete(main, {}, "twinlens", "_TWINLENS_COMPLETE")
    [one] = completion.get_completions(["search"], str(tmp_path))
    assert one.type == "file"
