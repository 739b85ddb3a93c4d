"""The catalogue in Redis: which libraries and models there are, and each image's record."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from redis import WatchError

from twinlens.shared.errors import ImageNotFound, LibraryNotFound, ModelNotFound, Unavailable
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.filters.tree import matches
from twinlens.shared.indexes import Server
from twinlens.shared.libraries import Damage, Library
from twinlens.shared.messages import CatalogEntry, Cursor, ModelSummary, Moment, now
from twinlens.shared.redis import keys
from twinlens.shared.redis.scripts import read_script
from twinlens.shared.redis.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis.client import Pipeline

    from twinlens.shared.filters.tree import Filter
    from twinlens.shared.kept_libraries import KeptLibraries
    from twinlens.shared.messages import Image
    from twinlens.shared.redis.client import Redis

# Records that are read at once: some 500 KB. And for one page: a filter that few images pass must
# not read a million of them.
READ_ENTRIES = 1000
MAX_READ = 5000
# Longer than a chunk may run. One that is stopped for longer still is over by then, and writes
# nothing.
REMOVED_S = 3_600
# Longer than it takes to remove a chunk's rows from every collection. Who dies meanwhile leaves the
# images closed for so long.
CLOSED_S = 20


def _library_of(name: str, text: str | bytes | None, library_id: str | None = None) -> Library:
    if text is None:
        raise LibraryNotFound(f"There is no library {name!r}; GET /v1/libraries lists all of them.")
    library = Library.model_validate_json(text)
    if library_id not in (None, library.id):
        raise LibraryNotFound(f"The library {name!r} of then was removed; there is another now.")
    return library


def _damage_of(text: str | None) -> Damage | None:
    return None if text is None else Damage.model_validate_json(text)


def _entry_of(text: str) -> CatalogEntry:
    entry = CatalogEntry.model_validate_json(text)
    entry.read_as = text
    return entry


def _put_args(entry: CatalogEntry) -> tuple[str | float, ...]:
    """Returns of an image what the script that writes it takes."""
    image = entry.image
    return image.id, entry.read_as, entry.model_dump_json(), image.added_at.timestamp()


class ChunkRun(NamedTuple):
    """One time that a chunk is worked on, which may be overtaken by another, or by removals."""

    job_id: str
    chunk: int
    read_at: str  # when it had looked for its images, by the clock of Redis


class ChunkIsOver(Exception):
    """A chunk that is counted, or whose job has ended, writes no image's record any more."""


def put_answer(answer: Any) -> list[str]:
    """Returns which images were not written, by what the script answered.

    Raises:
        ChunkIsOver, Unavailable: As of `Catalog.put`.
    """
    if answer is None:
        raise ChunkIsOver
    if answer == 0:
        raise Unavailable("Images of the chunk are just being removed; it is tried again.")
    return list(answer)


class Searched(NamedTuple):
    """What a search must know about a library."""

    library: Library
    calibrations: Mapping[str, str]  # JSON, by collection
    damage: Damage | None
    indexed_through: Moment  # every picture that was accepted up to then can be found
    n_images: int


