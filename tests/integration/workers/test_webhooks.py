"""Who asked for it is told of the end of a job: by a real server, which may be slow, or away."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from support.clocks import Clock
from support.inside_worker import serve_only
from support.paths import ROOT
from support.plain_uploads import PICTURES, job_of, upload
from support.receivers import CERTIFICATE, SECRET, Receiver, allowing, running_receiver
from support.requests import client_of, form_body
from support.servers import free_port, running_valkey, running_worker, wait_until

from twinlens.shared.errors import BrokenPicture
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.jobs import Jobs
from twinlens.shared.redis.webhooks import LEASE_S, OwedWebhooks
from twinlens.workers import webhooks as module
from twinlens.workers.webhooks import PAUSES_S, Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

NEW_SECRET = "whsec_" + "bg" * 16


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Settings, receiver: Receiver) -> Settings:
    return settings.model_copy(update=allowing(receiver))


@pytest.fixture
def webhooks(settings: Settings, redis: Redis) -> Webhooks:
    return Webhooks(settings, redis, Jobs(redis))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def ask(client: Client, url: str, kind: str = "embed") -> str:
    """Submits a job whose end is to be told; returns its id."""
    if kind == "search":
        sent = {"path": "/v1/search", **form_body({"file": ("a.png", b"picture")})}
    else:
        sent = {"path": "/v1/images", "data": PICTURES["red.png"], "content_type": "image/png"}
    answer = client.post(sent.pop("path"), query_string={"webhook": url}, **sent)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def deliver(webhooks: Webhooks) -> int:
    """Tells all that is due; returns how often somebody was told."""
    return sum(webhooks.deliver_next(origin) for origin in webhooks.origins)


def told_of(client: Client, job_id: str) -> dict[str, Any]:
    webhook: dict[str, Any] = job_of(client, job_id)["webhook"]
    return webhook


ENDS: dict[str, Callable[[StandIn, str], Any]] = {
    "succeeded": lambda worker, job_id: worker.jobs.finish(job_id),
    "failed": lambda worker, job_id: worker.jobs.finish(
        job_id, BrokenPicture("It is broken.").to_problem()
    ),
    "cancelled": lambda worker, job_id: worker.jobs.cancel(job_id),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_job_is_told_signed_as_it_is_polled(
    client: Client, worker: StandIn, webhooks: Webhooks, receiver: Receiver, end: str
) -> None:
    job_id = ask(client, receiver.url)
    waiting = {"url": receiver.url, "status": "pending", "attempts": 0}
    assert told_of(client, job_id) == waiting | {"last_error": None, "next_attempt_at": None}
    assert deliver(webhooks) == 0
    ENDS[end](worker, job_id)
    job = job_of(client, job_id)
    assert job["webhook"]["next_attempt_at"] == job["finished_at"]
    assert [deliver(webhooks), deliver(webhooks)] == [1, 0]
    assert receiver.events == [
        {"type": f"job.{end}", "timestamp": job["finished_at"], "data": job | {"result": None}}
    ]
    assert receiver.ids == [job_id]
    told = told_of(client, job_id)
    assert (told["status"], told["attempts"]) == ("delivered", 1)
    assert told["next_attempt_at"] is None
    assert client.get("/v1/stats").json["webhooks"] == {
        "pending": 0,
        "delivered": 1,
        "retried": 0,
        "failed": 0,
    }


def test_a_receiver_as_it_is_documented_takes_what_is_sent(
    client: Client,
    worker: StandIn,
    webhooks: Webhooks,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(webhooks)
    [(headers, body)] = receiver.told
    monkeypatch.setenv("TWINLENS_WEBHOOK_SECRET", SECRET)
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    documented: dict[str, Any] = {"__name__": "receiver"}
    exec(code, documented)
    answer = documented["app"].test_client().post("/twinlens", headers=headers, data=body)
    assert answer.status_code == 204
    assert f"job.succeeded {job_id} " in capsys.readouterr().out
    with pytest.raises(WebhookVerificationError):
        documented["webhook"].verify(body + b" ", headers)


def test_a_job_of_which_nobody_wants_to_know_tells_nobody(
    client: Client, worker: StandIn, redis: Redis
) -> None:
    job_id = client.post("/v1/images", data=b"picture", content_type="image/png").json["id"]
    worker.jobs.finish(job_id)
    assert job_of(client, job_id)["webhook"] is None
    assert redis.keys("tl:webhooks*") == []


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def test_what_is_not_taken_is_told_again_later_under_the_same_id(
    client: Client, worker: StandIn, webhooks: Webhooks, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [500, hang_up, 204]
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    tags = [client.get(f"/v1/jobs/{job_id}").headers["ETag"]]
    reasons = []
    for pause_s in (0, *PAUSES_S[:2]):
        clock.ahead_s += 0.8 * pause_s
        assert deliver(webhooks) == (pause_s == 0)
        clock.ahead_s += 0.4 * pause_s
        deliver(webhooks)
        answer = client.get(f"/v1/jobs/{job_id}")
        tags.append(answer.headers["ETag"])
        reasons.append(answer.json["webhook"]["last_error"])
    assert reasons[0] == "The host 'localhost' answered with status 500."
    assert reasons[1] == "The host 'localhost' cannot be reached, or closed the connection."
    assert receiver.ids == [job_id] * 3
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.told}) == 3
    assert len(set(tags)) == 4, "who polls by it is told"
    told = told_of(client, job_id)
    assert (told["status"], told["attempts"]) == ("delivered", 3)
    stats = client.get("/v1/stats").json["webhooks"]
    assert stats == {"pending": 0, "delivered": 1, "retried": 2, "failed": 0}


@pytest.mark.parametrize(("kind", "n_most"), [("embed", len(PAUSES_S) + 1), ("search", 5)])
def test_a_host_that_stays_away_is_given_up_after_a_day_or_with_the_job(
    client: Client,
    settings: Settings,
    redis: Redis,
    worker: StandIn,
    clock: Clock,
    kind: str,
    n_most: int,
) -> None:
    nowhere = f"localhost:{free_port()}"
    allowed = settings.model_copy(update={"webhook_hosts": [nowhere]})
    job_id = ask(client_of(allowed), f"https://{nowhere}/", kind)
    worker.jobs.finish(job_id)
    webhooks = Webhooks(allowed, redis, Jobs(redis))
    for pause_s in (0, *PAUSES_S):
        clock.ahead_s += 1.2 * pause_s
        deliver(webhooks)
        if (told := told_of(client, job_id))["status"] == "failed":
            break
    assert (told["status"], told["attempts"]) == ("failed", n_most)
    assert told["last_error"].endswith("cannot be reached, or closed the connection.")
    assert told["next_attempt_at"] is None
    assert not redis.exists(keys.webhook_line(f"https://{nowhere}"))
    assert 86_400 / 2 < sum(PAUSES_S) < 86_400 * 1.1


def test_a_receiver_that_is_gone_is_not_told_again(
    client: Client, worker: StandIn, webhooks: Webhooks, receiver: Receiver, clock: Clock
) -> None:
    receiver.answers = [410]
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(webhooks)
    clock.ahead_s = 1_000
    assert deliver(webhooks) == 0
    told = told_of(client, job_id)
    assert (told["status"], told["attempts"]) == ("failed", 1)
    assert told["last_error"] == "The host 'localhost' answered with status 410."


def test_a_redirect_is_not_followed(
    client: Client, worker: StandIn, webhooks: Webhooks, receiver: Receiver
) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", f"{receiver.origin}/elsewhere")
        handler.end_headers()

    receiver.answers = [redirect, 200]
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(webhooks)
    assert len(receiver.told) == 1
    assert told_of(client, job_id)["last_error"] == "The host 'localhost' answered with status 307."


def test_a_receiver_that_says_nothing_is_not_waited_for(
    client: Client,
    worker: StandIn,
    webhooks: Webhooks,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5)
    receiver.answers = [receiver.hang]
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(webhooks)
    assert told_of(client, job_id)["last_error"] == "The host 'localhost' did not answer in time."


def test_an_answer_without_end_is_not_read(
    client: Client, worker: StandIn, webhooks: Webhooks, receiver: Receiver
) -> None:
    def pour(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not receiver.is_over.is_set():
                handler.wfile.write(b"x" * 65_536)

    receiver.answers = [pour]
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(webhooks)
    assert told_of(client, job_id)["status"] == "delivered"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allowed_networks": []}, "TWINLENS_ALLOWED_NETWORKS"),
        ({"webhook_hosts": ["hooks.example"]}, None),
    ],
)
def test_a_host_that_is_not_allowed_is_not_connected_to(
    client: Client,
    settings: Settings,
    redis: Redis,
    worker: StandIn,
    receiver: Receiver,
    changes: dict[str, Any],
    reason: str | None,
) -> None:
    """The API's own settings allow it: what a worker allows counts."""
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(Webhooks(settings.model_copy(update=changes), redis, Jobs(redis)))
    assert receiver.told == []
    told = told_of(client, job_id)
    assert told["status"] == "pending"
    assert (reason is None) == (told["last_error"] is None)
    assert reason is None or reason in told["last_error"]


