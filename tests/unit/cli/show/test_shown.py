"""What commands ask of a service, option by option, and what they show of its answers."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Picture
from support.photos import jpeg
from support.played import Service, as_json, as_json_page, job_answer, listening, running

from twinlens.cli.main import main
from twinlens.cli.show.sheet import Cell, draw_sheet
from twinlens.shared.answers import (
    Backlog,
    LibraryAnswer,
    LibraryStats,
    Stats,
    WebhookAnswer,
    WebhookStats,
)
from twinlens.shared.errors import BrokenPicture, Crashed
from twinlens.shared.libraries import Index, Library, NextEdition
from twinlens.shared.messages import Image, Item, ModelSummary, WorkerStatus, now
from twinlens.shared.queries import (
    Agreement,
    Duplicates,
    Hit,
    ModelHit,
    RankedImage,
    SearchResult,
    SearchTiming,
)

DAY = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def service() -> Service:
    return Service()


Run = Callable[..., Result]


@pytest.fixture
def run(service: Service) -> Iterator[Run]:
    """Runs a command at the played service, into a pipe, or in a terminal of so many columns."""
    with listening(service) as url:

        def invoke(*words: object, terminal: int | None = None, **options: Any) -> Result:
            command = [*map(str, words), "--url", url]
            env = {"COLUMNS": str(terminal or 40), "TTY_COMPATIBLE": "1" if terminal else "0"}
            return CliRunner().invoke(main, command, env=env, **options)

        yield invoke


def rows(done: Result) -> list[list[str]]:
    """Returns the words of each line of a command that went well."""
    assert done.exit_code == 0, done.output
    return [line.split() for line in done.stdout.splitlines()]


def always(answer: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: answer


def image(digit: str, name: str) -> Image:
    return Image(
        id=digit * 64,
        name=name,
        library="default",
        width=4,
        height=3,
        format="image/jpeg",
        bytes=5,
        models=["phash@1"],
        added_at=DAY,
    )


# Searches.


def result(**changes: Any) -> SearchResult:
    """Two hits; the second is not among the candidates of the second model."""
    near, far = ModelHit(rank=1, distance=0.25, score=1), ModelHit(rank=4, distance=7, score=0.5)
    fields = {
        "hits": [
            Hit(
                rank=3,
                score=0.98765,
                image=image("1", "a.jpg"),
                models={"lite": near, "phash": far},
            ),
            Hit(rank=4, score=0.5, image=image("2", "b.jpg"), models={"lite": far}),
        ],
        "by_model": {
            "lite": [RankedImage(rank=1, image_id="1" * 64, distance=0.25)],
            "phash": [RankedImage(rank=1, image_id="3" * 64, distance=2)],
        },
        "library_images": 9,
        "agreement": Agreement(overlap_at_k=0.5, rank_correlation=0.25),
        "indexed_through": now(),
        "timing_ms": SearchTiming(
            queued=1, decode=2, embed=3, search=4, fuse=5, rerank=6, total=21
        ),
    }
    return SearchResult(**(fields | changes))


LONG = "2019/Été à Nice/un dossier dont le nom est long/IMG_0001.JPG"


def lines_at(columns: int, done: Result) -> list[str]:
    """Returns the lines of a table, none wider than the terminal, without styles."""
    assert done.exit_code == 0, done.output
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    table = [line for line in plain.splitlines() if line.startswith(" ")]
    assert max(map(len, table)) <= columns
    return table


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_long_name_is_folded_and_its_end_is_shown(
    service: Service, run: Run, picture: Path, columns: int
) -> None:
    hit = Hit(rank=1, score=1, image=image("1", LONG), models={})
    models = ("efficientnet-lite0", "efficientnet-lite2", "phash")
    seen = ModelHit(rank=1, distance=0.25, score=1)
    hit = hit.model_copy(update={"models": dict.fromkeys(models, seen)})
    ranking = [RankedImage(rank=1, image_id="1" * 64, distance=0.25)]
    answer_search(service, result(hits=[hit], by_model=dict.fromkeys(models, ranking)))
    table = lines_at(columns, run("search", picture, terminal=columns))
    # The third column, put together again.
    place = next(line for line in table if "score" in line).index("picture")
    end = next(line for line in table if "0.250 (1)" in line).index("0.250 (1)")
    first = next(n for n, line in enumerate(table) if "1.000" in line)
    name = "".join(line[place:end] for line in table[first:])
    assert name.replace(" ", "") == LONG.replace(" ", "")


def test_names_of_duplicates_are_folded(service: Service, run: Run) -> None:
    answer_duplicates(service, 3)
    for n in range(3):
        named = as_json(image("1", LONG.replace("1", str(n))))
        service.answers[f"/v1/images/{0:032x}{n:032x}"] = always(named)
    table = lines_at(60, run("duplicates", terminal=60))
    assert [n for n in range(3) if any(f"000{n}.JPG" in line for line in table)] == [0, 1, 2]


def test_a_name_in_a_pipe_is_whole(service: Service, run: Run, picture: Path) -> None:
    hit = Hit(rank=1, score=1, image=image("1", LONG), models={})
    answer_search(service, result(hits=[hit]))
    assert LONG in run("search", picture).stdout


def answer_search(service: Service, answer: SearchResult) -> None:
    job = job_answer("j", 1, kind="search", result=answer)
    service.answers["/v1/search"] = lambda _: as_json(job)
    thumbnail = jpeg(Picture.new("RGB", (40, 30), "red"))
    for digit in "1234":
        path = f"/v1/images/{digit * 64}"
        service.answers[path] = lambda _: as_json(image("3", "c.jpg"))
        service.answers[f"{path}/thumbnail"] = lambda _: httpx.Response(200, content=thumbnail)


def queries(service: Service) -> list[dict[str, Any]]:
    """Returns what was asked, without the fields that are nobody's wish."""
    asked = []
    for request in service.asked("/v1/search"):
        content = request.content
        if b'name="query"' in content:
            content = content.rpartition(b'name="query"')[2].split(b"\r\n")[2]
        asked.append(json.loads(content))
    return asked


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "query.jpg"
    path.write_bytes(jpeg(Picture.new("RGB", (64, 48), "blue")))
    return path


