"""A hub of models, by `huggingface_hub`: what a repository has, and its files, fetched and checked.

`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are read by the library. Its own cache is used where
there is no network: what it fetches is not checked, and begins again after a break. So files are
fetched into a folder beside it, by its `http_get`, which goes on where a file ends; each has to
have the hash that the hub states.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import HfApi, constants, hf_hub_url, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from twinlens.models.errors import BadInput
from twinlens.shared.errors import SourceFailed, SourceRefused, StorageFull, TwinlensError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from twinlens.models.pull.address import RepositoryAddress

_TIMEOUT_S = 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Stated(NamedTuple):
    """What the hub states of a file: its size, and a hash of its bytes, or git's own of them."""

    n_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        address: Where it is.
        revision: The commit.
        files: By name.
        licence: As it states it, or None.
        is_gated: Whether its owner wants to know who takes it.
        cached: Where the library has it already; set where there is no network.
    """

    address: RepositoryAddress
    revision: str
    files: Mapping[str, Stated]
    licence: str | None
    is_gated: bool
    cached: Path | None = None

    @property
    def url(self) -> str:
        """Where people read of it."""
        return f"{_endpoint(self.address)}/{self.address.repository}"


def look(address: RepositoryAddress) -> Repository:
    """Asks the hub what a repository has, or looks into the library's cache where it is offline.

    Raises:
        SourceRefused: It is not there, is private or gated, or its revision is not there.
        SourceFailed: The hub does not answer, or wants to be asked later.
    """
    if is_offline_mode():
        return _look_offline(address)
    with _told(address):
        said = HfApi(endpoint=address.endpoint, token=_token(address)).model_info(
            address.repository,
            revision=address.revision,
            files_metadata=True,
            timeout=_TIMEOUT_S,
        )
    licence = None
    if said.card_data:
        licence = said.card_data.get("license_name") or said.card_data.get("license")
    return Repository(
        address,
        said.sha or "",
        {one.rfilename: _stated(one) for one in said.siblings or [] if _is_inside(one.rfilename)},
        licence if isinstance(licence, str) else None,
        bool(said.gated),
    )


def fetch(repository: Repository, names: Iterable[str], folder: Path) -> None:
    """Fetches files into a folder, and checks that each has the hash that the hub states.

    What is there already stays; a file that ended in the middle goes on from there.

    Raises:
        SourceRefused: As `look` does, or a file has another hash.
        SourceFailed: As `look` does.
        StorageFull: The disk is full.
    """
    wanted = [name for name in names if not (folder / name).exists()]
    with _told(repository.address), _room(repository, wanted, folder):
        for name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if repository.cached is None:
                _fetch(repository, name, folder / name)
            else:
                shutil.copyfile(repository.cached / name, folder / name)


def _fetch(repository: Repository, name: str, path: Path) -> None:
    address, stated = repository.address, repository.files[name]
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as file:
        http_get(
            hf_hub_url(
                address.repository, name, revision=repository.revision, endpoint=address.endpoint
            ),
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(token=_token(address)),
            expected_size=stated.n_bytes,
            displayed_filename=name,
        )
    _check_hash(name, part, stated)
    part.replace(path)


def _check_hash(name: str, part: Path, stated: Stated) -> None:
    kind, expected, actual = "SHA-256", stated.sha256, sha256_of(part)
    if expected is None:
        content = part.read_bytes()
        kind, expected = "git's SHA-1", stated.git_sha1
        actual = hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()
    if actual != expected:
        part.unlink()
        raise SourceRefused(
            f"{name} came with {kind} {actual}, and the hub states {expected}: nothing of it is "
            "kept. Try again; if it stays so, what lies between (a mirror, a proxy) changes files"
        )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look_offline(address: RepositoryAddress) -> Repository:
    try:
        cached = Path(
            snapshot_download(
                address.repository,
                revision=address.revision,
                local_files_only=True,
                allow_patterns=[],  # not all of it need be there
            )
        )
    except LocalEntryNotFoundError as error:
        raise SourceFailed(
            f"{address} is not in the cache of huggingface_hub ({constants.HF_HUB_CACHE}), and "
            "HF_HUB_OFFLINE is set: unset it, fetch it there with `hf download`, or pass a folder"
        ) from error
    files = {
        path.relative_to(cached).as_posix(): Stated(path.stat().st_size, None, None)
        for path in cached.rglob("*")
        if path.is_file()
    }
    return Repository(address, cached.name, files, None, is_gated=False, cached=cached)


def _stated(sibling: RepoSibling) -> Stated:
    n_bytes = sibling.size or 0
    if sibling.lfs is not None:
        return Stated(sibling.lfs.size, sibling.lfs.sha256, None)
    return Stated(n_bytes, None, sibling.blob_id)


def _is_inside(name: str) -> bool:
    """Whether a file of this name lies in the repository's folder."""
    return "\\" not in name and not {"", ".", ".."} & {*name.split("/")}


