"""Errors as RFC 9457 answers: one table, and the handlers that use it."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import kombu.exceptions
import redis
from flask import Response, request
from gunicorn.http.errors import ParseException
from pydantic import TypeAdapter
from werkzeug.exceptions import ClientDisconnected, HTTPException

from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import (
    BadRequest,
    FieldError,
    Internal,
    KeyNeeded,
    NotFound,
    PayloadTooLarge,
    Problem,
    QueueFull,
    StorageFull,
    TwinlensError,
    Unavailable,
    UnsupportedMedia,
    UploadStalled,
    ValidationFailed,
    place,
    pointer,
)
from twinlens.shared.log import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from pydantic import ValidationError

log = logging.getLogger(__name__)

# From what was sent to one of its fields, as pydantic tells it.
Steps: TypeAlias = tuple[int | str, ...]
_JSON = TypeAdapter(Any)

# Long enough for a restart of Redis or Milvus Lite, short enough that a client is not idle.
RETRY_AFTER_S = 5

# What other packages raise, and what it means here. The first that fits is used.
_FOREIGN: tuple[tuple[type[Exception], type[TwinlensError], str], ...] = (
    (redis.OutOfMemoryError, QueueFull, "Redis has no memory left for more."),
    (redis.RedisError, Unavailable, "Redis does not answer."),
    (kombu.exceptions.OperationalError, Unavailable, "The queue in Redis does not answer."),
    # What gunicorn raises while a body is read.
    (ParseException, BadRequest, "The body cannot be read: its chunks are broken."),
)
_BY_STATUS: dict[int, type[TwinlensError]] = {
    400: BadRequest,
    404: NotFound,
    413: PayloadTooLarge,
    415: UnsupportedMedia,
    422: ValidationFailed,
}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def install(app: Flask) -> None:
    """Turns every error of an app into a problem answer."""
    app.register_error_handler(TwinlensError, _answer_own)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_other)


def answer_problem(problem: Problem) -> Response:
    """Returns the answer to a request that failed."""
    details = ProblemDetails(
        **problem.model_dump(exclude={"retryable"}),
        instance=request.path,
        request_id=request_id.get(),
    )
    response = Response(
        details.model_dump_json(), problem.status, mimetype="application/problem+json"
    )
    if problem.retryable:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def fields_of(error: ValidationError, text: bytes) -> list[FieldError]:
    """Returns what pydantic refused in a JSON text, field by field."""
    sent = _JSON.validate_json(text)
    return _told(error, lambda *problem: pointer(*_steps_within(sent, *problem)))


def refuse_parameters(error: ValidationError) -> Response:
    """Refuses path, query and header fields that are not valid; flask-openapi calls it.

    Raises:
        ValidationFailed: Always.
    """
    fields = _told(error, lambda steps, _: place(error.title, str(steps[0])))
    raise ValidationFailed("A parameter of the request is not valid.", fields) from error


def _told(error: ValidationError, locate: Callable[[Steps, str], str]) -> list[FieldError]:
    """Returns one error a location: of a value of several types, pydantic tells one a type."""
    reasons: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        location = locate(problem["loc"], problem["type"])
        reasons.setdefault(location, []).append(problem["msg"])
    return [
        FieldError(location=location, message="; ".join(dict.fromkeys(messages)))
        for location, messages in reasons.items()
    ]


def _steps_within(sent: Any, steps: Steps, kind: str) -> Iterator[str | int]:
    """Yields those of pydantic's steps that are in what was sent, or missing there.

    The others name types, or say that it is a key that is refused.
    """
    for step in steps:
        try:
            sent = sent[step]
        except (LookupError, TypeError):
            if kind != "missing":
                return
        yield step


def as_own(error: Exception) -> TwinlensError:
    """Returns what an error means here: itself, or what its kind stands for."""
    if isinstance(error, TwinlensError):
        return error
    if isinstance(error, ClientDisconnected) and isinstance(error.__context__, TimeoutError):
        return UploadStalled("The rest of the request did not come in time.")
    if isinstance(error, HTTPException) and error.code in _BY_STATUS:
        return _BY_STATUS[error.code](error.description or error.name)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return StorageFull("There is no space left for pictures.")
    for foreign, own, detail in _FOREIGN:
        if isinstance(error, foreign):
            return own(detail)
    return Internal("This is a bug in the service; its log has the reason, under the request's id.")


def _answer_own(error: TwinlensError) -> Response:
    response = answer_problem(error.to_problem())
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, KeyNeeded):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _answer_http(error: HTTPException) -> Response | HTTPException:
    """Keeps a redirect as it is; an error keeps its headers (Allow, Content-Range)."""
    if error.code is None or error.code < 400 or error.response is not None:
        return error
    if isinstance(own := as_own(error), UploadStalled):
        return _answer_own(own)
    response = answer_problem(_problem_of_status(error.code, error))
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _problem_of_status(status: int, error: HTTPException) -> Problem:
    detail = error.description or error.name
    if status in _BY_STATUS:
        return _BY_STATUS[status](detail).to_problem()
    # RFC 9457, 4.2.1: a problem that says no more than its status.
    return Problem(type="about:blank", title=error.name, status=status, detail=detail)


def _answer_other(error: Exception) -> Response:
    own = as_own(error)
    if isinstance(own, Internal):
        log.error("%s %s failed unexpectedly", request.method, request.path, exc_info=error)
    else:
        log.warning("%s %s: %s", request.method, request.path, own.detail, exc_info=error)
    return _answer_own(own)
