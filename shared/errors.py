"""Every error that a user can meet, in one tree.

    TwinlensError
    ├── BadRequest                 400  the request cannot be read
    │   ├── ValidationFailed       422  a field is missing, unknown or out of range
    │   └── BadFilter              422  a filter that cannot be read
    ├── NotFound                   404
    │   ├── ImageNotFound, JobNotFound, LibraryNotFound, ModelNotFound
    │   │                          wherever it is named: in the path, a parameter or a body
    │   └── ContentMissing         404  catalogued, but its bytes are gone from the store
    ├── JobConflict                409  it has ended, or is not one that can be changed like that
    ├── TooManyImages              422  to be deleted, without a word that all are meant
    ├── LibraryConflict            409  it is being changed, or cannot be changed like that
    ├── ReindexFailed              500  the new edition of a library is not complete
    ├── LibraryDamaged             503  Milvus lacks embeddings of what is catalogued
    ├── JobExpired                 410
    ├── DeadlineExceeded           504  the job was not done by the time that was given to it
    ├── PayloadTooLarge            413  a body over its limit
    ├── UnsupportedMedia           415  a content type that is not supported
    ├── UnknownHost                421  a name in `Host` that is not the service's
    ├── ForeignOrigin              403  a page of another site wants to change something
    ├── KeyNeeded                  401  no key, or one that is not good
    ├── NotAllowed                 403  the key lacks a scope, or is for other libraries
    ├── UploadInProgress           409  one idempotency key, its first request is still arriving
    ├── IdempotencyConflict        422  one key, two different requests
    ├── UploadBroken               400  the connection ended before the upload did
    │   └── UploadStalled          408  it came too slowly, or no more came
    ├── UploadCancelled            409  its job was cancelled while it still arrived
    ├── SourceRefused              403  a listed picture that may not be fetched
    ├── SourceFailed               502  a listed picture that could not be fetched
    ├── PictureError
    │   ├── PictureTooLarge        413  refused on its header, before decoding
    │   ├── UnsupportedPicture     415  a picture type that is not supported
    │   ├── BrokenPicture          422
    │   └── EmptyPicture           422
    ├── BadArchive                 422  an archive, or an entry of one, that is refused
    ├── BadBackup                  422  a folder that is no backup, or damaged
    ├── ModelError
    │   ├── BadCard                500
    │   ├── ModelExists            409  there is already one of this name and version
    │   ├── ModelRefused           500  SHA-256 or golden vectors differ from the card
    │   └── BadEmbedding           500  a vector that is not finite
    ├── Crashed                    500  a picture that ended its worker process three times
    ├── Internal                   500
    ├── RateLimited                429
    ├── Unavailable                503  Redis, Milvus or the workers do not answer
    ├── QueueFull                  503
    └── StorageFull                507  free disk space is below its reserve

Workers pass errors on as data (`Problem`), never as pickled exceptions.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from twinlens.shared.names import clean_text


def pointer(*steps: str | int) -> str:
    """Returns where something is in the JSON that was sent: in the body, or in a part of a form.

    >>> pointer("weights", "a/b", 0)
    '/weights/a~1b/0'

    Source:
        RFC 6901. A step may be a key that the client made up.
    """
    escaped = (clean_text(str(step)).replace("~", "~0").replace("/", "~1") for step in steps)
    return "".join(f"/{step}" for step in escaped)


def place(source: str, name: str) -> str:
    """Returns where something is that is not in JSON.

    Args:
        source: `path`, `query`, `header` or `form`.
        name: Of the parameter, the header or the part.
    """
    return f"{source}:{clean_text(name)}"


class FieldError(BaseModel):
    """One bad field: where it is, and what is wrong."""

    location: str = Field(
        description="`/models/0`, a JSON pointer into the JSON that was sent, in the body or in a"
        " part of a form; else `query:limit`, `path:name`, `header:Prefer` or `form:file`"
    )
    message: str


class Problem(BaseModel):
    """An error as data: the members of RFC 9457 that do not depend on the request."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field(default_factory=list)
    retryable: bool = False