def _token(address: RepositoryAddress) -> bool | None:
    """The user's token is for the hub that is set, and for no other."""
    return None if address.endpoint in (None, constants.ENDPOINT) else False


@contextmanager
def _room(repository: Repository, names: Iterable[str], folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        n_bytes = sum(repository.files[name].n_bytes for name in names)
        n_free = shutil.disk_usage(folder).free
        if n_bytes > n_free:
            raise StorageFull(
                f"the model takes {n_bytes / 1e6:,.1f} MB, and {folder} has room for "
                f"{n_free / 1e6:,.1f} MB: make room, or name another folder with --cache"
            )
        yield
    except OSError as error:
        if error.errno is None:  # the library's own
            raise
        if error.errno not in _FULL:
            raise BadInput(
                f"{folder} cannot be written to ({error.strerror}): name another folder with "
                "--cache"
            ) from error
        raise StorageFull(
            f"{folder} cannot take more ({error.strerror}): make room, or name another folder "
            "with --cache, and run the command again; it goes on where it stopped"
        ) from error


@contextmanager
def _told(address: RepositoryAddress) -> Iterator[None]:
    """Tells in one sentence what the library raises in many."""
    try:
        yield
    except TwinlensError:
        raise
    except GatedRepoError as error:
        raise SourceRefused(
            f"{address} is given to those alone whom its owner knows: accept its terms at "
            f"{_endpoint(address)}/{address.repository}, and set HF_TOKEN to a token of yours"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceRefused(
            f"{address.repository} has no revision {address.revision!r}: give a branch, a tag or a "
            "commit, or none"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceRefused(
            f"there is no repository {address.repository} at {_endpoint(address)}, or it is "
            "private: check the name, or set HF_TOKEN to a token that may read it"
        ) from error
    except HfHubHTTPError as error:
        raise _failed(address, error) from error
    except Exception as error:  # httpx2 is not a dependency of ours, and has errors of its own
        raise SourceFailed(
            f"{_endpoint(address)} cannot be reached ({type(error).__name__}: {error}): check the "
            "network, HTTPS_PROXY and HF_ENDPOINT, and run the command again; without a network, "
            "pass a folder with a copy of the repository"
        ) from error


def _failed(address: RepositoryAddress, error: HfHubHTTPError) -> SourceFailed | SourceRefused:
    status = error.response.status_code
    if status in (401, 403):
        return SourceRefused(
            f"{_endpoint(address)} does not let you read {address.repository} ({status}): set "
            "HF_TOKEN to a token that may"
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return SourceFailed(
            f"{_endpoint(address)} is asked too often (429): run the command again {when}, or "
            "set HF_TOKEN, which allows more"
        )
    return SourceFailed(
        f"{_endpoint(address)} answered {status} for {address.repository}: run the command again; "
        "it goes on where it stopped"
    )


def _endpoint(address: RepositoryAddress) -> str:
    return address.endpoint or constants.ENDPOINT
