"""`twinlens index` on a real service: broken off and run again, and with COCO annotations."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from e2e.test_up import pid_of
from support.photos import jpeg, make_photos, source
from support.servers import wait_until

from twinlens.cli.service.background import Running
from twinlens.shared.blobs import image_id_of

COUNTS = re.compile(r"(\d+) indexed, (\d+) already there, (\d+) failed; ([\d.]+) pictures/s")
# Six batches.
N_MANY = 1400


def command(service: Running, *words: str | Path) -> list[str]:
    called = [sys.executable, "-m", "twinlens.cli.main", "index", "--url", service.url]
    return [*called, *map(str, words)]


def index(service: Running, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(service, *words), capture_output=True, text=True, timeout=240, check=False
    )


def counts(done: subprocess.CompletedProcess[str]) -> tuple[int, ...]:
    """How many were indexed, already there, and failed."""
    match = COUNTS.search(done.stdout)
    assert match is not None, done.stdout + done.stderr
    return tuple(map(int, match.groups()[:3]))


def job_ids(service: Running, library: str) -> list[str]:
    params = {"library": library, "limit": "1000"}
    answer = httpx.get(f"{service.url}/v1/jobs", params=params).raise_for_status()
    return [job["id"] for job in answer.json()["items"]]


def n_jobs(service: Running, library: str) -> int:
    return len(job_ids(service, library))


def ids_in(service: Running, library: str) -> Iterator[str]:
    params = {"library": library, "limit": "1000"}
    while True:
        page = httpx.get(f"{service.url}/v1/images", params=params).raise_for_status().json()
        yield from (image["id"] for image in page["items"])
        if page["next_cursor"] is None:
            return
        params["cursor"] = page["next_cursor"]


def n_vectors(service: Running, library: str) -> Any:
    stats = httpx.get(f"{service.url}/v1/stats").raise_for_status().json()
    return stats["libraries"][library]["vectors"]


def make_library(service: Running, name: str) -> str:
    """Makes a library of the quickest model."""
    url = f"{service.url}/v1/libraries/{name}"
    httpx.put(url, json={"models": ["phash"]}).raise_for_status()
    return name


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photo under many ids: each file has a comment of its own."""
    folder = tmp_path_factory.mktemp("many")
    content = jpeg(source("coffee.png").resize((500, 375)))
    for n in range(N_MANY):
        comment = b"\xff\xfe\x00\x08%06d" % n
        (folder / f"{n}.jpg").write_bytes(content[:2] + comment + content[2:])
    return folder


