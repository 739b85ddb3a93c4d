"""What the image and docker-compose.yml say; tests/e2e/test_compose.py runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from support.compose import OURS, in_dockerfile, read_compose, read_env
from support.paths import PACKAGES, ROOT

FULL = read_env(ROOT / "full.env")
SERVICES = read_compose(FULL)["services"]
# Of the form that is there without a variable.
MINIMAL = read_compose({})["services"]


def copied() -> list[str]:
    """What the image is built of."""
    lines = [line.split() for line in in_dockerfile("COPY")]
    return [word for words in lines if "--from=build" not in words for word in words[:-1]]


def test_the_image_is_built_of_what_its_context_has(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert sent == set(copied())
    for name in copied():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.split("/")[1] for name in archive.namelist() if "twinlens/" in name}
    assert packed == {*PACKAGES, "__init__.py", "py.typed"}


def test_images_are_of_a_full_version() -> None:
    images = {one["image"] for one in SERVICES.values()} - {OURS}
    images |= {line.split()[0] for line in in_dockerfile("FROM")}
    assert len(images) == 4
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+(-|$)", image), image


def test_milvus_is_without_the_open_port_of_its_metrics() -> None:
    """CVE-2026-26190: before 2.6.10, whoever reaches that port may do everything."""
    version = SERVICES["milvus"]["image"].rpartition(":v")[2]
    assert tuple(map(int, version.split("."))) >= (2, 6, 10)


def test_one_service_builds_the_image_and_the_others_never_pull_it() -> None:
    ours = {name: one for name, one in SERVICES.items() if one["image"] == OURS}
    assert {name: (one.get("build"), one["pull_policy"]) for name, one in ours.items()} == {
        "api": (".", "build"),
        "first-key": (None, "never"),
        "worker-search": (None, "never"),
        "worker-bulk": (None, "never"),
    }


def test_searches_come_before_bulk_work() -> None:
    shares = {name: one["cpu_shares"] for name, one in MINIMAL.items()}
    assert shares.pop("worker-bulk") * 10 < min(shares.values())


def test_a_small_form_needs_nothing_of_a_users() -> None:
    assert "etcd" not in MINIMAL
    env = MINIMAL["milvus"]["environment"]
    assert env["ETCD_USE_EMBED"] == "true"
    assert env["COMMON_STORAGETYPE"] == "local"
    assert not [name for name in env if name.startswith("MINIO_")]


def test_what_a_user_fills_in_reaches_milvus() -> None:
    env = SERVICES["milvus"]["environment"]
    assert {name: env.get(name) for name in FULL if name != "COMPOSE_PROFILES"} == {
        name: text for name, text in FULL.items() if name != "COMPOSE_PROFILES"
    }