def test_what_is_not_said_is_asked_as_help_says(service: Service, run: Run, picture: Path) -> None:
    answer_search(service, result())
    assert run("search", picture).exit_code == 0
    [asked] = queries(service)
    expected = {
        "library": "default",
        "k": 10,
        "mode": "similar",
        "fusion": "calibrated",
        "rerank": "neighbours",
        "verify": True,
    }
    assert {name: value for name, value in asked.items() if value} == expected


def test_every_option_of_a_search_is_asked(service: Service, run: Run, picture: Path) -> None:
    answer_search(service, result())
    options = {
        "-k": 3,
        "--offset": 2,
        "--models": "lite,phash",
        "--fusion": "rrf",
        "--weight": "lite=0.5",
        "--rerank": "none",
        "--filter": "year > 2000",
        "--min-score": 0.25,
        "--max-distance": "phash=9",
        "--group-by": "city",
        "--exclude": "4" * 64,
        "--region": "0,0.25,0.5,1",
        "--library": "cats",
    }
    words = [word for pair in options.items() for word in pair]
    assert run("search", picture, "--no-verify", *words).exit_code == 0
    [asked] = queries(service)
    assert asked["verify"] is False
    assert {name: value for name, value in asked.items() if value} == {
        "k": 3,
        "offset": 2,
        "models": ["lite", "phash"],
        "mode": "similar",
        "fusion": "rrf",
        "weights": {"lite": 0.5},
        "rerank": "none",
        "filter": "year > 2000",
        "min_score": 0.25,
        "max_distance": {"phash": 9},
        "group_by": "city",
        "exclude": ["4" * 64],
        "region": [0, 0.25, 0.5, 1],
        "library": "cats",
    }


def test_copies_are_asked_for(service: Service, run: Run, picture: Path) -> None:
    answer_search(service, result())
    assert run("search", picture, "--near").exit_code == 0
    assert [asked["mode"] for asked in queries(service)] == ["near"]


