"""What a request can end with instead of an answer. The texts are for the person who asked."""

from __future__ import annotations


class RequestFailed(Exception):
    """The service does not answer, or refuses the request and says why."""


class UploadRefused(RequestFailed):
    """The service refuses what it was sent, but may accept something else."""


class NotThere(RequestFailed):
    """The service has no such image, job or library."""
