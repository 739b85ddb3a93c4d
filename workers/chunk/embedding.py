"""Pictures become embeddings in Milvus: read, decoded once, embedded, one write per collection.

Those of a version that is a linear map of another are computed from stored ones, without pictures.
"""

from __future__ import annotations

import faulthandler
import logging
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from twinlens.shared.errors import ContentMissing, Internal, TwinlensError
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.messages import Image, now
from twinlens.workers.targets import source_of
from twinlens.workers.watch import GROUP_TIME_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from twinlens.models.pictures import Picture
    from twinlens.models.session import Embedder, Embeddings
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.libraries import Library
    from twinlens.workers.chunk.pending import Pending
    from twinlens.workers.counts import Counts
    from twinlens.workers.decoding import Decoder
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Target, Targets

log = logging.getLogger(__name__)

# Running one model over several pictures keeps its weights in the processor's cache: a fifth faster
# than picture by picture. With smaller groups, decoding and embedding overlap sooner.
GROUP_ITEMS = 16
_STANDARD_ERROR = 2


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Embeds pictures for the collections that lack them."""

    blobs: BlobStore
    decoder: Decoder
    targets: Targets
    vectors: Vectors
    decoders: Executor
    writers: Executor
    counts: Counts
    time_limit_s: float  # of decoding one picture

    def embed(self, library: Library, pending: Sequence[Pending]) -> None:
        """Embeds pictures for each edition of their library. One that fails has an `error`.

        Raises:
            Unavailable: Milvus does not answer.
        """
        targets = self.targets.of_editions(library)
        for name, target in targets.items():
            self._derive(target, targets, [one for one in pending if name not in one.collections])
        by_missing: dict[frozenset[str], list[Pending]] = {}
        for one in pending:
            by_missing.setdefault(frozenset(targets.keys() - one.collections), []).append(one)
        # Nothing is missing where the library has only lost an edition, or got other weights.
        by_missing.pop(frozenset(), None)
        for missing, group in by_missing.items():
            self._embed_for([targets[name] for name in sorted(missing)], group)

    def _derive(
        self, target: Target, targets: Mapping[str, Target], pending: Sequence[Pending]
    ) -> None:
        """Computes embeddings from those of the version that a model was made from.

        A picture that lacks them is left to be embedded.
        """
        source = source_of(target, targets)
        if source is None:
            return
        known = {
            one.image_id: (one, one.known.image)
            for one in pending
            if one.known is not None and source.name in one.known.collections
        }
        stored = self.vectors.read_stored(source, list(known)) if known else {}
        if not stored:
            return
        rows = self.targets.linear_map(target.model).apply(np.stack(list(stored.values())))
        derived = []
        for one, image in map(known.__getitem__, stored):
            one.image = one.image or one.description.of(image)
            derived.append(one)
        self._write([target], derived, {target.model.card.ref: [rows]})

    def _embed_for(self, targets: Sequence[Target], pending: Sequence[Pending]) -> None:
        """Embeds a group of pictures under each model while the next one is read and decoded."""
        models = list({target.model.card.ref: target.model for target in targets}.values())
        decoding = [self.decoders.submit(self._decode, models, one) for one in pending]
        limit_s = self.time_limit_s * (1 if len(pending) == 1 else GROUP_TIME_LIMITS)
        good: list[Pending] = []
        embeddings: dict[str, list[Embeddings]] = {model.card.ref: [] for model in models}
        for start in range(0, len(pending), GROUP_ITEMS):
            group = slice(start, start + GROUP_ITEMS)
            with _ending_process_after(limit_s):
                wait(decoding[group])
            decoded = [one for one in pending[group] if one.error is None]
            if not decoded:
                continue
            good += decoded
            for place, model in enumerate(models):
                pixels = np.stack([one.pixels[place] for one in decoded])
                embeddings[model.card.ref].append(model.embed_batch(pixels))
        if good:
            self._write(targets, good, embeddings)
            self.counts.n_pictures += len(good)

    def _write(
        self,
        targets: Sequence[Target],
        good: Sequence[Pending],
        embeddings: Mapping[str, Sequence[Embeddings]],
    ) -> None:
        """Writes to Milvus, once per collection and to all collections in parallel."""
        ids = [one.image_id for one in good]
        fields = [fields_of(one.image) for one in good if one.image is not None]
        writing = [
            self.writers.submit(
                self.vectors.upsert,
                target.collection,
                ids,
                chain(*embeddings[target.model.card.ref]),
                fields,
            )
            for target in targets
        ]
        for done in writing:
            done.result()
        for one in good:
            one.collections |= {target.collection.name for target in targets}

    def _decode(self, models: Sequence[Embedder], one: Pending) -> None:
        """Decodes a picture once, for every model. A failure becomes its outcome."""
        try:
            content = self.blobs.get(one.path)
            picture, one.pixels = self.decoder.decode(content, models)
        except FileNotFoundError:
            one.error = ContentMissing(
                "The picture was removed before it was embedded; post it again."
            ).to_problem()
        except TwinlensError as error:
            one.error = error.to_problem()
        except Exception:
            log.exception("decoding picture %s failed unexpectedly", one.image_id)
            one.error = Internal("The picture could not be decoded; the log says why.").to_problem()
        else:
            # What it was embedded as before: all of its rows say the same of it.
            one.image = one.image or _image_of(one, picture, len(content))


def _image_of(one: Pending, picture: Picture, n_bytes: int) -> Image:
    if one.known is not None:
        return one.description.of(one.known.image)
    return Image(
        id=one.image_id,
        name=one.description.name or "",
        library=one.library,
        width=picture.width,
        height=picture.height,
        format=f"image/{picture.format.lower()}",
        bytes=n_bytes,
        metadata=one.description.metadata or {},
        models=[],
        added_at=one.added_at or now(),
    )


@contextmanager
def _ending_process_after(limit_s: float) -> Iterator[None]:
    """Ends this process, and says where it was, if what is inside takes longer.

    Nothing else ends a decoder that hangs. This needs no lock of the interpreter, which the decoder
    may hold.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True, file=_STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