def test_words_are_asked_for_and_not_what_they_are_not(
    service: Service, run: Run, picture: Path
) -> None:
    answer_search(service, result())
    assert run("search", "--text", "a cat").exit_code == 0
    assert run("search", picture, "--text", "red", "--negative-text", "a dog").exit_code == 0
    assert run("search", picture, "--negative-text", "a dog").exit_code == 0
    assert run("search", "--text", "a cat", "--unlike", picture).exit_code == 0
    assert [(query.get("text"), query.get("negative_text")) for query in queries(service)] == [
        ("a cat", None),
        ("red", "a dog"),
        (None, "a dog"),
        ("a cat", None),
    ]
    for words in (
        (),
        ("--negative-text", "a dog"),
        ("--unlike", picture),
        ("--text", " "),
        (picture, "--near", "--text", "red"),
        (picture, "--near", "--negative-text", "red"),
    ):
        assert run("search", *words).exit_code == 2
    assert len(service.requests) == 4


def test_what_each_model_was_asked_with_is_told_where_there_are_words(
    service: Service, run: Run, picture: Path
) -> None:
    answer_search(service, result(asked_with={"lite": ["pictures"], "phash": ["pictures"]}))
    assert "asked with" not in run("search", picture).stdout
    asked_with = {"clip": ["pictures", "words"], "lite": ["pictures"], "phash": ["pictures"]}
    answer_search(service, result(asked_with=asked_with))
    told = "asked with pictures and words: clip; asked with pictures: lite, phash"
    assert told in run("search", picture, "--text", "red").stdout


def test_stored_images_and_standard_input_are_examples_as_files_are(
    service: Service, run: Run, picture: Path, tmp_path: Path
) -> None:
    answer_search(service, result())
    one, other, avoided = (digit * 64 for digit in "423")
    save = ("--save", tmp_path / "found.png")
    assert run("search", one, other, "--unlike", avoided, *save).exit_code == 0
    assert service.requests[0].headers["Content-Type"] == "application/json"
    # The first of them stands above the sheet.
    assert service.asked(f"/v1/images/{one}/thumbnail")
    assert run("search", picture, other).exit_code == 0
    assert run("search", "-", input=b"from a pipe").exit_code == 0
    asked = [(query["positive"], query["negative"]) for query in queries(service)]
    assert asked == [([one, other], [avoided]), ([other], []), ([], [])]
    bodies = [request.content for request in service.asked("/v1/search")]
    assert picture.read_bytes() in bodies[1]
    assert b"from a pipe" in bodies[2]


@pytest.mark.parametrize("word", ["none.jpg", "1" * 63, "A" * 64, "1" * 5000])
def test_what_is_neither_a_file_nor_an_id_is_refused(service: Service, run: Run, word: str) -> None:
    for words in (("search", word), ("search", "1" * 64, "--unlike", word), ("compare", word, "-")):
        done = run(*words)
        assert done.exit_code == 2
        assert "neither a file nor the id of an image" in done.stderr
    assert service.requests == []


def test_json_is_the_whole_result_and_all_that_is_on_standard_output(
    service: Service, run: Run, picture: Path, tmp_path: Path
) -> None:
    answer_search(service, result())
    save = tmp_path / "found.png"
    done = run("search", picture, "--json", "--save", save)
    assert SearchResult.model_validate_json(done.stdout) == result().model_copy(
        update={"indexed_through": SearchResult.model_validate_json(done.stdout).indexed_through}
    )
    assert done.stderr == f"saved {save}\n"


