"""Every command at a whole service: in a narrow and a wide terminal, in a pipe, and as JSON."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from support.clients import WAIT
from support.paths import FIXTURES, ROOT
from support.photos import make_photos
from support.repositories import dinov2
from support.taught import write_network, write_taught

from twinlens.cli.main import main
from twinlens.cli.service.background import Running
from twinlens.shared.blobs import image_id_of

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
# Services run until they are stopped; `demo` is one, with all that is tried here. An export waits
# for TensorFlow, and tells of the new model as `models add` does.
NOT_RUN = {"up", "api", "worker", "demo", "models export"}
LONG = "2019/Été à Nice/un dossier dont le nom est vraiment trop long/写真 0001.jpg"
IMAGE = {"id", "name", "library", "width", "height", "format", "bytes", "metadata", "models"}
IMAGE |= {"added_at", "links"}
JOB = {"id", "kind", "library", "status", "progress", "created_at", "started_at", "finished_at"}
JOB |= {"expires_at", "result", "error", "links"}
LIBRARY = {"name", "models", "metric", "index", "weights"}
CARD = {"model", "name", "version", "title", "dimension", "metric", "input", "licence", "source"}
CARD |= {"calibration", "comparison"}
ITEMS = {"items"}
KEY = {"id", "name", "scope", "libraries", "requests_per_minute", "created_at", "expires_at"}
KEY |= {"revoked_at", "state"}
NETWORK = FIXTURES / "torch_small.onnx"


@dataclass
class Scene:
    """What commands are given: each time one of their own, where they change it."""

    service: Running
    folder: Path
    photos: list[Path]
    models: Path
    ids: Iterator[int]

    @property
    def new(self) -> str:
        return f"new{next(self.ids)}"

    @property
    def photo(self) -> Path:
        return self.photos[0]

    @property
    def image_id(self) -> str:
        return image_id_of(self.photo.read_bytes())

    def run(self, *words: object, columns: int | None = None) -> Result:
        env = {
            "COLUMNS": str(columns or 40),
            "TTY_COMPATIBLE": "1" if columns else "0",
            "TWINLENS_URL": self.service.url,
        }
        return CliRunner().invoke(main, list(map(str, words)), env=env)

    def succeed(self, *words: object) -> str:
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def library(self) -> str:
        """Makes a library, of one model."""
        name = self.new
        self.succeed("libraries", "set", name, "--model", "phash")
        return name

    def image(self) -> str:
        """Adds an image, and returns its id."""
        [photo] = make_photos(self.folder / self.new, 1, seed=next(self.ids))
        self.succeed("index", photo, "--library", "every")
        return image_id_of(photo.read_bytes())

    def failed_job(self) -> str:
        """Uploads what is no picture, and returns the id of the job that says so."""
        url = f"{self.service.url}/v1/images?library=every"
        headers = {"Content-Type": "image/png"} | WAIT
        return str(httpx.post(url, content=b"no picture", headers=headers).json()["id"])

    def cancelled_job(self) -> str:
        """Cancels a job, and returns its id: it can be cancelled again."""
        while True:
            change = ("libraries", "set", _changed(self), "--model", "efficientnet-lite2@1-int8")
            job_id = self.succeed(*change, "--no-wait").strip()
            # It may have ended before.
            if httpx.post(f"{self.service.url}/v1/jobs/{job_id}/cancel").is_success:
                return job_id

    def model(self) -> str:
        """Adds a model, and returns its name."""
        name = self.new
        self.succeed("models", "add", NETWORK, "--name", name, *self.dir())
        return name

    def taught(self) -> Path:
        """Writes labelled pictures that teach `cells` something."""
        return write_taught(self.folder / self.new)

    def cells(self) -> str:
        """Adds a model that can be taught, and returns its name."""
        name, network = self.new, write_network(self.folder / f"{self.new}.onnx")
        self.succeed("models", "add", network, "--name", name, *self.dir())
        return name

    def keys(self, *words: object) -> tuple[object, ...]:
        """Works on keys of no service that runs."""
        return ("keys", *words, "--data-dir", self.folder / "keys")

    def key_id(self) -> str:
        """Makes a key, and returns its id."""
        options = ("--name", LONG, "--library", "every", "--expires", 30, "--json")
        return str(json.loads(self.succeed(*self.keys("create", *options)))["id"])

    def stores(self) -> tuple[object, ...]:
        command = psutil.Process(self.service.process.pid).cmdline()
        return ("--data-dir", command[command.index("--data-dir") + 1])

    def backup(self) -> Path:
        self.succeed("backup", self.folder / "backup", *self.stores())
        return self.folder / "backup"

    def dir(self) -> tuple[object, ...]:
        return ("--dir", self.models)

    def cached(self) -> tuple[object, ...]:
        return ("--cache", self.folder / "cache", *self.dir())

    def labels(self) -> Path:
        path = self.folder / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = [(photo, f"label {n % 3}") for n, photo in enumerate(self.photos)]
            csv.writer(file).writerows([("file", "label"), *rows])
        return path


@pytest.fixture(scope="module")
def scene(service: Running, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("every")
    photos = make_photos(folder / "photos" / "some", 12, seed=900)
    named = folder / "photos" / LONG
    named.parent.mkdir(parents=True)
    photos[0] = photos[0].rename(named)
    # Commands that open a directory of models build all that are shipped, in other versions too.
    models = shutil.copytree(models_dir, folder / "models")
    made = Scene(service, folder, photos, models, itertools.count(901))
    refs = ("efficientnet-lite0@1-int8", "efficientnet-lite2@1-int8", "phash")
    made.succeed("libraries", "set", "every", *(w for one in refs for w in ("--model", one)))
    made.succeed("index", folder / "photos", "--library", "every")
    return made


Words = Callable[[Scene], Sequence[object]]
IN = ("--library", "every")

# By command: what it is given, and the keys of its JSON.
ROWS: dict[str, tuple[Words, set[str]]] = {
    "index": (
        lambda s: ("index", s.folder / "photos", *IN),
        {"indexed", "updated", "already_there", "failed", "waiting", "passed_over", "failures"}
        | {"took_s", "pictures_per_s"},
    ),
    "search": (
        lambda s: ("search", s.photo, *IN, "--save", s.folder / "found.png"),
        {"hits", "library_images", "by_model", "asked_with", "agreement", "indexed_through"}
        | {"timing_ms"},
    ),
    "compare": (lambda s: ("compare", s.photo, s.image_id, *IN), {"score", "models"}),
    "duplicates": (
        lambda _: ("duplicates", *IN, "--max-distance", 32, "--verify"),
        {"n_images", "n_groups", "groups", "confirmed_by", "kinds", "evidence", "n_unverified"},
    ),
    "stats": (lambda _: ("stats",), {"libraries", "queues", "backlog", "workers"}),
    "reconcile": (lambda _: ("reconcile", "--check"), ITEMS),
    "jobs show": (lambda _: ("jobs",), ITEMS),
    "jobs retry": (lambda s: ("jobs", "retry", s.failed_job()), JOB),
    "jobs cancel": (lambda s: ("jobs", "cancel", s.cancelled_job()), JOB),
    "images list": (lambda _: ("images", "list", *IN, "--limit", 5), {"items", "next_cursor"}),
    "images count": (lambda _: ("images", "count", *IN, "--filter", "width > 0"), {"count"}),
    "images show": (lambda s: ("images", "show", s.image_id, *IN), IMAGE),
    "images delete": (lambda s: ("images", "delete", s.image(), *IN, "--yes"), ITEMS),
    "keys create": (lambda s: s.keys("create", "--name", "somebody"), {"key"} | KEY),
    "keys list": (lambda s: s.key_id() and s.keys("list"), ITEMS),
    "keys revoke": (lambda s: s.keys("revoke", s.key_id()), KEY),
    "libraries": (lambda _: ("libraries",), ITEMS),
    "libraries set": (lambda s: ("libraries", "set", s.new, "--model", "phash"), LIBRARY),
    "libraries rollback": (
        lambda s: ("libraries", "rollback", _changed(s)),
        LIBRARY,
    ),
    "backup": (
        lambda s: ("backup", s.folder / "backup", *s.stores()),
        {"libraries", "images", "copied", "without_vectors", "failures", "took_s"},
    ),
    "restore": (
        lambda s: ("restore", s.backup(), *IN, "--into", s.new, *s.stores()),
        {"libraries", "restored", "already_there", "carried", "embedded_again", "jobs", "notes"}
        | {"failures", "took_s"},
    ),
    "libraries remove": (lambda s: ("libraries", "remove", s.library(), "--yes"), JOB),
    "models list": (lambda s: ("models", "list", "--url", "", *s.dir()), ITEMS),
    "models show": (lambda s: ("models", "show", "phash", *s.dir()), CARD),
    "models verify": (lambda s: ("models", "verify", "phash", *s.dir()), ITEMS),
    "models remove": (lambda s: ("models", "remove", s.model(), "--yes", *s.dir()), {"removed"}),
    "models bench": (lambda s: ("models", "bench", "phash", *s.dir()), ITEMS),
    "models add": (lambda s: ("models", "add", NETWORK, "--name", s.new, *s.dir()), CARD),
    "models pull": (lambda s: ("models", "pull", dinov2(s.folder / s.new), *s.dir()), CARD),
    "models quantize": (
        lambda s: ("models", "quantize", s.model(), "--photos", s.folder / "photos", *s.cached()),
        CARD,
    ),
    "models project": (
        lambda s: ("models", "project", s.model(), "--dim", 2, *_photos(s), *s.cached()),
        CARD,
    ),
    "models calibrate": (
        lambda s: ("models", "calibrate", s.model(), s.folder / "photos", *s.cached()),
        CARD,
    ),
    "models compare": (
        lambda s: (
            *("models", "compare", "phash", "efficientnet-lite0@1-int8", s.folder / "photos"),
            *("--save", s.folder / "where.png", *s.cached()),
        ),
        {"models", "k", "n_pictures", "n_compared", "n_same_first", "overlap_at_k"}
        | {"rank_correlation", "most_different", "left_out", "sentence"},
    ),
    "evaluate": (
        lambda s: ("evaluate", s.labels(), *_two_models(s), "--report", s.folder / "report.html"),
        {
            "contenders",
            "recommendation",
            "decided_by",
            "tried",
            "rare_shares",
            "n_pictures",
            "n_labels",
        }
        | {"n_queries", "n_query_labels", "n_edits", "n_folds", "n_bootstrap", "is_of_words"},
    ),
    "tune": (
        lambda s: ("tune", s.taught(), "--models", s.cells(), *s.cached()),
        {"by_model", "fused", "n_pictures", "n_labels", "n_judged", "made"},
    ),
    "compare-models": (
        lambda s: (
            *("compare-models", s.photo, s.folder / "photos", *_two_models(s)),
            *("--save", s.folder / "compared.png"),
        ),
        {"query", "rankings", "overlap_at_k", "rank_correlation"},
    ),
}


def _changed(scene: Scene) -> str:
    name = scene.library()
    scene.succeed("index", scene.photo, "--library", name)
    scene.succeed("libraries", "set", name, "--model", "efficientnet-lite0@1-int8")
    return name


def _photos(scene: Scene) -> tuple[object, ...]:
    return ("--photos", scene.folder / "photos")


def _two_models(scene: Scene) -> tuple[object, ...]:
    return ("--models", "phash,efficientnet-lite0@1-int8", *scene.cached())


def named_commands(group: click.Group, before: str = "") -> Iterator[str]:
    """Gives the commands that do something, by the words that they are called with."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{before}{name}"
        if isinstance(command, click.Group):
            yield from named_commands(command, f"{before}{name} ")


