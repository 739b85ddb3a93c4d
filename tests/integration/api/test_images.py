from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.records import image
from support.requests import assert_problem, client_of, counts, form_body
from support.servers import free_port
from support.stand_in import read_task

from twinlens.shared.blobs import BlobStore, image_key, manifest_key, thumbnail_key
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.libraries import Library
from twinlens.shared.messages import Item, ManifestHead, ManifestItem
from twinlens.shared.queue import DELETE_IMAGE, EMBED_CHUNK, MAKE_THUMBNAIL, Reply
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


PICTURE = b"\xff\xd8 the API never looks into a picture"
FORM = "multipart/form-data"
MULTIPART = {"content_type": FORM}
ID = hashlib.sha256(PICTURE).hexdigest()
N_BYTES = len(PICTURE)


def upload(client: Client, content: bytes = PICTURE, **options: Any) -> Any:
    options.setdefault("content_type", "image/jpeg")
    return client.post("/v1/images", data=content, **options)


def form(content: bytes = PICTURE, name: str = "cat.jpg", **parts: Any) -> dict[str, Any]:
    texts = {part: (None, text) for part, text in parts.items()}
    return form_body({"file": (name, content), **texts})


def test_an_upload_is_stored_before_it_is_accepted(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    metadata = {"city": "Paris", "year": 2019, "good": True, "tags": ["a", "b"], "ratio": 1.5}
    response = client.post(
        "/v1/images",
        headers={"X-Request-ID": "mine-1"},
        **form(metadata=json.dumps(metadata)),
    )

    assert response.status_code == 202
    job = response.json
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Vary"] == "Prefer"
    assert (job["kind"], job["library"], job["status"]) == ("embed", "default", "queued")
    assert counts(job) == {"total": 1, "succeeded": 0, "skipped": 0, "failed": 0}
    assert set(job["links"]) == {"self", "items", "events"}

    blobs = BlobStore(settings.blob_dir)
    assert blobs.get(image_key("default", ID)) == PICTURE
    head, *lines = blobs.get(manifest_key(job["id"], 0)).splitlines()
    assert ManifestHead.model_validate_json(head).is_last
    [item] = [ManifestItem.model_validate_json(line) for line in lines]
    assert item == ManifestItem(
        name="cat.jpg", image_id=ID, n_bytes=len(PICTURE), metadata=metadata
    )
    [task] = worker.queued()
    assert task == {
        "name": EMBED_CHUNK,
        "id": f"{job['id']}.0",
        "queue": "single",
        "kwargs": {"job_id": job["id"], "chunk": 0},
        "request_id": "mine-1",
        "expires": None,
    }
    assert worker.jobs.get(job["id"]).request_id == "mine-1"


@pytest.mark.parametrize("media_type", ["image/png", "image/x-odd", "application/octet-stream"])
def test_raw_bytes_are_taken(
    client: Client, worker: StandIn, settings: Settings, media_type: str
) -> None:
    response = upload(
        client, content_type=media_type, query_string={"name": "C:\\pictures\\c\x00at.png"}
    )
    assert response.status_code == 202
    lines = BlobStore(settings.blob_dir).get(manifest_key(response.json["id"], 0)).splitlines()
    assert ManifestItem.model_validate_json(lines[1]).name == "C:/pictures/cat.png"


def test_a_name_that_is_asked_for_goes_before_the_name_of_the_file(
    client: Client, settings: Settings
) -> None:
    for query, name in (("", "cat.jpg"), ("?name=../a/dog.jpg", "a/dog.jpg")):
        job_id = client.post(f"/v1/images{query}", **form()).json["id"]
        lines = BlobStore(settings.blob_dir).get(manifest_key(job_id, 0)).splitlines()
        assert ManifestItem.model_validate_json(lines[1]).name == name


@pytest.mark.parametrize(
    ("options", "status", "code", "location"),
    [
        ({"data": b"", "content_type": "image/png"}, 422, "empty-picture", None),
        (form(b""), 422, "empty-picture", None),
        ({"data": b"x" * 10_001, "content_type": "image/png"}, 413, "payload-too-large", None),
        (form(b"x" * 10_001), 413, "payload-too-large", None),
        ({"data": b"x" * 1_000_001, "content_type": "image/png"}, 413, "payload-too-large", None),
        ({"data": b"x", "content_type": "text/plain"}, 415, "unsupported-media", None),
        ({"data": b"x"}, 415, "unsupported-media", None),
        ({"data": {"metadata": "{}"}} | MULTIPART, 422, "validation-failed", "form:file"),
        (form(note="hello"), 422, "validation-failed", "form:note"),
        (form(metadata="{"), 422, "validation-failed", "/metadata"),
        (form(metadata="[1]"), 422, "validation-failed", "/metadata"),
        (form(metadata='{"a": {"b": 1}}'), 422, "validation-failed", "/metadata/a"),
        (form(metadata='{"a": NaN}'), 422, "validation-failed", "/metadata/a"),
        (form(metadata='{"a": 1e999}'), 422, "validation-failed", "/metadata/a"),
        (form(metadata='{"a~/b": null}'), 422, "validation-failed", "/metadata/a~0~1b"),
        (form(metadata='{"a": null}'), 422, "validation-failed", "/metadata/a"),
        (form(metadata='{"a": "\\ud800"}'), 422, "validation-failed", "/metadata"),
        (form(metadata=json.dumps({"a": "x" * 16_384})), 422, "validation-failed", "form:metadata"),
        ({"data": b"--x\r\n", "content_type": f"{FORM}; boundary=x"}, 400, "bad-request", None),
        ({"data": b"x"} | MULTIPART, 400, "bad-request", None),
    ],
)  # fmt: skip
def test_a_bad_upload_is_refused_and_leaves_no_job(
    client: Client,
    worker: StandIn,
    options: dict[str, Any],
    status: int,
    code: str,
    location: str | None,
) -> None:
    problem = assert_problem(client.post("/v1/images", **options), status, code)
    if location is not None:
        assert [error["location"] for error in problem["errors"]] == [location]
    assert worker.queued() == []
    assert client.get("/v1/jobs").json["items"] == []


def test_an_unknown_parameter_is_refused(client: Client) -> None:
    problem = assert_problem(upload(client, query_string={"naem": "x"}), 422, "validation-failed")
    assert problem["errors"][0]["location"] == "query:naem"


def test_an_unknown_library_is_refused(client: Client) -> None:
    for library in ("other", "../../etc"):
        response = upload(client, query_string={"library": library})
        assert_problem(response, 404, "library-not-found")
        assert_problem(
            client.get("/v1/images", query_string={"library": library}), 404, "library-not-found"
        )


def test_waiting_gives_the_image(client: Client, worker: StandIn, settings: Settings) -> None:
    def work() -> None:
        with connect(settings.redis_url) as redis:
            task = read_task(redis.brpop(["single"], timeout=5)[1])
        worker.add(image(ID, "cat.jpg"))
        item = Item(name="cat.jpg", image_id=ID, outcome="succeeded")
        worker.finish_chunk(task["kwargs"]["job_id"], 0, [item])

    thread = threading.Thread(target=work)
    thread.start()
    response = upload(client, headers={"Prefer": "wait=20"})
    thread.join()

    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=20"
    assert response.headers["Vary"] == "Prefer"
    assert response.json["status"] == "succeeded"
    assert response.json["progress"]["succeeded"] == 1
    assert response.json["result"]["id"] == ID
    assert response.json["result"]["links"]["content"] == f"/v1/images/{ID}/content"


def test_waiting_in_vain_gives_the_ordinary_answer(client: Client) -> None:
    response = upload(client, headers={"Prefer": "wait=0"})
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers
    assert "Retry-After" in response.headers


def test_a_failed_picture_fails_its_job(client: Client, worker: StandIn) -> None:
    job_id = upload(client).json["id"]
    problem = BrokenPicture("It ends in the middle.").to_problem()
    worker.finish_chunk(job_id, 0, [Item(name="", image_id=ID, outcome="failed", error=problem)])
    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"]["type"] == "urn:twinlens:problem:broken-picture"
    assert job["progress"]["failed"] == 1


def test_an_idempotency_key_gives_the_first_job(client: Client, worker: StandIn) -> None:
    headers = {"Idempotency-Key": "k1"}
    first, again = upload(client, headers=headers), upload(client, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert again.status_code == 202
    assert len(worker.queued()) == 1
    assert len(client.get("/v1/jobs").json["items"]) == 1

    other = upload(client, b"other", headers=headers)
    assert_problem(other, 422, "idempotency-conflict")
    renamed = upload(client, headers=headers, query_string={"name": "b.jpg"})
    assert_problem(renamed, 422, "idempotency-conflict")
    assert len(client.get("/v1/jobs").json["items"]) == 1

    worker.finish_chunk(first.json["id"], 0, [Item(name="", image_id=ID, outcome="skipped")])
    ended = upload(client, headers=headers)
    assert (ended.status_code, ended.json["status"]) == (200, "succeeded")


def test_a_long_idempotency_key_is_refused(client: Client) -> None:
    assert upload(client, headers={"Idempotency-Key": "k" * 255}).status_code == 202
    problem = assert_problem(
        upload(client, headers={"Idempotency-Key": "k" * 256}), 422, "validation-failed"
    )
    assert problem["errors"][0]["location"] == "header:Idempotency-Key"


def test_manifests_of_repeated_requests_are_taken_back(client: Client, settings: Settings) -> None:
    for _ in range(2):
        upload(client, headers={"Idempotency-Key": "k2"})
    manifests = [path for path in (settings.blob_dir / "manifests").rglob("*") if path.is_file()]
    assert len(manifests) == 1


def test_images_are_listed_newest_first(client: Client, worker: StandIn) -> None:
    ids = [f"{n:064x}" for n in range(5)]
    for image_id in ids:
        worker.add(image(image_id))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/images", query_string=query).json
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "!"}, {"cursor": "bmFuOng="}],
)
def test_bad_page_parameters_are_refused(client: Client, query: dict[str, Any]) -> None:
    for path in ("/v1/images", "/v1/jobs"):
        problem = assert_problem(client.get(path, query_string=query), 422, "validation-failed")
        assert [error["location"] for error in problem["errors"]] == [
            f"query:{name}" for name in query
        ]


