"""A chunk of pictures on its way: manifest → bytes → pixels → embeddings → Milvus → catalogue."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.errors import Crashed, LibraryNotFound
from twinlens.shared.manifests import read_manifest
from twinlens.shared.messages import Description
from twinlens.shared.redis.catalog import ChunkIsOver
from twinlens.workers.chunk.pending import Outcomes, failed
from twinlens.workers.chunk.tries import MAX_TRIES, counted_try
from twinlens.workers.library.amendments import Amendment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.errors import Problem
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import Item, ManifestHead
    from twinlens.shared.redis.catalog import Catalog, ChunkRun
    from twinlens.shared.redis.jobs import Jobs
    from twinlens.workers.chunk.cataloguing import Cataloguing
    from twinlens.workers.chunk.embedding import Embedding
    from twinlens.workers.chunk.listed import Listed
    from twinlens.workers.chunk.pending import Pending
    from twinlens.workers.library.amendments import Amendments
    from twinlens.workers.library.deletions import Deletions


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Makes the pictures of a chunk searchable, or says why one cannot be; or removes them."""

    blobs: BlobStore
    catalog: Catalog
    jobs: Jobs
    listed: Listed
    embedding: Embedding
    cataloguing: Cataloguing
    amendments: Amendments
    deletions: Deletions

    def run(self, job_id: str, chunk: int, *, is_again: bool = False) -> list[Item]:
        """Does the work of one chunk. Repeating it gives the same outcomes.

        Args:
            job_id: The job.
            chunk: Its number.
            is_again: Whether it may have been begun before, and have written some rows.

        Returns:
            The outcome of each line of the chunk's manifest, in its order.

        Raises:
            LibraryNotFound: The library has been removed; one that has its name by now is another.
            ChunkIsOver: Another has done the chunk meanwhile, or its job has ended: nothing is
                written.
            Unavailable: Milvus does not answer; nothing is lost, and the chunk must be run again.
        """
        head, entries = read_manifest(self.blobs, job_id, chunk)
        if head.kind == "delete":
            return self.deletions.remove(job_id, entries)
        library = self.catalog.library(head.library, head.library_id)
        self.listed.store(head, entries)
        known = self.catalog.find(library.id, [e.image_id for e in entries if e.image_id])
        # Not before: what is removed until then, and posted again, is this chunk's to write.
        run = self.catalog.begin_chunk(job_id, chunk)
        outcomes = Outcomes(head, entries, known, library.all_collections, is_again=is_again)
        try:
            return self._do(run, head, library, outcomes)
        except ChunkIsOver:
            library = self.catalog.library(head.library, head.library_id)
            self.amendments.make(library, outcomes.withdrawals(), head.accepted_at)
            raise

    def _do(
        self, run: ChunkRun, head: ManifestHead, library: Library, outcomes: Outcomes
    ) -> list[Item]:
        pending = outcomes.pending
        began = time.monotonic()
        self._embed(run, library, pending)
        took_s = time.monotonic() - began
        items = outcomes.items()
        while (not_written := self.cataloguing.write(run, library, pending, took_s)) is None:
            # The library has gained an edition meanwhile, which needs these pictures too.
            library = self.catalog.library(head.library, head.library_id)
            self.embedding.embed(library, [one for one in pending if not one.error])
        if amendments := outcomes.amendments(not_written):
            self.amendments.make(library, amendments, head.accepted_at, run)
        return items

    def leave_whole(self, job_id: str, chunk: int) -> None:
        """Leaves nothing half done of a chunk that was begun, and whose job has ended meanwhile.

        Rows are brought to what the catalogue has of them. A removal is done whole.

        Raises:
            Unavailable: Milvus does not answer; to be done again.
        """
        head, entries = read_manifest(self.blobs, job_id, chunk)
        if head.kind == "delete":
            self.deletions.remove(job_id, entries)
            return
        ids = {entry.image_id for entry in entries if entry.image_id}
        with contextlib.suppress(LibraryNotFound):
            library = self.catalog.library(head.library, head.library_id)
            known = self.catalog.find(library.id, list(ids))
            self.amendments.make(
                library,
                {
                    image_id: Amendment(
                        Description(),
                        collections=known[image_id].collections if image_id in known else (),
                    )
                    for image_id in ids
                },
                head.accepted_at,
            )

    def fail(self, job_id: str, chunk: int, problem: Problem) -> list[Item]:
        """Returns the outcomes of a chunk that could not be run: each picture failed."""
        _, entries = read_manifest(self.blobs, job_id, chunk)
        return [failed(entry, entry.error or problem) for entry in entries]

    def _embed(self, run: ChunkRun, library: Library, pending: Sequence[Pending]) -> None:
        """Embeds all at once, or one by one if the chunk ended its worker process before."""
        with counted_try(self.jobs, run.job_id, str(run.chunk)) as n_tries:
            if n_tries == 1:
                self.embedding.embed(library, pending)
                return
            for one in pending:
                # The try of the whole chunk was the first.
                with counted_try(self.jobs, run.job_id, one.tag) as n_alone:
                    if n_alone >= MAX_TRIES:
                        one.error = Crashed(
                            f"The picture ended its worker process {MAX_TRIES} times and was"
                            " given up."
                        ).to_problem()
                    else:
                        self.embedding.embed(library, [one])
                        # Whatever ends this process next, the next try continues from here.
                        self.cataloguing.write_one(run, library, one)