def test_an_error_is_none_of_the_json(service: Service, run: Run, picture: Path) -> None:
    service.answers["/v1/search"] = lambda _: httpx.Response(500)
    done = run("search", picture, "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("twinlens: ")


@pytest.mark.parametrize(("scores", "is_told"), [((0.5, 0.9), True), ((0.9, 0.9), False)])
def test_that_scores_do_not_fall_is_told(
    service: Service, run: Run, picture: Path, scores: tuple[float, float], is_told: bool
) -> None:
    hits = [
        Hit(rank=rank, score=score, image=image("1", "a.jpg"), models={})
        for rank, score in enumerate(scores, start=1)
    ]
    answer_search(service, result(hits=hits))
    assert ("scores do not fall" in run("search", picture).stdout) is is_told


def test_who_breaks_off_is_told_in_a_line(service: Service, run: Run, picture: Path) -> None:
    def break_off(_: httpx.Request) -> httpx.Response:
        os.kill(os.getpid(), signal.SIGINT)
        return as_json(running("j", 0, kind="search"))

    service.answers["/v1/search"] = break_off
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = run("search", picture)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "twinlens: interrupted\n"


def test_a_hit_is_shown_with_each_models_distance_and_rank(
    service: Service, run: Run, picture: Path
) -> None:
    answer_search(service, result())
    shown = rows(run("search", picture))
    assert ["3", "0.988", "a.jpg", "0.250", "(1)", "7.000", "(4)"] in shown
    assert ["4", "0.500", "b.jpg", "7.000", "(4)"] in shown
    told = [" ".join(words) for words in shown]
    assert "the models' own rankings share 50% of their pictures; rank correlation 0.25" in told
    assert "21 ms: queued 1.0, decode 2.0, embed 3.0, search 4.0, fuse 5.0, re-rank 6.0" in told


def test_that_one_model_was_asked_is_told(service: Service, run: Run, picture: Path) -> None:
    unknown = Agreement(overlap_at_k=None, rank_correlation=None)
    lite = {"lite": [RankedImage(rank=1, image_id="1" * 64, distance=0.25)]}
    answer_search(service, result(agreement=unknown, by_model=lite))
    assert "one model was asked" in run("search", picture).stdout.splitlines()


def test_that_a_library_is_empty_is_told(service: Service, run: Run, picture: Path) -> None:
    answer_search(service, result(hits=[], by_model={"lite": [], "phash": []}, library_images=0))
    [line] = run("search", picture).stdout.splitlines()
    assert line == "the library is empty: add pictures with `twinlens index`"


@pytest.mark.parametrize(
    ("overlap", "correlation", "told"),
    [
        (None, None, "no two models that count have rankings to compare"),
        (0.25, None, "the models' own rankings share 25% of their pictures"),
    ],
)
def test_how_far_the_models_agree_is_told_as_far_as_it_is_known(
    service: Service,
    run: Run,
    picture: Path,
    overlap: float | None,
    correlation: float | None,
    told: str,
) -> None:
    agreed = Agreement(overlap_at_k=overlap, rank_correlation=correlation)
    answer_search(service, result(agreement=agreed))
    assert told in run("search", picture).stdout.splitlines()


@pytest.mark.parametrize(("age_s", "is_told"), [(60, True), (0, False)])
def test_uploads_that_cannot_be_found_yet_are_told(
    service: Service, run: Run, picture: Path, age_s: float, is_told: bool
) -> None:
    through = now() - timedelta(seconds=age_s)
    answer_search(service, result(indexed_through=through))
    done = run("search", picture)
    told = f"what came after {through:%Y-%m-%d %H:%M:%S}Z may not be found yet"
    assert (told in done.stdout) is is_told


def test_a_sheet_is_saved_and_opened_where_that_was_asked_for(
    service: Service, run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    answer_search(service, result())
    done = run("search", picture, "--save", tmp_path / "found.png")
    assert f"saved {tmp_path / 'found.png'}" in done.stdout
    assert opened == []
    with Picture.open(tmp_path / "found.png") as sheet:
        assert sheet.format == "PNG"
    # What is a model's alone is asked for by its id, and nothing twice.
    asked = sorted(one.url.path for one in service.requests if one.method == "GET")
    ids = [digit * 64 for digit in "123"]
    assert asked == sorted(
        [*(f"/v1/images/{id_}/thumbnail" for id_ in ids), f"/v1/images/{ids[2]}"]
    )
    done = run("search", picture, "--open")
    assert done.exit_code == 0, done.output
    [path] = opened
    assert Path(path).is_file()
    assert f"saved {path}" in done.stdout


def test_names_on_a_sheet_are_shortened_in_the_middle() -> None:
    white = jpeg(Picture.new("RGB", (4, 4), "white"))

    def drawn(name: str) -> bytes:
        return draw_sheet(None, "", {"fused": [Cell(white, name, "")]}).tobytes()

    assert drawn("2019/Nice/summer/IMG_0001.JPG") == drawn("2019/Rome/in summer/IMG_0001.JPG")
    assert drawn("2019/Nice/summer/IMG_0001.JPG") != drawn("2019/Nice/summer/IMG_0002.JPG")


def test_a_sheet_that_cannot_be_written_is_told(
    service: Service, run: Run, picture: Path, tmp_path: Path
) -> None:
    answer_search(service, result())
    (tmp_path / "found.png").symlink_to("/dev/full")
    done = run("search", picture, "--save", tmp_path / "found.png")
    assert done.exit_code == 1
    assert "found.png: No space left on device" in done.stderr


def test_a_sheet_has_a_row_for_each_ranking_and_the_query_above() -> None:
    def colour(name: str) -> bytes:
        content = io.BytesIO()
        Picture.new("RGB", (150, 150), name).save(content, "PNG")
        return content.getvalue()

    reds = [Cell(colour("red"), f"{n}.jpg", "") for n in range(9)]
    drawn = draw_sheet(colour("blue"), "title", {"fused": reds, "lite": reds[:1]})
    row_px = 17 + 12 + 150 + 2 * 17 + 12
    assert drawn.height == 2 * 12 + 150 + 2 * row_px
    red, paper = (255, 0, 0), (255, 255, 255)
    # The query's own file is made small first, as JPEG.
    assert drawn.getpixel((12 + 75, 12 + 75)) == pytest.approx((0, 0, 255), abs=3)
    first = 2 * 12 + 150 + 17 + 12 + 75
    places = [12 + 75 + n * (150 + 12) for n in range(8)]
    assert [drawn.getpixel((left, first)) for left in places] == [red] * 8
    assert [drawn.getpixel((left, first + row_px)) for left in places[:2]] == [red, paper]
    without = draw_sheet(None, "title", {"fused": reds[:1]})
    assert without.getpixel((12 + 75, 12 + 75)) == paper
    assert without.width == 12 + 3 * (150 + 12)


# Jobs.


def test_jobs_are_listed_with_their_progress(service: Service, run: Run) -> None:
    jobs = [
        job_answer("1" * 32, 3, skipped=2, failed=1, total=9, created_at=DAY, library="cats"),
        running("2" * 32, 1, received=7, total=None, created_at=DAY, kind="reindex"),
    ]
    service.answers["/v1/jobs"] = lambda _: as_json_page(jobs)
    shown = rows(run("jobs"))
    moment = ["2026-03-04", "05:06:07Z"]
    assert ["1" * 32, "bulk", "succeeded", "5", "of", "9", "1", *moment, "cats"] in shown
    assert ["2" * 32, "reindex", "running", "1", "of", "7+", "0", *moment, "default"] in shown
    assert service.requests[0].url.params["limit"] == "20"


def test_a_job_is_shown_with_what_failed(service: Service, run: Run) -> None:
    error = BrokenPicture("It is cut short.").to_problem()
    service.jobs["j"] = job_answer(
        "j",
        3,
        skipped=1,
        failed=2,
        passed_over=5,
        pictures_per_s=12.34,
        eta=DAY,
        status="failed",
        started_at=DAY,
        finished_at=DAY + timedelta(seconds=90.5),
        error=Crashed("It died.").to_problem(),
    )
    service.items["j"] = [
        Item(name="a.jpg", image_id=None, outcome="failed", error=error),
        Item(name="b.jpg", image_id=None, outcome="failed"),
    ]
    done = run("jobs", "j", "--limit", "7")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "job       j",
        "kind      bulk",
        "library   default",
        "status    failed",
        "pictures  4 of 6, 2 failed, 5 other files passed over",
        "rate      12.3 pictures/s",
        "ready     about 2026-03-04 05:06:07Z",
        "took      90.5 s",
        "error     It died.",
        "  a.jpg: It is cut short.",
        "  b.jpg: no reason is known",
    ]
    assert service.requests[-1].url.params["limit"] == "7"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"attempts": 0}, "pending https://a.example/"),
        (
            {"attempts": 2, "last_error": "It hangs.", "next_attempt_at": DAY},
            "pending https://a.example/, next about 2026-03-04 05:06:07Z: It hangs.",
        ),
        ({"status": "delivered", "attempts": 1}, "delivered https://a.example/"),
    ],
)
def test_who_is_told_of_a_jobs_end_is_shown(
    service: Service, run: Run, changes: dict[str, Any], line: str
) -> None:
    told: dict[str, Any] = {"url": "https://a.example/", "status": "pending"}
    told |= {"last_error": None, "next_attempt_at": None}
    webhook = WebhookAnswer(**(told | changes))
    service.jobs["j"] = running("j", 1, webhook=webhook, deadline_at=DAY)
    lines = run("jobs", "j").stdout.splitlines()
    assert lines[-2:] == ["deadline  2026-03-04 05:06:07Z", f"webhook   {line}"]


