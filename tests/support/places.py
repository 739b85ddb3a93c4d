"""Services to back up, and to restore into: each with stores of its own, in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.embedding import embed
from support.kept_models import KeptModels
from support.records import make_library
from support.requests import Client, client_of, form_body
from support.tiny_pair import plain_picture

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import Description
from twinlens.shared.redis.client import connect
from twinlens.shared.settings import Settings
from twinlens.workers.backup.stores import Stores
from twinlens.workers.milvus.collection import collection_of
from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from twinlens.shared.messages import Image
    from twinlens.workers.process.runtime import Runtime


@dataclass(frozen=True)
class Place:
    """A service: what is sent to it is done at once."""

    settings: Settings
    client: Client
    runtime: Runtime

    @property
    def stores(self) -> Stores:
        one = self.runtime
        journaling = one.amendments.journaling
        return Stores(one.catalog, one.blobs, one.vectors, one.registry, journaling)

    def make(self, name: str, models: Iterable[str], **plan: Any) -> None:
        plan = {"models": list(models), **plan}
        answer = self.client.put(f"/v1/libraries/{name}", json=plan)
        assert answer.status_code == 201, answer.text

    def post(self, library: str, named: Mapping[str, Any]) -> str:
        """Uploads plain pictures, a colour each, with their metadata. Returns the job's id."""
        parts: list[Any] = []
        for name, metadata in named.items():
            parts.append(("metadata", ("", json.dumps(metadata).encode())))
            parts.append(("files", (name, picture_of(name))))
        answer = self.client.post(f"/v1/images/bulk?library={library}", **form_body(parts))
        assert answer.status_code == 202, answer.text
        return str(answer.json["id"])

    def embed(self, job_id: str) -> None:
        for item in embed(self.runtime, job_id):
            assert item.outcome == "succeeded", item

    def add(self, library: str, named: Mapping[str, Any]) -> list[str]:
        """Uploads pictures and embeds them. Returns their ids."""
        self.embed(self.post(library, named))
        return [image_id_of(picture_of(name)) for name in named]

    def change(self, library: str, image_id: str, said: Mapping[str, Any]) -> None:
        self.runtime.amendments.change(library, image_id, Description.model_validate(said))

    def remove_library(self, name: str) -> None:
        answer = self.client.delete(f"/v1/libraries/{name}")
        assert answer.status_code == 202, answer.text
        self.runtime.removals.remove(self.runtime.jobs.get(answer.json["id"]))

    def delete(self, library: str, image_id: str) -> None:
        answer = self.client.delete(f"/v1/images/{image_id}?library={library}")
        assert answer.status_code == 202, answer.text
        self.runtime.images.delete(self.runtime.jobs.get(answer.json["id"]), [image_id])

    def images(self, library: str) -> dict[str, Image]:
        library_id = self.runtime.catalog.library(library).id
        return {one.image.id: one.image for one in self.runtime.catalog.all_entries(library_id)}

    def content(self, library: str, image_id: str) -> bytes:
        library_id = self.runtime.catalog.library(library).id
        return self.runtime.blobs.get(image_key(library_id, image_id))

    def vectors(self, library: str) -> dict[str, dict[str, Any]]:
        """Returns what is stored under each model, by image: its kind of number, and its bytes."""
        there = self.runtime.catalog.library(library)
        ids = list(self.images(library))
        rows = {
            ref: self.runtime.vectors.read_stored(
                collection_of(there, self.runtime.registry.card(ref)), ids
            )
            for ref in there.models
        }
        return {
            ref: {image_id: (str(row.dtype), row.tobytes()) for image_id, row in some.items()}
            for ref, some in rows.items()
        }


def picture_of(name: str) -> bytes:
    """Returns a picture of one colour, another for each name."""
    red, green, blue, *_ = bytes.fromhex(image_id_of(name.encode()))
    return plain_picture((red, green, blue))


def place_at(folder: Path, redis_url: str, milvus_uri: str, shelf: Path, built: Path) -> Place:
    """Makes a service.

    Args:
        folder: Where it keeps its pictures.
        redis_url: Emptied.
        milvus_uri: Its Milvus.
        shelf: Its models.
        built: Where the default models are, which every worker looks for.
    """
    folder.mkdir(exist_ok=True)
    (folder / "models").symlink_to(built)
    settings = Settings(
        redis_url=redis_url, milvus_uri=milvus_uri, milvus_timeout_s=60, data_dir=folder
    )
    with connect(redis_url) as redis:
        redis.flushdb()
        make_library(redis, new_library("default", ["phash@1"]))
    runtime = build_runtime(settings, ["bulk"], KeptModels(shelf))
    runtime.catalog.keep_libraries()
    return Place(settings, client_of(settings), runtime)
