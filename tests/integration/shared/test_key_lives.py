"""How long everything in Redis lives: nothing that has to stay expires, nothing else stays."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from celery.signals import after_task_publish
from support.clocks import Clock
from support.plain_uploads import IDS, PICTURES, upload, upload_one
from support.receivers import SECRET
from support.requests import Body, assert_problem, form_body
from support.tiny_pair import pair_card, picture_graph, plain_picture, text_graph, tokenizer_file
from werkzeug.exceptions import ClientDisconnected

from twinlens.api.accepting.idempotency import KEY_TTL_S
from twinlens.api.accepting.intake import QUERY_TTL_S
from twinlens.api.accepting.rates import WINDOW_S
from twinlens.api.routes.search import COMPARE_TIMEOUT_S
from twinlens.models.registry import ensure_models
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import REMOVED_S
from twinlens.shared.redis.jobs import SEARCH_TTL_S
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S, SEARCH_TOMBSTONE_S, TOMBSTONE_S
from twinlens.workers.process import sweeper
from twinlens.workers.process.sweeper import SWEEP_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inside_worker import WorkerProcess
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

JOB_TTL_S = 7 * 86_400
REPLY_TTL_S = 60
FOREVER = -1.0


class Seen(NamedTuple):
    """A key, as it was at some moment."""

    key: str
    left_s: float  # or FOREVER
    at: float
    job: dict[str, str]  # the record of the job that it is of, as it was then
    request: str  # what an idempotency key stood for, empty while that arrived


def look(redis: Redis) -> list[Seen]:
    """Returns every key."""
    seen = []
    for key in redis.scan_iter(count=1000):
        named = re.search(r"[0-9a-f]{32}", key)
        job: Any = redis.hgetall(f"tl:job:{named[0]}") if named else {}
        owner: Any = redis.get(key) if key.startswith("tl:idempotency:") else ""
        left_ms: Any = redis.pttl(key)
        left_s = FOREVER if left_ms == -1 else left_ms / 1000
        seen.append(Seen(key, left_s, time.monotonic(), job, owner.partition(":")[0]))
    return seen


def of_record(seen: Seen) -> float:
    if "finished_at" not in seen.job:
        return FOREVER
    if seen.job["kind"] == "search":
        return SEARCH_TTL_S + SEARCH_TOMBSTONE_S
    return JOB_TTL_S + TOMBSTONE_S


def of_job(seen: Seen) -> float:
    """What is of no use without its job's result."""
    if "finished_at" not in seen.job:
        return FOREVER
    return of_outcomes(seen)


def of_outcomes(seen: Seen) -> float:
    return SEARCH_TTL_S if seen.job["kind"] == "search" else JOB_TTL_S


def of_query(seen: Seen) -> float:
    return QUERY_TTL_S if seen.job else COMPARE_TIMEOUT_S


def of_idempotency(seen: Seen) -> float:
    return KEY_TTL_S if seen.request else ARRIVAL_TTL_S


def stays(_: Seen) -> float:
    return FOREVER


def lives(seconds: float) -> Callable[[Seen], float]:
    return lambda _: seconds


ID = "[0-9a-f]{32}"
LIBRARY = r"[a-z0-9-]+?(\.[0-9a-f]{16})?"
# Kombu writes them once a process, whatever becomes of them: only if no test came before.
BINDINGS = r"_kombu\.binding.+"
LIVES: dict[str, Callable[[Seen], float]] = {
    # Of a job.
    f"tl:job:{ID}": of_record,
    f"tl:job:{ID}:events": of_job,
    f"tl:job:{ID}:done": of_job,
    f"tl:job:{ID}:arrival": lives(ARRIVAL_TTL_S),
    f"tl:job:{ID}:tries": of_job,
    rf"celery-task-meta-{ID}(\.\d+)?": of_outcomes,
    rf"tl:query:{ID}:\d": of_query,
    "tl:sent": stays,
    "tl:sent:until": stays,
    f"tl:reply:{ID}": lives(REPLY_TTL_S),
    "tl:idempotency:[0-9a-f]{64}": of_idempotency,
    # Which jobs there are, and which wait.
    "tl:jobs": stays,
    "tl:jobs:search": stays,
    "tl:jobs:arriving": stays,
    "tl:jobs:tasks": stays,
    "tl:jobs:deadlines": stays,
    "tl:jobs:manifests": stays,
    rf"tl:library:{LIBRARY}:uploads": stays,
    "tl:feed:libraries": stays,
    rf"tl:feed:libraries:{LIBRARY}": stays,
    "tl:feed:fed": stays,
    "tl:feed:backlog": stays,
    # What hosts are to be told, and how often that went how. It ends with the last of its jobs.
    r"tl:webhooks:https://.+": lives(JOB_TTL_S),
    "tl:webhooks": stays,
    # The catalogue.
    "tl:libraries": stays,
    "tl:libraries:removed": stays,
    "tl:models": stays,
    "tl:milvus": stays,
    "tl:costs": stays,
    "tl:damages": stays,
    "tl:collections:unused": stays,
    rf"tl:library:{LIBRARY}:images": stays,
    rf"tl:library:{LIBRARY}:order": stays,
    rf"tl:library:{LIBRARY}:calibrations": stays,
    rf"tl:library:{LIBRARY}:removed": lives(REMOVED_S),
    rf"tl:library:{LIBRARY}:closed": lives(REMOVED_S),
    # Who works, and what was rescued.
    "tl:rescues": stays,
    "tl:workers": stays,
    keys.SWEEP: lives(SWEEP_S),
    # Celery's queues, and what its workers hold.
    "single": stays,
    "bulk": stays,
    "search": stays,
    "unacked": stays,
    "unacked_index": stays,
    BINDINGS: stays,
    # Of two windows each.
    "LIMITS:.+": lives(2 * WINDOW_S),
}


