"""Bulk uploads on their way in: what is queued before the end, and what a break leaves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import OPEN, Written, written_zip
from support.requests import assert_problem, client_of, counts
from support.uploading import BREAK, END, part, parts, post_pieces, the_job

from twinlens.api.accepting import arrival
from twinlens.api.accepting.terms import Terms
from twinlens.api.reading.byte_streams import BLOCK_BYTES
from twinlens.api.reading.uploads import form_entries
from twinlens.api.services import build_services
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import UploadBroken
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import Item, now
from twinlens.shared.redis import keys
from twinlens.shared.redis.jobs import Job, Jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.requests import Client, Piece
    from support.stand_in import StandIn

    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def test_the_first_chunks_are_queued_while_the_rest_arrives(
    client: Client, worker: StandIn
) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.extend([the_job(client), worker.queued()])

    answer = post_pieces(client, [*parts(6), look, END])
    during, queued = seen
    assert (during["status"], during["progress"]["total"]) == ("queued", None)
    assert during["progress"]["received"] == 4
    assert [task["id"] for task in queued] == [f"{during['id']}.0"]
    assert answer.status_code == 202
    assert answer.json["id"] == during["id"]
    assert answer.json["progress"]["total"] == answer.json["progress"]["received"] == 6


def test_a_chunk_that_is_done_before_the_end_does_not_end_the_job(
    client: Client, worker: StandIn
) -> None:
    def work() -> None:
        outcomes = [Item(name=f"p{n}", image_id=None, outcome="succeeded") for n in range(4)]
        worker.finish_chunk(the_job(client)["id"], 0, outcomes)
        assert the_job(client)["status"] == "running"

    job = post_pieces(client, [*parts(6), work, END]).json
    assert counts(job) == {"total": 6, "succeeded": 4, "skipped": 0, "failed": 0}
    worker.finish_chunk(job["id"], 1, [Item(name="p", image_id=None, outcome="succeeded")] * 2)
    assert client.get(f"/v1/jobs/{job['id']}").json["status"] == "succeeded"


@pytest.mark.parametrize(
    ("n_pictures", "broken"),
    [(3, BREAK), (4, BREAK), (6, BREAK), (6, ConnectionResetError("reset")), (3, TimeoutError())],
)
def test_a_broken_connection_leaves_what_arrived(
    client: Client, worker: StandIn, n_pictures: int, broken: Exception
) -> None:
    pieces: list[Piece] = [*parts(n_pictures), part("cut", b"short")[:-9], broken]
    stalled = isinstance(broken, TimeoutError)
    status, code = (408, "upload-stalled") if stalled else (400, "upload-broken")
    problem = assert_problem(post_pieces(client, pieces), status, code)
    job = the_job(client)
    assert f"The first {n_pictures} pictures are kept in job {job['id']}." in problem["detail"]
    assert job["status"] == "queued"
    assert job["progress"]["total"] == job["progress"]["received"] == n_pictures
    for chunk, first in enumerate(range(0, n_pictures, 4)):
        numbers = range(first, min(first + 4, n_pictures))
        outcomes = [Item(name=f"p{n}", image_id=None, outcome="succeeded") for n in numbers]
        worker.finish_chunk(job["id"], chunk, outcomes)
    ended = client.get(f"/v1/jobs/{job['id']}").json
    assert (ended["status"], ended["progress"]["succeeded"]) == ("failed", n_pictures)
    assert ended["error"]["type"] == f"urn:twinlens:problem:{code}"


def test_a_body_that_cannot_be_read_on_leaves_what_arrived(
    client: Client, settings: Settings
) -> None:
    """As of a server whose stream tells its own error, where Werkzeug's tells another."""

    def body() -> Iterator[bytes]:
        yield from parts(6)
        raise TimeoutError("the secret path /srv/secret")

    def read(body: Iterable[bytes]) -> Iterator[Entry]:
        return form_entries("multipart/form-data; boundary=b", body, 10, 100)

    services = build_services(settings)
    with pytest.raises(UploadBroken) as caught:
        services.arrivals.accept(services.libraries.get("default"), body(), read, Terms())
    assert "secret" not in caught.value.detail
    job = the_job(client)
    assert f"The first 5 pictures are kept in job {job['id']}." in caught.value.detail
    assert job["progress"]["total"] == 5


def test_a_connection_that_breaks_before_a_picture_leaves_nothing(
    client: Client, settings: Settings
) -> None:
    assert_problem(post_pieces(client, [parts(1)[0][:-9], BREAK]), 400, "upload-broken")
    assert client.get("/v1/jobs").json["items"] == []
    assert list(settings.blob_dir.rglob("*.jsonl")) == []


