"""How much of the disk is to stay free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings


def has_room(settings: Settings, n_bytes: int) -> bool:
    """Tells if the data directory takes so many bytes more, and leaves the reserve free.

    Raises:
        FileNotFoundError: There is no data directory yet.
    """
    disk = os.statvfs(settings.data_dir)
    return disk.f_bavail * disk.f_frsize - n_bytes >= settings.disk_reserve_bytes
