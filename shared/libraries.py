"""Libraries: which models they have, how Milvus stores their vectors, and in which collections."""

from __future__ import annotations

import secrets
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twinlens.shared.errors import LibraryDamaged, ModelNotFound, pointer
from twinlens.shared.messages import Moment

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

# It exists from the start.
DEFAULT_LIBRARY = "default"
# It becomes part of its collections' names in Milvus.
LibraryName = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]

FloatMetric = Literal["L2", "IP", "COSINE"]
IndexType = Literal["AUTO", "FLAT", "HNSW", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "DISKANN"]


class Index(BaseModel):
    """How Milvus finds the vectors of float models. Hashes are compared one by one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: IndexType = Field("AUTO", description="AUTO: HNSW where the server has it, else FLAT")
    params: dict[str, int] = Field(
        default_factory=dict, description="of the index and of its search, by Milvus' names"
    )
    recall: float | None = Field(
        None,
        ge=0.5,
        le=0.999,
        description="share of the 10 nearest that HNSW should find, 0.98 by default; sets ef",
    )
    vector: Literal["FLOAT32", "FLOAT16"] = Field(
        "FLOAT32", description="FLOAT16 takes half the memory; not on Milvus 2.3"
    )


class Edition(BaseModel):
    """What the pictures of a library are embedded with, and where the vectors are."""

    models: list[str] = Field(description="as name@version; no name twice")
    metric: FloatMetric | None = Field(
        None, description="of all float models; where there is none, the card's"
    )
    index: Index = Index()
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="weights in the fusion, by model; where there is none, the card's",
    )
    collections: dict[str, str] = Field(
        default_factory=dict, description="each model's collection in Milvus"
    )


class NextEdition(Edition):
    """The edition that is being built: new pictures are embedded for it as well."""

    job_id: str = Field(description="the `reindex` job that embeds what is stored")


class PreviousEdition(Edition):
    """The edition before, which `rollback` brings back. Kept up to date until then."""

    until: Moment
    job_id: str = Field("", description="the `reindex` job that built what replaced it, if one did")


class Library(Edition):
    """A named set of images that are searched together."""

    name: str
    # The first libraries had none: what is theirs lies under their name.
    id: str = Field(
        default_factory=lambda fields: fields["name"],
        description="of its own: one that gets the name after its removal has another",
    )
    next: NextEdition | None = None
    previous: PreviousEdition | None = None
    has_lost_images: bool = Field(
        False, description="whether Redis was emptied; `twinlens reconcile` brings its images back"
    )
    restoring: str | None = Field(
        None, description="SHA-256 of the contents of the backup that is not restored whole yet"
    )

    @property
    def editions(self) -> list[Edition]:
        """Those that new pictures are embedded for; the one that is searched comes first."""
        return [self, *filter(None, (self.next, self.previous))]

    @property
    def all_collections(self) -> set[str]:
        return {name for edition in self.editions for name in edition.collections.values()}

    @property
    def all_models(self) -> list[str]:
        """The models of all editions, as name@version: without one, no picture can be taken."""
        return list(dict.fromkeys(chain.from_iterable(one.models for one in self.editions)))

    def models_of(self, collections: Container[str]) -> list[str]:
        """Returns the models whose embeddings these collections have, as name@version."""
        return [
            ref
            for ref in self.all_models
            if any(edition.collections.get(ref) in collections for edition in self.editions)
        ]

    def switched(
        self, to: Edition, kept_until: datetime | None = None, job_id: str = ""
    ) -> Library:
        """Returns this library with another edition to be searched, and none being built.

        Args:
            to: The edition.
            kept_until: Until when one can go back to this edition. None if that is not worth it:
                then the previous edition stays the same.
            job_id: The job that has built the other edition.
        """
        fields = set(Edition.model_fields)
        previous = self.previous
        if kept_until is not None:
            kept = self.model_dump(include=fields)
            previous = PreviousEdition(**kept, until=kept_until, job_id=job_id)
        fresh = to.model_dump(include=fields)
        same = self.model_dump(include={"name", "id", "has_lost_images"})
        return Library(**same, previous=previous, **fresh)

    def choose(self, wanted: Iterable[str] | None = None) -> list[str]:
        """Returns the models that are wanted, as name@version; all by default.

        Args:
            wanted: Names, with or without version.

        Raises:
            ModelNotFound: The library does not have one of them.
        """
        if wanted is None:
            return self.models
        refs = [self.ref_of(one, pointer("models", place)) for place, one in enumerate(wanted)]
        return list(dict.fromkeys(refs))

    def ref_of(self, name: str, location: str) -> str:
        """Returns a model of the library as name@version.

        Args:
            name: With or without version.
            location: Where the name stands in what a client sent.

        Raises:
            ModelNotFound: The library does not have it.
        """
        by_name = {ref.partition("@")[0]: ref for ref in self.models}
        known = by_name | {ref: ref for ref in self.models}
        if name not in known:
            there = ", ".join(by_name) or "none yet"
            detail = f"Library {self.name!r} has no model {name!r}; it has: {there}."
            raise ModelNotFound(detail).at(location)
        return known[name]


class Damage(BaseModel):
    """What a library lacks: embeddings that it had."""

    n_images: int = Field(description="catalogued")
    n_vectors: dict[str, int] = Field(
        description="in Milvus, by each model that lacks many, as name@version"
    )

    def describe(self) -> str:
        """Returns what is wrong, and what to do."""
        there = ", ".join(f"{n} of {ref}" for ref, n in self.n_vectors.items())
        return (
            f"Of {self.n_images} pictures, Milvus has only these embeddings: {there}. Give it back"
            " what it had, or run `twinlens reconcile`, which embeds the pictures again."
        )

    def check(self, models: Iterable[str]) -> None:
        """Refuses what needs embeddings of these models, given as name@version.

        Raises:
            LibraryDamaged: They are among those that are lost.
        """
        if not self.n_vectors.keys().isdisjoint(models):
            raise LibraryDamaged(self.describe())


def missing_models(libraries: Iterable[Library], there: Container[str]) -> dict[str, list[str]]:
    """Returns the models that are not there, by the name of each library that names them."""
    missing = {
        library.name: [ref for ref in library.all_models if ref not in there]
        for library in libraries
    }
    return {name: refs for name, refs in missing.items() if refs}


def new_library(
    name: str,
    models: Iterable[str],
    *,
    weights: Mapping[str, float] | None = None,
    metric: FloatMetric | None = None,
    index: Index | None = None,
) -> Library:
    """Returns a library whose collections are still to be made.

    Args:
        name: Its name.
        models: As name@version.
        weights: As in `Edition`.
        metric: As in `Edition`.
        index: As in `Edition`.
    """
    refs = list(models)
    return Library(
        name=name,
        id=_new_id(name),
        models=refs,
        metric=metric,
        index=index or Index(),
        weights=dict(weights or {}),
        collections={ref: new_collection(name, ref) for ref in refs},
    )


def _new_id(name: str) -> str:
    # Pictures are accepted for it before a worker has made it, and it cannot be removed.
    return name if name == DEFAULT_LIBRARY else f"{name}.{secrets.token_hex(8)}"


def new_collection(library: str, ref: str) -> str:
    """Returns a name that was never used in Milvus, which allows letters, digits and `_`."""
    name = f"tl_{library}__{ref.replace('@', '__')}__{secrets.token_hex(4)}"
    return name.replace("-", "_")