def test_a_job_is_watched_until_it_has_ended(service: Service, run: Run) -> None:
    seen = [running("j", n, total=9) for n in range(3)]
    ended = job_answer("j", 9)
    service.answers["/v1/jobs/j"] = lambda _: as_json(seen.pop(0) if seen else ended)
    done = run("jobs", "j", "--watch", "--json")
    shown = json.loads(done.stdout)
    assert (shown["status"], shown["failed_items"]) == ("succeeded", [])
    assert done.stderr == ""
    assert [one.headers.get("Prefer") for one in service.requests] == [None, *["wait=1"] * 3]
    assert run("jobs", "--watch").exit_code == 2


def test_of_a_job_that_just_began_only_what_is_known_is_shown(service: Service, run: Run) -> None:
    service.jobs["j"] = running("j", 0, total=2, started_at=None)
    shown = rows(run("jobs", "j"))
    assert [words[0] for words in shown] == ["job", "kind", "library", "status", "pictures"]
    assert len(service.requests) == 1


# Tables.


def test_nothing_of_a_table_is_cut_off_and_names_are_as_they_are(
    service: Service, run: Run
) -> None:
    model = ModelSummary(
        name="a-model-of-a-very-long-name",
        version="7",
        title="[bold]not bold[/bold] at all, and of many words",
        dimension=1280,
        metric="COSINE",
        input={},
        weight=0.5,
        licence="Apache-2.0",
        source="here",
        sha256="0" * 64,
    )
    service.answers["/v1/models"] = lambda _: as_json_page([model])
    shown = rows(run("models", "list"))
    facts = [model.name, "7", "1280", "COSINE", "0.5", "Apache-2.0", *model.title.split()]
    assert facts in shown


