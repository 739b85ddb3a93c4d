"""The commands, as a user types them, against a whole service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.photos import jpeg, make_photos, source

from twinlens.cli.service.background import Running
from twinlens.shared.blobs import image_id_of


def twinlens(*words: str | Path, stdin: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twinlens.cli.main", *map(str, words)]
    with (stdin or Path(os.devnull)).open("rb") as given:
        return subprocess.run(
            command, stdin=given, capture_output=True, text=True, timeout=120, check=False
        )


def hits(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Returns the names in a table of hits, in its order."""
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [row[2] for row in rows if row[:1] and row[0].isdigit() and "ms:" not in row]


def library_row(service: Running, name: str) -> list[str]:
    """Returns the words that are told of a library; none where there is no such library."""
    shown = twinlens("libraries", "--url", service.url).stdout.splitlines()
    return next((line.split() for line in shown if line.split()[:1] == [name]), [])


def add_places(service: Running, folder: Path, library: str, seed: int) -> None:
    """Makes a library of three photos, the first two of one place."""
    models = ("--model", "efficientnet-lite0", "--model", "phash")
    made = twinlens("libraries", "set", library, *models, "--url", service.url)
    assert made.returncode == 0, made.stderr
    parts = []
    for path, place in zip(make_photos(folder, 3, seed), ("here", "here", "there"), strict=True):
        parts.append(("metadata", ("", json.dumps({"place": place}).encode())))
        parts.append(("files", (path.name, path.read_bytes())))
    url = f"{service.url}/v1/images/bulk?library={library}"
    job = httpx.post(url, files=parts, headers={"Prefer": "wait=60"}, timeout=90)
    assert job.json()["progress"]["succeeded"] == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "photos"
    make_photos(folder, 8, seed=60)
    make_photos(folder / "below", 4, seed=61)
    make_photos(folder / ".hidden", 1, seed=62)
    (folder / "notes.txt").write_text("no picture")
    with zipfile.ZipFile(folder.parent / "more.zip", "w") as archive:
        for path in make_photos(folder.parent / "zipped", 3, seed=63):
            archive.write(path, path.name)
    with tarfile.open(folder.parent / "still.tar.gz", "w:gz") as packed:
        packed.add(make_photos(folder.parent / "packed", 2, seed=64)[0].parent, "below")
    return folder


def test_a_folder_and_an_archive_are_indexed_once(service: Running, folder: Path) -> None:
    paths = (folder, folder.parent / "more.zip", folder.parent / "still.tar.gz")
    done = twinlens("index", *paths, "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert "17 indexed, 0 already there, 0 failed" in done.stdout
    again = twinlens("index", *paths, "--url", service.url)
    assert "0 indexed, 17 already there, 0 failed" in again.stdout


def test_what_fails_is_named_and_the_rest_goes_on(service: Running, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "good.jpg").write_bytes(jpeg(source("rocket.jpg").resize((211, 211))))
    done = twinlens("index", tmp_path, "--url", service.url)
    assert done.returncode == 1
    assert "1 indexed, 0 already there, 2 failed" in done.stdout
    for name in ("text.jpg", "empty.png"):
        assert f"  {name}: " in done.stderr
    jobs = twinlens("jobs", "--url", service.url, "--limit", "1").stdout
    job_id = next(word for word in jobs.split() if len(word) == 32)
    shown = twinlens("jobs", job_id, "--url", service.url).stdout
    assert "status    succeeded" in shown
    assert "text.jpg: " in shown


def test_a_search_prints_a_table_and_draws_a_sheet(
    service: Running, folder: Path, tmp_path: Path
) -> None:
    assert twinlens("index", folder, "--url", service.url).returncode == 0
    query = min(folder.glob("*.jpg"))
    sheet = tmp_path / "found.png"
    done = twinlens("search", query, "-k", "3", "--save", sheet, "--url", service.url)
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["1"])
    assert first.split()[:3] == ["1", "1.000", query.name]
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        # Four rows: fused, two networks, the hash.
        assert image.height > 4 * 200