class TwinlensError(Exception):
    """The root. A subclass names its stable code, title, HTTP status, whether a retry may help."""

    code = "internal"
    title = "Internal error"
    status = 500
    retryable = False

    def __init__(
        self,
        detail: str,
        errors: list[FieldError] | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after_s = retry_after_s  # where it is known better than by the class

    def at(self, location: str) -> Self:
        """Returns this error, which is about one field, with the field's location."""
        self.errors = [FieldError(location=location, message=f"{self.title}.")]
        return self

    def to_problem(self) -> Problem:
        """Returns this error as data, to be stored or answered."""
        return Problem(
            type=f"urn:twinlens:problem:{self.code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
            retryable=self.retryable,
        )


class BadRequest(TwinlensError):
    code, title, status = "bad-request", "The request cannot be read", 400


class ValidationFailed(BadRequest):
    code, title, status = "validation-failed", "A field is not valid", 422


class BadFilter(BadRequest):
    code, title, status = "bad-filter", "The filter cannot be read", 422


class NotFound(TwinlensError):
    code, title, status = "not-found", "Not found", 404


class ImageNotFound(NotFound):
    code, title = "image-not-found", "No such image"


class JobNotFound(NotFound):
    code, title = "job-not-found", "No such job"


class LibraryNotFound(NotFound):
    code, title = "library-not-found", "No such library"


class ModelNotFound(NotFound):
    code, title = "model-not-found", "No such model"


class ContentMissing(NotFound):
    code, title = "content-missing", "The picture's bytes are no longer stored"


class JobConflict(TwinlensError):
    code, title, status = "job-conflict", "The job cannot be changed like that now", 409


class TooManyImages(TwinlensError):
    code, title, status = "too-many-images", "More images than a request may delete", 422


class LibraryConflict(TwinlensError):
    code, title, status = "library-conflict", "The library cannot be changed like that now", 409


class ReindexFailed(TwinlensError):
    code, title, status = "reindex-failed", "The library stays as it was", 500


class LibraryDamaged(TwinlensError):
    code, title, status = "library-damaged", "The library has lost embeddings", 503


class JobExpired(TwinlensError):
    code, title, status = "job-expired", "The job has expired", 410


class DeadlineExceeded(TwinlensError):
    code, title, status = "deadline-exceeded", "The job was not done in time", 504


class PayloadTooLarge(TwinlensError):
    code, title, status = "payload-too-large", "The request is too large", 413


class UnsupportedMedia(TwinlensError):
    code, title, status = "unsupported-media", "The content type is not supported", 415


class UnknownHost(TwinlensError):
    code, title, status = "unknown-host", "The service has another name", 421


class ForeignOrigin(TwinlensError):
    code, title, status = "foreign-origin", "A page of another site asks", 403


class KeyNeeded(TwinlensError):
    code, title, status = "key-needed", "A key is needed", 401


class NotAllowed(TwinlensError):
    code, title, status = "not-allowed", "The key does not allow this", 403


class UploadInProgress(TwinlensError):
    code, title, status = "upload-in-progress", "The first request is still arriving", 409
    retryable = True


class IdempotencyConflict(TwinlensError):
    code, title, status = "idempotency-conflict", "The idempotency key was used before", 422


class UploadBroken(TwinlensError):
    code, title, status = "upload-broken", "The upload ended too early", 400


class UploadStalled(UploadBroken):
    code, title, status, retryable = "upload-stalled", "The upload stood still", 408, True


class UploadCancelled(TwinlensError):
    code, title, status = "upload-cancelled", "The job was cancelled while it arrived", 409


class SourceRefused(TwinlensError):
    code, title, status = "source-refused", "The source is not allowed", 403


class SourceFailed(TwinlensError):
    code, title, status, retryable = "source-failed", "The source cannot be read", 502, True


class PictureError(TwinlensError):
    """A picture that is refused. The worker goes on, and so does the rest of the job."""


class PictureTooLarge(PictureError):
    code, title, status = "picture-too-large", "The picture is too large", 413


class UnsupportedPicture(PictureError):
    code, title, status = "unsupported-picture", "The picture type is not supported", 415


class BrokenPicture(PictureError):
    code, title, status = "broken-picture", "The picture is broken", 422


class EmptyPicture(PictureError):
    code, title, status = "empty-picture", "The picture is empty", 422


class BadArchive(TwinlensError):
    code, title, status = "bad-archive", "The archive is refused", 422


class BadBackup(TwinlensError):
    """A folder that cannot be restored from, or written to. Commands raise it, never a service."""

    code, title, status = "bad-backup", "The backup cannot be used", 422


class ModelError(TwinlensError):
    """A model that cannot be used."""


class BadCard(ModelError):
    code, title = "bad-card", "A model card is not valid"


class ModelExists(ModelError):
    code, title, status = "model-exists", "There is already such a model", 409


class ModelRefused(ModelError):
    code, title = "model-refused", "A model differs from its card"


class BadEmbedding(ModelError):
    code, title = "bad-embedding", "A model gave a vector that is not finite"


class Crashed(TwinlensError):
    code, title = "crashed", "The picture ended its worker process repeatedly"


class Internal(TwinlensError):
    """A bug in the service: its log has the reason, under the request's id."""


class RateLimited(TwinlensError):
    code, title, status, retryable = "rate-limited", "Too many requests", 429, True


class Unavailable(TwinlensError):
    code, title, status, retryable = "unavailable", "A part of the service is down", 503, True


class QueueFull(TwinlensError):
    code, title, status, retryable = "queue-full", "Too much is waiting", 503, True


class StorageFull(TwinlensError):
    code, title, status, retryable = "storage-full", "Not enough free disk space", 507, True