def test_an_image_has_links_within_its_library(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", library="a&b")
    worker.add(image(ID, library="a&b"))
    answer = client.get(f"/v1/images/{ID}", query_string={"library": "a&b"}).json
    assert answer["links"]["thumbnail"] == f"/v1/images/{ID}/thumbnail?library=a%26b"
    assert client.get(answer["links"]["self"]).json == answer
    assert_problem(client.get(f"/v1/images/{ID}"), 404, "image-not-found")


@pytest.mark.parametrize("image_id", ["0" * 64, "0" * 63, "A" * 64, "x", "0" * 64 + "%0A"])
def test_unknown_and_malformed_ids_are_not_found(client: Client, image_id: str) -> None:
    for path in ("", "/content", "/thumbnail"):
        assert_problem(client.get(f"/v1/images/{image_id}{path}"), 404, "image-not-found")
    assert_problem(client.delete(f"/v1/images/{image_id}"), 404, "image-not-found")


@pytest.fixture
def stored(worker: StandIn, settings: Settings) -> None:
    BlobStore(settings.blob_dir).put(image_key("default", ID), PICTURE)
    worker.add(image(ID, 'ev"il\r\nX-Evil: 1 é.jpg'))


@pytest.mark.usefixtures("stored")
def test_content_is_sent_safely(client: Client) -> None:
    response = client.get(f"/v1/images/{ID}/content")
    assert (response.status_code, response.data) == (200, PICTURE)
    assert response.content_type == "image/jpeg"
    assert response.headers["ETag"] == f'"{ID}"'
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (
        response.headers["Content-Security-Policy"]
        == "default-src 'none'; sandbox; frame-ancestors 'none'"
    )
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("inline; ")
    assert "filename*=UTF-8''ev%22ilX-Evil%3A%201%20%C3%A9.jpg" in disposition
    assert "X-Evil" not in response.headers


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=2-4", 2, 4),
        ("BYTES= 2-4 ", 2, 4),
        ("bytes=0-", 0, N_BYTES - 1),
        ("bytes=3-999999999999999999999", 3, N_BYTES - 1),
        ("bytes=-2", N_BYTES - 2, N_BYTES - 1),
        (f"bytes=-{N_BYTES + 5}", 0, N_BYTES - 1),
        (f"bytes={N_BYTES - 1}-", N_BYTES - 1, N_BYTES - 1),
    ],
)
def test_a_range_of_content_is_sent(client: Client, asked: str, first: int, last: int) -> None:
    part = client.get(f"/v1/images/{ID}/content", headers={"Range": asked})
    assert (part.status_code, part.data) == (206, PICTURE[first : last + 1])
    assert part.headers["Content-Length"] == str(last - first + 1)
    assert part.headers["Content-Range"] == f"bytes {first}-{last}/{N_BYTES}"
    assert part.headers["Accept-Ranges"] == "bytes"
    assert part.headers["ETag"] == f'"{ID}"'


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "pages=0-1"},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "bytes=4-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=a-b"},
        {"Range": "bytes"},
        {"Range": "bytes=0-1", "If-Range": '"another"'},
        {"Range": "bytes=0-1", "If-Range": f'W/"{ID}"'},
        {"Range": "bytes=0-1", "If-Range": "Sat, 01 Jan 2050 00:00:00 GMT"},
        {"If-Match": "*"},
        {"If-Match": f'"another", "{ID}"'},
        {"If-None-Match": '"another"'},
        {"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"},
        {"If-Modified-Since": "Sat, 01 Jan 2050 00:00:00 GMT"},
    ],
)
def test_all_of_content_is_sent_where_no_condition_holds(
    client: Client, headers: dict[str, str]
) -> None:
    answer = client.get(f"/v1/images/{ID}/content", headers=headers)
    assert (answer.status_code, answer.data) == (200, PICTURE)
    assert "Content-Range" not in answer.headers


