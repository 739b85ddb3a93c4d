from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from support.archives import OPEN, Written, written_zip, zip_of
from support.requests import Body, assert_problem, client_of, counts, form_body

from twinlens.api.reading.archives import RATIO_GRACE_BYTES
from twinlens.shared.blobs import BlobStore, image_key, manifest_key
from twinlens.shared.messages import Item, ManifestHead, ManifestItem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


ZIP = {"content_type": "application/zip"}


def post_zip(client: Client, content: bytes, **options: Any) -> Any:
    return client.post("/v1/images/bulk", data=content, content_type="application/zip", **options)


def post_files(client: Client, files: Mapping[str, bytes], **options: Any) -> Any:
    parts = [("files", (name, content)) for name, content in files.items()]
    return client.post("/v1/images/bulk", **form_body(parts), **options)


def manifest(settings: Settings, job_id: str) -> list[tuple[ManifestHead, list[ManifestItem]]]:
    folder = settings.blob_dir / "manifests" / job_id
    return [
        (
            ManifestHead.model_validate_json(head),
            [ManifestItem.model_validate_json(line) for line in lines],
        )
        for head, *lines in (path.read_bytes().splitlines() for path in sorted(folder.iterdir()))
    ]


def items_of(settings: Settings, job_id: str) -> list[ManifestItem]:
    return [item for _, items in manifest(settings, job_id) for item in items]


def tar(files: Mapping[str, bytes], mode: Any = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def post_tar(client: Client, files: Mapping[str, bytes], **options: Any) -> Any:
    content_type = "application/gzip"
    return client.post("/v1/images/bulk", data=tar(files), content_type=content_type, **options)


@pytest.mark.parametrize(
    "post", [post_files, post_tar, lambda c, f, **o: post_zip(c, zip_of(f), **o)]
)
def test_many_pictures_become_one_job_of_chunks(
    client: Client, worker: StandIn, settings: Settings, post: Any
) -> None:
    files = {f"p{n}.jpg": f"picture {n}".encode() for n in range(9)}
    response = post(client, files, headers={"X-Request-ID": "bulk-1"})

    assert response.status_code == 202
    job = response.json
    assert (job["kind"], job["progress"]["total"]) == ("bulk", 9)
    chunks = manifest(settings, job["id"])
    assert [head.chunk for head, _ in chunks] == [0, 1, 2]
    assert [head.is_last for head, _ in chunks] == [False, False, True]
    assert [len(items) for _, items in chunks] == [4, 4, 1]
    assert {item.name: item.image_id for _, items in chunks for item in items} == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    blobs = BlobStore(settings.blob_dir)
    for content in files.values():
        key = image_key("default", hashlib.sha256(content).hexdigest())
        assert blobs.get(key) == content
    tasks = worker.queued()
    # Of the three, as many as fit a service without a worker.
    assert [task["id"] for task in tasks] == [f"{job['id']}.{n}" for n in range(2)]
    assert {task["queue"] for task in tasks} == {"bulk"}
    assert {task["request_id"] for task in tasks} == {"bulk-1"}


FILES = {"a.jpg": b"a", "b.jpg": b"b"}
TARS = {
    "plain": tar(FILES, "w"),
    "gzip": tar(FILES, "w:gz"),
    "zstd": zstandard.compress(tar(FILES, "w")),
}


@pytest.mark.parametrize("packed", TARS)
@pytest.mark.parametrize("kind", ["x-tar", "gzip", "x-gzip", "x-gtar", "zstd"])
def test_how_a_tar_archive_is_packed_is_seen_in_its_bytes(
    client: Client, settings: Settings, packed: str, kind: str
) -> None:
    content_type = f"application/{kind}"
    body = TARS[packed]
    response = client.post("/v1/images/bulk", data=body, content_type=content_type)
    assert response.status_code == 202, response.text
    assert [item.name for item in items_of(settings, response.json["id"])] == list(FILES)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("zip", zip_of(FILES)),
        ("x-zip-compressed", zip_of(FILES)),
        ("x-ndjson", b'{"uri": "file:///a.jpg"}\n{"uri": "file:///b.jpg"}'),
        ("jsonl", b'{"uri": "file:///a.jpg"}\n{"uri": "file:///b.jpg"}'),
    ],
)
def test_archives_and_listings_have_several_types(
    client: Client, settings: Settings, kind: str, body: bytes
) -> None:
    content_type = f"application/{kind}; charset=utf-8"
    response = client.post("/v1/images/bulk", data=body, content_type=content_type)
    assert response.status_code == 202, response.text
    assert [item.name for item in items_of(settings, response.json["id"])] == list(FILES)


