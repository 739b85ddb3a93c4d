"""Images: one upload, the list, the count, the record, the bytes, the thumbnail, the removal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from werkzeug.routing import BaseConverter

from twinlens.api.accepting.terms import read_terms
from twinlens.api.access.checks import needs
from twinlens.api.answers import answer, answer_accepted, read_cursor
from twinlens.api.job_views import with_links
from twinlens.api.npy import NPY_TYPE, npy_of
from twinlens.api.problems import answer_problem
from twinlens.api.reading.uploads import (
    MAX_METADATA_BYTES,
    Entry,
    FormRules,
    as_chunks,
    metadata_json,
    parse_json,
    parse_metadata,
    read_form,
    read_json,
    read_picture,
)
from twinlens.api.routes import (
    DEFAULT_PROBLEM,
    FILE,
    METADATA,
    binary,
    form,
    json_body,
    problems,
    ref,
    stored,
)
from twinlens.api.schemas import (
    ImageCountParameters,
    ImageListParameters,
    ImagePath,
    InLibrary,
    JobInLibrary,
    SubmitHeaders,
    UploadParameters,
    VectorParameters,
    WaitHeaders,
)
from twinlens.api.services import current_services
from twinlens.api.stored_bytes import send_stored
from twinlens.shared.answers import (
    Deletion,
    ImageCount,
    ImagePage,
    ImageVectors,
    JobAnswer,
    MissingImages,
    MissingQuery,
)
from twinlens.shared.blobs import image_key, thumbnail_key
from twinlens.shared.errors import (
    BadFilter,
    ContentMissing,
    FieldError,
    ImageNotFound,
    UnsupportedMedia,
    ValidationFailed,
    place,
    pointer,
)
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.messages import CatalogEntry, Description, Image
from twinlens.shared.queue import CHANGE_IMAGE, COUNT_IMAGES, MAKE_THUMBNAIL, READ_VECTORS

if TYPE_CHECKING:
    from twinlens.api.accepting.libraries import Libraries
    from twinlens.shared.filters.tree import Filter
    from twinlens.shared.libraries import Library

# A thumbnail of the largest picture takes about a second, once the waiting searches are done.
THUMBNAIL_TIMEOUT_S = 10
# Every model's row is read and written, once the waiting searches are done.
CHANGE_TIMEOUT_S = 10
# Milvus looks at every image, once the waiting searches are done.
COUNT_TIMEOUT_S = 30
# A thousand ids, and a filter.
MAX_DELETION_BYTES = 128 * 1024
MAX_CHANGE_BYTES = MAX_METADATA_BYTES + 4096
# A thousand ids, and as much metadata as a batch of files has that is sent at once.
MAX_MISSING_BYTES = 8 * 1024 * 1024


class ImageIdConverter(BaseConverter):
    """Any word, except those of the paths beside it: these have methods of their own."""

    regex = "(?!(?:bulk|missing|count|delete)$)[^/]+"
    part_isolating = True


images = APIBlueprint(
    "images",
    __name__,
    url_prefix="/v1/images",
    abp_tags=[{"name": "images"}],
    abp_responses=DEFAULT_PROBLEM,
)


@images.post(
    "",
    operation_id="addImage",
    security=needs("write"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(404, 413, 415, 422, 503, 507)},
    request_body={
        "required": True,
        "content": form("file", metadata=METADATA, file=FILE)
        | binary("image/*", "application/octet-stream"),
    },
)
def add_image(query: UploadParameters, header: SubmitHeaders) -> Response:
    """Add one picture.

    Send multipart `file` with an optional JSON part `metadata`, or raw bytes.
    """
    services = current_services()
    services.readiness.check("single")
    services.limits.check_disk(request.content_length or 0)
    terms = read_terms(services.settings, query, header)
    library = services.libraries.to_fill(query.library)
    entry = _uploaded(query.name, services.settings.max_picture_bytes)
    accepted = services.intake.accept_picture(library, entry, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


@images.get(
    "",
    operation_id="listImages",
    security=needs("read"),
    responses={200: ImagePage, **problems(404, 422)},
)
def list_images(query: ImageListParameters) -> Response:
    """List a library's images, by the time when they were added.

    With a filter, a page looks at 5,000 images at most. If it is true of few of them, the page is
    short, or empty, and `next_cursor` goes on.
    """
    services = current_services()
    wanted = _read_filter(query.filter, place("query", "filter"))
    library = services.libraries.get(query.library)
    first: Literal["newest", "oldest"] = "newest" if query.sort == "-added_at" else "oldest"
    after = read_cursor(query.cursor)
    entries, cursor = services.catalog.page(library.id, query.limit, after, wanted, first)
    items = [with_links(entry.image) for entry in entries]
    return answer(ImagePage(items=items, next_cursor=cursor.encode() if cursor else None))


@images.get(
    "/count",
    operation_id="countImages",
    security=needs("read"),
    responses={200: ImageCount, **problems(404, 422, 503)},
)
def count_images(query: ImageCountParameters) -> Response:
    """Count a library's images, or those that a filter is true of."""
    services = current_services()
    wanted = _read_filter(query.filter, place("query", "filter"))
    library = services.libraries.get(query.library)
    count = services.catalog.count(library.id)
    if wanted is None or not count:
        return answer(ImageCount(count=count))
    services.readiness.check("search")
    asked = {"library": query.library, "where": query.filter}
    reply = services.calls.call(COUNT_IMAGES, asked, COUNT_TIMEOUT_S)
    if reply.error is not None:
        return answer_problem(reply.error)
    return answer(ImageCount(count=reply.value))


