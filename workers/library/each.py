"""Looks after every library, whatever is wrong with one of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from twinlens.shared.errors import TwinlensError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog

log = logging.getLogger(__name__)


def look_after_each(catalog: Catalog, look_after: Callable[[Library], None]) -> None:
    """Does something for each library; one may just have been removed, or lack a model.

    Raises:
        Unavailable: A part does not answer: that is so for all of them.
    """
    for library in catalog.libraries():
        try:
            look_after(library)
        except Unavailable:
            raise
        except TwinlensError as error:
            log.warning("library %s is not looked after: %s", library.name, error)
