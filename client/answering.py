"""Who answers at an address, and what is said where that is no service or refuses a request."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
from pydantic import ValidationError

from twinlens.client.errors import NotThere, RequestFailed, UploadRefused
from twinlens.client.patience import AWAY
from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import KeyNeeded, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFUSED = {413, 415, 422}


def read_host(url: str) -> str:
    """Returns the host of a service's URL.

    Raises:
        RequestFailed: It is not such a URL.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RequestFailed(f"{url} is not a URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise RequestFailed(
            f"{url or 'an empty text'} is not a URL of a service; such a one is"
            " http://127.0.0.1:8000"
        )
    return parsed.host


def key_headers(key: str) -> dict[str, str]:
    """Returns the headers by which a request has a key; none for an empty one.

    Raises:
        RequestFailed: It has what no key has.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise RequestFailed("what TWINLENS_KEY has is no key: one is a single word, of ASCII alone")
    return {"Authorization": f"Bearer {key}"} if key else {}


def no_answer(url: str, error: httpx.HTTPError | httpx.InvalidURL) -> RequestFailed:
    """Returns the error of a request that got no answer that is HTTP."""
    reason = str(error) or type(error).__name__
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return RequestFailed(f"the certificate of {url} is not trusted: {reason}")
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        plain = url.replace("https:", "http:", 1)
        return RequestFailed(f"what answers at {url} does not speak https; is it {plain}?")
    if isinstance(error, httpx.ConnectError):
        return RequestFailed(
            f"nothing answers at {url}; start it with `twinlens up`, or name another service with"
            " --url"
        )
    if isinstance(error, httpx.RemoteProtocolError):
        return RequestFailed(
            f"what answers at {url} does not speak HTTP as a Twinlens service does ({reason});"
            " is the port right?"
        )
    return RequestFailed(f"{url} does not answer as it should: {reason}")


def problem_of(response: httpx.Response) -> RequestFailed:
    """Returns the error of an answer that is none of success."""
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return stranger(response)
    if problem.type.endswith(f":{NotFound.code}"):
        # No path that is asked for: it stands behind one of the URL's own, or of another version.
        return stranger(response)
    if problem.type.endswith(f":{KeyNeeded.code}"):
        return RequestFailed(
            f"{response.url.host} wants a key in the environment, as TWINLENS_KEY; `twinlens keys"
            f" create` makes one: {problem.detail} (request {problem.request_id})"
        )
    fields = "".join(f" {field.location}: {field.message}" for field in problem.errors)
    kind = NotThere if response.status_code == 404 else _kind_of(response)
    return kind(f"{problem.detail}{fields} (request {problem.request_id})")


def stranger(response: httpx.Response) -> RequestFailed:
    """Returns the error of an answer that no service of this version gives."""
    heads = response.headers
    media_type = heads.get("Content-Type", "").partition(";")[0]
    told = f"{response.url} answered {response.status_code}"
    told += f" with {media_type}" if media_type else ""
    told += f" from {heads['Server']}" if "Server" in heads else ""
    told += f", which leads to {heads['Location']}" if response.is_redirect else ""
    if response.status_code in AWAY:
        return RequestFailed(f"{told}, and not as a Twinlens service does; is it down?")
    return _kind_of(response)(f"{told}: it is not a Twinlens service, or one of another version")


def _kind_of(response: httpx.Response) -> type[RequestFailed]:
    # A proxy may refuse an upload as well.
    return UploadRefused if response.status_code in _REFUSED else RequestFailed


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
