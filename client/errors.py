"""What a request can come to beside an answer. The texts are for the person who asked."""

from __future__ import annotations


class RequestFailed(Exception):
    """The service does not answer, or says why it will not do what was asked."""


class UploadRefused(RequestFailed):
    """The service will not have what it was sent; something else it may."""
