"""Files that a listing names, and the addresses that a connection may go to."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from twinlens.shared.errors import (
    EmptyPicture,
    PayloadTooLarge,
    SourceFailed,
    SourceRefused,
    TwinlensError,
)
from twinlens.shared.settings import Settings
from twinlens.workers.chunk.sources import Sources, _open_below
from twinlens.workers.network import is_reachable

MAX_BYTES = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "inner").mkdir(parents=True)
    (root / "cat.jpg").write_bytes(b"cat")
    (root / "inner" / "my dög.jpg").write_bytes(b"dog")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "photos-too").mkdir()
    (tmp_path / "photos-too" / "cat.jpg").write_bytes(b"secret")
    return root


def fetch(root: Path, uri: str) -> bytes:
    sources = Sources(Settings(allowed_roots=[root], max_picture_bytes=MAX_BYTES))
    return sources.fetch(uri)


def detail_of(root: Path, uri: str, error: type[TwinlensError] = SourceRefused) -> str:
    with pytest.raises(error) as refused:
        fetch(root, uri)
    assert str(root.parent) not in refused.value.detail
    refused.value.to_problem().model_dump_json()
    return refused.value.detail


def test_a_file_below_a_root_is_read(root: Path) -> None:
    assert fetch(root, f"file://{root}/cat.jpg") == b"cat"
    assert fetch(root, f"file://localhost{root}/cat.jpg") == b"cat"
    assert fetch(root, f"file://{root}/inner/my%20d%C3%B6g.jpg") == b"dog"
    assert fetch(root, f"file://{root}/inner/my%20dög.jpg") == b"dog"


def test_a_name_that_is_not_utf_8_is_read(root: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/\xff.jpg")).write_bytes(b"old")
    except OSError:
        pytest.skip("This file system takes UTF-8 alone.")
    assert fetch(root, f"file://{root}/%FF.jpg") == b"old"
    detail_of(root, f"file://{root}/%FE.jpg", SourceFailed)


def test_a_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert fetch(tmp_path / "link", f"file://{tmp_path}/link/cat.jpg") == b"cat"
    assert fetch(tmp_path / "link", f"file://{root}/cat.jpg") == b"cat"


def test_a_link_that_stays_below_the_root_is_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("inner/my dög.jpg")
    (root / "folder").symlink_to(root / "inner")
    assert fetch(root, f"file://{root}/link.jpg") == b"dog"
    assert fetch(root, f"file://{root}/folder/my%20dög.jpg") == b"dog"


def test_dots_are_taken_before_links_are_followed(root: Path) -> None:
    assert fetch(root, f"file://{root}/inner/../cat.jpg") == b"cat"
    assert fetch(root, f"file://{root}/inner/%2e%2E/cat.jpg") == b"cat"
    (root / "folder").symlink_to(root.parent)
    assert fetch(root, f"file://{root}/folder/../cat.jpg") == b"cat"


@pytest.mark.parametrize(
    "path",
    [
        "{root}/../secret",
        "{root}/%2e%2e/secret",
        "{root}/..%2Fsecret",
        "{root}/link/secret",
        "{root}/link.jpg",
        "{root}-too/cat.jpg",
        "{root}/../missing",
        "/etc/passwd",
        "/",
        "{root}/cat.jpg%00",
        "{root}/dead.jpg",
    ],
)
def test_a_file_outside_is_refused_whether_it_is_there_or_not(root: Path, path: str) -> None:
    (root / "link").symlink_to(root.parent)
    (root / "link.jpg").symlink_to("../secret")
    (root / "dead.jpg").symlink_to("../missing")
    detail = detail_of(root, "file://" + path.format(root=root))
    assert "is not below any of TWINLENS_ALLOWED_ROOTS." in detail


def test_without_roots_no_file_is_read(root: Path) -> None:
    with pytest.raises(SourceRefused, match="TWINLENS_ALLOWED_ROOTS"):
        Sources(Settings()).fetch(f"file://{root}/cat.jpg")


@pytest.mark.parametrize(
    "uri",
    [
        *("file:cat.jpg", "file://host{root}/cat.jpg", "http://localhost{root}/cat.jpg"),
        *("s3://bucket/cat.jpg", "{root}/cat.jpg", "cat.jpg", "", "https://[", "file:///\ud800"),
    ],
)
def test_another_uri_is_refused(root: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    detail_of(root, uri.format(root=root))


def test_a_link_put_there_after_the_check_is_not_followed(root: Path) -> None:
    (root / "folder").symlink_to(root / "inner")
    (root / "link.jpg").symlink_to("cat.jpg")
    with pytest.raises(OSError, match=r"Too many|Not a directory"):
        _open_below(root, ["folder", "my dög.jpg"])
    with pytest.raises(OSError, match="Too many"):
        _open_below(root, ["link.jpg"])


def test_what_is_no_file_is_refused(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    assert detail_of(root, f"file://{root}/pipe.jpg") == "'pipe.jpg' is not a regular file."
    assert detail_of(root, f"file://{root}/inner") == "'inner' is not a regular file."
    assert detail_of(root, f"file://{root}") == "'photos' is not a regular file."


def test_a_missing_file_is_told_from_a_refused_one(root: Path) -> None:
    detail = detail_of(root, f"file://{root}/inner/missing%0A.jpg", SourceFailed)
    assert detail == r"The file 'missing\n.jpg' cannot be read: No such file or directory."
    (root / "loop.jpg").symlink_to("loop.jpg")
    detail_of(root, f"file://{root}/loop.jpg", SourceFailed)
    detail_of(root, f"file://{root}/{'x' * 5000}.jpg", SourceFailed)


def test_a_file_has_some_bytes_and_not_too_many(root: Path) -> None:
    (root / "empty.jpg").touch()
    (root / "full.jpg").write_bytes(b"x" * MAX_BYTES)
    (root / "over.jpg").write_bytes(b"x" * (MAX_BYTES + 1))
    detail_of(root, f"file://{root}/empty.jpg", EmptyPicture)
    detail_of(root, f"file://{root}/over.jpg", PayloadTooLarge)
    assert fetch(root, f"file://{root}/full.jpg") == b"x" * MAX_BYTES


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone has such files.")
def test_a_file_that_is_longer_than_it_says_is_not_read_on(root: Path) -> None:
    with pytest.raises(PayloadTooLarge):
        fetch(Path("/proc"), "file:///proc/self/maps")


def test_no_descriptor_is_left_open(root: Path) -> None:
    n_open = len(list(Path("/dev/fd").iterdir()))
    for name in ("cat.jpg", "inner", "missing", "inner/missing", "cat.jpg/missing"):
        try:
            fetch(root, f"file://{root}/{name}")
        except TwinlensError:
            continue
    assert len(list(Path("/dev/fd").iterdir())) == n_open


@pytest.mark.parametrize(
    "entry", ["", "https://a.b", "a.b/c", "me@a.b", "a.b:x", "::1", "[::1]", "a..b"]
)
def test_a_setting_that_is_no_host_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts=[entry])


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_a_public_address_is_reachable(address: str) -> None:
    assert is_reachable(ip_address(address), [])


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%lo"),
        *("fc00::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "::10.0.0.1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2002:a00:1::", "2002:808:808::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    ],
)
def test_another_address_is_not(address: str) -> None:
    assert not is_reachable(ip_address(address), [])


def test_an_allowed_network_makes_its_addresses_reachable() -> None:
    allowed = [ip_network("10.0.0.0/8"), ip_network("fc00::/7")]
    for address in ("10.1.2.3", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"):
        assert is_reachable(ip_address(address), allowed)
    for address in ("127.0.0.1", "::1", "192.168.0.1", "fe80::1"):
        assert not is_reachable(ip_address(address), allowed)
