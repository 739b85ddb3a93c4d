"""A Milvus that is away, silent or broken: each call ends in its time, as `Unavailable`."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from support.doors import Door
from support.servers import wait_until

from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.shared.errors import Unavailable
from twinlens.shared.libraries import new_library
from twinlens.shared.settings import Settings
from twinlens.workers.milvus.collection import collection_of
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PHASH = load_card(SHIPPED_CARDS / "phash@1.toml")
COLLECTION = collection_of(new_library("away", [PHASH.ref]), PHASH)
ROWS = np.zeros((1, 8), np.uint8)
IDS = ["0" * 64]

CALLS: dict[str, Callable[[Vectors], object]] = {
    "ping": lambda vectors: vectors.ping(timeout_s=0.2),
    "upsert": lambda vectors: vectors.upsert(COLLECTION, IDS, ROWS, [{}]),
    "nearest": lambda vectors: vectors.nearest(COLLECTION, ROWS, 1),
    "fetch": lambda vectors: vectors.fetch(COLLECTION, IDS),
    "delete": lambda vectors: vectors.delete(COLLECTION, IDS),
    "count": lambda vectors: vectors.count(COLLECTION),
    "has": lambda vectors: vectors.has(COLLECTION.name),
    "drop": lambda vectors: vectors.drop(COLLECTION.name),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def vectors_at(port: int) -> Vectors:
    return Vectors(Settings(milvus_uri=f"http://127.0.0.1:{port}", milvus_timeout_s=0.2))


def is_done(call: Callable[[Vectors], object], vectors: Vectors) -> bool:
    try:
        call(vectors)
    except Unavailable:
        return False
    return True


@pytest.fixture
def vectors(door: Door) -> Vectors:
    """Those of a process that has worked with its Milvus."""
    vectors = vectors_at(door.port)
    wait_until(lambda: is_done(CALLS["upsert"], vectors), 60)
    return vectors


@pytest.mark.parametrize("outage", [Door.shut, Door.hush])
@every_call
def test_a_milvus_that_goes_away_is_unavailable_and_answers_when_it_is_back(
    vectors: Vectors,
    door: Door,
    outage: Callable[[Door], None],
    call: Callable[[Vectors], object],
) -> None:
    outage(door)
    start_s = time.monotonic()
    with pytest.raises(Unavailable, match="Milvus did not answer"):
        call(vectors)
    assert time.monotonic() - start_s < 15, "it is given a fraction of a second"
    door.open()
    wait_until(lambda: is_done(call, vectors), 60)


@pytest.mark.parametrize("outage", [Door.shut, Door.hush])
@every_call
def test_a_milvus_that_was_never_there_is_unavailable(
    door: Door, outage: Callable[[Door], None], call: Callable[[Vectors], object]
) -> None:
    outage(door)
    with pytest.raises(Unavailable, match="Milvus did not answer"):
        call(vectors_at(door.port))


class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with an error."""

    def service(self, details: Any) -> Any:  # noqa: ARG002
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.INTERNAL, "out of order")
        )


@pytest.fixture
def broken_port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@every_call
def test_a_milvus_that_is_out_of_order_is_unavailable(
    broken_port: int, call: Callable[[Vectors], object]
) -> None:
    with pytest.raises(Unavailable, match="Milvus did not answer"):
        call(vectors_at(broken_port))


PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")


def set_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in PROXIES:
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_is_no_way_to_a_milvus_on_this_machine(
    door: Door, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    set_proxy(monkeypatch, 9)
    vectors = Vectors(Settings(milvus_uri=f"http://{host}:{door.port}", milvus_timeout_s=60))
    vectors.ping(timeout_s=60)


def test_a_milvus_elsewhere_is_reached_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        set_proxy(monkeypatch, proxy.getsockname()[1])
        vectors = Vectors(Settings(milvus_uri="http://milvus.invalid:19530", milvus_timeout_s=1))
        with ThreadPoolExecutor(1) as caller:
            call = caller.submit(vectors.ping, timeout_s=1)
            connection, _ = proxy.accept()
            with connection:
                assert connection.recv(1024).startswith(b"CONNECT milvus.invalid:19530 HTTP/1.1")
            assert isinstance(call.exception(), Unavailable)


def test_which_server_it_is_is_asked_again_after_an_outage(door: Door, vectors: Vectors) -> None:
    again = vectors_at(door.port)
    door.hush()
    with pytest.raises(Unavailable, match="Milvus did not answer"):
        _ = again.server
    door.open()
    wait_until(lambda: is_done(lambda one: one.server, again), 60)
    assert again.server.is_lite