@pytest.mark.usefixtures("stored")
def test_a_range_of_the_same_content_is_continued(client: Client) -> None:
    headers = {"Range": "bytes=1-2", "If-Range": f'"{ID}"'}
    answer = client.get(f"/v1/images/{ID}/content", headers=headers)
    assert (answer.status_code, answer.data) == (206, PICTURE[1:3])


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("asked", [f"bytes={N_BYTES}-", "bytes=999999999999999999999-", "bytes=-0"])
def test_a_range_past_the_end_is_refused(client: Client, asked: str) -> None:
    answer = client.get(f"/v1/images/{ID}/content", headers={"Range": asked})
    assert (answer.status_code, answer.content_type) == (416, "application/problem+json")
    assert answer.headers["Content-Range"] == f"bytes */{N_BYTES}"


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("asked", ['"another"', f'W/"{ID}"'])
def test_another_version_of_content_is_refused_without_it(client: Client, asked: str) -> None:
    headers = {"If-Match": asked, "If-None-Match": "*", "Range": "bytes=0-1"}
    answer = client.get(f"/v1/images/{ID}/content", headers=headers)
    assert (answer.status_code, answer.content_type) == (412, "application/problem+json")
    assert answer.json["status"] == 412


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("known", [f'"{ID}"', f'W/"{ID}"', "*", f'"another", "{ID}"'])
def test_content_that_is_known_is_not_sent_again(client: Client, known: str) -> None:
    headers = {"If-None-Match": known, "Range": "bytes=9999-"}
    answer = client.get(f"/v1/images/{ID}/content", headers=headers)
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == f'"{ID}"'
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


