"""Many pictures in one request, as one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.answers import answer_accepted
from twinlens.api.archives import zip_entries
from twinlens.api.gateway import current_gateway
from twinlens.api.intake import QUEUE_OF_KIND, accept_upload, scoped_key
from twinlens.api.routes import DEFAULT_PROBLEM, binary, form, problems
from twinlens.api.schemas import InLibrary, JobAnswer, SubmitHeaders
from twinlens.api.tars import tar_entries
from twinlens.api.uploads import as_chunks, form_entries
from twinlens.shared.errors import UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.api.uploads import Entry
    from twinlens.shared.settings import Settings

ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
# How it is packed is seen in the bytes.
TAR_TYPES = (
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/x-gtar",
    "application/zstd",
)

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
    responses={200: JobAnswer, 202: JobAnswer, **problems(400, 404, 413, 415, 422, 503)},
    request_body={
        "required": True,
        "content": form(
            "files", files={"type": "array", "items": {"type": "string", "format": "binary"}}
        )
        | binary("application/zip", "application/x-tar", "application/gzip", "application/zstd"),
    },
)
def add_images(query: InLibrary, header: SubmitHeaders) -> Response:
    """Add many pictures.

    As multipart with any number of `files`, or as a ZIP or tar archive (plain, gzip or zstd). A
    bad picture is a failed item of the job; an archive that cannot be read to its end is refused
    whole.
    """
    gateway = current_gateway()
    gateway.check_ready(QUEUE_OF_KIND["bulk"])
    gateway.library(query.library)
    entries = _entries(gateway.settings)
    key = scoped_key(request.method, request.path, header.idempotency_key)
    accepted = accept_upload(gateway, "bulk", query.library, entries, key)
    return answer_accepted(gateway, accepted, header.prefer)


def _entries(settings: Settings) -> Iterator[Entry]:
    limits = settings.max_job_items, settings.max_picture_bytes
    body = as_chunks(request.stream)
    if request.mimetype == "multipart/form-data":
        return form_entries(request.content_type or "", body, *limits)
    if request.mimetype in ZIP_TYPES:
        return zip_entries(body, *limits)
    if request.mimetype in TAR_TYPES:
        return tar_entries(body, *limits)
    raise UnsupportedMedia(
        "Send multipart/form-data with parts `files`, application/zip, or application/x-tar, plain"
        " or packed with gzip or zstd."
    )
