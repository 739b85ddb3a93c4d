"""Errors as RFC 9457 answers: one table, and the handlers that use it."""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING

import kombu.exceptions
import redis
from flask import Response, request
from werkzeug.exceptions import HTTPException

from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import (
    BadRequest,
    FieldError,
    Internal,
    NotFound,
    PayloadTooLarge,
    Problem,
    StorageFull,
    TwinlensError,
    Unavailable,
    UnsupportedMedia,
    ValidationFailed,
    place,
    pointer,
)
from twinlens.shared.log import request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from pydantic import ValidationError

log = logging.getLogger(__name__)

# Long enough for a restart of Redis or Milvus Lite, short enough that a client is not idle.
RETRY_AFTER_S = 5

# What other packages raise, and what it means here. The first that fits is used.
_FOREIGN: tuple[tuple[type[Exception], type[TwinlensError], str], ...] = (
    (redis.RedisError, Unavailable, "Redis does not answer."),
    (kombu.exceptions.OperationalError, Unavailable, "The queue in Redis does not answer."),
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


def fields_of(error: ValidationError, locate: Callable[..., str] = pointer) -> list[FieldError]:
    """Returns what pydantic refused, field by field.

    Args:
        error: What pydantic raised.
        locate: Makes a location of the steps to a field; by default it is in JSON.
    """
    return [
        FieldError(location=locate(*problem["loc"]), message=problem["msg"])
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def refuse_parameters(error: ValidationError) -> Response:
    """Refuses path, query and header fields that are not valid; flask-openapi calls it.

    Raises:
        ValidationFailed: Always.
    """
    raise ValidationFailed(
        "A parameter of the request is not valid.", fields_of(error, partial(place, error.title))
    ) from error


def as_own(error: Exception) -> TwinlensError:
    """Returns what an error means here: itself, or what its kind stands for."""
    if isinstance(error, TwinlensError):
        return error
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
    return response


def _answer_http(error: HTTPException) -> Response | HTTPException:
    """Keeps a redirect as it is; an error keeps its headers (Allow, Content-Range)."""
    if error.code is None or error.code < 400 or error.response is not None:
        return error
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
