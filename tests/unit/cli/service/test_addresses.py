"""Which addresses may be served, and which ports are free."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import free_port

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import Grant, new_key
from twinlens.cli.errors import CommandRefused
from twinlens.cli.service import addresses
from twinlens.cli.service.addresses import check_host, check_port, is_free, pick_port, url_of
from twinlens.shared.loopback import is_loopback
from twinlens.shared.settings import Settings


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "is_ours_alone"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("pictures.example", False),
    ],
)
def test_other_machines_are_served_once_there_is_a_key(
    tmp_path: Path, host: str, is_ours_alone: bool
) -> None:
    assert is_loopback(host) is is_ours_alone
    settings = Settings(data_dir=tmp_path / "a folder", host=host)
    if is_ours_alone:
        check_host(settings)
    else:
        with pytest.raises(CommandRefused, match=f"keys create .*--data-dir '{tmp_path}/a folder'"):
            check_host(settings)
    settings.data_dir.mkdir()
    Keyring(settings.keys_dir).add(new_key(Grant(scope="read")).record)
    check_host(settings)


def test_where_keys_cannot_be_looked_for_other_machines_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandRefused, match=f"for keys in {tmp_path}/file/keys: Not a dir"):
        check_host(Settings(data_dir=tmp_path / "file", host="0.0.0.0"))


def test_a_port_that_somebody_listens_on_is_not_free(taken: int) -> None:
    assert not is_free("127.0.0.1", taken)
    with pytest.raises(CommandRefused, match=f"port {taken} on 127.0.0.1 is in use"):
        check_port("127.0.0.1", taken)


def test_a_port_that_somebody_has_and_does_not_listen_on_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        assert not is_free("127.0.0.1", holder.getsockname()[1])


def test_a_port_of_every_address_is_not_free_on_one() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free("127.0.0.1", server.getsockname()[1])


def test_a_port_whose_connections_were_closed_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            # Who closes first has the port in TIME_WAIT.
            accepted.close()
            assert client.recv(1) == b""
    assert is_free("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(CommandRefused, match=r"cannot listen on 192\.0\.2\.1 port 8000: "):
        check_port("192.0.2.1", 8000)


def test_a_port_is_kept_where_it_is_free(taken: int) -> None:
    wanted = free_port()
    assert pick_port(wanted=wanted) == wanted
    assert pick_port(wanted=taken) != taken


def test_ports_are_none_that_a_client_could_be_given() -> None:
    port = pick_port()
    assert 20_000 <= port < 32_768
    assert is_free("127.0.0.1", port)


def test_a_taken_port_is_passed_over(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    other = free_port()
    monkeypatch.setattr(random, "sample", lambda *_: [taken, other])
    assert pick_port() == other


def test_where_no_port_is_free_it_is_told(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "PORTS", range(taken, taken + 1))
    with pytest.raises(CommandRefused, match=f"no port from {taken} to {taken} on 127.0.0.1"):
        pick_port()


def test_two_that_look_at_once_begin_elsewhere() -> None:
    ports: set[int] = set()
    for _ in range(5):
        ports.add(pick_port())
    assert len(ports) > 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("192.168.0.7", "http://192.168.0.7:8000"),
    ],
)
def test_a_url_is_one_that_a_client_here_can_use(host: str, url: str) -> None:
    assert url_of(host, 8000) == url
