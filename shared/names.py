"""File names and other words that clients give: text that is shown, never a path to open."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

MAX_NAME_CHARS = 255

Kind: TypeAlias = Literal["system file", "sidecar", "document", "video", "audio", "archive"]

# Control characters, separators of lines and paragraphs, and Unicode's bidi controls (UAX 9), which
# turn what stands beside them around, so that `gpj.exe` reads `exe.jpg`.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_LINE_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")
_SURROGATES = re.compile("[\ud800-\udfff]")

_SUFFIXES: dict[Kind, str] = {
    "sidecar": "aae cos db dop ini json lrv md5 on1 pp3 sha1 sha256 thm xml xmp",
    "document": "csv doc docx htm html log md nfo odt pdf ppt pptx rtf tsv txt url xls xlsx",
    "video": "3g2 3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv vob webm wmv",
    "audio": "aac aif aiff amr flac m4a mid mp3 oga ogg opus wav wma",
    "archive": "7z bz2 gz rar tar tgz xz zip zst",
}
_KINDS: dict[str, Kind] = {
    suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()
}
# Of macOS, Windows, Synology and QNAP, Picasa, Android.
_SYSTEM_FOLDERS = {"__macosx", "@eadir", ".@__thumb", "#recycle", "$recycle.bin", ".thumbnails"}
_SYSTEM_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon", ".picasa.ini"}
_SYSTEM_FILES |= {".nomedia"}


def printable(text: str) -> str:
    """Returns a text as it may reach a terminal, a log or a page.

    What could not be decoded becomes U+FFFD; control characters are left out.
    """
    return _UNPRINTABLE.sub("", _SURROGATES.sub("\ufffd", text))


def clean_name(name: str) -> str:
    r"""Returns what is kept of a client's file name: short, printable, with its folders.

    What could not be decoded becomes U+FFFD. Of a path that is too long, the end is kept.

    >>> clean_name("C:\\Photos\\2019\\cat.jpg")
    'C:/Photos/2019/cat.jpg'
    >>> clean_name("../../etc/pass\nwd")
    'etc/passwd'
    """
    parts = [part for part in re.split(r"[/\\]", printable(name)) if part not in ("", ".", "..")]
    kept = ""
    for part in reversed(parts):
        if kept and len(part) + 1 + len(kept) > MAX_NAME_CHARS:
            break
        kept = f"{part}/{kept}" if kept else part[:MAX_NAME_CHARS]
    return kept


def clean_text(text: str) -> str:
    r"""Returns what is kept of other words of a client: printable, on one line.

    >>> clean_text("by the\r\n\tsea\x1b[2J")
    'by the sea[2J'
    """
    return printable(_LINE_BREAKS.sub(" ", text))


def last_part(name: str) -> str:
    """Returns a cleaned name without its folders."""
    return name.rpartition("/")[2]


def kind_of_other(name: str) -> Kind | None:
    """Returns what a file is that plainly is no picture, by its name; None for all others.

    >>> kind_of_other("2019/IMG_0001.JPG.json")
    'sidecar'
    """
    *folders, last = re.split(r"[/\\]", name.lower())
    if last.startswith("._") or last.strip() in _SYSTEM_FILES or _SYSTEM_FOLDERS & set(folders):
        return "system file"
    return _KINDS.get(last.rpartition(".")[2]) if "." in last else None
