"""The real Milvus from its wheel: its programs, its settings, its ports.

docs/decisions/0009-standalone-milvus.md tells what was measured.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from twinlens.cli.errors import CommandRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

# Its servers, as its settings call them.
SERVERS = ("proxy", "rootCoord", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexNode")
# These are open on every interface: it has no setting for that.
OPEN_PORTS = (*(f"{server}.port" for server in SERVERS), "proxy.internalPort", "metrics.port")
# Those of the etcd inside it are not.
PORTS = (*OPEN_PORTS, "etcd.port", "etcd.peerPort")
# {{ name(type): default }}; what has no default is said in the environment.
PLACEHOLDER = re.compile(r"\{\{[^:}]*:?\s*([^}]*?)\s*\}\}")


def unpack_programs() -> Path:
    """Returns the folder of the wheel's programs, which it keeps compressed.

    They are 246 MB: one copy is enough for all data directories of a user.

    Raises:
        CommandRefused: The wheel is not installed.
    """
    packed = _wheel_files() / "bin"
    folder = user_cache_path("twinlens") / f"milvus-{version('milvus')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        for file in packed.glob("*.lzma"):
            program = fresh / file.stem
            with lzma.open(file) as source, program.open("wb") as target:
                shutil.copyfileobj(source, target)
            program.chmod(0o755)
        try:
            fresh.rename(folder)
        except OSError:  # another was quicker
            shutil.rmtree(fresh)
    return folder


def write_settings(data_dir: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Writes the files that it reads, and returns the environment that goes before them.

    Args:
        data_dir: Where it keeps its data.
        ports: One for each of PORTS.
    """
    conf_dir = data_dir / "conf"
    conf_dir.mkdir(parents=True, exist_ok=True)
    # The defaults of its programs are others than those it is shipped with, and with some of them
    # it never ends: quotaAndLimits.enabled, for one.
    shipped = (_wheel_files() / "config.yaml.template").read_text(encoding="utf-8")
    files = {
        "milvus.yaml": PLACEHOLDER.sub(r"\1", shipped),
        "etcd.yaml": _etcd_settings(ports["etcd.port"], ports["etcd.peerPort"]),
        # Its C++ half ends the process where there is none.
        "glog.conf": "--logtostderr=true\n--minloglevel=1\n",
    }
    for name, text in files.items():
        (conf_dir / name).write_text(text, encoding="utf-8")
    settings: dict[str, object] = {
        **ports,
        # Where its servers look for each other: else at the first address of the machine.
        **{f"{server}.ip": "127.0.0.1" for server in SERVERS},
        "etcd.endpoints": f"127.0.0.1:{ports['etcd.port']}",
        "etcd.config.path": conf_dir / "etcd.yaml",
        "etcd.data.dir": data_dir / "etcd",
        "etcd.log.level": "warn",
        "etcd.log.path": "stdout",
        "rocksmq.path": data_dir / "rocksmq",
        "localStorage.path": data_dir / "segments",
        # A write is found some ticks after it, in 40 ms at the median. At 50 that took 50 to 150,
        # as its servers' ticks happened to follow each other; it is shipped with 200.
        "proxy.timeTickInterval": 20,
        # A start after a kill waits until the leases of the last life are over: 37 s at its 30.
        "common.session.ttl": 5,
        # SIGTERM would not end it before its 1,800 s are over.
        "common.gracefulStopTimeout": 3,
        "log.level": "warn",
        "log.file.rootPath": "",
        "deploy.mode": "STANDALONE",
        "milvusconf": conf_dir,
    }
    return {name.upper().replace(".", "_"): str(value) for name, value in settings.items()}


def _wheel_files() -> Path:
    package = find_spec("milvus")
    if package is None or package.origin is None:
        raise CommandRefused(
            "the real Milvus is not installed; install 'twinlens[standalone]' (for Linux on x86-64"
            " alone), or use --milvus lite, or name a server with --milvus-uri"
        )
    return Path(package.origin).parent / "data"


def _etcd_settings(port: int, peer_port: int) -> str:
    client, peer = (f"http://127.0.0.1:{each}" for each in (port, peer_port))
    return (
        "name: default\n"
        f"listen-client-urls: {client}\n"
        f"advertise-client-urls: {client}\n"
        f"listen-peer-urls: {peer}\n"
        f"initial-advertise-peer-urls: {peer}\n"
        f"initial-cluster: default={peer}\n"
    )
