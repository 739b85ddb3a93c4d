"""Pictures of zip archives that are read on this side, to have metadata with them."""

from __future__ import annotations

import stat
import zipfile
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.kinds import kind_by_name, says_picture
from twinlens.cli.upload.picture_file import PictureFile
from twinlens.shared.files import check_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twinlens.cli.upload.passed import PassedOver


def files_in_zip(path: Path, passed: PassedOver) -> Iterator[PictureFile]:
    """Gives the files of a zip archive that may be pictures by their names.

    Raises:
        CommandFailed: It cannot be read.
    """
    try:
        check_regular(path)
        # It is open as long as a picture of it is held. Threads may read it at the same time.
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CommandFailed(f"{path} cannot be read as a zip archive: {error}") from None
    for member in archive.infolist():
        # Some programs write the separators of Windows.
        name = member.filename.replace("\\", "/").lstrip("/")
        if name.endswith("/"):
            continue
        below = PurePosixPath(name)
        kind = "link" if stat.S_ISLNK(member.external_attr >> 16) else kind_by_name(name)
        if kind is not None:
            passed.add(path / below, kind)
            continue
        opener = partial(archive.open, member)
        yield PictureFile(path / below, below, member.file_size, opener, says_picture(name))
