"""Bulk uploads whose pieces are made as they are read, so that a test may act in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.requests import Body, Client, Piece
from werkzeug.exceptions import ClientDisconnected

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from twinlens.shared.settings import Settings

END = b"--b--\r\n"
BREAK = ClientDisconnected()


def part(name: str, content: bytes) -> bytes:
    named = f'form-data; name="files"; filename="{name}"'
    return f"--b\r\nContent-Disposition: {named}\r\n\r\n".encode() + content + b"\r\n"


def parts(n_pictures: int) -> list[bytes]:
    return [part(f"p{n}", b"picture %d" % n) for n in range(n_pictures)]


def post_pieces(
    client: Client,
    pieces: Iterable[Piece],
    key: str | None = None,
    content_type: str = "multipart/form-data; boundary=b",
    library: str = "default",
    **terms: str,
) -> Any:
    return client.post(
        "/v1/images/bulk",
        query_string={"library": library, **terms},
        headers={} if key is None else {"Idempotency-Key": key},
        environ_overrides={
            "CONTENT_TYPE": content_type,
            "wsgi.input": Body(pieces),
            "wsgi.input_terminated": True,
        },
    )


def the_job(client: Client) -> dict[str, Any]:
    [job] = client.get("/v1/jobs").json["items"]
    return dict(job)


def manifests_of(settings: Settings) -> list[Path]:
    """Returns the manifests that are on the disk."""
    return sorted((settings.blob_dir / "manifests").rglob("*.jsonl"))
