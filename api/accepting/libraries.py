"""Libraries: which models they have, how much each counts, and how their vectors are stored."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from twinlens.api.access.checks import check_library, sees_library
from twinlens.shared.errors import (
    FieldError,
    LibraryConflict,
    LibraryNotFound,
    ModelNotFound,
    Unavailable,
    ValidationFailed,
    pointer,
)
from twinlens.shared.indexes import check_index, layout_of
from twinlens.shared.libraries import (
    DEFAULT_LIBRARY,
    Edition,
    Library,
    NextEdition,
    missing_models,
    new_collection,
    new_library,
)
from twinlens.shared.messages import now
from twinlens.shared.queue import DELETE_LIBRARY, REINDEX, TaskMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.api.accepting.intake import Intake
    from twinlens.api.accepting.terms import Terms
    from twinlens.shared.answers import LibraryPlan
    from twinlens.shared.messages import ModelSummary
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs


BAD_PLAN = "The library's plan is not valid."


class Planned(NamedTuple):
    """The outcome of a plan."""

    library: Library
    is_new: bool = False
    job: Job | None = None  # embeds what is stored; the plan takes effect once it has ended


@dataclass(frozen=True, kw_only=True)
class Libraries:
    """Reads, plans and removes libraries."""

    catalog: Catalog
    jobs: Jobs
    intake: Intake
    rollback_s: int

    def get(self, name: str) -> Library:
        """Reads a library. `default` exists even before a worker has published its models.

        Raises:
            LibraryNotFound: There is no library of this name.
            NotAllowed: The caller's key is for others.
        """
        check_library(name)
        try:
            return self.catalog.library(name)
        except LibraryNotFound:
            if name == DEFAULT_LIBRARY:
                return Library(name=name, models=[])
            raise

    def to_fill(self, name: str) -> Library:
        """Reads a library that is to take pictures.

        Raises:
            LibraryNotFound: There is no library of this name.
            NotAllowed: The caller's key is for others.
            Unavailable: No worker has made `default` yet, or Redis was emptied since.
            LibraryDamaged: It lacks embeddings of what it has.
        """
        library = self.get(name)
        if not library.models:
            raise Unavailable(f"Library {name!r} is not there yet; a worker makes it soon.")
        if damage := self.catalog.damage(library.id):
            damage.check(library.models)
        return library

    def lacks(self, libraries: Iterable[Library]) -> dict[str, str]:
        """Returns why libraries cannot be searched whole, by the name of each."""
        there = list(libraries)
        damages = self.catalog.damages()
        lacks = {one.name: "No worker has made it yet." for one in there if not one.models}
        lacks |= {
            name: f"No worker has {', '.join(refs)}."
            for name, refs in self.missing_models(there).items()
        }
        for one in there:
            if one.has_lost_images:
                told = "Redis has lost its images; run `twinlens reconcile`."
                lacks[one.name] = " ".join(filter(None, (lacks.get(one.name), told)))
            if one.id in damages:
                more = damages[one.id].describe()
                lacks[one.name] = " ".join(filter(None, (lacks.get(one.name), more)))
        return lacks

    def without_record(self, ids: Iterable[str], libraries: Iterable[Library]) -> dict[str, str]:
        """Returns what is wrong with libraries that have pictures and no record, by their ids.

        Args:
            ids: Of all libraries that have pictures.
            libraries: Those that have a record.
        """
        known = {one.id for one in libraries} | set(self.catalog.removed_libraries(0))
        return dict.fromkeys(
            sorted(set(ids) - known),
            "It has pictures and no record: Redis has lost it. Its id begins with its name.",
        )

    def all(self) -> list[Library]:
        """Returns all libraries by name; there is at least `default`."""
        by_name = {library.name: library for library in self.catalog.libraries()}
        by_name.setdefault(DEFAULT_LIBRARY, Library(name=DEFAULT_LIBRARY, models=[]))
        return [by_name[name] for name in sorted(by_name)]

    def visible(self) -> list[Library]:
        """Returns those that the caller's key is for, by name."""
        return [library for library in self.all() if sees_library(library.name)]

    def missing_models(self, libraries: Iterable[Library]) -> dict[str, list[str]]:
        """Returns the models that no worker has, by the name of each library that names them."""
        return missing_models(libraries, self.catalog.model_refs())

    def plan(self, name: str, plan: LibraryPlan, terms: Terms) -> Planned:
        """Creates a library, or changes whatever its plan says differently.

        Weights apply from the next search on. Where a model has no vectors of the stored pictures
        in the form that the plan wants, a job embeds them; the plan takes effect once it has ended.

        Raises:
            ModelNotFound: There is no such model, or there are several versions of it.
            ValidationFailed: A model is named twice, a weight is for a model that is not named, or
                Milvus could not build the index.
            LibraryConflict: Another plan is being carried out, or a restore.
            NotAllowed: The caller's key is for other libraries.
        """
        check_library(name)
        models = [
            self._model(ref, pointer("models", index)) for index, ref in enumerate(plan.models)
        ]
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise _bad_field(pointer("models"), "A model is named twice; name one version of each.")
        for unknown in plan.weights.keys() - set(names):
            raise _bad_field(pointer("weights", unknown), "The plan does not name this model.")
        dimensions = {one.ref: one.dimension for one in models if one.metric != "HAMMING"}
        if errors := check_index(plan.index, dimensions, self.catalog.server()):
            raise ValidationFailed(BAD_PLAN, errors)
        library = new_library(
            name,
            [model.ref for model in models],
            weights=plan.weights,
            metric=plan.metric,
            index=plan.index,
        )
        if self.catalog.ensure_library(library):
            return Planned(library, is_new=True)
        return self._change(name, models, library, terms)

    def roll_back(self, name: str) -> Library:
        """Undoes a plan: gives up the edition being built, or goes back to the previous one.

        Of a library that is not restored whole yet, it keeps what is.

        Raises:
            LibraryNotFound: There is no library of this name.
            LibraryConflict: There is nothing to go back to.
            NotAllowed: The caller's key is for other libraries.
        """
        check_library(name)
        given_up: list[str] = []

        def back(library: Library) -> Library:
            given_up.clear()
            if library.restoring is not None:
                library.restoring = None
                return library
            if library.next is not None:
                given_up.append(library.next.job_id)
                library.next = None
                return library
            if library.previous is None:
                raise LibraryConflict(f"Library {name!r} has no edition to go back to.")
            return library.switched(library.previous, kept_until=library.previous.until)

        library = self.catalog.change_library(name, back)
        for job_id in given_up:
            self.jobs.cancel(job_id)
        return library

    def remove(self, name: str, terms: Terms) -> Job:
        """Queues the removal of a library with its pictures, and forgets it at once.

        It is queued first: then it is removed whole, whatever fails here.

        Raises:
            LibraryNotFound: There is no library of this name.
            LibraryConflict: It is the default library.
            NotAllowed: The caller's key is for other libraries.
        """
        check_library(name)
        if name == DEFAULT_LIBRARY:
            raise LibraryConflict(f"Library {name!r} cannot be removed; remove its images instead.")
        library = self.catalog.library(name)
        job = self.intake.new_job("delete", library, terms)
        task = TaskMessage(DELETE_LIBRARY, {"job_id": job.id}, job.id, "single")
        self.intake.submit(job, task, terms)
        with contextlib.suppress(LibraryNotFound):  # a worker was quicker
            self.catalog.remove_library(name, library.id)
        if library.next is not None:
            self.jobs.cancel(library.next.job_id)
        return job

    def _model(self, ref: str, location: str) -> ModelSummary:
        try:
            return self.catalog.model(ref)
        except ModelNotFound as error:
            raise error.at(location) from None

    def _change(
        self, name: str, models: list[ModelSummary], plan: Library, terms: Terms
    ) -> Planned:
        there = self.catalog.library(name)
        job = self.intake.new_job("reindex", there, terms)

        def change(library: Library, is_empty: bool) -> Library | None:
            if library.restoring is not None:
                raise LibraryConflict(
                    f"Library {name!r} is being restored from a backup; restore it until that is"
                    f" done, or give it up with POST /v1/libraries/{name}/rollback."
                )
            edition = _edition_of(library, models, plan)
            if library.next is not None:
                if _is_same(edition, library.next):
                    return None
                raise LibraryConflict(
                    f"Library {name!r} is being changed by job {library.next.job_id}; wait for it,"
                    f" or give it up with POST /v1/libraries/{name}/rollback."
                )
            has, wants = set(library.collections.values()), set(edition.collections.values())
            if wants < has and not is_empty:
                until = now() + timedelta(seconds=self.rollback_s)
                return library.switched(edition, kept_until=until)
            if wants == has or is_empty:
                return library.switched(edition)
            library.next = NextEdition(**edition.model_dump(), job_id=job.id)
            return library

        library = self.catalog.plan_library(name, change, there.id)
        if library.next is None:
            return Planned(library)
        if library.next.job_id != job.id:
            return Planned(library, job=self.jobs.get(library.next.job_id))
        # If this fails, the sweeper finds a library whose job is missing, and gives up its plan.
        task = TaskMessage(REINDEX, {"job_id": job.id}, job.id, "single")
        self.intake.submit(job, task, terms)
        return Planned(library, job=job)


def _edition_of(library: Library, models: list[ModelSummary], plan: Library) -> Edition:
    """Returns what the plan asks for, with those collections of the library that fit it."""
    layout, new_layout = layout_of(library.index), layout_of(plan.index)
    is_same_layout = (plan.metric, new_layout) == (library.metric, layout)
    kept = {
        model.ref: library.collections[model.ref]
        for model in models
        if model.ref in library.collections and (is_same_layout or model.metric == "HAMMING")
    }
    fresh = {ref: new_collection(library.name, ref) for ref in plan.models if ref not in kept}
    return Edition(
        models=plan.models,
        metric=plan.metric,
        index=plan.index,
        weights=plan.weights,
        collections=kept | fresh,
    )


def _is_same(first: Edition, other: Edition) -> bool:
    """Returns whether two editions are the same except for the names of their collections."""
    fields = set(Edition.model_fields) - {"collections"}
    return first.model_dump(include=fields) == other.model_dump(include=fields)


def _bad_field(location: str, message: str) -> ValidationFailed:
    return ValidationFailed(BAD_PLAN, [FieldError(location=location, message=message)])