def stats(**changes: Any) -> Stats:
    fields = {
        "libraries": {"cats": LibraryStats(images=1234, vectors=None)},
        "queues": {"search": 1, "bulk": 2},
        "rescues": {"delete": 1, "embed": 2},
        "webhooks": WebhookStats(pending=1, delivered=20, retried=0, failed=3),
        "backlog": Backlog(
            pictures=9000,
            pictures_per_s=3.25,
            process_pictures_per_s=2.5,
            processes_for_an_hour=4,
        ),
        "workers": [
            WorkerStatus(
                name="both@here:1",
                lanes=["search", "bulk"],
                beat_at=0,
                milvus="ok",
                n_pictures=17,
                pictures_per_s=1.5,
                tasks_per_s=0.25,
                busy_s=2,
            )
        ],
    }
    return Stats(**(fields | changes))


def test_workers_libraries_and_what_waits_are_shown(service: Service, run: Run) -> None:
    service.answers["/v1/stats"] = lambda _: as_json(stats())
    shown = rows(run("stats"))
    assert ["both@here:1", "search,", "bulk", "17", "1.5", "0.2", "ok"] in shown
    assert ["cats", "1234"] in shown
    assert [" ".join(words) for words in shown[-5:]] == [
        "queued tasks: 1 in search, 2 in bulk",
        "backlog: 9000 pictures, at 3.2 a second",
        "one process embeds 2.5 a second: 4 would empty the backlog in an hour",
        "brought back after it was lost: 1 of delete, 2 of embed",
        "webhooks: 1 pending, 20 delivered, 3 failed",
    ]


def test_what_is_wrong_with_a_worker_is_shown(service: Service, run: Run) -> None:
    [worker] = stats().workers
    ill = worker.model_copy(update={"probe": "Nobody."})
    service.answers["/v1/stats"] = lambda _: as_json(stats(workers=[ill]))
    assert ["both@here:1", "search,", "bulk", "17", "1.5", "0.2", "Nobody."] in rows(run("stats"))


def test_a_rate_that_nobody_knows_is_not_shown(service: Service, run: Run) -> None:
    unknown = Backlog(
        pictures=1, pictures_per_s=0, process_pictures_per_s=None, processes_for_an_hour=None
    )
    none = WebhookStats(pending=0, delivered=0, retried=0, failed=0)
    told = stats(backlog=unknown, rescues={}, webhooks=none)
    service.answers["/v1/stats"] = lambda _: as_json(told)
    shown = rows(run("stats"))
    assert " ".join(shown[-1]) == "backlog: 1 pictures, at 0.0 a second"


