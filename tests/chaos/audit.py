"""What must be true once all is quiet, looked up in the stores themselves."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from chaos.pictures import id_of, picture
from integration.shared.test_key_lives import FOREVER, LIVES, look
from pymilvus import MilvusClient, MilvusException
from redis import RedisError

from twinlens.shared.blobs import BlobStore, image_key
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.jobs import Jobs
from twinlens.workers.milvus.collection import ID_FIELD
from twinlens.workers.milvus.expressions import METADATA_FIELD, to_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chaos.ledger import Ledger
    from chaos.scene import Scene

    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import CatalogEntry
    from twinlens.shared.redis.client import Redis

QUIET_S = 60.0
PAUSE_S = 0.25
MAX_ROWS = 16_384
N_SAMPLES = 6
# Nothing may wait here, and nobody may hold anything.
EMPTY_KEYS = (
    *("search", "single", "bulk", "unacked_index", keys.UNACKED),
    *(keys.ARRIVING, keys.TASKS, keys.RING, keys.FED, keys.SENT, keys.SENT_UNTIL),
)
EMPTY_PATTERNS = ("tl:feed:libraries:*", "tl:library:*:uploads", "tl:query:*", "tl:job:*:tries")
# Of kombu, for a moment each second.
MUTEX = "unacked_mutex"


@dataclass(frozen=True)
class Audit:
    """One round's library, and what was promised of it."""

    scene: Scene
    library: str
    seed: int
    ledger: Ledger

    def faults(self) -> list[str]:
        """Returns what is not as it must be, after all the time that it may take to be so."""
        for check in (self._unready, self._unended, self._unquiet, self._unlike, self._unserved):
            if faults := _last_of(check):
                return faults
        return []

    def _unready(self) -> Iterator[str]:
        answer = httpx.get(f"{self.scene.url}/readyz", timeout=10)
        if answer.status_code != 200:
            yield answer.text

    def _unended(self) -> Iterator[str]:
        with connect(self.scene.address("redis_url")) as redis:
            jobs = Jobs(redis)
            for job_id, what in self.ledger.jobs.items():
                job = jobs.get(job_id)
                if not job.has_ended:
                    yield f"{what} {job_id} has not ended: {job}"
                elif (job.status == "failed") != (job.error is not None):
                    yield f"{what} {job_id} ended without a reason: {job}"
                elif (what == "cancelled") != (job.status == "cancelled"):
                    yield f"{what} {job_id} ended as {job.status}"

    def _unquiet(self) -> Iterator[str]:
        """Looks for what still waits, and for keys that nobody needs any more."""
        with connect(self.scene.address("redis_url")) as redis:
            for key in EMPTY_KEYS:
                if redis.exists(key):
                    yield f"{key} is not empty: {_content_of(redis, key)}"
            for pattern in EMPTY_PATTERNS:
                yield from (f"{key} is left" for key in redis.scan_iter(pattern))
            if (backlog := redis.get(keys.BACKLOG)) not in (None, "0"):
                yield f"the backlog is {backlog}"
            for one in look(redis):
                if one.key == MUTEX:
                    continue
                rows = [pattern for pattern in LIVES if re.fullmatch(pattern, one.key)]
                if len(rows) != 1:
                    yield f"nobody knows the key {one.key}"
                    continue
                most_s = LIVES[rows[0]](one)
                is_right = one.left_s <= most_s and (one.left_s == FOREVER) == (most_s == FOREVER)
                if not is_right:
                    yield f"{one.key} lives for {one.left_s} s, not {most_s}: {one.job}"

    def _unlike(self) -> Iterator[str]:
        """Compares what was acknowledged, the catalogue, the blobs and every collection."""
        with connect(self.scene.address("redis_url")) as redis:
            catalog = Catalog(redis)
            library = catalog.library(self.library)
            entries = {one.image.id: one for one in catalog.all_entries(library.id)}
            known = {one.id for one in catalog.libraries()}
            wanted = {name for one in catalog.libraries() for name in one.all_collections}
        if library.next is not None:
            yield f"an edition is still being built: {library.next}"
        yield from self._unlike_ledger(entries)
        yield from self._unlike_blobs(library, entries, known)
        # Without pings: for those of an idle client, Milvus Lite ends its connection.
        patient = {"grpc.keepalive_time_ms": 2**31 - 1}
        milvus = MilvusClient(self.scene.address("milvus_uri"), timeout=30, grpc_options=patient)
        try:
            for name in sorted(library.all_collections):
                yield from _unlike_rows(milvus, name, entries)
            if orphans := set(milvus.list_collections()) - wanted:
                yield f"nobody needs these collections: {sorted(orphans)}"
        finally:
            milvus.close()

    def _unlike_ledger(self, entries: dict[str, CatalogEntry]) -> Iterator[str]:
        for number, is_there in self.ledger.there.items():
            image_id = id_of(self.seed, number)
            if is_there is not None and (image_id in entries) != is_there:
                yield f"picture {number} ({image_id}) {'is lost' if is_there else 'has returned'}"
        for number, metadata in self.ledger.metadata.items():
            entry = entries.get(id_of(self.seed, number))
            if entry is not None and entry.image.metadata != metadata:
                yield f"picture {number} has {entry.image.metadata}, not {metadata}"

    def _unlike_blobs(
        self, library: Library, entries: dict[str, CatalogEntry], known: set[str]
    ) -> Iterator[str]:
        root = self.scene.data_dir / "blobs"
        blobs = BlobStore(root)
        for number, is_there in self.ledger.there.items():
            image_id = id_of(self.seed, number)
            if is_there is False and (root / image_key(library.id, image_id)).exists():
                yield f"the bytes of picture {number} ({image_id}) are left"
        for image_id in entries:
            try:
                blobs.get(image_key(library.id, image_id))
            except FileNotFoundError:
                yield f"the bytes of {image_id} are lost"
        if orphans := {one.name for one in (root / "images").iterdir()} - known:
            yield f"nobody knows these libraries: {sorted(orphans)}"

    def _unserved(self) -> Iterator[str]:
        """Asks the service: what is gone is gone, and what is there finds itself."""
        with httpx.Client(base_url=self.scene.url, timeout=30) as client:
            there = [number for number, is_there in self.ledger.there.items() if is_there]
            gone = [number for number, is_there in self.ledger.there.items() if is_there is False]
            for number in gone:
                yield from self._still_served(client, number)
            for number in there[:: max(1, len(there) // N_SAMPLES)]:
                yield from self._not_finding_itself(client, number)
            for number, metadata in self.ledger.metadata.items():
                if self.ledger.there.get(number):
                    yield from self._not_filtered(client, number, metadata["mark"])

    def _still_served(self, client: httpx.Client, number: int) -> Iterator[str]:
        image = f"/v1/images/{id_of(self.seed, number)}"
        for path in (image, f"{image}/content"):
            if (status := client.get(path, params={"library": self.library}).status_code) != 404:
                yield f"{path} of the removed picture {number} answers {status}"

    def _not_finding_itself(self, client: httpx.Client, number: int) -> Iterator[str]:
        query = f'{{"library": "{self.library}", "k": 3}}'
        files: Any = {"file": ("a.png", picture(self.seed, number)), "query": (None, query)}
        job = client.post("/v1/search", files=files, headers={"Prefer": "wait=20"}).json()
        if job.get("status") != "succeeded":
            yield f"a search for picture {number} ends as {job}"
            return
        for model, ranking in job["result"]["by_model"].items():
            if not ranking or ranking[0]["image_id"] != id_of(self.seed, number):
                yield f"picture {number} does not find itself under {model}: {ranking}"

    def _not_filtered(self, client: httpx.Client, number: int, mark: int) -> Iterator[str]:
        params = {"library": self.library, "filter": f"mark == {mark}"}
        count = client.get("/v1/images/count", params=params).json()
        if count != {"count": 1}:
            yield f"a filter does not find picture {number} by its mark {mark}: {count}"


def _unlike_rows(
    milvus: MilvusClient, name: str, entries: dict[str, CatalogEntry]
) -> Iterator[str]:
    if not milvus.has_collection(name):
        if entries:
            yield f"there is no collection {name}"
        return
    rows = milvus.query(
        name,
        filter=f'{ID_FIELD} != ""',
        output_fields=[ID_FIELD, METADATA_FIELD],
        limit=MAX_ROWS,
        consistency_level="Strong",
    )
    [count] = milvus.query(name, output_fields=["count(*)"], consistency_level="Strong")
    ids = [row[ID_FIELD] for row in rows]
    if not len(ids) == len(set(ids)) == count["count(*)"]:
        yield f"{name} has {len(ids)} rows of {len(set(ids))} pictures, and counts {count}"
    if lost := entries.keys() - set(ids):
        yield f"{name} lacks {sorted(lost)}"
    if orphans := set(ids) - entries.keys():
        yield f"{name} has what is not catalogued: {sorted(orphans)}"
    for row in rows:
        entry = entries.get(row[ID_FIELD])
        if entry is None:
            continue
        wanted = to_stored(fields_of(entry.image))
        if row[METADATA_FIELD] != wanted:
            yield f"{name} has of {row[ID_FIELD]} {row[METADATA_FIELD]}, not {wanted}"
        if name not in entry.collections:
            yield f"the catalogue does not know that {name} has {row[ID_FIELD]}"


def _content_of(redis: Redis, key: str) -> object:
    client: Any = redis
    kind = client.type(key)
    if kind == "list":
        return client.lrange(key, 0, 3)
    if kind == "zset":
        return client.zrange(key, 0, 3)
    return client.hgetall(key) if kind == "hash" else client.smembers(key)


def _last_of(check: Callable[[], Iterator[str]]) -> list[str]:
    """Returns what is wrong when it has had time to become right."""
    deadline = time.monotonic() + QUIET_S
    while faults := _faults_of(check):
        if time.monotonic() > deadline:
            break
        time.sleep(PAUSE_S)
    return faults


def _faults_of(check: Callable[[], Iterator[str]]) -> list[str]:
    try:
        return list(check())
    except (httpx.TransportError, RedisError, MilvusException) as error:
        return [repr(error)]