def test_a_search_takes_examples_and_is_narrowed(
    service: Running, folder: Path, tmp_path: Path
) -> None:
    add_places(service, tmp_path / "places", "first", seed=66)
    one, other, third = sorted((tmp_path / "places").iterdir())

    def search(*words: str | Path) -> list[str]:
        return hits(twinlens("search", *words, "--library", "first", "--url", service.url))

    both = search(one, other, "--unlike", third, "--fusion", "weighted", "--weight", "phash=0.5")
    assert both[-1] == third.name
    assert search(one, "--near")[0] == one.name
    assert search(one, "--region", "0.2,0.2,0.8,0.8", "-k", "1")
    assert search(one, "--filter", 'place == "there" and width > 1') == [third.name]
    assert search(one, "--group-by", "place") == [one.name, third.name]
    assert search(one, "--offset", "1", "--max-distance", "phash=0") == []
    assert search(one, "--exclude", image_id_of(one.read_bytes()), "--min-score", "1") == []


def test_two_pictures_are_compared_and_duplicates_are_found(
    service: Running, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 3, seed=67)
    copy = tmp_path / "photos" / "copy.jpg"
    with Image.open(photos[0]) as image:
        copy.write_bytes(jpeg(image, quality=60))
    at = ("--library", "copied", "--url", service.url)
    models = ("--model", "efficientnet-lite0@1-int8", "--model", "phash")
    made = twinlens("libraries", "set", "copied", *models, "--url", service.url)
    assert made.returncode == 0, made.stderr
    assert twinlens("index", tmp_path / "photos", *at).returncode == 0

    ids = [image_id_of(path.read_bytes()) for path in (photos[0], copy)]
    duplicates = twinlens("duplicates", *at, "--save", tmp_path / "found.json")
    assert duplicates.returncode == 0, duplicates.stderr
    [row] = [line for line in duplicates.stdout.splitlines() if copy.name in line]
    assert photos[0].name in row
    assert "1 groups among 4 pictures, confirmed by efficientnet-lite0" in duplicates.stdout
    [group] = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["groups"]
    assert set(group) == set(ids)

    near = twinlens("compare", ids[0], copy, *at)
    far = twinlens("compare", *photos[:2], *at, "--models", "phash")
    scores = [float(done.stdout.split()[-1]) for done in (near, far)]
    assert scores[0] > 0.99 > scores[1]
    assert "efficientnet-lite0" in near.stdout
    assert "efficientnet-lite0" not in far.stdout


def test_a_library_is_changed_rolled_back_and_removed(service: Running, tmp_path: Path) -> None:
    at = ("--url", service.url)
    assert twinlens("libraries", "set", "changed", "--model", "phash", *at).returncode == 0
    make_photos(tmp_path / "photos", 3, seed=68)
    assert twinlens("index", tmp_path / "photos", "--library", "changed", *at).returncode == 0

    models = ("--model", "efficientnet-lite0@1-int8", "--weight", "efficientnet-lite0=2")
    plan = (*models, "--index", "flat")
    done = twinlens("libraries", "set", "changed", *plan, *at)
    assert done.returncode == 0, done.stderr
    assert "library changed at" in done.stdout
    assert "now has efficientnet-lite0@1-int8" in done.stdout
    row = library_row(service, "changed")
    assert row[:3] == ["changed", "3", "efficientnet-lite0@1-int8"]
    assert "FLAT" in row

    back = twinlens("libraries", "rollback", "changed", *at)
    assert "now has phash@1" in back.stdout

    assert twinlens("libraries", "remove", "changed", *at).returncode == 1  # nobody says yes
    assert library_row(service, "changed")
    removed = twinlens("libraries", "remove", "changed", "--yes", *at)
    assert removed.returncode == 0, removed.stderr
    assert not library_row(service, "changed")