def test_a_second_run_uploads_nothing(service: Running, tmp_path: Path) -> None:
    library = make_library(service, "twice")
    make_photos(tmp_path / "photos", 5, seed=80)
    make_photos(tmp_path / "photos" / "below", 3, seed=81)
    first = index(service, tmp_path / "photos", "--library", library)
    assert (first.returncode, counts(first)) == (0, (8, 0, 0)), first.stderr
    before = n_jobs(service, library)
    again = index(service, tmp_path / "photos", "--library", library)
    assert (again.returncode, counts(again)) == (0, (0, 8, 0)), again.stderr
    assert n_jobs(service, library) == before


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """A shell has what it runs in the background ignore Ctrl-C, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_broken_off_goes_on(
    service: Running, many: Path, number: signal.Signals
) -> None:
    library = make_library(service, f"broken-off-{int(number)}")
    options = (many, "--library", library, "--parallel", "1")
    with subprocess.Popen(
        command(service, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        client = psutil.Process(process.pid)

        def has_begun() -> bool:
            began = time.monotonic()
            client.suspend()  # so that it does not end while it is looked at
            if n_jobs(service, library) > 0:
                return True
            client.resume()
            time.sleep(time.monotonic() - began)  # as long as the look took, which can be long
            return False

        wait_until(has_begun, 120)
        client.send_signal(number)
        client.resume()
        told, complained = process.communicate(timeout=60)
    if number is signal.SIGINT:
        assert process.returncode == 130, complained
        assert COUNTS.search(told)
        assert "interrupted; " in complained
        assert "Run the same command again" in complained
        going_on = re.findall(r"job ([0-9a-f]{32}) goes on", complained)
        assert set(going_on) <= set(job_ids(service, library))
        assert "Traceback" not in complained
    else:
        assert process.returncode == -number
    assert n_jobs(service, library) < N_MANY / 256

    done = index(service, many, "--library", library)
    assert done.returncode == 0, done.stderr
    assert sum(counts(done)) == N_MANY
    wanted = sorted(image_id_of(path.read_bytes()) for path in many.iterdir())
    assert sorted(ids_in(service, library)) == wanted
    assert n_vectors(service, library) == {"phash": N_MANY}


def test_a_restart_of_the_service_does_not_end_an_upload(service: Running, many: Path) -> None:
    library = make_library(service, "restarted")
    with subprocess.Popen(
        command(service, many, "--library", library, "--parallel", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: n_jobs(service, library) > 0, 60)
        pid = pid_of(service, "api")
        for part in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            part.kill()
        told, complained = process.communicate(timeout=120)
    assert process.returncode == 0, complained
    match = COUNTS.search(told)
    assert match is not None
    assert sum(map(int, match.groups()[:3])) == N_MANY
    assert n_vectors(service, library) == {"phash": N_MANY}


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(service: Running, tmp_path: Path) -> None:
    library = make_library(service, "unreadable")
    make_photos(tmp_path / "photos", 3, seed=82)
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    done = index(service, tmp_path / "photos", "--library", library)
    assert (done.returncode, counts(done)) == (1, (3, 0, 1))
    assert f"  {tmp_path / 'photos' / 'gone.jpg'}: No such file or directory" in done.stderr


def test_an_unknown_library_is_told_at_once(service: Running, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1, seed=83)
    done = index(service, tmp_path / "photos", "--library", "none")
    assert done.returncode == 1
    assert "There is no library 'none'" in done.stderr
    assert done.stdout == ""


def test_coco_annotations_become_metadata(service: Running, tmp_path: Path) -> None:
    library = make_library(service, "coco")
    zipped = make_photos(tmp_path / "zipped", 3, seed=84)
    loose = make_photos(tmp_path / "loose", 1, seed=85)
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as archive:
        for path in zipped:
            archive.write(path, f"val2017/{path.name}")
        archive.writestr("val2017/README.txt", "no picture")
    annotations = tmp_path / "instances_val2017.json"
    annotations.write_text(json.dumps(coco_of([*zipped[:2], *loose])), encoding="utf-8")
    words = (tmp_path / "val2017.zip", tmp_path / "loose", "--coco", annotations)
    done = index(service, *words, "--library", library)
    assert (done.returncode, counts(done)) == (0, (4, 0, 0)), done.stderr

    animals = {"categories": ["cat", "dog"], "supercategories": ["animal"]}
    metadata = [metadata_of(service, path, library) for path in (*zipped, *loose)]
    assert metadata == [{"coco_id": 100, **animals}, {"coco_id": 101}, {}, {"coco_id": 102}]


def test_a_file_that_is_no_coco_is_told(service: Running, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1, seed=86)
    (tmp_path / "captions.json").write_text('{"images": [], "annotations": []}')
    done = index(service, tmp_path / "photos", "--coco", tmp_path / "captions.json")
    assert done.returncode == 1
    assert done.stderr.startswith("twinlens: ")
    assert "(categories: Field required)" in done.stderr


def coco_of(photos: list[Path]) -> dict[str, Any]:
    """Instances of which the first photo shows two dogs and a cat, and the others nothing."""
    return {
        "images": [{"id": 100 + n, "file_name": path.name} for n, path in enumerate(photos)],
        "annotations": [{"image_id": 100, "category_id": n} for n in (18, 17, 18)],
        "categories": [
            {"id": 17, "name": "cat", "supercategory": "animal"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ],
    }


def metadata_of(service: Running, path: Path, library: str) -> Any:
    url = f"{service.url}/v1/images/{image_id_of(path.read_bytes())}"
    return httpx.get(url, params={"library": library}).raise_for_status().json()["metadata"]
