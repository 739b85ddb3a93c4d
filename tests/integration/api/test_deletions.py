"""Many images are removed by one job: those that are named, or that a filter is true of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import IDS, codes, ending, job_of, outcomes, upload
from support.requests import assert_problem, counts, post
from support.tiny_pair import plain_picture
from support.uploading import manifests_of

from twinlens.shared.blobs import BlobStore, image_key
from twinlens.shared.errors import Unavailable
from twinlens.shared.messages import MAX_PAGE
from twinlens.shared.redis.catalog import Catalog
from twinlens.workers.library import deletions
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings

GONE = "0" * 64


def ask(client: Client, library: str = "default", key: str | None = None, **wanted: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"/v1/images/delete?library={library}", json=wanted, headers=headers)


def asked(client: Client, **wanted: Any) -> str:
    answer = ask(client, **wanted)
    assert answer.status_code == 202, answer.text
    assert answer.json["kind"] == "delete"
    return str(answer.json["id"])


def run(process: WorkerProcess) -> None:
    for queue in ("single", "bulk"):
        process.run_all(queue)


def there(client: Client) -> list[str]:
    return sorted(one["name"] for one in client.get("/v1/images?limit=1000").json["items"])


def fill(client: Client, process: WorkerProcess, n_images: int) -> None:
    post(client, [(f"{n:02}.png", plain_picture(f"#{n:06x}")) for n in range(n_images)])
    process.run_all("bulk")
    assert len(there(client)) == n_images


def assert_whole(client: Client, process: WorkerProcess) -> None:
    """Checks that catalogue and Milvus have the same."""
    assert process.runtime.images.count_vectors("default") == {"phash": len(there(client))}


def test_images_that_are_named_are_removed_whole(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = asked(client, ids=[filled[0], GONE, filled[2], filled[0]])
    assert job_of(client, job_id)["progress"]["total"] is None
    run(process)
    assert outcomes(client, job_id) == ["succeeded", "skipped", "succeeded"]
    assert ending(client, job_id) == ("succeeded", None)
    assert counts(job_of(client, job_id)) == {"total": 3, "succeeded": 2, "skipped": 1, "failed": 0}
    assert [one["id"] for one in client.get("/v1/images").json["items"]] == [filled[1]]
    assert_whole(client, process)
    with pytest.raises(FileNotFoundError):
        process.runtime.blobs.get(image_key("default", filled[0]))


def test_images_that_a_filter_is_true_of_are_removed(
    client: Client, process: WorkerProcess
) -> None:
    fill(client, process, 12)
    job_id = asked(client, filter='name >= "03.png" and name < "09.png"')
    run(process)
    assert job_of(client, job_id)["progress"]["succeeded"] == 6
    assert there(client) == ["00.png", "01.png", "02.png", "09.png", "10.png", "11.png"]
    assert_whole(client, process)
    assert (process.runtime.feed.backlog(), process.queued("bulk")) == (0, [])


def test_a_thousand_need_no_other_word_and_more_do(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PAGE == 1000
    monkeypatch.setattr(deletions, "MAX_PAGE", 5)
    fill(client, process, 6)
    refused = asked(client, filter="width > 0")
    run(process)
    assert ending(client, refused) == ("failed", "too-many-images")
    assert len(there(client)) == 6
    few = asked(client, filter='name > "00.png"')
    run(process)
    assert (ending(client, few), there(client)) == (("succeeded", None), ["00.png"])
    fill_again = post(client, [(f"{n:02}.png", plain_picture(f"#{n:06x}")) for n in range(9)])
    process.run_all("bulk")
    assert ending(client, fill_again) == ("succeeded", None)
    asked(client, filter="width > 0", all=True)
    run(process)
    assert there(client) == []
    assert_whole(client, process)


@pytest.mark.usefixtures("filled")
def test_what_is_added_after_the_request_stays(client: Client, process: WorkerProcess) -> None:
    asked(client, filter="width > 0")
    post(client, [("late.png", plain_picture("#123456"))])
    process.run_all("bulk")
    run(process)
    assert there(client) == ["late.png"]


@pytest.mark.parametrize("step", [(Vectors, "delete"), (Catalog, "remove"), (BlobStore, "delete")])
def test_a_chunk_whose_process_died_after_a_step_is_gone_on_with(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    step: tuple[type, str],
) -> None:
    job_id = asked(client, ids=filled[:2])
    process.run_all("single")
    really_do = getattr(*step)

    def do_and_die(*args: Any, **options: Any) -> None:
        really_do(*args, **options)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(*step, do_and_die)
        process.run_next("bulk")
    process.run_all("bulk")
    assert outcomes(client, job_id) == ["succeeded"] * 2
    assert [one["id"] for one in client.get("/v1/images").json["items"]] == filled[2:]
    assert_whole(client, process)
    for image_id in filled[:2]:
        with pytest.raises(FileNotFoundError):
            process.runtime.blobs.get(image_key("default", image_id))


def test_a_plan_that_was_broken_off_is_gone_on_with(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, process, 10)
    job_id = asked(client, filter='name != "00.png"', all=True)
    really_add = process.runtime.feed.add_chunk

    def add_and_die(*args: Any) -> None:
        really_add(*args)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(process.runtime.feed, "add_chunk", add_and_die)
        process.run_next("single")
    run(process)
    assert (ending(client, job_id), there(client)) == (("succeeded", None), ["00.png"])
    assert_whole(client, process)


def test_milvus_may_be_away_meanwhile(
    client: Client, process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = asked(client, ids=filled)
    process.run_next("single")

    def fail(*_: Any) -> None:
        raise Unavailable("It is away.")

    with monkeypatch.context() as patched:
        patched.setattr(process.runtime.vectors, "delete", fail)
        process.run_next("bulk")
    assert (ending(client, job_id), len(there(client))) == (("running", None), 3)
    process.run_next("bulk")
    assert (ending(client, job_id), there(client)) == (("succeeded", None), [])


def test_it_can_be_cancelled_and_what_is_removed_stays_so(
    client: Client, process: WorkerProcess
) -> None:
    fill(client, process, 10)
    job_id = asked(client, filter="width > 0")
    process.run_next("single")
    process.run_next("bulk")
    assert client.post(f"/v1/jobs/{job_id}/cancel").json["status"] == "cancelled"
    process.run_all("bulk")
    assert len(there(client)) == 6
    assert_whole(client, process)
    assert process.runtime.feed.backlog() == 0


@pytest.mark.parametrize("is_known", [True, False])
def test_what_failed_of_it_can_be_retried(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    filled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    is_known: bool,
) -> None:
    job_id = asked(client, ids=filled)
    process.run_next("single")

    def fail(*_: Any) -> None:
        raise ValueError

    with monkeypatch.context() as patched:
        patched.setattr(process.runtime.vectors, "delete", fail)
        process.run_next("bulk")
    assert codes(client, job_id) == ["internal"] * 3
    assert ending(client, job_id) == ("failed", "internal")
    if not is_known:
        [manifest] = [path for path in manifests_of(settings) if job_id in str(path)]
        manifest.unlink()
    again = client.post(f"/v1/jobs/{job_id}/retry").json
    assert (again["kind"], again["links"]["retry_of"]) == ("delete", f"/v1/jobs/{job_id}")
    run(process)
    assert outcomes(client, again["id"]) == ["succeeded" if is_known else "failed"] * 3
    assert len(there(client)) == (0 if is_known else 3)


def test_what_is_posted_again_after_the_request_is_not_lost(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = asked(client, ids=[filled[0]])
    run(process)
    upload(client)
    process.run_all("bulk")
    assert ending(client, job_id) == ("succeeded", None)
    assert len(there(client)) == len(IDS)


def test_one_key_gives_one_job(client: Client, process: WorkerProcess, filled: list[str]) -> None:
    first, same = (ask(client, key="mine", ids=filled[:1]) for _ in range(2))
    assert same.json["id"] == first.json["id"]
    assert process.queued("single") == [first.json["id"]]
    other = ask(client, key="mine", ids=filled[1:])
    assert_problem(other, 422, "idempotency-conflict")


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ({}, "/ids"),
        ({"ids": [GONE], "filter": "width > 0"}, "/ids"),
        ({"ids": []}, "/ids"),
        ({"ids": ["x"]}, "/ids/0"),
        ({"ids": [GONE] * 1001}, "/ids"),
        ({"filter": 1}, "/filter"),
        ({"filter": "width > 0", "all": "yes"}, "/all"),
        ({"ids": [GONE], "every": True}, "/every"),
    ],
)
def test_what_cannot_be_meant_is_refused(client: Client, wanted: Any, location: str) -> None:
    problem = assert_problem(ask(client, **wanted), 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == [location]


@pytest.mark.usefixtures("process")
def test_a_filter_that_cannot_be_read_is_refused(client: Client) -> None:
    problem = assert_problem(ask(client, filter="width >"), 422, "bad-filter")
    assert [error["location"] for error in problem["errors"]] == ["/filter"]
    assert_problem(ask(client, "nonesuch", ids=[GONE]), 404, "library-not-found")
