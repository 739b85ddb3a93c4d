"""Every error that a user can meet, in one tree.

    TwinlensError
    ├── BadRequest                 400  the request cannot be read
    │   ├── ValidationFailed       422  a field is missing, unknown or out of range
    │   └── BadFilter              422  a filter that cannot be read
    ├── NotFound                   404
    │   ├── ImageNotFound, JobNotFound, LibraryNotFound, ModelNotFound
    │   └── ContentMissing         404  catalogued, but its bytes are gone from the store
    ├── LibraryConflict            409  it is being changed, or cannot be changed so
    ├── ReindexFailed              500  another edition of a library is not whole
    ├── JobExpired                 410
    ├── PayloadTooLarge            413  a body over its limit
    ├── UnsupportedMedia           415  a content type that is not served
    ├── UploadInProgress           409  one idempotency key, whose first request still arrives
    ├── IdempotencyConflict        422  one key, two different requests
    ├── UploadBroken               400  the connection ended before the upload did
    ├── SourceRefused              403  a listed picture that may not be fetched
    ├── SourceFailed               502  a listed picture that could not be fetched
    ├── PictureError
    │   ├── PictureTooLarge        413  refused on its header, before decoding
    │   ├── UnsupportedPicture     415  not a picture type that is served
    │   ├── BrokenPicture          422
    │   └── EmptyPicture           422
    ├── BadArchive                 422  an archive, or an entry of one, that is refused
    ├── ModelError
    │   ├── BadCard                500
    │   ├── ModelExists            409  another of this name and version is there
    │   ├── ModelRefused           500  SHA-256 or golden vectors differ from the card
    │   └── BadEmbedding           500  a vector that is not finite
    ├── Crashed                    500  a picture that ended its worker three times
    ├── Internal                   500
    ├── RateLimited                429
    ├── Unavailable                503  Redis, Milvus or the workers do not answer
    ├── QueueFull                  503
    └── StorageFull                507  the disk is below its reserve

Workers hand errors on as data (`Problem`), never as pickled exceptions.
"""

from __future__ import annotations

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One bad field: where, as a JSON pointer or a parameter's name, and what is wrong."""

    location: str
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
    """The root. A subclass names its stable code, title, HTTP status, and if a retry may help."""

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
        self.retry_after_s = retry_after_s  # where it is known better than by the kind

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
    code, title = "content-missing", "The picture's bytes are not in the store"


class LibraryConflict(TwinlensError):
    code, title, status = "library-conflict", "The library cannot be changed so now", 409


class ReindexFailed(TwinlensError):
    code, title, status = "reindex-failed", "The library stays as it was", 500


class JobExpired(TwinlensError):
    code, title, status = "job-expired", "The job has expired", 410


class PayloadTooLarge(TwinlensError):
    code, title, status = "payload-too-large", "The request is too large", 413


class UnsupportedMedia(TwinlensError):
    code, title, status = "unsupported-media", "The content type is not served", 415


class UploadInProgress(TwinlensError):
    code, title, status = "upload-in-progress", "The first request still arrives", 409
    retryable = True


class IdempotencyConflict(TwinlensError):
    code, title, status = "idempotency-conflict", "The idempotency key was used before", 422


class UploadBroken(TwinlensError):
    code, title, status = "upload-broken", "The upload ended too early", 400


class SourceRefused(TwinlensError):
    code, title, status = "source-refused", "The source is not allowed", 403


class SourceFailed(TwinlensError):
    code, title, status, retryable = "source-failed", "The source cannot be read", 502, True


class PictureError(TwinlensError):
    """A picture that is refused. The worker lives on, and so does the rest of the job."""


class PictureTooLarge(PictureError):
    code, title, status = "picture-too-large", "The picture is too large", 413


class UnsupportedPicture(PictureError):
    code, title, status = "unsupported-picture", "Not a picture type that is served", 415


class BrokenPicture(PictureError):
    code, title, status = "broken-picture", "The picture is broken", 422


class EmptyPicture(PictureError):
    code, title, status = "empty-picture", "The picture is empty", 422


class BadArchive(TwinlensError):
    code, title, status = "bad-archive", "The archive is refused", 422


class ModelError(TwinlensError):
    """A model that cannot be used."""


class BadCard(ModelError):
    code, title = "bad-card", "A model card is not valid"


class ModelExists(ModelError):
    code, title, status = "model-exists", "There is such a model already", 409


class ModelRefused(ModelError):
    code, title = "model-refused", "A model is not what its card says"


class BadEmbedding(ModelError):
    code, title = "bad-embedding", "A model gave a vector that is not finite"


class Crashed(TwinlensError):
    code, title = "crashed", "The picture ended its worker again and again"


class Internal(TwinlensError):
    """A bug of ours: the log has the rest, under the request's id."""


class RateLimited(TwinlensError):
    code, title, status, retryable = "rate-limited", "Too many requests", 429, True


class Unavailable(TwinlensError):
    code, title, status, retryable = "unavailable", "A part of the service is down", 503, True


class QueueFull(TwinlensError):
    code, title, status, retryable = "queue-full", "Too much is waiting", 503, True


class StorageFull(TwinlensError):
    code, title, status, retryable = "storage-full", "The disk is below its reserve", 507, True