def test_an_image_is_added_from_a_pipe_looked_for_by_its_id_and_deleted(
    service: Running, tmp_path: Path
) -> None:
    add_places(service, tmp_path / "places", "piped", seed=69)
    piped, one, *_ = make_photos(tmp_path / "more", 2, seed=70)
    at = ("--library", "piped", "--url", service.url)
    done = twinlens("index", "-", *at, stdin=piped)
    assert done.returncode == 0, done.stderr
    image_id = image_id_of(piped.read_bytes())
    shown = json.loads(twinlens("images", "show", image_id, "--json", *at).stdout)
    assert (shown["id"], shown["name"]) == (image_id, "stdin")

    assert hits(twinlens("search", "-", *at, stdin=piped))[0] == "stdin"
    by_id = hits(twinlens("search", image_id, *at, "--save", tmp_path / "found.png"))
    assert len(by_id) == 3
    assert "stdin" not in by_id
    compared = twinlens("compare", image_id, "-", *at, stdin=piped)
    assert compared.stdout.split()[-1] == "1.000"

    unknown = image_id_of(one.read_bytes())
    deleted = twinlens("images", "delete", image_id, unknown, "--yes", *at)
    assert deleted.returncode == 1
    assert deleted.stdout.splitlines() == [f"deleted: {image_id} (stdin)", f"not there: {unknown}"]
    listed = json.loads(twinlens("images", "list", "--json", *at).stdout)
    assert len(listed["items"]) == 3
    assert image_id not in {one["id"] for one in listed["items"]}


def test_some_models_can_be_asked(service: Running, folder: Path) -> None:
    assert twinlens("index", folder, "--url", service.url).returncode == 0
    query = min(folder.glob("*.jpg"))
    done = twinlens("search", query, "--models", "phash", "--url", service.url)
    assert "one model was asked" in done.stdout
    assert "efficientnet" not in done.stdout
    wrong = twinlens("search", query, "--models", "resnet1", "--url", service.url)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("twinlens: Library 'default' has no model 'resnet1'")


def test_the_models_are_listed(service: Running) -> None:
    shown = twinlens("models", "list", "--url", service.url).stdout
    for name in ("efficientnet-lite0", "efficientnet-lite2", "phash"):
        assert name in shown


@pytest.mark.parametrize(
    "words", [("index", "."), ("search", "pyproject.toml"), ("jobs",), ("models", "list")]
)
def test_without_a_service_the_error_says_what_to_do(words: tuple[str, ...]) -> None:
    done = twinlens(*words, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("twinlens: ")
    if words != ("index", "."):
        assert "twinlens up" in done.stderr


def test_words_are_refused_where_no_model_understands_them(service: Running) -> None:
    done = twinlens("search", "--text", "a cat", "--url", service.url)
    assert done.returncode == 1
    assert "No text encoder" in done.stderr
    assert twinlens("search", "--url", service.url).returncode == 2


def test_what_an_evaluation_recommends_is_applied(service: Running, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 30, seed=65)
    lines = [f"{path.name},photo {place % 5}" for place, path in enumerate(photos)]
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(lines), encoding="utf-8")
    command = ("evaluate", tmp_path / "labels.csv", "--url", service.url, "--apply")
    options = ("--library", "chosen", "--cache", tmp_path / "cache", "--dir", tmp_path / "models")
    report = tmp_path / "report.html"
    done = twinlens(*command, *options, "--report", report)
    assert done.returncode == 0, done.stderr
    assert "library chosen at" in done.stdout
    assert report.stat().st_size > 10_000
    libraries = httpx.get(f"{service.url}/v1/libraries").json()["items"]
    [library] = [one for one in libraries if one["name"] == "chosen"]
    assert all("@" in ref for ref in library["models"])
    assert set(library["weights"]) == {ref.partition("@")[0] for ref in library["models"]}
