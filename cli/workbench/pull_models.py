"""`twinlens models pull`: a model from a repository or a folder becomes one of a directory."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.output import confirm, say
from twinlens.cli.workbench.inspect_models import BYTES_PER_MB, speed_of
from twinlens.cli.workbench.make_models import FIRST_VERSION, add_card, new_card, text_spec
from twinlens.models.card import MAX_NAME_CHARS, Pulled, check_name
from twinlens.models.errors import BadInput
from twinlens.models.pull.address import RepositoryAddress, read_address
from twinlens.models.pull.graphs import check_size, external_files
from twinlens.models.pull.hub import Repository, fetch, look, sha256_of
from twinlens.models.pull.known import FREE_LICENCES, KNOWN_MODELS, KnownModel
from twinlens.models.pull.layout import ModelFiles, files_beside, find_files
from twinlens.models.pull.towers import FolderReader, Towers, Wishes
from twinlens.models.session import is_cpu
from twinlens.shared.names import printable
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.models.registry import Registry

_README_LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license(?:_name)?: *([^\n]+)\n")


class PullOptions(NamedTuple):
    """What the user says of a model besides where it is; None where the files are to tell."""

    name: str | None
    version: str | None
    dtype: str | None
    is_licence_accepted: bool
    wishes: Wishes


class _Opened(NamedTuple):
    """A model's files in a folder, and where they are from."""

    folder: Path
    files: ModelFiles
    names: Sequence[str]
    licence: str
    source: str
    revision: str | None


def pull_model(registry: Registry, text: str, options: PullOptions, cache: Path) -> str:
    """Adds a model from where the user says.

    Args:
        registry: The models.
        text: A name of a known model, hf:OWNER/REPO, an https address or a folder.
        options: What the user says besides.
        cache: Files that are fetched are kept here until the model is added.

    Returns:
        The new model, as name@version.
    """
    where = read_address(text)
    version = options.version or FIRST_VERSION
    name = options.name or _name_of(text, where)
    registry.check_new(name, version)
    fetched = None
    if isinstance(where, Path):
        there = _open_folder(where, options)
    else:
        fetched = _download_folder(cache, where)
        there = _download(where, KNOWN_MODELS.get(text), options, fetched)
    towers = FolderReader(there.folder, there.files, options.wishes).read()
    ref = _add(registry, name, version, text, there, towers)
    if fetched is not None:
        shutil.rmtree(fetched)
    return ref


def offer(registry: Registry, ref: str) -> None:
    """Says how fast a new model is, and what can be done with it."""
    card = registry.card(ref)
    say(f"{speed_of(registry, ref):.1f} pictures a second on one core of this machine")
    say(f"make a library of it: twinlens libraries set NAME --model {ref}")
    if card.text:
        say('its pictures are then found with words: twinlens search --library NAME --text "…"')


def _name_of(text: str, where: RepositoryAddress | Path) -> str:
    """Makes a model's name of a repository's or a folder's.

    Raises:
        BadInput: It cannot be made one.
    """
    if text in KNOWN_MODELS:
        return text
    own = where.resolve().name if isinstance(where, Path) else where.repository.partition("/")[2]
    name = re.sub("[^a-z0-9]+", "-", own.lower()).strip("-")[:MAX_NAME_CHARS].strip("-")
    try:
        return check_name(name)
    except ValueError as error:
        raise BadInput(f"{error}: pass --name") from None


def _dtype(options: PullOptions) -> str:
    """Returns the kind of weights: as asked, or float16 where a GPU computes."""
    return options.dtype or ("fp32" if is_cpu(Settings().execution_providers) else "fp16")


def _open_folder(folder: Path, options: PullOptions) -> _Opened:
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = find_files(sorted(there), _dtype(options), is_asked=options.dtype is not None)
    with_weights = [*files.names, *_external(folder, files)]
    names = [name for name in dict.fromkeys(with_weights) if (folder / name).is_file()]
    readme = folder / "README.md"
    said = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    licence = _README_LICENCE.search(said)
    return _Opened(
        folder,
        files,
        names,
        printable(licence[1].strip()) if licence else "unknown",
        printable(folder.resolve().name),
        None,
    )


def _download(
    address: RepositoryAddress, known: KnownModel | None, options: PullOptions, folder: Path
) -> _Opened:
    repository = look(address)
    files = find_files(
        sorted(repository.files), _dtype(options), is_asked=options.dtype is not None
    )
    names = [*files.names]
    for graph in files.graphs:
        names += files_beside(graph, repository.files)
        check_size(graph, _n_bytes(repository, [graph, *files_beside(graph, repository.files)]))
    licence = repository.licence or "unknown"
    if known is not None and licence in ("unknown", "other"):
        licence = known.licence
    _ask(repository, names, licence, options)
    folder = folder / repository.revision
    # What is small first: a gigabyte is not fetched for a processor that is not known.
    fetch(repository, [files.processor, *files.notes], folder)
    FolderReader(folder, files, options.wishes).read_preparation()
    fetch(repository, names, folder)
    beside = [name for name in _external(folder, files) if name in repository.files]
    fetch(repository, beside, folder)
    names = [*dict.fromkeys([*names, *beside])]
    return _Opened(folder, files, names, licence, str(address), repository.revision)


def _external(folder: Path, files: ModelFiles) -> list[str]:
    """Returns the files with weights that the graphs name, by their names in the folder."""
    return [
        f"{graph.rpartition('/')[0]}/{name}".removeprefix("/")
        for graph in files.graphs
        for name in external_files(folder / graph)
    ]


def _ask(repository: Repository, names: Sequence[str], licence: str, options: PullOptions) -> None:
    """Says what is fetched, and asks where its licence wants consent.

    Raises:
        Abort: The user does not accept it.
    """
    n_bytes = _n_bytes(repository, names)
    say(
        f"{repository.address} at {repository.revision[:12]}: licence {printable(licence)}, "
        f"{n_bytes / BYTES_PER_MB:.1f} MB in {len(names)} files",
        is_error=True,
    )
    is_free = licence.lower() in FREE_LICENCES and not repository.is_gated
    if not is_free and not options.is_licence_accepted:
        confirm(
            f"The licence ({printable(licence)}) may not allow what you do with it: read it at "
            f"{repository.url}. --accept-licence accepts it without this question."
        )


def _n_bytes(repository: Repository, names: Sequence[str]) -> int:
    return sum(repository.files[name].n_bytes for name in names)


def _download_folder(cache: Path, address: RepositoryAddress) -> Path:
    return cache / "pulled" / hashlib.sha256(str(address).encode()).hexdigest()[:16]


def _add(
    registry: Registry, name: str, version: str, text: str, there: _Opened, towers: Towers
) -> str:
    known = KNOWN_MODELS.get(text)
    card = new_card(
        name=name,
        version=version,
        title=known.title if known else printable(f"{there.source} {there.files.vision}"),
        spec=towers.pictures.input,
        dimension=towers.pictures.dimension,
        licence=there.licence,
        source=there.source,
    )
    files = {one: sha256_of(there.folder / one) for one in sorted(there.names)}
    pulled = Pulled(repository=there.source, revision=there.revision, files=files)
    card = card.model_copy(update={"pulled": pulled})
    words = towers.words
    if words is None:
        return add_card(registry, card, towers.pictures.model)
    card = card.model_copy(update={"text": text_spec(max_tokens=words.max_tokens)})
    return add_card(registry, card, towers.pictures.model, (words.graph, words.tokenizer))
