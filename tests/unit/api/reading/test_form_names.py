"""Names of parts and files in forms: kept readable, whatever bytes they are."""

from __future__ import annotations

import pytest

from twinlens.api.reading.uploads import Entry, form_entries
from twinlens.shared.errors import BadRequest, ValidationFailed


def read(disposition: bytes) -> list[Entry]:
    head = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n"
    content_type = "multipart/form-data; boundary=b"
    return list(form_entries(content_type, [head + b"x\r\n--b--\r\n"], 9, 9))


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("né фото 😀.jpg".encode(), "né фото 😀.jpg"),
        # The second byte is a line break to Python, if it is taken for a letter.
        ("Å….jpg".encode(), "Å….jpg"),
        (b"n\xe9.jpg", "n\ufffd.jpg"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a%22b.jpg", 'a"b.jpg'),
        (b"a\\\\b.jpg", "a\\\\b.jpg"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("form", [b'name="files"; filename="%s"', b'filename="%s"; name="files"'])
def test_the_name_of_a_file(raw: bytes, name: str, form: bytes) -> None:
    [entry] = read(form % raw)
    assert entry.name == name


def test_the_name_of_a_part_that_is_refused() -> None:
    with pytest.raises(ValidationFailed) as caught:
        read(b'name="fil\xe9\x1b[2J"')
    assert caught.value.errors[0].location == "form:fil\ufffd[2J"
    assert "'fil\ufffd[2J'" in caught.value.detail


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data\xff",
        b"Content-Disposition: \xff",
        b"\xff: x",
        b"X",
        b" continued",
        b"Content-Length: \xd9\xa1\r\nContent-Disposition: form-data",
        b"Content-Length: " + b"9" * 4000 + b"\r\nContent-Disposition: form-data; name=files",
    ],
)
def test_no_error_of_a_form_has_python_in_it(head: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        list(
            form_entries(
                "multipart/form-data; boundary=b", [b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--"], 9, 9
            )
        )
    assert not set(caught.value.detail) & set("('\\)")
