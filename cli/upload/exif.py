"""What a camera wrote into a picture: when it was taken, with what, and where.

Read from the header; pixels are never decoded. What is missing or makes no sense is left out, and
EXIF that is broken never fails a picture.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from twinlens.cli.upload.boxes import find_exif, is_of_boxes
from twinlens.models.formats import find_format
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twinlens.shared.messages import Metadata

MAX_CAMERA_CHARS = 100
FIRST_YEAR = 1826  # of the oldest photograph
# Six digits of a degree are 0.1 m.
N_DIGITS = 6

# When it was taken, or else when it was digitised; each with its part of a second and its zone.
_MOMENTS = (
    (Base.DateTimeOriginal, Base.SubsecTimeOriginal, Base.OffsetTimeOriginal),
    (Base.DateTimeDigitized, Base.SubsecTimeDigitized, Base.OffsetTimeDigitized),
)
_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE = re.compile(r"Z|([+-])(\d\d):?([0-5]\d)")
_MAX_ZONE_H = 14

# Pillow warns of each broken tag, of which a file may have thousands. Filters of warnings are of
# the whole process, so one thread at a time changes them.
_QUIET = threading.Lock()


def exif_metadata(content: bytes, *, with_place: bool = False) -> Metadata:
    """Returns what a picture's EXIF says as metadata.

    Args:
        content: The file.
        with_place: Whether `latitude`, `longitude` in degrees and `altitude` in metres are wanted.

    Returns:
        Of `taken_at` (ISO 8601, with its zone where that is known) and `camera` what is there.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main, photo, gps = _read(content)
    named: Metadata = {}
    if taken_at := _moment(photo):
        named["taken_at"] = taken_at
    if camera := _camera(_text(main, Base.Make), _text(main, Base.Model)):
        named["camera"] = camera
    return named | (_place(gps) if with_place else {})


def _read(content: bytes) -> tuple[Mapping[int, Any], Mapping[int, Any], Mapping[int, Any]]:
    """Returns the tags of the picture, of the photo and of the place, as far as they can be read.

    Whatever Pillow raises, and the list grows: a picture is sent without this part then.
    """
    parts: list[Mapping[int, Any]] = [{}, {}, {}]
    with suppress(Exception):
        exif = _exif_of(content)
        parts[0] = dict(exif)
        for place, directory in enumerate((IFD.Exif, IFD.GPSInfo), start=1):
            with suppress(Exception):
                parts[place] = exif.get_ifd(directory)
    return parts[0], parts[1], parts[2]


def _exif_of(content: bytes) -> Image.Exif:
    if is_of_boxes(content):
        # Pillow reads HEIF only with a decoder of it.
        exif = Image.Exif()
        exif.load(find_exif(content))
        return exif
    with Image.open(io.BytesIO(content), formats=[find_format(content)]) as image:
        # The class's own: that of a PNG decodes the pixels to look behind them.
        return Image.Image.getexif(image)


def _moment(tags: Mapping[int, Any]) -> str | None:
    for date_tag, part_tag, zone_tag in _MOMENTS:
        date = _DATE.match(_text(tags, date_tag))
        if date and _makes_sense(date):
            moment = "{}-{}-{}T{}:{}:{}".format(*date.groups())
            part = re.match(r"\d{1,6}", _text(tags, part_tag))
            return moment + (f".{part[0]}" if part else "") + _zone(_text(tags, zone_tag))
    return None


def _makes_sense(date: re.Match[str]) -> bool:
    try:
        moment = datetime.fromisoformat("{}-{}-{}T{}:{}:{}+00:00".format(*date.groups()))
    except ValueError:
        return False
    # A day for the zone, which may not be known.
    return moment.year >= FIRST_YEAR and moment < datetime.now(UTC) + timedelta(days=1)


def _zone(text: str) -> str:
    zone = _ZONE.fullmatch(text)
    if zone is None or int(zone[2] or 0) > _MAX_ZONE_H:
        return ""
    return f"{zone[1]}{zone[2]}:{zone[3]}" if zone[1] else "+00:00"


def _camera(make: str, model: str) -> str:
    """Joins maker and model, unless the model names the maker.

    >>> _camera("NIKON CORPORATION", "NIKON D750"), _camera("Apple", "iPhone 12")
    ('NIKON D750', 'Apple iPhone 12')
    """
    first = re.match(r"\w+", model)
    makers = re.findall(r"\w+", make.casefold())
    is_named = first is not None and first[0].casefold() in makers
    return (model if is_named else f"{make} {model}").strip()[:MAX_CAMERA_CHARS].strip()


def _place(tags: Mapping[int, Any]) -> Metadata:
    latitude = _degrees(tags, GPS.GPSLatitude, GPS.GPSLatitudeRef, "S", 90)
    longitude = _degrees(tags, GPS.GPSLongitude, GPS.GPSLongitudeRef, "W", 180)
    # What has no reception writes zeros.
    if latitude is None or longitude is None or latitude == longitude == 0:
        return {}
    place: Metadata = {"latitude": latitude, "longitude": longitude}
    altitude = _number(tags.get(GPS.GPSAltitude))
    if altitude is not None:
        is_below = tags.get(GPS.GPSAltitudeRef) in (1, b"\x01")
        place["altitude"] = round(-altitude if is_below else altitude, 2)
    return place


def _degrees(
    tags: Mapping[int, Any], tag: int, side_tag: int, negative: str, limit: int
) -> float | None:
    """Returns an angle of degrees, minutes and seconds; None where it makes no sense."""
    parts = tags.get(tag)
    numbers = [_number(part) for part in parts] if isinstance(parts, tuple) else []
    if not 1 <= len(numbers) <= 3 or None in numbers:
        return None
    angle = sum((number or 0.0) / 60.0**place for place, number in enumerate(numbers))
    if not 0 <= angle <= limit:
        return None
    return round(-angle if _text(tags, side_tag).upper() == negative else angle, N_DIGITS)


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # a fraction of Pillow's, or anything
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(tags: Mapping[int, Any], tag: int) -> str:
    value = tags.get(tag)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return " ".join(printable(value.partition("\0")[0]).split()) if isinstance(value, str) else ""
