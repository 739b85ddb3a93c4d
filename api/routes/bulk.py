"""Many pictures in one request, as one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.accepting.terms import read_terms
from twinlens.api.access.checks import needs
from twinlens.api.answers import answer_accepted
from twinlens.api.reading.listings import listing_entries
from twinlens.api.reading.spools import Spooler
from twinlens.api.reading.tars import tar_entries
from twinlens.api.reading.uploads import BODY_BYTES, as_chunks, form_entries
from twinlens.api.reading.zips import zip_entries
from twinlens.api.routes import DEFAULT_PROBLEM, METADATA, binary, files, form, problems
from twinlens.api.schemas import JobInLibrary, SubmitHeaders
from twinlens.api.services import current_services
from twinlens.shared.answers import JobAnswer
from twinlens.shared.errors import UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.settings import Settings

ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
# The bytes show how it is packed.
TAR_TYPES = (
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/x-gtar",
    "application/zstd",
)
LISTING_TYPES = ("application/x-ndjson", "application/jsonl")

bulk = APIBlueprint(
    "bulk",
    __name__,
    url_prefix="/v1/images/bulk",
    abp_tags=[{"name": "images"}],
    abp_responses=DEFAULT_PROBLEM,
)


@bulk.post(
    "",
    operation_id="addImages",
    security=needs("write"),
    responses={
        200: JobAnswer,
        202: JobAnswer,
        **problems(400, 404, 409, 413, 415, 422, 503, 504, 507),
    },
    request_body={
        "required": True,
        "content": form("files", metadata=METADATA, files=files())
        | binary(*ZIP_TYPES, *TAR_TYPES)
        | {media_type: {"schema": {"type": "string"}} for media_type in LISTING_TYPES},
    },
)
def add_images(query: JobInLibrary, header: SubmitHeaders) -> Response:
    """Add many pictures.

    Send multipart with any number of `files`, each with an optional JSON part `metadata` before
    it; a ZIP or tar archive (plain, gzip or zstd); or a listing of `{"uri": …, "name": …,
    "metadata": {…}}`, one per line, of files and https: pictures that the service is allowed to
    read. Pictures are embedded while the rest is still arriving; of a ZIP archive, up to the first
    entry that does not tell where it ends. A bad picture is a failed item of the job; what is no
    picture by its name is passed over in archives. If an upload ends too early or cannot be read to
    its end, a job keeps what arrived and ends as failed; an upload that is refused in its first
    pictures leaves nothing.
    """
    services = current_services()
    services.readiness.check_bulk(request.content_length or 0)
    settings = services.settings
    terms = read_terms(settings, query, header)
    library = services.libraries.to_fill(query.library)
    read = _reader(settings, Spooler(settings.blob_dir, services.limits.check_disk))
    body = as_chunks(request.stream, BODY_BYTES)
    accepted = services.arrivals.accept(library, body, read, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


def _reader(settings: Settings, spooler: Spooler) -> Callable[[Iterable[bytes]], Iterator[Entry]]:
    """Returns what turns a body of the request's type into entries."""
    n_items, n_bytes = settings.max_job_items, settings.max_picture_bytes
    if request.mimetype == "multipart/form-data":
        content_type = request.content_type or ""
        return lambda body: form_entries(content_type, body, n_items, n_bytes)
    if request.mimetype in ZIP_TYPES:
        return lambda body: zip_entries(body, n_items, n_bytes, spooler)
    if request.mimetype in TAR_TYPES:
        return lambda body: tar_entries(body, n_items, n_bytes)
    if request.mimetype in LISTING_TYPES:
        return lambda body: listing_entries(body, n_items)
    raise UnsupportedMedia(
        "Send multipart/form-data with parts `files`, application/zip, application/x-tar (plain or"
        " packed with gzip or zstd), or application/x-ndjson."
    )