# Duplicates.


def answer_duplicates(service: Service, *sizes: int) -> Duplicates:
    """Groups of so many images; those of the first are named 0-0, 0-1, and so on."""
    groups = [[f"{group:032x}{n:032x}" for n in range(size)] for group, size in enumerate(sizes)]
    duplicates = Duplicates(n_images=99, n_groups=len(sizes), groups=groups, confirmed_by="lite")
    job = job_answer("j", 1, kind="duplicates", result=duplicates)
    service.answers["/v1/duplicates"] = lambda _: as_json(job)
    for group, ids in enumerate(groups):
        for n, id_ in enumerate(ids):
            named = image("1", f"{group}-{n}")
            service.answers[f"/v1/images/{id_}"] = always(as_json(named))
    return duplicates


def test_groups_are_shown_up_to_the_limit_and_saved_whole(
    service: Service, run: Run, tmp_path: Path
) -> None:
    duplicates = answer_duplicates(service, 12, 9, 2)
    save = tmp_path / "found.json"
    options = ("--limit", 2, "--save", save, "--library", "cats", "--max-distance", 5)
    done = run("duplicates", *options)
    shown = rows(done)
    assert ["1", "0-0", *(f"0-{n}," for n in range(1, 8)), "0-8", "and", "3", "more"] in shown
    assert ["2", "1-0", *(f"1-{n}," for n in range(1, 8)), "1-8"] in shown
    assert "2-0" not in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "3 groups among 99 pictures, confirmed by lite",
        f"saved {save}",
    ]
    assert Duplicates.model_validate_json(save.read_bytes()) == duplicates
    asked = json.loads(service.requests[0].content)
    assert (asked["library"], asked["max_distance"]) == ("cats", 5)
    assert {one.url.params["library"] for one in service.requests[1:]} == {"cats"}


def test_where_there_are_no_duplicates_it_is_told(service: Service, run: Run) -> None:
    answer_duplicates(service)
    shown = rows(run("duplicates"))
    assert [" ".join(words) for words in shown] == ["0 groups among 99 pictures, confirmed by lite"]


def test_groups_that_cannot_be_saved_are_told(service: Service, run: Run, tmp_path: Path) -> None:
    answer_duplicates(service, 2)
    (tmp_path / "found.json").symlink_to("/dev/full")
    done = run("duplicates", "--save", tmp_path / "found.json")
    assert done.exit_code == 1
    assert "found.json: No space left on device" in done.stderr


def test_two_pictures_are_compared(service: Service, run: Run, picture: Path) -> None:
    comparison = {"score": 0.75, "models": {"phash": {"distance": 3, "score": 0.5}}}
    service.answers["/v1/compare"] = lambda _: httpx.Response(200, json=comparison)
    shown = rows(run("compare", "5" * 64, picture, "--models", "phash,lite", "--library", "cats"))
    assert ["phash", "3.000", "0.500"] in shown
    assert ["combined", "0.750"] in shown
    content = service.requests[0].content
    assert picture.read_bytes() in content
    asked = json.loads(content.rpartition(b'name="query"')[2].split(b"\r\n")[2])
    assert asked == {"library": "cats", "models": ["phash", "lite"], "image_ids": ["5" * 64]}


# Libraries.


def library(**changes: Any) -> Library:
    return Library(**({"name": "cats", "models": ["phash@1", "lite@2"]} | changes))


def test_libraries_are_listed_with_what_they_are_about_to_be(service: Service, run: Run) -> None:
    building = NextEdition(models=["lite@3"], job_id="7" * 32)
    index = Index(type="HNSW", params={"M": 16, "efConstruction": 200}, vector="FLOAT16")
    listed = [library(), library(name="new", metric="IP", index=index, next=building)]
    service.answers["/v1/libraries"] = lambda _: as_json_page(listed)
    service.answers["/v1/stats"] = lambda _: as_json(stats())
    shown = rows(run("libraries"))
    models = ["phash@1,", "lite@2"]
    assert ["cats", "1234", *models, "of", "the", "models", "AUTO", "FLOAT32"] in shown
    index_text = ["HNSW", "M=16", "efConstruction=200", "FLOAT16"]
    # One that was made a moment ago is not counted yet.
    assert ["new", "0", *models, "IP", *index_text, "lite@3,", "by", "job", "7" * 32] in shown