@images.post(
    "/missing",
    operation_id="listMissingImages",
    security=needs("read"),
    responses={200: MissingImages, **problems(400, 404, 413, 415, 422)},
    request_body={"required": True, "content": json_body("MissingQuery")},
)
def list_missing(query: InLibrary) -> Response:
    """Find out which pictures are worth an upload.

    Those that the library does not have with all of its models and, of those that are described in
    the body, those that it has under another name or with other metadata.
    """
    services = current_services()
    # A plan's other collections are filled by its job.
    library = services.libraries.get(query.library)
    wanted = set(library.collections.values())
    text = read_json(request.stream, request.mimetype, MAX_MISSING_BYTES, "The list of ids has")
    asked = parse_json(MissingQuery, text)
    entries = services.catalog.find(library.id, asked.ids)
    known = {
        image_id: entry.image for image_id, entry in entries.items() if wanted <= entry.collections
    }
    return answer(
        MissingImages(
            missing=[image_id for image_id in asked.ids if image_id not in known],
            changed=[
                image_id
                for image_id, description in asked.described.items()
                if image_id in known and description.changes(known[image_id])
            ],
        )
    )


@images.post(
    "/delete",
    operation_id="deleteImages",
    security=needs("write"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(400, 404, 413, 415, 422, 503)},
    request_body={"required": True, "content": json_body("Deletion")},
)
def delete_images(query: JobInLibrary, header: SubmitHeaders) -> Response:
    """Remove images by their ids, or those that a filter is true of when the job begins.

    One job for all of them. Without `all`, a job whose filter is true of more than 1,000 images
    fails, and removes none. What is not there is `skipped`.
    """
    services = current_services()
    services.readiness.check("single")
    terms = read_terms(services.settings, query, header)
    text = read_json(request.stream, request.mimetype, MAX_DELETION_BYTES, "The request has")
    wanted = parse_json(Deletion, text)
    if bool(wanted.ids) == bool(wanted.filter):
        message = "Send either ids or a filter."
        raise ValidationFailed(
            "The body is not valid.", [FieldError(location=pointer("ids"), message=message)]
        )
    _read_filter(wanted.filter or None, pointer("filter"))
    library = services.libraries.get(query.library)
    accepted = services.intake.accept_removals(library, wanted, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


@images.get(
    "/<image_id:image_id>",
    operation_id="getImage",
    security=needs("read"),
    responses={200: Image, **problems(404)},
)
def get_image(path: ImagePath, query: InLibrary) -> Response:
    """Get an image's record."""
    _, entry = _find(current_services().libraries, query.library, path.image_id)
    return answer(with_links(entry.image))


@images.get(
    "/<image_id:image_id>/content",
    operation_id="getImageContent",
    security=needs("read"),
    responses=stored("image/*"),
)
def get_content(path: ImagePath, query: InLibrary) -> Response:
    """Get an image's bytes, as they were uploaded."""
    services = current_services()
    library, entry = _find(services.libraries, query.library, path.image_id)
    try:
        file = services.blobs.open(image_key(library.id, path.image_id))
    except FileNotFoundError:
        raise ContentMissing(
            f"The bytes of image {path.image_id!r} are no longer stored."
        ) from None
    return send_stored(file, entry.image.format, path.image_id, entry.image.name)


@images.get(
    "/<image_id:image_id>/thumbnail",
    operation_id="getImageThumbnail",
    security=needs("read"),
    responses={**stored("image/jpeg"), **problems(503)},
)
def get_thumbnail(path: ImagePath, query: InLibrary) -> Response:
    """Get a JPEG of at most 256 px. The first request makes it."""
    services = current_services()
    library, entry = _find(services.libraries, query.library, path.image_id)
    key = thumbnail_key(library.id, path.image_id)
    try:
        file = services.blobs.open(key)
    except FileNotFoundError:
        services.readiness.check("search")
        wanted = {"library_id": library.id, "image_id": path.image_id}
        reply = services.calls.call(MAKE_THUMBNAIL, wanted, THUMBNAIL_TIMEOUT_S)
        if reply.error is not None:
            return answer_problem(reply.error)
        file = services.blobs.open(key)
    return send_stored(file, "image/jpeg", f"{path.image_id}-thumbnail", f"{entry.image.name}.jpg")


@images.get(
    "/<image_id:image_id>/vectors",
    operation_id="getImageVectors",
    security=needs("read"),
    responses={
        200: {"content": {"application/json": {"schema": ref("ImageVectors")}} | binary(NPY_TYPE)},
        **problems(404, 422, 503),
    },
)
def get_vectors(path: ImagePath, query: VectorParameters) -> Response:
    """Get what each model of the library makes of an image.

    As JSON; or, of one `model`, as a file of NumPy with `Accept: application/x-npy`.
    """
    services = current_services()
    services.readiness.check("search")
    library, _ = _find(services.libraries, query.library, path.image_id)
    named = query.model and library.ref_of(query.model, place("query", "model"))
    models = [named] if named else library.models
    is_npy = request.accept_mimetypes.best_match(["application/json", NPY_TYPE]) == NPY_TYPE
    if is_npy and len(models) > 1:
        message = f"Name one of: {', '.join(models)}. A file has one vector."
        raise ValidationFailed(
            "A model has to be named.",
            [FieldError(location=place("query", "model"), message=message)],
        )
    asked = {"library": query.library, "image_id": path.image_id, "models": models}
    reply = services.calls.call(READ_VECTORS, asked, CHANGE_TIMEOUT_S)
    if reply.error is not None:
        return answer_problem(reply.error)
    vectors = ImageVectors(items=reply.value)
    response = Response(npy_of(vectors), mimetype=NPY_TYPE) if is_npy else answer(vectors)
    response.vary.add("Accept")
    return response


@images.patch(
    "/<image_id:image_id>",
    operation_id="changeImage",
    security=needs("write"),
    responses={200: Image, **problems(400, 404, 413, 415, 422, 503)},
    request_body={"required": True, "content": json_body("Description")},
)
def change_image(path: ImagePath, query: InLibrary) -> Response:
    """Change an image's name or replace its metadata.

    What is not given stays as it is. Searches see it at once; nothing is embedded again.
    """
    services = current_services()
    services.readiness.check("search")
    _find(services.libraries, query.library, path.image_id)
    text = read_json(request.stream, request.mimetype, MAX_CHANGE_BYTES, "The change has")
    description = parse_json(Description, text)
    metadata_json(description.metadata or {})  # for its limit: the body may be larger
    wanted = {
        "library": query.library,
        "image_id": path.image_id,
        "description": description.model_dump(),
    }
    reply = services.calls.call(CHANGE_IMAGE, wanted, CHANGE_TIMEOUT_S)
    if reply.error is not None:
        return answer_problem(reply.error)
    return answer(with_links(Image.model_validate(reply.value)))


@images.delete(
    "/<image_id:image_id>",
    operation_id="deleteImage",
    security=needs("write"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(404, 422, 503)},
)
def delete_image(path: ImagePath, query: JobInLibrary, header: WaitHeaders) -> Response:
    """Remove an image from the store, the catalogue and every model's collection."""
    services = current_services()
    services.readiness.check("single")
    terms = read_terms(services.settings, query)
    library, _ = _find(services.libraries, query.library, path.image_id)
    accepted = services.intake.accept_removal(library, path.image_id, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


def _read_filter(text: str | None, location: str) -> Filter | None:
    try:
        return None if text is None else parse_filter(text)
    except BadFilter as error:
        raise error.at(location) from None


def _find(libraries: Libraries, name: str, image_id: str) -> tuple[Library, CatalogEntry]:
    library = libraries.get(name)
    if not re.fullmatch("[0-9a-f]{64}", image_id):
        raise ImageNotFound("An image id has 64 hexadecimal digits, in lower case.")
    return library, libraries.catalog.get(library.id, image_id)


def _uploaded(name: str | None, max_bytes: int) -> Entry:
    """Reads the one picture of the request."""
    body = as_chunks(request.stream)
    if request.mimetype == "multipart/form-data":
        rules = FormRules("metadata", MAX_METADATA_BYTES, max_bytes, {"file": 1})
        upload = read_form(request.content_type or "", body, rules)
        if not upload.files["file"]:
            missing = FieldError(location=place("form", "file"), message="The part is missing.")
            raise ValidationFailed("The form has no picture.", [missing])
        [(sent_name, content)] = upload.files["file"]
        metadata = None if upload.json is None else parse_metadata(upload.json)
        return Entry(sent_name if name is None else name, content, metadata)
    if request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        return Entry(name or "", read_picture(body, max_bytes))
    raise UnsupportedMedia(
        "Send multipart/form-data with a part `file`, or the bytes as image/* or"
        " application/octet-stream."
    )