# How jobs end in the life of this test, by kind.
ENDS = {
    "bulk": ("succeeded", "failed"),
    "embed": ("succeeded", "failed"),
    "search": ("succeeded",),
    "reindex": ("succeeded", "cancelled"),
    "duplicates": ("succeeded",),
    "delete": ("succeeded",),
    "reconcile": ("succeeded",),
}


class Life:
    """What users and workers do, and every key that there is meanwhile."""

    def __init__(self, client: Client, process: WorkerProcess, worker: StandIn) -> None:
        self.client, self.process, self.worker = client, process, worker
        self.seen: list[Seen] = []

    def look(self, *_: Any, **__: Any) -> None:
        self.seen += look(self.worker.redis)

    def run(self) -> None:
        self.look()
        for queue in ("search", "single", "bulk"):
            self.process.run_all(queue)
        webhooks = self.process.runtime.webhooks
        for origin in webhooks.origins:
            webhooks.deliver_next(origin)
        self.look()

    def answer(self, *_: Any, **__: Any) -> None:
        """Does the call that has just been queued: then its caller waits for the answer."""
        self.process.run_next("search")
        self.look()

    def put(self, library: str, *models: str) -> Any:
        return self.client.put(f"/v1/libraries/{library}", json={"models": models})

    def post_bulk(self, *pieces: bytes | Exception | Callable[[], None], key: str = "") -> Any:
        self.client.post(
            "/v1/images/bulk",
            headers={"Idempotency-Key": key} if key else {},
            environ_overrides={
                "CONTENT_TYPE": "multipart/form-data; boundary=b",
                "wsgi.input": Body(pieces),
                "wsgi.input_terminated": True,
            },
        )

    def search(self, *pictures: str, key: str, **query: Any) -> Any:
        files = [("file", (name, PICTURES[name])) for name in pictures]
        asked = ("query", (None, json.dumps(query)))
        headers = {"Idempotency-Key": key}
        answer = self.client.post("/v1/search", headers=headers, **form_body([*files, asked]))
        assert answer.status_code == 202, answer.text