def test_every_command_has_a_row() -> None:
    assert ROWS.keys() | NOT_RUN == set(named_commands(main))


BOXES = re.compile("[\u2500-\u259f\x1b]")


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("name", ROWS)
def test_in_a_terminal_no_line_is_longer_than_it_is_wide(
    scene: Scene, name: str, columns: int
) -> None:
    done = scene.run(*ROWS[name][0](scene), columns=columns)
    assert done.exit_code == 0, done.output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout + done.stderr)
    for line in re.split(r"[\r\n]+", plain):
        # A path or an id stays whole, so that it can be copied.
        assert cell_len(line) <= columns or " " not in line.strip(), line


@pytest.mark.parametrize("name", ROWS)
def test_in_a_pipe_there_are_no_boxes_bars_or_colours(scene: Scene, name: str) -> None:
    done = scene.run(*ROWS[name][0](scene))
    assert done.exit_code == 0, done.output
    assert BOXES.findall(done.stdout + done.stderr) == []
    for line in done.stdout.splitlines():
        assert line == line.rstrip(" ")


@pytest.mark.parametrize("name", ROWS)
def test_json_is_one_document_whose_keys_are_documented(scene: Scene, name: str) -> None:
    words, keys = ROWS[name]
    done = scene.run(*words(scene), "--json")
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    assert keys <= document.keys()
    assert all(f"`{key}`" in REFERENCE for key in keys)
    assert BOXES.findall(done.stderr) == []


def test_images_are_deleted_by_a_filter(scene: Scene) -> None:
    name, ids = scene.library(), [scene.image() for _ in range(2)]
    photos = [path for path in scene.folder.rglob("*.jpg") if image_id_of(path.read_bytes()) in ids]
    scene.succeed("index", *photos, "--library", name)
    named, where = ("--library", name), f'name == "{photos[0].name}"'
    for wrong in ((), (ids[0], "--filter", where)):
        assert scene.run("images", "delete", *wrong, *named).exit_code == 2
    deleted = scene.succeed("images", "delete", "--filter", where, *named, "--yes", "--json")
    job = json.loads(deleted)
    assert (job["kind"], job["status"]) == ("delete", "succeeded")
    listed = json.loads(scene.succeed("images", "list", *named, "--json"))
    assert [one["name"] for one in listed["items"]] == [photos[1].name]
