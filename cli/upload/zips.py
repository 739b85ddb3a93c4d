"""Pictures of zip archives, by their directory: new ones alone are sent, with what is on them."""

from __future__ import annotations

import errno
import stat
import zipfile
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from twinlens.api.reading.zip_records import UTF8, decode_name
from twinlens.cli.upload.kinds import kind_by_name, says_picture
from twinlens.cli.upload.picture_file import PictureFile
from twinlens.shared.files import check_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twinlens.cli.upload.passed import PassedOver


def files_in_zip(
    path: Path, passed: PassedOver, on_error: Callable[[OSError], None]
) -> Iterator[PictureFile]:
    """Gives the files of a zip archive that may be pictures by their names.

    Args:
        path: The archive.
        passed: Counts the other files.
        on_error: Called with the error where the archive cannot be read.
    """
    try:
        check_regular(path)
        # It is open as long as a picture of it is held. Threads may read it at the same time.
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        reason = f"it cannot be read as a zip archive: {error}"
        on_error(OSError(errno.EINVAL, reason, str(path)))
        return
    for member in archive.infolist():
        # Some programs write the separators of Windows.
        name = _name_of(member).replace("\\", "/").lstrip("/")
        if name.endswith("/"):
            continue
        below = PurePosixPath(name)
        kind = "link" if stat.S_ISLNK(member.external_attr >> 16) else kind_by_name(name)
        if kind is not None:
            passed.add(path / below, kind)
            continue
        opener = partial(archive.open, member)
        yield PictureFile(path / below, below, member.file_size, opener, says_picture(name))


def _name_of(member: zipfile.ZipInfo) -> str:
    """Returns a name by the service's rules: `zipfile` takes what is not marked for code page 437.

    Newer ones read the Unicode path field, too.
    """
    if member.flag_bits & UTF8:
        return member.filename
    try:
        raw = member.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return member.filename
    return decode_name(raw, member.flag_bits, member.extra)
