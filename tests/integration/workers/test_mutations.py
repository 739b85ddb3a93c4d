"""Damaged pictures and archives, through a real worker's decoders: each is an item's outcome.

As many as there are examples of a property: in `make fuzz`, 10,000 others in each run.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import settings as examples
from support.inside_worker import serve_only
from support.mutations import mutate, mutated_archive, whole_pictures
from support.plain_uploads import codes, ending, job_of
from support.requests import client_of, form_body
from support.servers import running_valkey, running_worker, wait_until

from twinlens.shared.redis.client import connect
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.requests import Client

log = logging.getLogger(__name__)
MIB = 1 << 20
N_FILES = 5 * examples().max_examples
# Of a round: one form of pictures, and archives.
N_PICTURES, N_ARCHIVES = 80, 20
OF_PICTURES = {"empty-picture", "broken-picture", "unsupported-picture", "picture-too-large"}
OF_ARCHIVES = {"bad-archive", "upload-broken", "bad-request", "payload-too-large"}
MOST_GROWTH_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def settings(
    lite_uri: str, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    with running_valkey(tmp_path_factory.mktemp("valkey-of-mutations")) as redis_url:
        settings = Settings(
            redis_url=redis_url,
            milvus_uri=lite_uri,
            milvus_timeout_s=60,
            data_dir=tmp_path_factory.mktemp("data"),
        )
        settings.models_dir.symlink_to(models_dir)
        yield settings


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[psutil.Process]:
    with connect(settings.redis_url) as redis:
        serve_only(redis, "phash@1")
    with running_worker(settings, tmp_path) as worker:
        yield worker


def post_round(client: Client, rng: random.Random, pictures: dict[str, bytes]) -> list[str]:
    """Posts a form and archives; returns the jobs of those that are accepted."""
    form = [
        ("files", (f"{n} {name}", mutate(rng, pictures[name], pictures)))
        for n, name in enumerate(rng.choices(sorted(pictures), k=N_PICTURES))
    ]
    answers = [client.post("/v1/images/bulk", **form_body(form))]
    for _ in range(N_ARCHIVES):
        _, kind, content = mutated_archive(rng, pictures)
        answers.append(client.post("/v1/images/bulk", data=content, content_type=kind))
    for answer in answers:
        assert answer.status_code < 500, answer.text
    return [answer.json["id"] for answer in answers if answer.status_code == 202]


def wait_for(client: Client, job_id: str) -> None:
    wait_until(lambda: job_of(client, job_id)["finished_at"] is not None, 120)


def test_damaged_files_are_outcomes_and_end_no_process_and_leave_no_memory(
    settings: Settings, worker: psutil.Process
) -> None:
    seed = 15 if examples().derandomize else random.SystemRandom().getrandbits(32)
    log.warning("%d damaged files of seed %d", N_FILES, seed)
    rng, pictures, client = random.Random(seed), whole_pictures(), client_of(settings)
    [process] = worker.children()
    outcomes: Counter[str | None] = Counter()
    rss_bytes = []
    for _ in range(N_FILES // (N_PICTURES + N_ARCHIVES)):
        for job_id in post_round(client, rng, pictures):
            wait_for(client, job_id)
            outcomes.update([*codes(client, job_id), ending(client, job_id)[1]])
        rss_bytes.append(process.memory_info().rss)
    log.warning("%s; MiB of memory: %s", outcomes, [n // MIB for n in rss_bytes])
    assert outcomes.keys() <= {None, *OF_PICTURES, *OF_ARCHIVES}
    assert outcomes[None] > 0
    assert outcomes["broken-picture"] > 0
    assert worker.children() == [process]
    half = len(rss_bytes) // 2
    assert max(rss_bytes[half:]) < max(rss_bytes[:half]) + MOST_GROWTH_BYTES
