"""Odd, broken and hostile files: each gets its own answer, and the workers live on."""

from __future__ import annotations

import csv
import struct
import zlib
from typing import Any

import pytest
from support.clients import Client
from support.paths import EVAL
from support.photos import jpeg, source

ODD = EVAL / "odd"


def png_start(width: int, height: int) -> bytes:
    """The beginning of a PNG: its size, and a few of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(99))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


# Files that every checkout can make: name → content, expected status (0: accepted).
HOME_MADE: dict[str, tuple[bytes, int]] = {
    "good.jpg": (jpeg(source("chelsea.png")), 0),
    "text.jpg": (b"This is no picture.", 415),
    "page.jpg": (b"<html><script>alert(1)</script></html>", 415),
    "half.jpg": (jpeg(source("chelsea.png"))[:9000], 422),
    "magic.jpg": (b"\xff\xd8\xff", 422),
    "bomb.png": (png_start(60_000, 60_000), 413),
}


def odd_files() -> dict[str, tuple[bytes, set[int]]]:
    """Every odd file of the evaluation set, with the answers that it may get (0: accepted)."""
    if not ODD.exists():
        return {}
    with (ODD / "odd.csv").open(encoding="utf-8") as table:
        return {
            row["file"]: ((ODD / row["file"]).read_bytes(), _expected(row["expect"]))
            for row in csv.DictReader(table)
        }


def _expected(text: str) -> set[int]:
    if "refus" in text:  # archives, which are no pictures
        return {413, 415, 422}
    return {0 if word == "accept" else int(word) for word in text.split("-or-")}


def _status(problem: Any) -> int:
    return 0 if problem is None else int(problem["status"])


def test_a_single_odd_file_gets_its_answer(client: Client) -> None:
    for name, (content, expected) in HOME_MADE.items():
        job = client.add(name, content)
        assert _status(job["error"]) == expected, name


def test_odd_files_in_a_zip_fail_alone(client: Client) -> None:
    job = client.index_zip({name: content for name, (content, _) in HOME_MADE.items()})
    assert job["status"] == "succeeded"
    statuses = {item["name"]: _status(item["error"]) for item in client.items(job)}
    assert statuses == {name: status for name, (_, status) in HOME_MADE.items()}
    failed = client.items(job, outcome="failed")
    assert {item["name"] for item in failed} == {n for n, (_, s) in HOME_MADE.items() if s}


@pytest.mark.skipif(not ODD.exists(), reason="the evaluation pictures are not beside the checkout")
class TestEvaluationSet:
    def test_each_alone(self, client: Client) -> None:
        wrong = {}
        for name, (content, expected) in odd_files().items():
            answer = client.http.post("/v1/images", files={"file": (name, content)})
            problem = answer.json()
            if answer.status_code == 202:
                problem = client.ended(problem)["error"]
            if _status(problem) not in expected:
                wrong[name] = (problem, expected)
        assert not wrong

    def test_all_in_one_zip(self, client: Client) -> None:
        files = odd_files()
        job = client.index_zip({name: content for name, (content, _) in files.items()})
        assert job["status"] == "succeeded"
        passed_over = {name for name in files if name.endswith(".zip")}
        assert job["progress"]["passed_over"] == len(passed_over)
        assert job["progress"]["total"] == len(files) - len(passed_over)
        wrong = {
            item["name"]: item["error"]
            for item in client.items(job)
            if _status(item["error"]) not in files[item["name"]][1]
        }
        assert not wrong

    def test_the_same_workers_are_still_there(self, client: Client) -> None:
        """Runs behind the two above: no file may have cost a worker its process."""
        before = {worker["name"] for worker in client.get("/v1/stats")["workers"]}
        client.index_zip({name: content for name, (content, _) in odd_files().items()})
        after = {worker["name"] for worker in client.get("/v1/stats")["workers"]}
        assert before == after


@pytest.mark.parametrize(
    "name",
    [
        "with space é 漢字 🐈.jpg",
        "quote'; DROP TABLE images; --.jpg",
        'double"quote.jpg',
        "n" * 180 + ".jpg",
        "-leading.jpg",
        "UPPER.JPG",
    ],
)
def test_odd_names_are_kept_as_they_are(client: Client, name: str) -> None:
    photo = source("astronaut.png").resize((200 + len(name), 200))
    image = client.add(name, jpeg(photo))["result"]
    assert image["name"] == name
    content = client.http.get(image["links"]["content"]).raise_for_status()
    assert content.content == jpeg(photo)


def test_a_name_that_leads_outside_is_only_a_name(client: Client) -> None:
    photo = source("astronaut.png").resize((177, 177))
    assert client.add("../../x.jpg", jpeg(photo))["result"]["name"] == "x.jpg"
