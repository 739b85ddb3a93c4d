"""Values of options that click does not know, as a user types them."""

from __future__ import annotations

import math

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.main import main
from twinlens.cli.parameters import NamedNumber, RegionParameter

# A number that is not finite is no weight; what JSON can carry, the service takes.
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.text(min_size=1), finite | st.integers())
def test_a_named_number_is_read_as_it_was_written(name: str, number: float) -> None:
    read = NamedNumber().convert(f"{name}={number!r}", None, None)
    assert read == (name, number)
    assert type(read[1]) is type(number)


@pytest.mark.parametrize(
    "text", ["", "phash", "phash=", "=1", "phash=much", "phash=nan", "a=1e999"]
)
def test_what_is_no_named_number_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        NamedNumber().convert(text, None, None)


@given(st.tuples(finite, finite, finite, finite))
def test_a_region_is_read_as_it_was_written(edges: tuple[float, ...]) -> None:
    assert RegionParameter().convert(",".join(map(repr, edges)), None, None) == edges


@given(st.text(alphabet="0123456789.,- enaif"))
def test_a_region_is_four_finite_numbers_or_is_refused(text: str) -> None:
    try:
        read = RegionParameter().convert(text, None, None)
    except click.BadParameter:
        return
    assert len(read) == len(text.split(",")) == 4
    assert all(map(math.isfinite, read))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--region", "0,0,1"], "four numbers"),
        (["--region", "0.5,0,0.2,1"], "a region's left must be less than its right"),
        (["--weight", "phash"], "a name, `=` and a number"),
        (["--weight", "phash=-1"], "weights.phash"),
        (["--max-distance", "phash=far"], "a name, `=` and a number"),
        (["--filter", "city = 'Paris'"], "filter: "),
        (["--exclude", "a.jpg"], "exclude.0"),
        (["--min-score", "2"], "--min-score"),
        (["--fusion", "best"], "--fusion"),
        (["--offset", "10001"], "offset: "),
        (["--filter", "width > 'big'"], "filter: At character 1: width is compared with a number"),
        (["--group-by", ""], "group_by: "),
        (["--group-by", "shot at"], "group_by: At character 6: expected the end, found 'at'."),
        (["--text", "a cat", "--near"], "leave it out, or the words"),
        (["--negative-text", " "], "negative_text: "),
    ],
)
def test_a_search_that_cannot_be_read_is_not_begun(words: list[str], told: str) -> None:
    # Nothing listens there: a service that were asked would be missed, with another status.
    done = CliRunner().invoke(main, ["search", __file__, "--url", "http://127.0.0.1:9", *words])
    assert done.exit_code == 2, done.output
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--index", "BEST"], "index.type"),
        (["--param", "M=many"], "a name, `=` and a number"),
        (["--param", "M=1.5"], "index.params.M"),
        (["--vector", "int8"], "index.vector"),
        (["--recall", "1"], "index.recall"),
        (["--metric", "miles"], "metric"),
        (["--weight", "phash=-1"], "weights.phash"),
    ],
)
def test_a_plan_that_cannot_be_read_is_not_sent(words: list[str], told: str) -> None:
    command = ["libraries", "--url", "http://127.0.0.1:9", "set", "some", "--model", "phash"]
    done = CliRunner().invoke(main, [*command, *words])
    assert done.exit_code == 2, done.output
    assert told in done.stderr


def test_a_picture_to_compare_is_a_file_or_an_id() -> None:
    done = CliRunner().invoke(main, ["compare", __file__, "a.jpg", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert "neither a file nor the id" in done.stderr


@pytest.mark.parametrize("place", [1, 3])
def test_the_service_is_named_before_or_behind_the_word(place: int) -> None:
    words = ["libraries", "rollback", "some"]
    command = [*words[:place], "--url", "http://127.0.0.1:9", *words[place:]]
    done = CliRunner().invoke(main, command, env={"TWINLENS_URL": "http://127.0.0.1:10"})
    assert "http://127.0.0.1:9;" in done.stderr