def test_what_a_record_names_is_told_only_where_its_host_is_the_one_of_its_line(
    client: Client, redis: Redis, worker: StandIn, webhooks: Webhooks, receiver: Receiver
) -> None:
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    redis.hset(keys.job(job_id), "webhook", "https://127.0.0.1:1/")
    deliver(webhooks)
    assert "TWINLENS_WEBHOOK_HOSTS" in told_of(client, job_id)["last_error"]


def test_a_certificate_that_is_not_known_is_refused(
    client: Client,
    settings: Settings,
    redis: Redis,
    worker: StandIn,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    deliver(Webhooks(settings, redis, Jobs(redis)))
    assert receiver.told == []
    assert told_of(client, job_id)["last_error"].endswith("no certificate that is valid for it.")


def test_a_host_that_is_allowed_by_http_is_told_by_it(
    client: Client, settings: Settings, redis: Redis, worker: StandIn
) -> None:
    with running_receiver(is_plain=True) as plain:
        allowed = settings.model_copy(update=allowing(plain))
        job_id = ask(client_of(allowed), plain.url)
        worker.jobs.finish(job_id)
        deliver(Webhooks(allowed, redis, Jobs(redis)))
        assert [event["data"]["id"] for event in plain.events] == [job_id]


def test_while_secrets_are_changed_both_sign(
    client: Client, settings: Settings, redis: Redis, worker: StandIn, receiver: Receiver
) -> None:
    both = settings.model_copy(update={"webhook_secret": f"{NEW_SECRET} {SECRET}"})
    worker.jobs.finish(ask(client, receiver.url))
    deliver(Webhooks(both, redis, Jobs(redis)))
    [(headers, body)] = receiver.told
    for secret in (SECRET, NEW_SECRET):
        Webhook(secret).verify(body, headers)


def test_who_cannot_sign_leaves_it_to_others(settings: Settings, redis: Redis) -> None:
    mute = settings.model_copy(update={"webhook_secret": ""})
    assert not Webhooks(mute, redis, Jobs(redis)).origins


def test_what_a_worker_took_and_did_not_settle_is_due_again(
    client: Client,
    redis: Redis,
    worker: StandIn,
    webhooks: Webhooks,
    receiver: Receiver,
    clock: Clock,
) -> None:
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    [origin] = webhooks.origins
    assert OwedWebhooks(redis).claim(origin) == job_id
    clock.ahead_s = LEASE_S - 1
    assert deliver(webhooks) == 0
    clock.ahead_s = LEASE_S + 1
    assert deliver(webhooks) == 1
    assert told_of(client, job_id)["status"] == "delivered"


def test_who_is_too_late_does_not_undo_what_another_has_done(
    client: Client,
    worker: StandIn,
    webhooks: Webhooks,
    receiver: Receiver,
    clock: Clock,
) -> None:
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)

    def stand_still(handler: BaseHTTPRequestHandler) -> None:
        clock.ahead_s += LEASE_S + 1
        assert deliver(webhooks) == 1
        handler.send_error(503)

    receiver.answers = [stand_still, 200]
    deliver(webhooks)
    told = told_of(client, job_id)
    assert (told["status"], told["attempts"], told["last_error"]) == ("delivered", 1, None)
    assert deliver(webhooks) == 0


