"""What a camera wrote becomes metadata, as far as it makes sense."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from twinlens.api.reading.uploads import parse_metadata
from twinlens.cli.upload.exif import exif_metadata
from twinlens.shared.messages import Metadata

DATE = "2019:07:14 18:03:22"


def photo(
    main: dict[int, Any] | None = None,
    taken: dict[int, Any] | None = None,
    place: dict[int, Any] | None = None,
    kind: str = "JPEG",
) -> bytes:
    exif, content = Image.Exif(), io.BytesIO()
    exif.update(main or {})
    exif.get_ifd(IFD.Exif).update(taken or {})
    exif.get_ifd(IFD.GPSInfo).update(place or {})
    if kind == "TIFF":  # else Pillow writes no directory of the photo
        exif[IFD.Exif] = 0
    Image.new("RGB", (4, 4), "red").save(content, kind, exif=exif)
    return content.getvalue()


AVIF = photo({Base.Make: "Apple"}, {Base.DateTimeOriginal: DATE}, kind="AVIF")


def taken_at(**tags: Any) -> Any:
    return exif_metadata(photo(taken={Base[name]: value for name, value in tags.items()})).get(
        "taken_at"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_exif_is_read_of_every_format_that_has_it(kind: str) -> None:
    content = photo(
        {Base.Make: "Apple", Base.Model: "iPhone 12"}, {Base.DateTimeOriginal: DATE}, kind=kind
    )
    assert exif_metadata(content) == {
        "taken_at": "2019-07-14T18:03:22",
        "camera": "Apple iPhone 12",
    }


def test_exif_of_heif_is_read_without_a_decoder() -> None:
    content = photo({Base.Make: "Apple"}, {Base.DateTimeOriginal: DATE}, kind="AVIF")
    heif = content.replace(b"ftypavif", b"ftypheic").replace(b"av01", b"hvc1")
    assert exif_metadata(heif) == {"taken_at": "2019-07-14T18:03:22", "camera": "Apple"}
    for n_bytes in range(0, len(heif), 7):
        exif_metadata(heif[:n_bytes])


@given(st.data())
def test_a_broken_heif_never_fails(data: st.DataObject) -> None:
    content = bytearray(AVIF)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert set(exif_metadata(bytes(content))) <= {"taken_at", "camera"}


def test_a_moment_has_its_zone_and_part_of_a_second_where_they_are_known() -> None:
    original = {
        "DateTimeOriginal": DATE,
        "OffsetTimeOriginal": "+02:00",
        "SubsecTimeOriginal": "07",
    }
    assert taken_at(**original) == "2019-07-14T18:03:22.07+02:00"
    assert taken_at(DateTimeOriginal=DATE, OffsetTimeOriginal="Z") == "2019-07-14T18:03:22+00:00"
    for nonsense in ("", "   :  ", "+99:00", "+02:61", "CEST"):
        assert taken_at(DateTimeOriginal=DATE, OffsetTimeOriginal=nonsense) == "2019-07-14T18:03:22"
    assert taken_at(DateTimeOriginal=DATE, SubsecTimeOriginal="  ") == "2019-07-14T18:03:22"


def test_when_it_was_digitised_stands_in_for_when_it_was_taken() -> None:
    digitised = {"DateTimeDigitized": "2001:02:03 04:05:06", "OffsetTimeDigitized": "-05:00"}
    assert taken_at(**digitised) == "2001-02-03T04:05:06-05:00"
    assert taken_at(**digitised, DateTimeOriginal=DATE) == "2019-07-14T18:03:22"
    broken = {"DateTimeOriginal": "0000:00:00 00:00:00"}
    assert taken_at(**digitised, **broken) == "2001-02-03T04:05:06-05:00"
    # When a file was changed says nothing of the photo.
    assert exif_metadata(photo({Base.DateTime: DATE})) == {}


@pytest.mark.parametrize(
    "date",
    [
        "0000:00:00 00:00:00",
        "    :  :     :  :  ",
        "2019:13:01 00:00:00",
        "2019:02:30 00:00:00",
        "2019:07:14 25:00:00",
        "1700:01:01 00:00:00",
        "9999:01:01 00:00:00",
        "2019",
        "yesterday",
        "",
    ],
)
def test_a_date_that_makes_no_sense_is_left_out(date: str) -> None:
    assert taken_at(DateTimeOriginal=date) is None


@pytest.mark.parametrize("date", ["2019-07-14 18:03:22", "2019/07/14 18:03:22", f"{DATE}\0\0"])
def test_dates_are_read_as_programs_write_them(date: str) -> None:
    assert taken_at(DateTimeOriginal=date) == "2019-07-14T18:03:22"


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 80D", "Canon EOS 80D"),
        ("NIKON CORPORATION", "NIKON D750", "NIKON D750"),
        ("EASTMAN KODAK COMPANY", "KODAK DX4530", "KODAK DX4530"),
        ("LG Electronics", "LG-H870", "LG-H870"),
        ("Apple", "iPhone 12", "Apple iPhone 12"),
        ("SONY  ", " DSC-RX100\0\0", "SONY DSC-RX100"),
        ("Canon", "", "Canon"),
        ("", "COOLPIX", "COOLPIX"),
        ("a\x1b[31m", "b\nc", "a[31m bc"),
        ("x" * 300, "y", "x" * 100),
    ],
)
def test_maker_and_model_are_one_name(make: str, model: str, camera: str) -> None:
    assert exif_metadata(photo({Base.Make: make, Base.Model: model})) == {"camera": camera}


NICE: dict[int, Any] = {
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (43.0, 42.0, 36.0),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (7.0, 15.0, 43.2),
}


def place(**tags: Any) -> Metadata:
    changed = NICE | {GPS[name]: value for name, value in tags.items()}
    return exif_metadata(photo(place=changed), with_place=True)


def test_a_place_is_read_only_where_it_is_asked_for() -> None:
    assert exif_metadata(photo(place=NICE)) == {}
    assert place() == {"latitude": 43.71, "longitude": 7.262}
    south_west = place(GPSLatitudeRef="S", GPSLongitudeRef="W")
    assert south_west == {"latitude": -43.71, "longitude": -7.262}
    assert place(GPSAltitude=12.5)["altitude"] == 12.5
    assert place(GPSAltitude=12.5, GPSAltitudeRef=b"\1")["altitude"] == -12.5


@pytest.mark.parametrize(
    "tags",
    [
        {"GPSLatitude": (91.0, 0.0, 0.0)},
        {"GPSLongitude": (180.0, 30.0, 0.0)},
        {"GPSLatitude": (0.0, 0.0, 0.0), "GPSLongitude": (0.0, 0.0, 0.0)},
        {"GPSLatitude": (IFDRational(0, 0), IFDRational(0, 0), IFDRational(0, 0))},
    ],
)
def test_a_place_that_makes_no_sense_is_left_out(tags: dict[str, Any]) -> None:
    assert place(**tags) == {}


def test_pixels_are_not_decoded_and_what_is_cut_short_is_read_as_far_as_it_goes() -> None:
    content = photo({Base.Make: "Apple"}, {Base.DateTimeOriginal: DATE}, kind="PNG")
    cut = content[: content.index(b"IDAT") + 6]
    assert exif_metadata(cut)["camera"] == "Apple"


def test_pixels_are_not_decoded_where_there_is_no_exif(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def load(image: ImageFile.ImageFile) -> None:
        decoded.append(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
        content = io.BytesIO()
        Image.new("RGB", (4, 4)).save(content, kind)
        assert exif_metadata(content.getvalue()) == {}
    assert decoded == []


def test_a_broken_tag_leaves_those_before_it() -> None:
    content = photo({Base.Make: "Apple", Base.Software: "x" * 10})
    count = content.index(Base.Software.to_bytes(2) + b"\0\2") + 4
    broken = content[:count] + b"\0\0\xff\xff" + content[count + 4 :]
    # Pillow warns of it, and warnings are errors here.
    assert exif_metadata(broken) == {"camera": "Apple"}


def test_one_part_that_is_broken_leaves_the_others() -> None:
    content = photo({Base.Make: "Apple"}, {Base.DateTimeOriginal: DATE}, NICE)
    pointer = content.index(IFD.Exif.to_bytes(2) + b"\0\x04\0\0\0\x01")
    lost = content[: pointer + 8] + b"\xff" * 4 + content[pointer + 12 :]
    assert exif_metadata(lost, with_place=True) == {
        "camera": "Apple",
        "latitude": 43.71,
        "longitude": 7.262,
    }


@given(st.binary(max_size=400), st.booleans())
@example(b"", False)
def test_broken_exif_never_fails_nor_warns(noise: bytes, is_cut: bool) -> None:
    block = b"Exif\0\0II*\0\x08\0\0\0" + noise
    app1 = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    content = b"\xff\xd8" + app1 + (b"" if is_cut else photo()[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metadata = exif_metadata(content, with_place=True)
    # The service takes it as it is.
    assert parse_metadata(json.dumps(metadata).encode()) == metadata


def test_what_is_no_picture_says_nothing() -> None:
    for content in (b"", b"no picture", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"):
        assert exif_metadata(content, with_place=True) == {}


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def test_parts_that_overlap_do_not_add_up_to_gigabytes() -> None:
    item = box(b"infe", struct.pack(">IHH4s", 2 << 24, 1, 0, b"Exif"))
    parts = struct.pack(">II", 0, 1 << 20) * 1000
    places = struct.pack(">IBBHHHH", 0, 0x44, 0, 1, 1, 0, 1000) + parts
    boxes = box(b"iinf", struct.pack(">IH", 0, 1) + item) + box(b"iloc", places)
    heif = box(b"ftyp", b"heic") + box(b"meta", bytes(4) + boxes) + bytes(1 << 20)
    tracemalloc.start()
    assert exif_metadata(heif) == {}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20