def test_a_form_keeps_metadata_and_the_size_of_each_picture(
    client: Client, settings: Settings
) -> None:
    parts = [
        ("metadata", (None, b'{"year": 2020}')),
        ("files", ("a.jpg", b"abc")),
        ("files", ("b.jpg", b"de")),
    ]
    response = client.post("/v1/images/bulk", **form_body(parts))
    kept = [(one.metadata, one.n_bytes) for one in items_of(settings, response.json["id"])]
    assert kept == [({"year": 2020}, 3), (None, 2)]


@pytest.mark.parametrize("n_files", [4, 8])
def test_the_last_chunk_is_marked_where_chunks_come_out_even(
    client: Client, settings: Settings, n_files: int
) -> None:
    job_id = post_files(client, {f"{n}": b"%d" % n for n in range(n_files)}).json["id"]
    heads = [head for head, _ in manifest(settings, job_id)]
    assert [head.is_last for head in heads] == [False] * (n_files // 4 - 1) + [True]


def test_bad_entries_are_failed_items(client: Client, settings: Settings) -> None:
    content = zip_of(
        {
            "good.jpg": b"good",
            "empty.jpg": b"",
            "huge.jpg": b"h" * 10_001,
            "../up.jpg": b"up",
            "/root.jpg": b"root",
            "C:\\win.jpg": b"win",
            "sub/folder/kept.jpg": b"kept",
            "sub/": b"",
        }
    )
    job = post_zip(client, content).json
    items = items_of(settings, job["id"])
    assert job["progress"]["total"] == len(items) == 7
    errors = {item.name: item.error and item.error.type.rpartition(":")[2] for item in items}
    assert errors == {
        "good.jpg": None,
        "empty.jpg": "empty-picture",
        "huge.jpg": "payload-too-large",
        "up.jpg": "bad-archive",
        "root.jpg": None,
        "C:/win.jpg": None,
        "sub/folder/kept.jpg": None,
    }
    assert all((item.image_id is None) == (item.error is not None) for item in items)


OTHERS = {"a.json": b"{}", "film.mp4": b"m" * 99_999, "Thumbs.db": b"t", "__MACOSX/._a.jpg": b"m"}


@pytest.mark.parametrize(
    "post", [post_tar, lambda c, f, **o: post_zip(c, zip_of(f), **o)], ids=["tar", "zip"]
)
def test_what_is_no_picture_by_its_name_is_passed_over_and_counted(
    client: Client, settings: Settings, post: Any
) -> None:
    key = {"Idempotency-Key": "k"}
    pictures = {f"{n}.jpg": b"%d" % n for n in range(5)}
    job = post(client, pictures | OTHERS, headers=key).json
    assert (job["progress"]["total"], job["progress"]["passed_over"]) == (5, 4)
    assert [item.name for item in items_of(settings, job["id"])] == list(pictures)
    assert client.get(f"/v1/jobs/{job['id']}").json["progress"]["passed_over"] == 4
    # They are no part of what was asked for.
    again = post(client, pictures, headers=key).json
    assert (again["id"], again["progress"]["passed_over"]) == (job["id"], 4)

    problem = assert_problem(post(client, OTHERS), 422, "validation-failed")
    assert problem["detail"].startswith("The upload has no pictures.")
    assert "passed over, as none by their names: 4." in problem["detail"]


def test_an_archive_that_breaks_off_tells_what_was_passed_over(
    client: Client, settings: Settings
) -> None:
    files = {"a.json": b"{}"} | {f"{n}.jpg": b"%d" % n for n in range(6)}
    cut = zip_of(files, zipfile.ZIP_STORED)[:-40]
    problem = assert_problem(post_zip(client, cut), 422, "bad-archive")
    [job] = client.get("/v1/jobs").json["items"]
    assert "The first 6 pictures are kept" in problem["detail"]
    assert (job["progress"]["total"], job["progress"]["passed_over"]) == (6, 1)


def test_a_hard_link_is_the_picture_that_it_links_to(client: Client, settings: Settings) -> None:
    buffer = io.BytesIO(tar({"a.jpg": b"picture"}, "w"))
    with tarfile.open(fileobj=buffer, mode="a") as file:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        file.addfile(link)
    body = buffer.getvalue()
    response = client.post("/v1/images/bulk", data=body, content_type="application/x-tar")
    image_id = hashlib.sha256(b"picture").hexdigest()
    items = items_of(settings, response.json["id"])
    assert [(item.name, item.image_id, item.n_bytes) for item in items] == [
        ("a.jpg", image_id, 7),
        ("b.jpg", image_id, 7),
    ]


def test_no_name_of_an_archive_fills_a_manifest(client: Client, settings: Settings) -> None:
    """20 MB of names, in 0.1 MB of an archive."""
    names = ["x" * 10**6 + f"{n}.jpg" for n in range(10)] + ["d/" * 500_000 + "n\udce9.jpg"]
    response = post_tar(client, dict.fromkeys(names, b"x"))
    items = items_of(settings, response.json["id"])
    assert [len(item.name) for item in items[:10]] == [255] * 10
    assert items[10].name.endswith("/d/n\ufffd.jpg")
    manifests = (settings.blob_dir / "manifests" / response.json["id"]).iterdir()
    assert sum(path.stat().st_size for path in manifests) < 10_000


def test_stored_entries_without_sizes_are_taken_and_leave_no_file(
    client: Client, settings: Settings
) -> None:
    entries = [Written(b"%d.jpg" % n, b"picture %d" % n, flags=OPEN) for n in range(6)]
    job = post_zip(client, written_zip(*entries)).json
    assert job["progress"]["total"] == 6
    assert [item.n_bytes for item in items_of(settings, job["id"])] == [9] * 6
    assert sorted(path.name for path in settings.blob_dir.iterdir()) == ["images", "manifests"]


def test_a_damaged_entry_is_a_failed_item(client: Client, settings: Settings) -> None:
    content = zip_of({"a": b"first one", "b": b"second one"}, zipfile.ZIP_STORED)
    damaged = content.replace(b"first one", b"first ONE", 1)
    items = items_of(settings, post_zip(client, damaged).json["id"])
    assert [item.error is None for item in items] == [False, True]


def test_empty_and_large_files_of_a_form_are_failed_items(
    client: Client, settings: Settings
) -> None:
    files = {"empty": b"", "huge": b"h" * 10_001, "folder/good.jpg": b"good"}
    items = items_of(settings, post_files(client, files).json["id"])
    assert [(item.name, item.error and item.error.status) for item in items] == [
        ("empty", 422),
        ("huge", 413),
        ("folder/good.jpg", None),
    ]


def test_names_are_utf8_or_code_page_437(client: Client, settings: Settings) -> None:
    content = zip_of({"né.jpg": b"1", "xyz.jpg": b"2"}).replace(b"xyz", b"x\x82z")
    items = items_of(settings, post_zip(client, content).json["id"])
    assert [item.name for item in items] == ["né.jpg", "xéz.jpg"]


WHOLE = zip_of({f"p{n}": bytes([n]) * 100 for n in range(4)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8 a JPEG with an archive behind it" + WHOLE,
        WHOLE[:-1],
        WHOLE[:-22],
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:100],
        b"PK\x03\x04",
        zip_of({"good": b"good", "bomb": bytes(2 * RATIO_GRACE_BYTES)}),
    ],
    # Not by their bytes, which tell the time: each process must collect the same names.
    ids=range(8),
)
def test_a_bad_archive_is_refused_whole(
    client: Client, worker: StandIn, settings: Settings, content: bytes
) -> None:
    assert_problem(post_zip(client, content), 422, "bad-archive")
    assert worker.queued() == []
    assert client.get("/v1/jobs").json["items"] == []
    assert list(settings.blob_dir.rglob("*.jsonl")) == []


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]
)
def test_compressions(client: Client, settings: Settings, compression: int) -> None:
    response = post_zip(client, zip_of({"a": b"abc" * 100}, compression))
    [item] = items_of(settings, response.json["id"])
    assert item.image_id == hashlib.sha256(b"abc" * 100).hexdigest()


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"data": zip_of({})} | ZIP, 422, "validation-failed"),
        ({"data": zip_of({"d/": b""})} | ZIP, 422, "validation-failed"),
        ({"data": zip_of({"a": b"1"}), "query_string": "k=1"} | ZIP, 422, "validation-failed"),
        ({"data": {}, "content_type": "multipart/form-data"}, 422, "validation-failed"),
        ({"data": b"x", "content_type": "multipart/form-data; boundary=b"}, 400, "bad-request"),
        ({"data": {"file": (io.BytesIO(b"x"), "a")}}, 422, "validation-failed"),
        ({"data": b"x", "content_type": "application/x-tar"}, 422, "bad-archive"),
        ({"data": b"x", "content_type": "application/x-7z-compressed"}, 415, "unsupported-media"),
        ({"data": b"x", "content_type": "image/png"}, 415, "unsupported-media"),
    ],
)  # fmt: skip
def test_other_requests_are_refused(
    client: Client, worker: StandIn, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(client.post("/v1/images/bulk", **options), status, code)
    assert worker.queued() == []


def test_too_many_pictures_are_refused(settings: Settings, worker: StandIn) -> None:
    client = client_of(settings.model_copy(update={"max_job_items": 3}))
    files = {f"{n}": b"%d" % n for n in range(4)}
    for response in (post_files(client, files), post_zip(client, zip_of(files))):
        assert_problem(response, 413, "payload-too-large")
    assert worker.queued() == []
    files.popitem()
    assert post_files(client, files).status_code == 202


def test_a_repeated_batch_is_one_job(client: Client, worker: StandIn) -> None:
    headers = {"Idempotency-Key": "batch"}
    first, again = (
        post_zip(client, WHOLE, headers=headers),
        post_zip(client, WHOLE, headers=headers),
    )
    assert first.json["id"] == again.json["id"]
    assert len(worker.queued()) == 1
    other = post_zip(client, zip_of({"other": b"1"}), headers=headers)
    assert_problem(other, 422, "idempotency-conflict")


def test_outcomes_are_paged_in_order_and_filtered(client: Client, worker: StandIn) -> None:
    files = {f"p{n}": b"%d" % n for n in range(10)}
    job_id = post_files(client, files).json["id"]
    outcomes = [
        Item(name=name, image_id=None, outcome="failed" if n % 3 == 0 else "succeeded")
        for n, name in enumerate(files)
    ]
    for chunk in (2, 0, 1):
        worker.finish_chunk(job_id, chunk, outcomes[4 * chunk : 4 * chunk + 4])

    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["result"]) == ("succeeded", None)
    assert counts(job) == {"total": 10, "succeeded": 6, "skipped": 0, "failed": 4}
    for limit in (1, 3, 4, 10, 1000):
        assert [item["name"] for item in pages(client, job_id, limit=limit)] == list(files)
    failed = pages(client, job_id, limit=2, outcome="failed")
    assert [item["name"] for item in failed] == ["p0", "p3", "p6", "p9"]
    assert pages(client, job_id, limit=2, outcome="skipped") == []


