"""Tables, in terminals of every width and in pipes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len

from twinlens.cli.output import say
from twinlens.cli.show.tables import Column, named, print_table

JOB_ID = "0123456789abcdef" * 2
COLUMNS = (
    Column("id", 32),
    named("name"),
    "status",
    Column("licence", leave_out=2),
    Column("title", 12, leave_out=1),
)
ROW = (JOB_ID, "2019/Été à Nice/写真 0001.jpg", "succeeded", "Apache-2.0", "a title of many words")

Lines = Callable[..., list[str]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lines:
    """What is printed in a terminal of so many columns, or in a pipe, without styles."""

    def printed(print_it: Callable[[], None], columns: int | None = None) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns or 40))
        monkeypatch.setenv("TTY_COMPATIBLE", "1" if columns else "0")
        print_it()
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return printed


def print_job() -> None:
    print_table(COLUMNS, [ROW], "jobs")


def column(table: list[str], heading: str, next_heading: str | None) -> str:
    """Returns the text in a column of the one row, put together again."""
    place = next(n for n, line in enumerate(table) if heading in line)
    start = table[place].index(heading)
    end = table[place].index(next_heading) if next_heading else None
    below = table[place + 2 :]
    # Wide letters take two columns.
    spread = ["".join(c + "\0" * (cell_len(c) - 1) for c in line)[start:end] for line in below]
    return "".join(spread).replace("\0", "").replace(" ", "")


@pytest.mark.parametrize("columns", [30, 40, 60, 66, 90, 200])
def test_what_is_shown_is_within_the_width_and_whole(lines: Lines, columns: int) -> None:
    printed = lines(print_job, columns)
    assert max(map(cell_len, printed)) <= columns
    table = [line for line in printed if line.startswith(" ")]
    assert column(table, "id", "na") == JOB_ID
    assert column(table, "na", "st") == ROW[1].replace(" ", "")


@pytest.mark.parametrize(
    ("columns", "left_out"), [(60, "licence, title"), (74, "licence"), (88, None), (200, None)]
)
def test_what_counts_least_is_left_out_first_and_named(
    lines: Lines, columns: int, left_out: str | None
) -> None:
    printed = " ".join(lines(print_job, columns))
    assert ("no room for" in printed) is (left_out is not None)
    if left_out:
        assert f"no room for {left_out}: " in printed
    assert ("Apache-2.0" in printed) is (left_out is None)


def test_in_a_pipe_columns_have_tabs_between_and_nothing_is_left_out(lines: Lines) -> None:
    assert [line.split("\t") for line in lines(print_job)] == [
        ["jobs"],
        ["id", "name", "status", "licence", "title"],
        list(ROW),
    ]


def test_a_name_is_no_end_of_a_line_or_column_and_no_command_to_a_terminal(lines: Lines) -> None:
    def print_evil() -> None:
        print_table(["name", "size"], [("a\tb\nc\x1b[2Jd", "1")])

    assert lines(print_evil)[1:] == ["abc[2Jd\t1"]


def test_colours_may_be_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    print_job()
    # Bold is no colour.
    assert set(re.findall(r"\x1b\[[0-9;]*m", capsys.readouterr().out)) <= {
        "\x1b[0m",
        "\x1b[1m",
        "\x1b[3m",
    }


def test_lines_are_wrapped_at_words_which_stay_whole(lines: Lines) -> None:
    told = f"job {JOB_ID} goes on"
    assert lines(lambda: say(told), 20) == ["job", JOB_ID, "goes on"]
    assert lines(lambda: say(told)) == [told]
    assert lines(lambda: say("写真 写真 写真"), 9) == ["写真 写真", "写真"]
