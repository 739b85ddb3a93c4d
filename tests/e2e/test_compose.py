"""What docker-compose.yml says, run as plain processes: nothing here needs a container engine."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.clients import Client
from support.compose import Stack, read_env
from support.paths import ROOT
from support.photos import make_photos
from support.requests import counts
from support.servers import loading_valkey, needs_standalone, wait_until

needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None or shutil.which("etcdctl") is None,
    reason="there is no etcd on this machine (Debian: etcd-server, etcd-client)",
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
# There is no S3 here, and the wheel's Milvus is older than Woodpecker.
HERE = {"COMMON_STORAGETYPE": "local", "MQ_TYPE": "rocksmq"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can go through, as those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="twinlens-compose-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@needs_standalone
@needs_curl
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="minimal"),
        pytest.param(read_env(ROOT / "full.env") | HERE, id="full", marks=needs_etcd),
    ],
)
def test_a_picture_is_posted_and_found(folder: Path, tmp_path: Path, env: dict[str, str]) -> None:
    photos = make_photos(tmp_path / "photos", 3, seed=14)
    stack = Stack(folder, env)
    with stack.running():
        wait_until(lambda: stack.is_healthy("api"), 180)
        # As `docker compose logs first-key` shows it, and `exec` makes another.
        [first] = re.findall(r"^twinlens_\w+$", stack.log_of("first-key"), re.MULTILINE)
        second = stack.run("api", "twinlens", "keys", "create", "--scope", "write").strip()
        assert httpx.get(f"{stack.url}/v1/images").status_code == 401
        with Client(stack.url, first) as client:
            assert client.get("/v1/libraries")["items"]
        with Client(stack.url, second) as client:
            job = client.index(photos)
            assert counts(job) == {"total": 3, "succeeded": 3, "skipped": 0, "failed": 0}
            [hit, *_] = client.search(photos[1].read_bytes())["result"]["hits"]
        assert hit["image"]["name"] == photos[1].name
        assert hit["score"] > 0.99
    assert ("etcd" in stack.started) == ("COMPOSE_PROFILES" in env)
    assert set(stack.started) >= {"valkey", "milvus", "api", "worker-search", "worker-bulk"}


@needs_standalone
def test_valkey_is_healthy_once_it_has_read_what_it_has(folder: Path) -> None:
    stack = Stack(folder, {})
    with loading_valkey(folder, stack.valkey_port) as end_loading:
        assert not stack.is_healthy("valkey")
        end_loading()
        wait_until(lambda: stack.is_healthy("valkey"), 60)