def test_outcomes_of_a_running_job_are_those_there_are(client: Client, worker: StandIn) -> None:
    job_id = post_files(client, {f"p{n}": b"%d" % n for n in range(8)}).json["id"]
    assert pages(client, job_id, limit=3) == []
    worker.finish_chunk(job_id, 1, [Item(name="p4", image_id=None, outcome="skipped")])
    assert [item["name"] for item in pages(client, job_id, limit=3)] == ["p4"]
    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["progress"]["skipped"]) == ("running", 1)


def pages(client: Client, job_id: str, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        page = client.get(f"/v1/jobs/{job_id}/items", query_string=query).json
        assert len(page["items"]) <= query["limit"]
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        query["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("query", [{"cursor": "!"}, {"cursor": "LTE6LTE="}, {"outcome": "bad"}])
def test_bad_item_parameters_are_refused(client: Client, query: dict[str, str]) -> None:
    job_id = post_files(client, {"a": b"1"}).json["id"]
    response = client.get(f"/v1/jobs/{job_id}/items", query_string=query)
    assert_problem(response, 422, "validation-failed")


def test_memory_does_not_grow_with_the_upload(settings: Settings, worker: StandIn) -> None:
    """40 MB in a form, of which nothing but a piece and a chunk's names may be held."""
    client = client_of(settings.model_copy(update={"max_body_bytes": 10**9}))
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'

    def pieces() -> Iterator[bytes]:
        for n in range(4000):
            yield head.format(n).encode() + b"%06d" % n * 1600 + b"\r\n"
        yield b"--b--\r\n"

    post_files(client, {"first.jpg": b"what is loaded once is not counted"})
    tracemalloc.start()
    try:
        response = client.post(
            "/v1/images/bulk",
            environ_overrides={
                # The test client would write a boundary of its own into a given content type.
                "CONTENT_TYPE": "multipart/form-data; boundary=b",
                "wsgi.input": Body(pieces()),
                "wsgi.input_terminated": True,
            },
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 202, response.text
    assert response.json["progress"]["total"] == 4000
    # 0.2 MB, and 4 MB where Python's table of interned path parts happens to grow just then.
    assert peak_bytes < 8_000_000


def test_chunks_are_found_by_their_keys(client: Client, settings: Settings) -> None:
    job_id = post_files(client, {"a": b"1"}).json["id"]
    assert BlobStore(settings.blob_dir).get(manifest_key(job_id, 0))