def test_a_library_that_lacks_models_is_told(service: Service, run: Run) -> None:
    lacking = LibraryAnswer(**library().model_dump(), missing_models=["phash@1"])
    other = library().model_copy(update={"name": "dogs"})
    service.answers["/v1/stats"] = lambda _: as_json(stats())
    service.answers["/v1/libraries"] = lambda _: as_json_page([lacking, other])
    [line] = run("libraries").stderr.splitlines()
    assert line.startswith("library cats is neither searched nor filled: no worker has phash@1;")


def test_every_option_of_a_library_is_sent(service: Service, run: Run) -> None:
    service.answers["/v1/libraries/cats"] = lambda _: as_json(library())
    options = ("--model", "phash", "--model", "lite@2", "--weight", "lite=2", "--metric", "ip")
    index = ("--index", "hnsw", "--param", "M=16", "--recall", "0.9", "--vector", "float16")
    done = run("libraries", "set", "cats", *options, *index)
    assert done.exit_code == 0, done.output
    [request] = service.requests
    assert request.method == "PUT"
    sent = json.loads(request.content)
    assert sent["models"] == ["phash", "lite@2"]
    assert sent["weights"] == {"lite": 2}
    assert sent["metric"] == "IP"
    assert sent["index"] == {
        "type": "HNSW",
        "params": {"M": 16},
        "recall": 0.9,
        "vector": "FLOAT16",
    }
    assert done.stdout.rstrip().endswith("now has phash@1, lite@2")


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_change_that_takes_a_job_is_waited_for_unless_that_is_not_wanted(
    service: Service, run: Run, is_followed: bool
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return as_json(running("j", 0, kind="reindex"), Location="/v1/jobs/j")
        return as_json(library())

    service.answers["/v1/libraries/cats"] = answer
    service.jobs["j"] = job_answer("j", 3, kind="reindex")
    words = () if is_followed else ("--no-wait",)
    done = run("libraries", "set", "cats", "--model", "phash", *words)
    assert done.exit_code == 0, done.output
    if is_followed:
        assert "now has phash@1, lite@2" in done.stdout
    else:
        assert (done.stdout, len(service.requests)) == ("j\n", 1)


def answer_removal(service: Service, **changes: Any) -> None:
    job = job_answer("j", 1, kind="delete", **changes)

    def answer(request: httpx.Request) -> httpx.Response:
        return as_json(job if request.method == "DELETE" else library())

    service.answers["/v1/libraries/cats"] = answer
    service.answers["/v1/stats"] = lambda _: as_json(stats())


@pytest.mark.parametrize(("said", "status"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_a_library_is_removed_when_the_user_has_said_so(
    service: Service, run: Run, said: str, status: int
) -> None:
    answer_removal(service)
    done = run("libraries", "remove", "cats", input=said)
    assert done.exit_code == status
    assert "with its 1234 images?" in done.output
    assert ("removed cats" in done.stdout) is (status == 0)
    assert ("DELETE" in {one.method for one in service.requests}) is (status == 0)


def test_who_has_said_yes_is_not_asked(service: Service, run: Run) -> None:
    answer_removal(service)
    done = run("libraries", "remove", "cats", "--yes")
    assert (done.exit_code, done.stdout) == (0, "removed cats\n")
    assert [one.method for one in service.requests] == ["DELETE"]


def test_a_library_that_stays_is_told(service: Service, run: Run) -> None:
    answer_removal(service, status="failed", error=Crashed("Milvus is gone.").to_problem())
    done = run("libraries", "remove", "cats", "--yes")
    assert done.exit_code == 1
    assert "the removal of cats failed: Milvus is gone." in done.stderr
    assert "removed" not in done.stdout


def test_a_library_goes_back(service: Service, run: Run) -> None:
    service.answers["/v1/libraries/cats/rollback"] = lambda _: as_json(library())
    done = run("libraries", "rollback", "cats")
    assert done.exit_code == 0
    assert "now has phash@1, lite@2" in done.stdout
    assert service.requests[0].method == "POST"