@pytest.mark.usefixtures("stored")
def test_the_head_of_content_is_that_of_all_of_it(client: Client) -> None:
    head = client.head(f"/v1/images/{ID}/content", headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == str(N_BYTES)


@pytest.mark.usefixtures("stored")
def test_content_is_of_the_type_that_is_accepted(client: Client) -> None:
    def content_type(accept: str) -> str:
        answer = client.get(f"/v1/images/{ID}/content", headers={"Accept": accept})
        assert (answer.data, answer.headers["Vary"]) == (PICTURE, "Accept")
        return str(answer.content_type)

    assert content_type("application/octet-stream") == "application/octet-stream"
    for accept in ("", "*/*", "image/*", "image/webp,*/*;q=0.8", "text/html"):
        assert content_type(accept) == "image/jpeg"


@pytest.mark.usefixtures("stored")
def test_what_redis_says_leads_to_no_other_file(
    client: Client, redis: Redis, settings: Settings
) -> None:
    (settings.data_dir / "secret").write_bytes(b"secret")
    record = json.loads(redis.hget(keys.images("default"), ID) or "")
    for path in (str(settings.data_dir / "secret"), "../secret"):
        redis.hset(keys.images("default"), ID, json.dumps(record | {"path": path}))
        assert client.get(f"/v1/images/{ID}/content").data == PICTURE
    (settings.data_dir / ID[:2]).mkdir()
    (settings.data_dir / ID[:2] / ID).write_bytes(b"secret")
    redis.hset(keys.images("../.."), ID, json.dumps(record))
    Catalog(redis).ensure_library(Library(name="out", id="../..", models=[]))
    answer = client.get(f"/v1/images/{ID}/content?library=out")
    assert (answer.status_code, b"secret" in answer.data) == (500, False)


@pytest.mark.usefixtures("stored")
def test_lost_content_is_told(client: Client, settings: Settings) -> None:
    BlobStore(settings.blob_dir).delete(image_key("default", ID))
    assert_problem(client.get(f"/v1/images/{ID}/content"), 404, "content-missing")


@pytest.mark.usefixtures("stored")
def test_a_thumbnail_is_made_on_first_demand(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    path = f"/v1/images/{ID}/thumbnail"
    assert "No search worker" in assert_problem(client.get(path), 503, "unavailable")["detail"]

    worker.announce("search")
    tasks: list[dict[str, Any]] = []

    def work() -> None:
        with connect(settings.redis_url) as redis:
            tasks.append(read_task(redis.brpop(["search"], timeout=5)[1]))
            BlobStore(settings.blob_dir).put(thumbnail_key("default", ID), b"small")
            redis.rpush(keys.reply(tasks[0]["id"]), Reply().model_dump_json())

    thread = threading.Thread(target=work)
    thread.start()
    first = client.get(path)
    thread.join()
    second = client.get(path)

    assert tasks[0]["name"] == MAKE_THUMBNAIL
    assert tasks[0]["kwargs"] == {"library_id": "default", "image_id": ID}
    assert tasks[0]["expires"] is not None
    assert first.data == second.data == b"small"
    assert first.content_type == "image/jpeg"
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert worker.queued() == []


@pytest.mark.usefixtures("stored")
def test_a_refused_thumbnail_is_told(client: Client, worker: StandIn, settings: Settings) -> None:
    worker.announce("search")

    def work() -> None:
        with connect(settings.redis_url) as redis:
            task = read_task(redis.brpop(["search"], timeout=5)[1])
            reply = Reply(error=BrokenPicture("It is broken.").to_problem())
            redis.rpush(keys.reply(task["id"]), reply.model_dump_json())

    thread = threading.Thread(target=work)
    thread.start()
    response = client.get(f"/v1/images/{ID}/thumbnail")
    thread.join()
    assert_problem(response, 422, "broken-picture")


@pytest.mark.usefixtures("stored")
def test_a_removal_is_a_job(client: Client, worker: StandIn) -> None:
    response = client.delete(f"/v1/images/{ID}")
    assert response.status_code == 202
    job = response.json
    assert (job["kind"], job["progress"]["total"]) == ("delete", 1)
    [task] = worker.queued()
    assert (task["name"], task["queue"], task["id"]) == (DELETE_IMAGE, "single", job["id"])
    assert task["kwargs"] == {"job_id": job["id"], "image_id": ID}

    worker.jobs.start(job["id"])
    worker.jobs.finish(job["id"])
    done = client.get(job["links"]["self"]).json
    assert (done["status"], done["result"], done["progress"]["succeeded"]) == ("succeeded", None, 1)


def test_nothing_is_accepted_while_a_part_is_down(settings: Settings, tmp_path: Path) -> None:
    for field, uri, word in (
        ("redis_url", f"redis://127.0.0.1:{free_port()}/0", "Redis"),
        ("milvus_uri", f"http://127.0.0.1:{free_port()}", "Milvus"),
    ):
        client = client_of(settings.model_copy(update={field: uri}))
        response = upload(client)
        assert word in assert_problem(response, 503, "unavailable")["detail"]
        assert response.headers["Retry-After"] == "5"
    assert not settings.blob_dir.exists()


def test_a_full_queue_is_told(settings: Settings, worker: StandIn) -> None:
    client = client_of(settings.model_copy(update={"max_queued_tasks": 1}))
    assert upload(client).status_code == 202
    response = upload(client, b"next")
    assert_problem(response, 503, "queue-full")
    assert "Retry-After" in response.headers
    assert len(worker.queued()) == 1
