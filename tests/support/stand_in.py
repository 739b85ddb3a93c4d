"""Stands for the workers where a test is about the API."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from support.beats import beat
from support.records import make_library, summary
from support.results import stored_items, stored_result

from twinlens.shared.libraries import Library, new_library
from twinlens.shared.messages import CatalogEntry, Image, Item
from twinlens.shared.queue import QUEUES
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.jobs import Jobs
from twinlens.shared.redis.presence import announce

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis


class StandIn:
    """Does what workers do, through the interfaces that API and workers share."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.jobs = Jobs(redis)
        self.catalog = Catalog(redis)

    def announce(self, lane: Any, number: int = 1, **told: Any) -> None:
        """Tells of a process that ended a task a second ago, unless something else is told."""
        done = {"n_pictures": 3, "pictures_per_s": 1.5, "tasks_per_s": 0.5, "busy_s": 2.0}
        told = done | {"idle_s": 1.0} | told
        announce(self.redis, beat(f"{lane}@test:{number}", time.time(), lanes=[lane], **told))

    def serve(self, *models: str, library: str = "default") -> None:
        self.catalog.publish_models(summary(name) for name in models)
        refs = [f"{name}@1" for name in models]
        make_library(self.redis, new_library(library, refs))

    def add(self, image: Image) -> None:
        there = {library.name: library for library in self.catalog.libraries()}
        library = there.get(image.library) or Library(name=image.library, models=[])
        names = library.collections
        entry = CatalogEntry(image=image, added_by="j:0:0")
        entry.collections = {names[ref] for ref in image.models if ref in names}
        assert self.catalog.put(library.id, [entry]) == []

    def finish_chunk(self, job_id: str, chunk: int, items: list[Item]) -> None:
        self.jobs.start(job_id)
        self.jobs.count_chunk(job_id, chunk, items, stored_items(job_id, chunk, items))

    def finish_search(self, job_id: str, result: dict[str, Any]) -> None:
        self.jobs.start(job_id)
        self.jobs.finish(job_id, stored=stored_result(job_id, json.dumps(result)))

    def queued(self) -> list[dict[str, Any]]:
        """Returns the waiting tasks: name, queue, id, kwargs, request_id."""
        return [
            read_task(str(text)) | {"queue": queue}
            for queue in QUEUES
            for text in reversed(self.redis.lrange(queue, 0, -1))
        ]


def read_task(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    _, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
    headers = envelope["headers"]
    return {
        "name": headers["task"],
        "id": headers["id"],
        "kwargs": kwargs,
        "request_id": headers["request_id"],
        "expires": headers["expires"],
    }