def test_a_bad_end_keeps_what_was_queued_but_a_bad_beginning_is_refused_whole(
    client: Client, worker: StandIn
) -> None:
    bad = b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n'
    assert_problem(post_pieces(client, [*parts(3), bad, END]), 422, "validation-failed")
    assert client.get("/v1/jobs").json["items"] == []
    problem = assert_problem(post_pieces(client, [*parts(5), bad, END]), 422, "validation-failed")
    job = the_job(client)
    assert job["progress"]["total"] == 5
    assert job["id"] in problem["detail"]


def test_the_disk_is_never_filled(settings: Settings, redis: Redis, worker: StandIn) -> None:
    client = client_of(settings.model_copy(update={"disk_reserve_bytes": 10**18}))
    problem = assert_problem(post_pieces(client, [*parts(1), END]), 507, "storage-full")
    assert "1000000000000000000 bytes" in problem["detail"]
    response = client.post("/v1/images", data=b"x", content_type="image/png")
    assert_problem(response, 507, "storage-full")
    assert int(response.headers["Retry-After"]) > 0
    assert client.get("/v1/jobs").json["items"] == []


def test_a_disk_that_fills_up_meanwhile_ends_the_upload(
    settings: Settings, redis: Redis, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = build_services(settings.model_copy(update={"disk_reserve_bytes": 0}))
    client = client_of(settings, services)

    def fill() -> None:
        object.__setattr__(services.settings, "disk_reserve_bytes", 10**18)

    problem = assert_problem(
        post_pieces(client, [*parts(6), fill, *parts(9), END]), 507, "storage-full"
    )
    assert "The first 4 pictures are kept" in problem["detail"]
    assert the_job(client)["progress"]["total"] == 4


def test_a_key_is_refused_while_its_first_request_arrives(client: Client) -> None:
    answers: list[Any] = []
    body = [*parts(6), END]

    def repeat() -> None:
        answers.append(post_pieces(client, body, key="k"))

    first = post_pieces(client, [*parts(6), repeat, END], key="k")
    assert_problem(answers[0], 409, "upload-in-progress")
    assert int(answers[0].headers["Retry-After"]) > 0
    again = post_pieces(client, body, key="k")
    assert again.json["id"] == first.json["id"]
    assert_problem(post_pieces(client, [*parts(7), END], key="k"), 422, "idempotency-conflict")
    assert len(client.get("/v1/jobs").json["items"]) == 1


def test_a_key_is_free_again_after_a_break(client: Client) -> None:
    assert post_pieces(client, [*parts(6), BREAK], key="k").status_code == 400
    again = post_pieces(client, [*parts(6), END], key="k")
    assert again.status_code == 202
    assert len(client.get("/v1/jobs").json["items"]) == 2


def test_an_upload_that_was_given_up_is_told_so(
    client: Client, settings: Settings, worker: StandIn
) -> None:
    def give_up() -> None:
        build_services(settings).feed.seal(
            the_job(client)["id"], UploadBroken("Lost.").to_problem()
        )

    problem = assert_problem(
        post_pieces(client, [*parts(6), give_up, *parts(9), END]), 400, "upload-broken"
    )
    assert "The first 4 pictures are kept" in problem["detail"]
    assert the_job(client)["progress"]["total"] == 4


def test_a_listing_becomes_items_without_bytes(
    client: Client, settings: Settings, worker: StandIn
) -> None:
    lines = [
        {"uri": "file:///photos/cat.jpg", "metadata": {"year": 2020}},
        {"uri": "ftp://example.org/x.jpg"},
        {"uri": "https://example.org/dog.jpg", "name": "dog"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    job = post_pieces(client, [text], content_type="application/x-ndjson").json
    assert job["progress"]["total"] == 3
    manifest = settings.blob_dir / "manifests" / job["id"] / "000000.jsonl"
    items = [json.loads(line) for line in manifest.read_text().splitlines()[1:]]
    assert [(item["name"], item["uri"], item["image_id"]) for item in items] == [
        ("cat.jpg", "file:///photos/cat.jpg", None),
        ("line 2", None, None),
        ("dog", "https://example.org/dog.jpg", None),
    ]
    assert items[0]["metadata"] == {"year": 2020}
    assert items[1]["error"]["status"] == 422


@pytest.mark.parametrize(
    ("cost_s", "sizes"),
    [(None, [32, 32, 6]), (0.001, [64, 6]), (0.02, [25, 25, 20]), (1.0, [16, 16, 16, 16, 6])],
)
def test_chunks_are_as_long_as_pictures_of_the_library_take(
    settings: Settings, redis: Redis, worker: StandIn, cost_s: float | None, sizes: list[int]
) -> None:
    client = client_of(settings.model_copy(update={"chunk_items": None}))
    if cost_s is not None:
        with redis.pipeline() as pipeline:
            worker.catalog.note_cost(pipeline, "default", cost_s)
            pipeline.execute()
    job = post_pieces(client, [*parts(70), END]).json
    folder = settings.blob_dir / "manifests" / job["id"]
    lengths = [len(path.read_text().splitlines()) - 1 for path in sorted(folder.iterdir())]
    assert lengths == sizes


# Fair shares.


def test_jobs_and_libraries_take_turns(
    settings: Settings, redis: Redis, worker: StandIn, client: Client
) -> None:
    services = build_services(settings)
    for library in ("default", "other"):
        services.catalog.ensure_library(new_library(library, []))
    chunks = {"huge": 20, "small": 2, "elsewhere": 2}
    jobs = Jobs(redis)
    for name, n_chunks in chunks.items():
        library = "other" if name == "elsewhere" else "default"
        jobs.create(Job(id=name, kind="bulk", library=library, created_at=now(), ttl_s=60))
        for chunk in range(n_chunks):
            services.feed.add_chunk(name, chunk, 4)
        services.feed.seal(name)
    assert client.get("/v1/stats").json["backlog"]["pictures"] == 96

    done: list[str] = []
    while len(done) < sum(chunks.values()):
        services.publisher.feed_workers()
        queued = worker.queued()
        assert len(queued) <= 2, "without a worker, two chunks are enough"
        task = queued[0]
        redis.rpop("bulk")
        job_id, chunk = task["kwargs"]["job_id"], task["kwargs"]["chunk"]
        outcomes = [Item(name="x", image_id=None, outcome="skipped")] * 4
        worker.finish_chunk(job_id, chunk, outcomes)
        done.append(job_id)
    assert sorted(done[:8]) == ["elsewhere"] * 2 + ["huge"] * 4 + ["small"] * 2
    assert {client.get(f"/v1/jobs/{name}").json["status"] for name in chunks} == {"succeeded"}
    assert client.get("/v1/stats").json["backlog"]["pictures"] == 0


def test_more_workers_are_fed_more(settings: Settings, redis: Redis, worker: StandIn) -> None:
    services = build_services(settings)
    Jobs(redis).create(Job(id="j", kind="bulk", library="default", created_at=now(), ttl_s=60))
    for chunk in range(9):
        services.feed.add_chunk("j", chunk, 4)
    services.publisher.feed_workers()
    assert len(worker.queued()) == 2
    worker.announce("bulk")
    services.publisher.feed_workers()
    assert [task["kwargs"]["chunk"] for task in worker.queued()] == [0, 1, 2, 3]


def test_a_job_that_has_ended_is_fed_no_more(
    settings: Settings, redis: Redis, worker: StandIn, client: Client
) -> None:
    services = build_services(settings)
    jobs = Jobs(redis)
    jobs.create(Job(id="j", kind="bulk", library="default", created_at=now(), ttl_s=60))
    for chunk in range(3):
        services.feed.add_chunk("j", chunk, 4)
    jobs.finish("j")
    services.publisher.feed_workers()
    assert worker.queued() == []
    assert not services.feed.add_chunk("j", 3, 4)
    assert client.get("/v1/stats").json["backlog"]["pictures"] == 0


def test_too_much_backlog_is_refused_with_the_time_until_there_is_room(
    settings: Settings, redis: Redis, worker: StandIn
) -> None:
    client = client_of(settings.model_copy(update={"max_backlog": 5}))
    assert post_pieces(client, [*parts(6), END]).status_code == 202
    response = post_pieces(client, [*parts(1), END])
    assert_problem(response, 503, "queue-full")
    assert response.headers["Retry-After"] == "600", "nobody works"
    worker.announce("bulk")  # at 1.5 pictures a second
    response = post_pieces(client, [*parts(1), END])
    assert response.headers["Retry-After"] == "1", "1.5 over 90 % of the limit"


def test_what_waited_on_the_disk_still_arrives(
    client: Client, redis: Redis, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sweeper would take the upload for lost, while its directory is read."""
    monkeypatch.setattr(arrival, "RENEW_S", 0.0)
    sized = [Written(b"%d.jpg" % n, bytes(BLOCK_BYTES)) for n in range(6)]
    waiting = [Written(b"%d.jpg" % n, b"%d" % n, flags=OPEN) for n in range(6)]

    def stand_still() -> None:
        assert redis.delete(keys.arrival(the_job(client)["id"]))

    body: list[Piece] = [written_zip(*sized, *waiting), stand_still]
    job = post_pieces(client, body, content_type="application/zip").json
    assert job["progress"]["total"] == 12
    assert redis.exists(keys.arrival(job["id"]))


def test_identical_pictures_are_stored_once(client: Client, settings: Settings) -> None:
    post_pieces(client, [*parts(1), *parts(1), END])
    blobs = [path for path in (settings.blob_dir / "images").rglob("*") if path.is_file()]
    assert [path.name for path in blobs] == [image_id_of(b"picture 0")]