class Catalog:
    """Images, libraries and model cards. Rebuilt from the blob store if it is lost.

    Each change of a library's record is kept there before it is told to anybody.
    """

    def __init__(self, redis: Redis, kept: KeptLibraries | None = None) -> None:
        self._redis = redis
        self._kept = kept

    # Models and libraries: what the workers serve, written by them, read by the API.

    def publish_models(self, cards: Iterable[ModelSummary]) -> None:
        """Records which models there are; earlier ones are forgotten."""
        self._replace(keys.MODELS, {card.ref: card.model_dump_json() for card in cards})

    def models(self) -> dict[str, ModelSummary]:
        """Returns the models that there are, by name@version."""
        stored = self._redis.hgetall(keys.MODELS)
        return {
            str(ref): ModelSummary.model_validate_json(text) for ref, text in sorted(stored.items())
        }

    def model_refs(self) -> set[str]:
        """Returns which models there are, as name@version."""
        return set(self._redis.hkeys(keys.MODELS))

    def model(self, ref: str) -> ModelSummary:
        """Reads one model, named with its version or, if there is only one, without.

        Raises:
            ModelNotFound: There is none, or there are several.
        """
        models = self.models()
        matching = [one for one in models.values() if ref in (one.name, one.ref)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            several = ", ".join(one.ref for one in matching)
            raise ModelNotFound(f"Model {ref!r} has several versions; name one of: {several}.")
        raise ModelNotFound(
            f"There is no model {ref!r}; there are: {', '.join(models) or 'none yet'}."
        )

    def publish_server(self, server: Server) -> None:
        """Records which Milvus is connected."""
        self._redis.set(keys.SERVER, server.model_dump_json())

    def server(self) -> Server | None:
        """Returns which Milvus is connected; None where no worker has reached it yet."""
        text = self._redis.get(keys.SERVER)
        return None if text is None else Server.model_validate_json(text)

    def ensure_library(self, library: Library) -> bool:
        """Creates a library unless it exists, or did before Redis was emptied.

        Returns:
            Whether it is new.
        """
        if not self._redis.hexists(keys.LIBRARIES, library.name):
            self.restore_libraries()
        is_new = self._redis.hsetnx(keys.LIBRARIES, library.name, library.model_dump_json())
        if is_new:
            self._keep(library)
        return bool(is_new)

    def restore_libraries(self) -> None:
        """Brings back the records that Redis has lost."""
        if self._kept is not None:
            there = {library.id for library in self.libraries()}
            for library in self._kept.all(without=there):
                library.has_lost_images = self._kept.has_images(library.id)
                self._restore(library)

    def _restore(self, library: Library) -> None:
        while True:
            with self._redis.pipeline() as pipeline:
                pipeline.watch(keys.REMOVED_LIBRARIES)  # type: ignore[no-untyped-call]
                # It may have been read just before it was removed.
                if pipeline.zscore(keys.REMOVED_LIBRARIES, library.id) is not None:
                    return
                pipeline.multi()
                pipeline.hsetnx(keys.LIBRARIES, library.name, library.model_dump_json())
                with contextlib.suppress(WatchError):
                    pipeline.execute()
                    return

    def keep_libraries(self) -> None:
        """Keeps the records that are not: who changed one may have been stopped just then."""
        for library in self.libraries() if self._kept else ():
            self._keep(library)

    def _keep(self, library: Library) -> None:
        """Keeps a library's record as it is in the end: others may change it meanwhile."""
        if self._kept is None or self._kept.has(library):
            return
        while True:
            self._kept.put(library)
            text = self._redis.hget(keys.LIBRARIES, library.name)
            after = None if text is None else Library.model_validate_json(text)
            if after is None or after.id != library.id:
                # Not where Redis has been emptied: then this is all that is known of it.
                if self._redis.zscore(keys.REMOVED_LIBRARIES, library.id) is not None:
                    self._kept.delete(library.id)
                return
            if after == library:
                return
            library = after

    def library(self, name: str, library_id: str | None = None) -> Library:
        """Reads a library.

        Args:
            name: Its name.
            library_id: Its id, where another that has its name by now is not meant.

        Raises:
            LibraryNotFound: There is no such library.
        """
        return _library_of(name, self._redis.hget(keys.LIBRARIES, name), library_id)

    def searched(self, name: str) -> Searched:
        """Reads what a search must know about a library.

        Raises:
            LibraryNotFound: There is no library of this name.
        """
        moment = now()
        library = self.library(name)
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(keys.calibrations(library.id))
            pipeline.zrange(keys.open_uploads(library.id), 0, 0, withscores=True)
            pipeline.zcard(keys.image_order(library.id))
            pipeline.hget(keys.DAMAGES, library.id)
            calibrations, oldest, n_images, damage = pipeline.execute()
        for _, created_at in oldest:
            moment = min(moment, datetime.fromtimestamp(created_at, UTC))
        return Searched(library, calibrations, _damage_of(damage), moment, n_images)

    def damage(self, library_id: str) -> Damage | None:
        """Returns what a library has lost, as far as is known."""
        return _damage_of(self._redis.hget(keys.DAMAGES, library_id))

    def damages(self) -> dict[str, Damage]:
        """Returns what libraries have lost, as far as is known, by their ids."""
        texts = self._redis.hgetall(keys.DAMAGES)
        return {one: Damage.model_validate_json(text) for one, text in texts.items()}

    def put_damages(self, damages: Mapping[str, Damage]) -> None:
        """Records what libraries have lost, by their ids; what was known before is forgotten."""
        texts = {library_id: damage.model_dump_json() for library_id, damage in damages.items()}
        self._replace(keys.DAMAGES, texts)

    def calibrations(self, library_id: str) -> dict[str, str]:
        """Returns the calibrations of a library's collections, as JSON."""
        return self._redis.hgetall(keys.calibrations(library_id))

    def put_calibrations(self, library_id: str, by_collection: Mapping[str, str]) -> None:
        """Replaces the calibrations of a library's collections, given as JSON."""
        self._replace(keys.calibrations(library_id), by_collection)

    def _replace(self, key: str, texts: Mapping[str, str]) -> None:
        with self._redis.pipeline() as pipeline:
            pipeline.delete(key)
            for name, text in texts.items():
                pipeline.hset(key, name, text)
            pipeline.execute()

    def watch_library(
        self, pipeline: Pipeline, name: str, library_id: str | None = None
    ) -> Library:
        """Reads a library, so that the pipeline runs only if no library has changed by then.

        Args:
            pipeline: The pipeline.
            name: The library's name.
            library_id: As of `library`.

        Raises:
            LibraryNotFound: There is no such library.
        """
        pipeline.watch(keys.LIBRARIES)  # type: ignore[no-untyped-call]
        return _library_of(name, pipeline.hget(keys.LIBRARIES, name), library_id)

    def plan_library(
        self, name: str, change: Callable[[Library, bool], Library | None], library_id: str
    ) -> Library:
        """Changes a library as `change_library` does.

        Args:
            name: The library.
            change: As there. It is told, too, whether the library has no images: then none comes
                before it is changed.
            library_id: As of `library`.

        Raises:
            LibraryNotFound: There is no such library.
        """
        order = keys.image_order(library_id)

        def is_empty(pipeline: Pipeline) -> bool:
            # Not watched where there are some: they may come all the time.
            if self.count(library_id) > 0:
                return False
            pipeline.watch(order)  # type: ignore[no-untyped-call]
            return int(pipeline.zcard(order)) == 0

        return self._change_library(
            name, lambda pipeline, library: change(library, is_empty(pipeline)), library_id
        )

    def change_library(
        self,
        name: str,
        change: Callable[[Library], Library | None],
        library_id: str | None = None,
    ) -> Library:
        """Replaces a library's record with what a function makes of it, whoever else does so.

        Args:
            name: The library.
            change: Returns the new record, or None to leave it as it is. It may run again.
            library_id: As of `library`.

        Returns:
            The record as it is afterwards.

        Raises:
            LibraryNotFound: There is no such library.
        """
        return self._change_library(name, lambda _, library: change(library), library_id)

    def _change_library(
        self,
        name: str,
        change: Callable[[Pipeline, Library], Library | None],
        library_id: str | None,
    ) -> Library:
        while True:
            with self._redis.pipeline() as pipeline:
                before = self.watch_library(pipeline, name, library_id)
                after = change(pipeline, before.model_copy(deep=True))
                if after is None:
                    return before
                pipeline.multi()
                pipeline.hset(keys.LIBRARIES, name, after.model_dump_json())
                if unused := before.all_collections - after.all_collections:
                    pipeline.sadd(keys.UNUSED_COLLECTIONS, *unused)
                with contextlib.suppress(WatchError):
                    pipeline.execute()
                    self._keep(after)
                    return after

    def give_up_plan(self, name: str, job_id: str, library_id: str | None = None) -> bool:
        """Forgets the edition that a job is building.

        Returns:
            Whether it was still being built: it may have been switched on, or given up before.

        Raises:
            LibraryNotFound: There is no such library.
        """
        is_given_up = False

        def give_up(library: Library) -> Library | None:
            nonlocal is_given_up
            is_given_up = library.next is not None and library.next.job_id == job_id
            library.next = None
            return library if is_given_up else None

        self.change_library(name, give_up, library_id)
        return is_given_up

    def remove_library(self, name: str, library_id: str | None = None) -> None:
        """Forgets a library and all of its images.

        Args:
            name: Its name.
            library_id: As of `library`.

        Raises:
            LibraryNotFound: There is no such library.
        """
        while True:
            with self._redis.pipeline() as pipeline:
                library = self.watch_library(pipeline, name, library_id)
                if self._kept:
                    self._kept.delete(library.id)  # first: what is removed must not come back
                pipeline.multi()
                pipeline.hdel(keys.LIBRARIES, name)
                if library.all_collections:
                    pipeline.sadd(keys.UNUSED_COLLECTIONS, *library.all_collections)
                pipeline.zadd(keys.REMOVED_LIBRARIES, {library.id: time.time()})
                self._forget_images(pipeline, library.id)
                with contextlib.suppress(WatchError):
                    pipeline.execute()
                    return

    def _forget_images(self, pipeline: Pipeline, library_id: str) -> None:
        pipeline.hdel(keys.COSTS, library_id)
        # Another thread of Redis frees what is large.
        pipeline.unlink(
            keys.images(library_id),
            keys.image_order(library_id),
            keys.removed_images(library_id),
            keys.closed_images(library_id),
            keys.calibrations(library_id),
        )

    def removed_libraries(self, min_age_s: float) -> list[str]:
        """Returns the ids of libraries that were removed at least so long ago."""
        return self._redis.zrangebyscore(keys.REMOVED_LIBRARIES, "-inf", time.time() - min_age_s)

    def forget_images_of(self, library_id: str) -> None:
        """Forgets what was still written of a library that has been removed."""
        with self._redis.pipeline() as pipeline:
            self._forget_images(pipeline, library_id)
            pipeline.execute()

    def oldest_open_upload(self, library_id: str) -> Moment | None:
        """Returns when the oldest upload was created that has not ended."""
        oldest: Any = self._redis.zrange(keys.open_uploads(library_id), 0, 0, withscores=True)
        return datetime.fromtimestamp(oldest[0][1], UTC) if oldest else None

    def has_open_uploads(self, library_id: str) -> bool:
        """Tells if something may still be written of a library, removed or not."""
        return bool(self._redis.exists(keys.open_uploads(library_id)))

    def forget_removed(self, library_id: str) -> None:
        """Records that nothing is written any more of a library that has been removed."""
        self._redis.zrem(keys.REMOVED_LIBRARIES, library_id)

    def unused_collections(self) -> set[str]:
        """Returns the Milvus collections that are to be dropped."""
        return self._redis.smembers(keys.UNUSED_COLLECTIONS)

    def forget_collection(self, collection: str) -> None:
        """Records that a collection has been dropped."""
        self._redis.srem(keys.UNUSED_COLLECTIONS, collection)

    def libraries(self) -> list[Library]:
        stored = self._redis.hgetall(keys.LIBRARIES)
        return [Library.model_validate_json(text) for _, text in sorted(stored.items())]

    def note_cost(self, pipeline: Pipeline, library_id: str, picture_s: float) -> None:
        """Records, on a pipeline, how long a picture takes with all its models, on one core."""
        pipeline.hset(keys.COSTS, library_id, repr(picture_s))

    def cost_s(self, library_id: str) -> float | None:
        """Returns how long a picture took lately; None before the first."""
        text = self._redis.hget(keys.COSTS, library_id)
        return None if text is None else float(text)

    # Images.

    def begin_chunk(self, job_id: str, chunk: int) -> ChunkRun:
        """Notes when a chunk has looked for its images."""
        seconds, microseconds = self._redis.time()
        return ChunkRun(job_id, chunk, f"{seconds}.{microseconds:06d}")

    def queue_put(
        self,
        pipeline: Pipeline,
        library_id: str,
        entries: Iterable[CatalogEntry],
        run: ChunkRun | None = None,
    ) -> None:
        """Queues the writing of images on a pipeline: `put_answer` says what its answer means."""
        images = [
            keys.images(library_id),
            keys.image_order(library_id),
            keys.removed_images(library_id),
        ]
        chunk = []
        if run is not None:
            chunk = [keys.closed_images(library_id), keys.job(run.job_id)]
            chunk.append(keys.done_chunks(run.job_id))
        pipeline.eval(
            read_script("put_images"),
            len(images) + len(chunk),
            *images,
            *chunk,
            *(("", "") if run is None else (run.chunk, run.read_at)),
            *chain.from_iterable(map(_put_args, entries)),
        )

    def put(
        self, library_id: str, entries: Iterable[CatalogEntry], run: ChunkRun | None = None
    ) -> list[str]:
        """Writes images, each unless somebody has changed or removed it since it was read.

        A new one is written unless it is there, or was removed since a chunk looked for it.

        Args:
            library_id: The library.
            entries: The images.
            run: Of the chunk that they come from, if they do.

        Returns:
            The ids of those that were not written.

        Raises:
            ChunkIsOver: Nothing was written: the chunk is over.
            Unavailable: Nothing was written: one was closed since the chunk looked for it.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            self.queue_put(pipeline, library_id, entries, run)
            [answer] = pipeline.execute()
        return put_answer(answer)

    def find(self, library_id: str, image_ids: Sequence[str]) -> dict[str, CatalogEntry]:
        """Reads those of the images that exist."""
        if not image_ids:
            return {}
        texts = self._redis.hmget(keys.images(library_id), list(image_ids))
        return {
            image_id: _entry_of(text)
            for image_id, text in zip(image_ids, texts, strict=True)
            if text is not None
        }

    def get(self, library_id: str, image_id: str) -> CatalogEntry:
        """Reads one image.

        Raises:
            ImageNotFound: The library has no image with this id.
        """
        return self.get_all(library_id, [image_id])[image_id]

    def get_all(self, library_id: str, image_ids: Sequence[str]) -> dict[str, CatalogEntry]:
        """Reads images, all of which have to exist.

        Raises:
            ImageNotFound: The library lacks one of them.
        """
        entries = self.find(library_id, image_ids)
        for image_id in image_ids:
            if image_id not in entries:
                raise ImageNotFound(f"The library has no image {image_id!r}.")
        return entries

    def remove(self, library_id: str, *image_ids: str) -> None:
        self._redis.eval(
            read_script("remove_images"),
            3,
            keys.images(library_id),
            keys.image_order(library_id),
            keys.removed_images(library_id),
            str(REMOVED_S),
            *image_ids,
        )

    def close_images(self, library_id: str, image_ids: Sequence[str]) -> str:
        """Lets nobody add some images until they are opened, or CLOSED_S have passed.

        A chunk that looked for one of them before it was opened has to look again.

        Returns:
            What opens them.

        Raises:
            Unavailable: Somebody else has closed one of them.
        """
        until: str | None = self._redis.eval(
            read_script("close_images"),
            1,
            keys.closed_images(library_id),
            str(CLOSED_S),
            str(REMOVED_S),
            *image_ids,
        )
        if until is None:
            raise Unavailable("The same images are just being removed; try again.")
        return until

    def open_images(self, library_id: str, image_ids: Sequence[str], until: str) -> None:
        """Opens images that were closed."""
        closed = keys.closed_images(library_id)
        self._redis.eval(read_script("open_images"), 1, closed, until, *image_ids)

    def removed_lately(self, library_id: str, image_ids: Sequence[str]) -> set[str]:
        """Returns those of the images that were removed within REMOVED_S."""
        if not image_ids:
            return set()
        scores = self._redis.zmscore(keys.removed_images(library_id), list(image_ids))
        return {one for one, score in zip(image_ids, scores, strict=True) if score is not None}

    def count(self, library_id: str) -> int:
        return int(self._redis.zcard(keys.image_order(library_id)))

    def all_ids(self, library_id: str) -> Iterator[str]:
        """Yields the ids of a library's images, in no order; memory stays flat however many.

        An image that comes or goes meanwhile may be left out, and one may come twice.
        """
        for image_id, _ in self._redis.zscan_iter(keys.image_order(library_id), count=1000):
            yield str(image_id)

    def all_entries(self, library_id: str) -> Iterator[CatalogEntry]:
        """Yields a library's images, as of `all_ids`; they are read some at a time."""
        ids = self.all_ids(library_id)
        while some := list(islice(ids, READ_ENTRIES)):
            yield from self.find(library_id, some).values()

    def random_ids(self, library_id: str, n_ids: int) -> list[str]:
        """Returns ids of some of a library's images, none twice; all of them if it has no more."""
        return self._redis.zrandmember(keys.image_order(library_id), n_ids)

    def spread_ids(self, library_id: str, n_ids: int) -> list[str]:
        """Returns ids of some of a library's images, evenly by when they were added.

        They are the same until the library has twice as many, or an image is removed: so a ranking
        that rests on them can be cut into pages.

        Returns:
            From half of `n_ids` to all of it; every id if there are no more.
        """
        key = keys.image_order(library_id)
        n_images, step = self._redis.zcard(key), 1
        while n_images > n_ids * step:
            step *= 2
        with self._redis.pipeline(transaction=False) as pipeline:
            for place in range(0, n_images, step):
                pipeline.zrange(key, place, place)
            return [image_id for some in pipeline.execute() for image_id in some]

    def page(
        self,
        library_id: str,
        limit: int,
        after: Cursor | None,
        wanted: Filter | None = None,
        first: Literal["newest", "oldest"] = "newest",
    ) -> tuple[list[CatalogEntry], Cursor | None]:
        """Lists images of which a filter is true, by the time when they were added.

        Returns:
            At most `limit` images, and where the next page begins. There may be fewer, and none,
            with more to come: no more than MAX_READ are looked at.
        """
        key = keys.image_order(library_id)
        if wanted is None:
            ids, after = page_of(self._redis, key, limit, after, first)
            return list(self.find(library_id, ids).values()), after
        entries: list[CatalogEntry] = []
        for _ in range(MAX_READ // READ_ENTRIES):
            ids, after = page_of(self._redis, key, READ_ENTRIES, after, first)
            some = self.find(library_id, ids).values()
            entries += [one for one in some if matches(wanted, fields_of(one.image))]
            if len(entries) > limit:
                return entries[:limit], self._place_of(library_id, entries[limit - 1].image)
            if after is None or len(entries) == limit:
                break
        return entries, after

    def _place_of(self, library_id: str, image: Image) -> Cursor:
        # It may have been removed since it was read.
        score = self._redis.zscore(keys.image_order(library_id), image.id)
        return Cursor(score=score or image.added_at.timestamp(), member=image.id)
