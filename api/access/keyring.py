"""Where the records of keys are: a file each, in a folder of the data directory.

Not in Redis: whoever empties it, or restores an old state of it, would lock everybody out, or let
everybody in. A request reads the one file that its key names, so that a new key counts at once, and
a revoked one no longer, in every process.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from twinlens.api.access.keys import KEY_ID, KeyRecord, id_of
from twinlens.shared.blobs import BlobStore
from twinlens.shared.messages import now

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_RECORD = re.compile(rf"({KEY_ID})\.json")


class Keyring:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder. It is made with the first key."""
        self._folder = folder
        self._files = BlobStore(folder.parent)
        self._was_there = False

    def is_there(self) -> bool:
        """Tells if there is, or was, any key: then requests need one, whatever became of it.

        Who takes the folder away while the service runs opens nothing.

        Raises:
            OSError: That cannot be told.
        """
        if not self._was_there:
            try:
                os.stat(self._folder)  # noqa: PTH116 (`exists` takes every error for a no)
            except FileNotFoundError:
                return False
            self._was_there = True
        return True

    def add(self, record: KeyRecord) -> None:
        """Keeps a new record; when this returns, it survives a power cut.

        Raises:
            OSError: It cannot be written.
        """
        if not self.is_there():
            self._folder.mkdir(mode=0o700)
        self._write(record)

    def all(self) -> list[KeyRecord]:
        """Returns all records, the oldest first.

        Raises:
            OSError: They cannot be read.
        """
        names = os.listdir(self._folder) if self.is_there() else []  # noqa: PTH208 (names alone)
        ids = [match[1] for name in names if (match := _RECORD.fullmatch(name))]
        records = [record for key_id in ids if (record := self._read(key_id))]
        return sorted(records, key=lambda record: record.created_at)

    def revoke(self, key_id: str) -> KeyRecord | None:
        """Ends a key. One that was revoked before stays as it is.

        Returns:
            Its record; None where there is no such key.

        Raises:
            OSError: It cannot be read or written.
        """
        record = self._read(key_id) if re.fullmatch(KEY_ID, key_id) else None
        if record is not None and record.revoked_at is None:
            record.revoked_at = now()
            self._write(record)
        return record

    def find(self, key: str) -> KeyRecord | None:
        """Returns the record of a key, though it has expired or is revoked.

        Raises:
            OSError: It cannot be read.
        """
        key_id = id_of(key)
        record = self._read(key_id) if key_id else None
        return record if record is not None and record.is_of(key) else None

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.json"

    def _read(self, key_id: str) -> KeyRecord | None:
        try:
            return KeyRecord.model_validate_json(self._path(key_id).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            log.error("the record of key %s is broken: the key is refused", key_id)  # noqa: TRY400
            return None

    def _write(self, record: KeyRecord) -> None:
        text = record.model_dump_json(indent=2) + "\n"
        self._files.replace(f"{self._folder.name}/{record.id}.json", text.encode())
