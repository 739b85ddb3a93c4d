"""What a file is, and with that whether it is sent: by its name, and then by its first bytes.

| its name says | |
|---|---|
| sidecar, document, video, audio, archive, system file; or it is hidden | passed over, unread |
| picture | sent, whatever it holds: the service says what it thinks of it |
| anything else, or nothing | the first bytes decide |

Begins it like a picture of a type that no service takes, it is passed over under that type's name.
HEIF is sent: whether it is taken depends on what is installed with the service.
"""

from __future__ import annotations

from twinlens.models.formats import BIG_TIFF_HEADS, RAW_HEADS, find_format
from twinlens.shared.errors import UnsupportedPicture
from twinlens.shared.names import kind_of_other

# As many as are looked at; a file system reads a page in any case.
HEAD_BYTES = 512

_PICTURES = "jpg jpeg jpe jfif png gif webp tif tiff bmp avif heic heif hif"
_PICTURE_SUFFIXES = frozenset(_PICTURES.split())
# Most raw files begin as TIFF, so their name tells.
_TIFF = (b"II*\0", b"MM\0*")
_RAW = "raw photo"
_RAW_SUFFIXES = (
    "3fr ari arw cr2 cr3 crw dcr dng erf fff gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 "
    "rwl sr2 srf srw x3f"
)

# Kind, how such files begin, and what their names end with.
_UNSERVED: tuple[tuple[str, tuple[bytes, ...], str], ...] = (
    (_RAW, RAW_HEADS, _RAW_SUFFIXES),
    ("PSD picture", (b"8BPS",), "psd psb"),
    ("JPEG 2000 picture", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), "jp2 j2k jpf jpx jpm j2c jpc"),
    ("JPEG XL picture", (b"\0\0\0\x0cJXL ", b"\xff\x0a"), "jxl"),
    ("JPEG XR picture", (b"II\xbc",), "jxr wdp hdp"),
    ("BigTIFF picture", BIG_TIFF_HEADS, "btf tf8 bigtiff"),
    ("OpenEXR picture", (b"v/1\x01",), "exr"),
    ("Radiance picture", (b"#?RADIANCE", b"#?RGBE"), "hdr"),
    ("XCF picture", (b"gimp xcf",), "xcf"),
    ("PNM picture", tuple(b"P%d\n" % n for n in range(1, 8)), "pbm pgm ppm pnm pam pfm"),
    ("DDS picture", (b"DDS ",), "dds"),
    ("QOI picture", (b"qoif",), "qoi"),
    ("TGA picture", (), "tga"),
    ("icon", (b"\0\0\1\0", b"icns"), "ico cur icns"),
    ("drawing", (b"<svg", b"%!PS"), "svg svgz eps ai wmf emf"),
)
_KIND_BY_SUFFIX = {suffix: kind for kind, _, suffixes in _UNSERVED for suffix in suffixes.split()}


def says_picture(name: str) -> bool:
    """Tells if a file's name is a picture's.

    >>> says_picture("2019/IMG_0001.JPG")
    True
    """
    return _suffix(name) in _PICTURE_SUFFIXES


def kind_by_name(name: str) -> str | None:
    """Returns what a file is that is passed over unread; None for all others.

    Args:
        name: With its folders below what the user gave.
    """
    is_hidden = any(part.strip(".") and part.startswith(".") for part in name.split("/"))
    return kind_of_other(name) or ("hidden file" if is_hidden else None)


def kind_of_folder(name: str) -> str | None:
    """Returns what a folder is that is not entered; None for all others."""
    if kind_of_other(f"{name}/"):
        return "system folder"
    return "hidden folder" if name.startswith(".") else None


def kind_by_head(name: str, head: bytes) -> str | None:
    """Returns what a file is that is passed over for what it holds; None for a picture.

    Args:
        name: Its name.
        head: Its first HEAD_BYTES.

    >>> kind_by_head("scan", b"8BPS" + bytes(40))
    'PSD picture'
    """
    by_suffix = _KIND_BY_SUFFIX.get(_suffix(name))
    is_raw_tiff = by_suffix == _RAW and head.startswith(_TIFF)
    if _may_be_served(head) and not is_raw_tiff:
        return None
    for kind, beginnings, _ in _UNSERVED:
        if head.startswith(beginnings):
            return kind
    return by_suffix or ("other file" if head else "empty file")


def _may_be_served(head: bytes) -> bool:
    try:
        find_format(head)
    except UnsupportedPicture:
        return False
    return True


def _suffix(name: str) -> str:
    return name.lower().rpartition(".")[2] if "." in name else ""
