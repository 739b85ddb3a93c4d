"""`twinlens backup` and `restore`, as an operator types them, between whole services."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.clients import WAIT, Client
from support.photos import make_photos

from twinlens.cli.service.background import Running, running_service
from twinlens.shared.blobs import image_id_of


def twinlens(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data_dir_of(service: Running) -> Path:
    command = psutil.Process(service.process.pid).cmdline()
    return Path(command[command.index("--data-dir") + 1])


def noted(service: Running, name: str) -> str:
    services = (data_dir_of(service) / "services.json").read_text(encoding="utf-8")
    return str(json.loads(services)[name])


class Busy(threading.Thread):
    """Uploads pictures to a library, and removes each again, until it is stopped."""

    def __init__(self, url: str, library: str, photos: list[Path]) -> None:
        super().__init__()
        self._client = Client(url)
        self._at = {"library": library}
        self._photos = photos
        self._is_over = threading.Event()
        self.n_rounds = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            for photo in self._photos:
                files = {"file": (photo.name, photo.read_bytes())}
                self._do("POST", "/v1/images", files=files)
            for photo in self._photos:
                self._do("DELETE", f"/v1/images/{image_id_of(photo.read_bytes())}")
            self.n_rounds += 1

    def _do(self, method: str, path: str, **options: Any) -> None:
        http = self._client.http
        answer = http.request(method, path, params=self._at, headers=WAIT, **options)
        assert answer.json()["status"] == "succeeded", answer.text

    def stop(self) -> None:
        self._is_over.set()
        self.join()
        self._client.http.close()


def searched(client: Client, library: str, photo: Path) -> Any:
    """Returns what each model finds nearest to a picture, and how near."""
    query = json.dumps({"library": library, "k": 4})
    by_model = client.search(photo.read_bytes(), query)["result"]["by_model"]
    assert {name: len(hits) for name, hits in by_model.items()} == {
        "efficientnet-lite0": 4,
        "phash": 4,
    }
    return by_model


@pytest.mark.timeout(300)
def test_a_busy_service_is_backed_up_and_restored_into_another(
    service: Running, tmp_path: Path, data_dir: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 8, seed=700)
    come_and_go = make_photos(tmp_path / "more", 3, seed=701)
    models = ("--model", "efficientnet-lite0", "--model", "phash", "--weight", "phash=0.5")
    for name in ("moved", "busy"):
        told(twinlens("libraries", "set", name, *models, "--url", service.url, "--json"))
        index = ("index", tmp_path / "photos", "--library", name, "--url", service.url, "--json")
        assert told(twinlens(*index))["indexed"] == 8

    folder, of_service = tmp_path / "backup", ("--data-dir", data_dir_of(service))
    busy = Busy(service.url, "busy", come_and_go)
    busy.start()
    backups = [told(twinlens("backup", folder, *of_service, "--json")) for _ in range(3)]
    busy.stop()
    assert busy.n_rounds > 0
    for one in backups:
        assert one["failures"] == []
        assert one["images"] >= 16
    assert backups[-1]["copied"] <= len(come_and_go)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))

    with (
        running_service(data_dir, 0, "--workers", "1") as other,
        Client(service.url) as before,
        Client(other.url) as after,
    ):
        to_other = ("--data-dir", data_dir)
        names = ("--library", "moved", "--library", "busy")
        restored = told(twinlens("restore", folder, *names, *to_other, "--json"))
        assert restored["libraries"] == ["moved", "busy"]
        assert restored["restored"] >= 16
        assert restored["failures"] == []
        for photo in photos[:3]:
            assert searched(after, "moved", photo) == searched(before, "moved", photo)
        for job_id in restored["jobs"]:
            assert after.ended(after.get(f"/v1/jobs/{job_id}"))["status"] == "succeeded"
        assert after.get("/v1/libraries/moved")["weights"] == {"phash": 0.5}
        assert after.get("/readyz")["lacks"] == {}
        refused = twinlens("restore", folder, "--library", "moved", *to_other)
        assert (refused.returncode, refused.stdout) == (1, "")
        [line] = refused.stderr.splitlines()
        assert line.startswith("twinlens: There is already a library 'moved', with 8 images")
        into = ("--library", "moved", "--into", "moved-again")
        again = twinlens("restore", folder, *into, *to_other)
        assert again.returncode == 0, again.stderr
        assert "moved-again: 8 pictures restored, 0 already there; 16 embeddings" in again.stdout


def test_where_no_service_answers_one_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    for command in ("backup", "restore"):
        nowhere = ("--data-dir", tmp_path, "--redis-url", f"unix://{tmp_path}/nowhere")
        done = twinlens(command, tmp_path / "backup", *nowhere)
        assert (done.returncode, done.stdout) == (1, "")
        [line] = done.stderr.splitlines()
        assert line.startswith("twinlens: Redis does not answer")
    assert list((tmp_path / "backup").iterdir()) == []


def test_what_cannot_be_is_refused_in_one_sentence(service: Running, tmp_path: Path) -> None:
    here = ("--data-dir", data_dir_of(service))
    folder = tmp_path / "backup"
    told(twinlens("libraries", "set", "one", "--model", "phash", "--url", service.url, "--json"))
    assert "libraries, " in twinlens("backup", folder, *here).stdout
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    elsewhere = ("--data-dir", tmp_path / "elsewhere", "--redis-url", noted(service, "redis_url"))
    milvus_away = ("--milvus-uri", f"unix:{tmp_path}/nowhere")
    one = ("--library", "one")
    for status, said, words in (
        (1, "is not empty, and no backup", ("backup", tmp_path / "notes", *here)),
        (1, "has no backup that is whole", ("restore", tmp_path / "notes", *here)),
        (1, "There is no folder", ("restore", tmp_path / "nowhere", *here)),
        (2, "the backup has no library 'two'", ("restore", folder, "--library", "two", *here)),
        (2, "--into is for one library", ("restore", folder, "--into", "two", *here)),
        (2, "is not the folder of this service's data", ("backup", folder, *elsewhere)),
        (1, "Milvus", ("restore", folder, *one, "--into", "two", *milvus_away, *here)),
    ):
        done = twinlens(*words)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith("twinlens: ")
        assert said in line
    misspelt = twinlens("restore", folder, *one, "--into", "No Name", *here)
    assert misspelt.returncode == 2
    assert "'No Name' cannot be a library's name" in misspelt.stderr