def test_of_a_job_that_is_gone_nothing_is_told(
    client: Client, redis: Redis, worker: StandIn, webhooks: Webhooks, receiver: Receiver
) -> None:
    job_id = ask(client, receiver.url)
    worker.jobs.finish(job_id)
    redis.delete(keys.job(job_id))
    assert [deliver(webhooks), deliver(webhooks)] == [1, 0]
    assert receiver.told == []
    assert redis.keys("tl:*webhook*") == []


# Real workers.


def test_owed_webhooks_outlive_every_part_and_who_hangs_holds_up_nobody_else(
    settings: Settings, receiver: Receiver, tmp_path: Path, models_dir: Path
) -> None:
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    receiver.answers = [receiver.hang, 200]
    with running_receiver() as other:
        changes = allowing(receiver, other)
        with running_valkey(tmp_path) as url, connect(url) as redis:
            own = settings.model_copy(update=changes | {"redis_url": url})
            serve_only(redis, "phash@1")
            client = client_of(own)
            with running_worker(own, tmp_path) as worker:
                hanging = upload(client, webhook=receiver.url)
                wait_until(lambda: len(receiver.told) == 1, 120)
                told = upload(client, webhook=other.url)
                wait_until(lambda: told_of(client, told)["status"] == "delivered", 60)
                for process in (*worker.children(), worker):
                    process.kill()
        # Where it was told in vain, and nobody knows that.
        with (
            running_valkey(tmp_path) as url,
            running_worker(own.model_copy(update={"redis_url": url}), tmp_path),
        ):
            wait_until(lambda: told_of(client, hanging)["status"] == "delivered", 120)
        assert set(receiver.ids) == {hanging}
        assert other.ids == [told]
