"""What the user names: a model by its name here, a repository, or a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from twinlens.models.errors import BadInput
from twinlens.models.pull.known import KNOWN_MODELS

_PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
_HF = re.compile(f"hf:(?P<repository>{_PART}/{_PART})(@(?P<revision>[^@\\s]+))?")
_PAGE = re.compile(f"/(?P<repository>{_PART}/{_PART})(/tree/(?P<revision>[^\\s]+?))?/?")


class RepositoryAddress(NamedTuple):
    """A repository, at a revision of it, and where it is: None for where the hub is."""

    repository: str
    revision: str | None = None
    endpoint: str | None = None

    def __str__(self) -> str:
        """Returns it as the user may give it, and as a card has it."""
        at = f"@{self.revision}" if self.revision else ""
        if self.endpoint is None:
            return f"hf:{self.repository}{at}"
        return f"{self.endpoint}/{self.repository}" + (
            f"/tree/{self.revision}" if self.revision else ""
        )


def read_address(text: str) -> RepositoryAddress | Path:
    """Returns what is meant.

    >>> str(read_address("hf:Xenova/dinov2-base@v1"))
    'hf:Xenova/dinov2-base@v1'
    >>> read_address("https://hub.example/Xenova/dinov2-base/tree/main").endpoint
    'https://hub.example'

    Raises:
        BadInput: It is none of these.
    """
    if text in KNOWN_MODELS:
        return RepositoryAddress(KNOWN_MODELS[text].repository)
    if text.startswith("hf:"):
        named = _HF.fullmatch(text)
        if named is None:
            raise BadInput(
                f"{text!r} is no repository: give hf:OWNER/REPO or hf:OWNER/REPO@REVISION"
            )
        return RepositoryAddress(named["repository"], named["revision"])
    if text.startswith(("https:", "http:")):
        return _read_page(text)
    folder = Path(text)
    if folder.is_dir():
        return folder
    raise BadInput(
        f"{text!r} is no folder, and no name of a model: give {', '.join(KNOWN_MODELS)}, "
        "hf:OWNER/REPO, the https address of a repository, or a folder"
    )


def _read_page(text: str) -> RepositoryAddress:
    parts = urlsplit(text)
    named = _PAGE.fullmatch(parts.path)
    if parts.scheme != "https" or not parts.netloc or parts.username or named is None:
        raise BadInput(
            f"{text!r} is no address of a repository: give https://HOST/OWNER/REPO, as a hub shows "
            "it, with /tree/REVISION if need be; a file elsewhere, fetch, and pass its folder"
        )
    return RepositoryAddress(named["repository"], named["revision"], f"https://{parts.netloc}")
