"""What of an image filters and groups look at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING

from twinlens.shared.values import Kind, Value

if TYPE_CHECKING:
    from twinlens.shared.messages import Image


class OwnField(Enum):
    """What every image has, whatever its metadata; one that was sent without a name has none."""

    NAME = "name"
    WIDTH = "width"
    HEIGHT = "height"
    FORMAT = "format"
    BYTES = "bytes"
    ADDED_AT = "added_at"

    @property
    def kind(self) -> Kind:
        if self is OwnField.ADDED_AT:
            return Kind.MOMENT
        return Kind.STRING if self in (OwnField.NAME, OwnField.FORMAT) else Kind.NUMBER


Field = str | OwnField  # a key of the metadata, or what is the image's own
Fields = Mapping[Field, Value]

_EPOCH = datetime.fromtimestamp(0, UTC)
_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))?"
)


def fields_of(image: Image) -> Fields:
    """Returns what filters and groups look at. Times are to the millisecond, as they are shown."""
    own: dict[Field, Value] = {
        OwnField.WIDTH: image.width,
        OwnField.HEIGHT: image.height,
        OwnField.FORMAT: image.format,
        OwnField.BYTES: image.bytes,
        OwnField.ADDED_AT: _unix_time((image.added_at - _EPOCH) // timedelta(milliseconds=1), 3),
    }
    if image.name:
        own[OwnField.NAME] = image.name
    return own | image.metadata


def read_moment(text: str) -> Decimal | None:
    """Reads a date or a time as RFC 3339 writes them, to whatever fraction of a second.

    Returns:
        Unix time in seconds, of a date its first moment in UTC; None if it is neither.

    >>> read_moment("1970-01-02T01:00:00.25+01:00")
    Decimal('86400.25')
    """
    written = _RFC_3339.fullmatch(text)
    if written is None:
        return None
    day, clock, fraction, zone = written.groups("")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{zone.upper() or 'Z'}")
    except ValueError:
        return None
    whole_s = (moment - _EPOCH) // timedelta(seconds=1)
    n_digits = len(fraction)
    return _unix_time(whole_s * 10**n_digits + int(fraction or 0), n_digits)


def _unix_time(count: int, n_digits: int) -> Decimal:
    # Written, since arithmetic with Decimals would round to 28 digits.
    return Decimal(f"{count}E-{n_digits}")
