"""`twinlens index` as it is typed: what it sends, tells and ends with."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Picture
from support.played import (
    Service,
    as_json,
    busy,
    failed,
    fill,
    job_answer,
    listening,
    running,
)

from twinlens.cli.main import main
from twinlens.cli.upload import index
from twinlens.client import patience
from twinlens.shared.blobs import image_id_of
from twinlens.shared.messages import Metadata


def run(url: str, *words: object) -> Result:
    return CliRunner().invoke(main, ["index", *map(str, words), "--url", url])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with listening(service) as url:
        yield url


def test_where_all_went_well_the_status_is_0(tmp_path: Path, service: Service, url: str) -> None:
    ids = fill(tmp_path / "photos", 3)
    service.there = {ids[0]}
    done = run(url, tmp_path / "photos", "--library", "cats")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 indexed, 1 already there, 0 failed; ")
    assert "…" not in done.stderr
    assert "interrupted" not in done.stderr


def test_what_is_on_a_picture_is_sent_with_it(tmp_path: Path, service: Service, url: str) -> None:
    fill(tmp_path / "photos", 2)
    coco = {
        "images": [{"id": 17, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 17, "category_id": 3}],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    done = run(url, tmp_path / "photos", "--coco", tmp_path / "coco.json")
    assert done.exit_code == 0, done.output
    [body] = service.bodies
    assert body.count(b'name="metadata"') == 1
    metadata = {"coco_id": 17, "categories": ["cat"], "supercategories": ["animal"]}
    assert json.dumps(metadata).encode() in body


def write_photo(path: Path) -> None:
    exif = Picture.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS 80D"
    exif.get_ifd(0x8769)[0x9003] = "2019:07:14 18:03:22"
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 0.0, 0.0)})
    Picture.new("RGB", (8, 8), "red").save(path, "JPEG", exif=exif)


def sent_metadata(service: Service) -> list[Metadata]:
    return [
        json.loads(part.split(b"\r\n\r\n")[1].split(b"\r\n")[0])
        for body in service.bodies
        for part in body.split(b'name="metadata"')[1:]
    ]


TAKEN = {"taken_at": "2019-07-14T18:03:22", "camera": "Canon EOS 80D"}


def test_what_the_camera_wrote_is_sent_and_where_only_if_asked_for(
    tmp_path: Path, service: Service, url: str
) -> None:
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "photos" / "a.jpg")
    place = {"latitude": -33.5, "longitude": 151.0}
    for words, sent in (((), [TAKEN]), (("--gps",), [TAKEN | place]), (("--no-exif",), [])):
        service.bodies.clear()
        done = run(url, tmp_path / "photos", *words)
        assert done.exit_code == 0, done.output
        assert sent_metadata(service) == sent
    assert run(url, tmp_path / "photos", "--gps", "--no-exif").exit_code == 2


def test_of_zip_archives_what_is_new_is_sent_and_one_that_cannot_be_read_is_told(
    tmp_path: Path, service: Service, url: str
) -> None:
    write_photo(tmp_path / "a.jpg")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "a.jpg", "2019/a.jpg")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    done = run(url, tmp_path / "photos.zip", tmp_path / "bad.zip")
    assert done.exit_code == 1
    assert "bad.zip: it cannot be read as a zip archive" in done.stderr
    assert sent_metadata(service) == [TAKEN]
    assert run(url, tmp_path / "photos.zip", "--gps").exit_code == 0
    assert sent_metadata(service)[-1]["latitude"] == -33.5
    assert b'filename="2019/a.jpg"' in service.bodies[-1]
    (tmp_path / "photos.tar").touch()
    refused = run(url, tmp_path / "photos.tar", "--gps")
    assert refused.exit_code == 1
    assert "unpack" in refused.stderr


def test_what_is_passed_over_is_told_and_the_status_is_0(
    tmp_path: Path, service: Service, url: str
) -> None:
    fill(tmp_path / "photos", 1)
    for name in ("0.jpg.json", "clip.mov", ".hidden.jpg", "notes"):
        (tmp_path / "photos" / name).write_text("no picture")
    done = run(url, tmp_path / "photos")
    assert done.exit_code == 0, done.output
    [told] = [line for line in done.stdout.splitlines() if line.startswith("passed over")]
    assert told.startswith("passed over 4 files: ")
    for kind in ("1 sidecar", "1 video", "1 hidden file", "1 other file"):
        assert kind in told
    assert told.endswith("; -v names them")
    named = run(url, tmp_path / "photos", "-v")
    lines = [line for line in named.stderr.splitlines() if line.startswith("passed over")]
    assert sorted(lines) == [
        f"passed over {tmp_path}/photos/.hidden.jpg: hidden file",
        f"passed over {tmp_path}/photos/0.jpg.json: sidecar",
        f"passed over {tmp_path}/photos/clip.mov: video",
        f"passed over {tmp_path}/photos/notes: other file",
    ]
    assert "-v names" not in named.stdout


def test_a_picture_from_standard_input_is_sent(service: Service, url: str) -> None:
    done = CliRunner().invoke(main, ["index", "-", "--url", url], input=b"a picture")
    assert done.exit_code == 0, done.output
    [body] = service.bodies
    assert b'filename="stdin"' in body
    assert b"a picture" in body


def test_json_is_what_became_of_the_pictures(tmp_path: Path, service: Service, url: str) -> None:
    fill(tmp_path / "photos", 3)
    (tmp_path / "photos" / "notes.txt").touch()
    service.failures = [as_json(running("a", 0, total=3))]
    service.jobs["a"] = job_answer("a", 2, failed=1)
    service.items["a"] = [failed("0.jpg")]
    done = run(url, tmp_path / "photos", "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said.pop("took_s") > 0
    assert said.pop("pictures_per_s") > 0
    assert said == {
        "indexed": 2,
        "updated": 0,
        "already_there": 0,
        "failed": 1,
        "waiting": 0,
        "passed_over": {"document": 1},
        "failures": ["0.jpg: It is no picture."],
    }
    assert done.stderr == "  0.jpg: It is no picture.\n"


def test_names_are_sent_with_their_folders(tmp_path: Path, service: Service, url: str) -> None:
    folder = tmp_path / "Photos" / "2019" / "Été à Nice"
    folder.mkdir(parents=True)
    (folder / "IMG_0001.JPG").write_bytes(b"1")
    assert run(url, tmp_path / "Photos").exit_code == 0
    assert 'filename="2019/Été à Nice/IMG_0001.JPG"'.encode() in service.bodies[0]


def test_how_many_pictures_have_annotations_is_told(
    tmp_path: Path, service: Service, url: str
) -> None:
    fill(tmp_path / "photos", 3)
    coco = {
        "images": [{"id": n, "file_name": f"C:\\images\\{n}.jpg"} for n in (1, 2, 7, 8)],
        "annotations": [],
        "categories": [],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco), encoding="utf-8-sig")
    done = run(url, tmp_path / "photos", "--coco", tmp_path / "coco.json")
    assert done.exit_code == 0, done.output
    assert "annotations: 2 pictures with, 1 without\n" in done.stdout
    assert "2 images of the file without a picture here" in done.stdout
    assert r"2 by the end of the path alone, as C:\images" in done.stdout


def test_what_failed_is_told_and_the_status_is_1(
    tmp_path: Path, service: Service, url: str
) -> None:
    fill(tmp_path / "photos", 25)
    service.failures = [as_json(running("a", 0, total=25))]
    service.jobs["a"] = job_answer("a", 3, failed=22)
    service.items["a"] = [failed(f"{n}.jpg") for n in range(20)]
    done = run(url, tmp_path / "photos")
    assert done.exit_code == 1
    assert done.stdout.startswith("3 indexed, 0 already there, 22 failed; ")
    told = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    assert told == [*(f"  {n}.jpg: It is no picture." for n in range(20)), "  … and 2 more"]


def test_who_breaks_off_is_told_how_far_it_came(tmp_path: Path, service: Service, url: str) -> None:
    fill(tmp_path / "photos", 5)
    service.failures = [as_json(running("a", 0, total=5))]

    def seen(request: httpx.Request) -> httpx.Response:
        if "Prefer" in request.headers:
            os.kill(os.getpid(), signal.SIGINT)
        return as_json(running("a", 2, total=5))

    service.answers["/v1/jobs/a"] = seen
    # A shell has what it runs in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = run(url, tmp_path / "photos")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == 130
    assert done.stdout.startswith("0 indexed, 0 already there, 0 failed; ")
    assert "interrupted; 3 more are uploaded and will still be indexed." in done.stderr
    assert "Run the same command again" in done.stderr
    assert "job a goes on: `twinlens jobs a` shows it" in done.stderr


def test_an_error_in_the_middle_is_told_with_how_far_it_came(
    tmp_path: Path, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "OUTAGE_S", 0)
    ids = fill(tmp_path / "photos", 300)
    service.there = set(ids)
    service.there.discard(image_id_of(b"7"))
    service.failures = [busy(500, None)]
    done = run(url, tmp_path / "photos", "--parallel", "1")
    assert done.exit_code == 1
    assert "interrupted; 0 more are uploaded" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"twinlens: {url}/v1/images/bulk?library=default answered 500")


def test_where_nothing_was_begun_nothing_was_broken_off(
    tmp_path: Path, service: Service, url: str
) -> None:
    fill(tmp_path / "photos", 1)
    service.answers["/v1/images/missing"] = lambda _: busy(404, None)
    done = run(url, tmp_path / "photos", "--library", "none")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "interrupted" not in done.stderr
    assert len(service.requests) == 1


def test_a_service_that_is_started_again_is_waited_for(
    tmp_path: Path, service: Service, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    fill(tmp_path / "photos", 3)
    service.failures = [httpx.ReadError("reset")]
    done = run(url, tmp_path / "photos")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("3 indexed, 0 already there, 0 failed; ")
    assert len(service.bodies) == 2
    assert index.OUTAGE_S >= 60