def part(name: str, content: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    return f"--b\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


PARTS = [part(f"{n}.png", plain_picture((n, 100, 200))) for n in range(6)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"requests_per_minute": 10_000, "job_ttl_s": JOB_TTL_S}
    told = {"webhook_hosts": ["127.0.0.1:1"], "webhook_secret": SECRET}
    return settings.model_copy(update=changes | told)


@pytest.fixture
def life(client: Client, process: WorkerProcess, worker: StandIn) -> Life:
    models_dir = process.runtime.settings.models_dir
    models_dir.unlink()
    ensure_models(models_dir, ["phash@1"])
    process.runtime.registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    process.runtime.publish()
    worker.announce("search")
    return Life(client, process, worker)


def upload_in_all_ways(life: Life) -> None:
    upload(life.client, webhook="https://127.0.0.1:1/", deadline_s="900")
    upload_one(life.client)
    life.client.post("/v1/images", data=b"no picture", content_type="image/png")
    life.run()
    life.post_bulk(*PARTS, b"--b--", key="settled")
    life.post_bulk(*PARTS, ClientDisconnected(), key="released")
    life.run()
    life.post_bulk(*PARTS, life.look, b"--b--", key="arriving")


def search_and_call(life: Life) -> None:
    life.search("red.png", "blue.png", key="search")
    life.run()
    after_task_publish.connect(life.answer)
    try:
        two = [("file", (name, PICTURES[name])) for name in ("red.png", "blue.png")]
        assert life.client.post("/v1/compare", **form_body(two)).status_code == 200
        assert life.client.get(f"/v1/images/{IDS[0]}/thumbnail").status_code == 200
    finally:
        after_task_publish.disconnect(life.answer)
    life.client.post("/v1/duplicates", json={})
    life.client.post("/v1/reconcile", json={})
    life.run()


def change_libraries(life: Life) -> None:
    for name in ("art", "gone"):
        assert life.put(name, "phash").status_code == 201
        upload(life.client, name)
    life.run()
    assert life.put("art", "phash", "colours").status_code == 202
    life.client.post("/v1/libraries/art/rollback")
    life.run()
    assert life.put("art", "phash", "colours").status_code == 202
    life.run()
    life.client.delete(f"/v1/images/{IDS[0]}")
    life.client.delete("/v1/libraries/gone")
    life.run()


def test_every_key_lives_as_long_as_it_is_of_use(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new key has to be given its place in the table."""
    began = time.monotonic()
    really_write = life.process.runtime.vectors.upsert

    def look_first(*args: Any) -> None:
        life.look()
        really_write(*args)

    monkeypatch.setattr(life.process.runtime.vectors, "upsert", look_first)
    upload_in_all_ways(life)
    search_and_call(life)
    change_libraries(life)
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    upload_one(life.client)
    life.process.lose("single")
    art = life.process.runtime.catalog.library("art")
    life.process.runtime.vectors.drop(art.collections["phash@1"])  # Milvus loses it
    life.process.runtime.sweeper.sweep(life.process.celery)
    life.post_bulk(*PARTS * 4, b"--b--")
    upload_one(life.client)
    life.search("red.png", key="waiting")
    life.process.take("single")
    life.look()
    assert {(one.job["kind"], one.job["status"]) for one in life.seen if one.job} >= {
        (kind, status) for kind, ends in ENDS.items() for status in ("queued", *ends)
    }

    covered: set[str] = set()
    wrong: dict[str, tuple[float, Seen]] = {}
    for one in life.seen:
        rows = [pattern for pattern in LIVES if re.fullmatch(pattern, one.key)]
        assert len(rows) == 1, f"its life is not told here: {one}"
        covered.update(rows)
        wanted_s = LIVES[rows[0]](one)
        # It may have been written at any time since.
        least_s = FOREVER if wanted_s == FOREVER else wanted_s - (one.at - began) - 1
        if not least_s <= one.left_s <= wanted_s:
            wrong[rows[0]] = (wanted_s, one)
    assert wrong == {}
    assert covered | {BINDINGS} == set(LIVES)


# Jobs after their life.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def submit(client: Client, kind: str) -> str:
    if kind == "search":
        answer = client.post("/v1/search", **form_body({"file": ("a.png", b"picture")}))
    else:
        answer = client.post("/v1/images", data=b"picture", content_type="image/png")
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


@pytest.mark.parametrize(("kind", "life_s"), [("embed", JOB_TTL_S), ("search", SEARCH_TTL_S)])
def test_a_job_answers_410_once_its_life_is_over(
    client: Client, worker: StandIn, clock: Clock, kind: str, life_s: float
) -> None:
    job_id = submit(client, kind)
    clock.ahead_s = 10 * JOB_TTL_S  # it waited for long
    worker.jobs.finish(job_id)
    for path in ("", "/items", "/events"):
        clock.ahead_s = 10 * JOB_TTL_S + life_s - 60
        assert client.get(f"/v1/jobs/{job_id}{path}").status_code == 200
        clock.ahead_s = 10 * JOB_TTL_S + life_s + 1
        assert_problem(client.get(f"/v1/jobs/{job_id}{path}"), 410, "job-expired")


@pytest.mark.parametrize(
    ("kind", "key", "life_s"),
    [("embed", keys.JOBS, JOB_TTL_S + TOMBSTONE_S), ("search", keys.SEARCHES, SEARCH_TTL_S)],
)
def test_the_list_of_jobs_does_not_grow_for_ever(
    client: Client, worker: StandIn, clock: Clock, kind: str, key: str, life_s: float
) -> None:
    first = submit(client, kind)
    clock.ahead_s = life_s - 60
    second = submit(client, kind)
    assert worker.redis.zrevrange(key, 0, -1) == [second, first]
    clock.ahead_s = life_s + 1
    third = submit(client, kind)
    assert worker.redis.zrevrange(key, 0, -1) == [third, second]
