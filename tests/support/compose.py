"""docker-compose.yml as plain processes: its commands, users, environment and health checks.

What containers have of their own is had in other ways: services are called 127.0.0.1, each port is
a free one, and each volume is a folder. An image is a program of this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from functools import cached_property, partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from support.paths import ROOT
from support.servers import wait_until

from twinlens.cli.service import parts, standalone
from twinlens.cli.service.addresses import pick_port
from twinlens.cli.service.guard import kill_group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OURS = "twinlens:local"
# Where services listen, whatever their commands say.
PORTS = {"api": (8000,), "valkey": (6379,), "milvus": (19530, 9091, 2379), "etcd": (2379,)}
START_S = 180
# As Docker hands them on where the host has them. Nobody listens there.
PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://[::1]:9"
)
_LOCAL = re.compile(rf"\b({'|'.join(PORTS)})\b")
# Whatever the server answers is printed, and is success: so does the client of Valkey.
CLIENT = """#!{python}
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as server:
    server.sendall(" ".join(sys.argv[3:]).encode() + b"\\r\\n")
    print(server.makefile().readline().strip())
"""


def read_compose(env: Mapping[str, str]) -> dict[str, Any]:
    """Returns the file as Compose reads it: with variables, and the services of active profiles."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda each: env.get(each[1]) or each[2], text)
    project: dict[str, Any] = yaml.safe_load(text)
    active = set(env.get("COMPOSE_PROFILES", "").split(","))
    project["services"] = {
        name: service
        for name, service in project["services"].items()
        if active & set(service.get("profiles", active))
    }
    for service in project["services"].values():
        variables = service.get("environment", {})
        # What has no value has the one that Compose's own environment has, or none.
        said = {name: env.get(name) if text is None else text for name, text in variables.items()}
        service["environment"] = {name: text for name, text in said.items() if text is not None}
    return project


def read_env(path: Path) -> dict[str, str]:
    """Returns the variables of an env file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(re.findall(r"^(\w+)=(.*)$", line)[0] for line in lines if re.match(r"\w", line))


def in_dockerfile(instruction: str) -> list[str]:
    """Returns the arguments of each such instruction."""
    return re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)


class Stack:
    """The services of one form of the file, each once it may start.

    Attributes:
        started: Their names, in the order in which they started.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        """Sets up folders and ports.

        Args:
            folder: For volumes, logs and programs.
            env: What the user has in `.env`.
        """
        project = read_compose(env)
        self._folder, self._services = folder, project["services"]
        self._taken: set[int] = set()
        self._ports = {name: {port: self._pick() for port in PORTS[name]} for name in PORTS}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[str] = []
        self._programs()
        self._places = {name: self._mounts(name) for name in self._services}
        for name, service in self._services.items():
            for config in service.get("configs", []):
                text = project["configs"][config["source"]]["content"] + self._peers("{}: {}\n")
                path = folder / config["source"]
                path.write_text(self._mapped(name, text), encoding="utf-8")
                self._places[name][config["target"]] = path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['api'][8000]}"

    @property
    def valkey_port(self) -> int:
        return self._ports["valkey"][6379]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts all services in their order, each after what it waits for."""
        waits = {name: self._waits_for(name) for name in self._services}
        try:
            for name in TopologicalSorter(waits).static_order():
                for other, condition in waits[name].items():
                    wait_until(partial(CONDITIONS[condition], self, other), START_S)
                self._start(name)
            yield
        except AssertionError as error:
            for name in self.started:
                error.add_note(f"{name}: {self.log_of(name)[-1500:]}")
            raise
        finally:
            self._stop()

    def is_healthy(self, name: str) -> bool:
        """Runs a service's health check; it must be alive."""
        process = self._processes.get(name)
        assert process is None or process.poll() is None, self.log_of(name)
        check = self._services[name]["healthcheck"]
        kind, *words = (self._mapped(name, word) for word in check["test"])
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        try:
            done = subprocess.run(
                command,
                timeout=float(check["timeout"].removesuffix("s")),
                capture_output=True,
                check=False,
                **self._how(name),
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def has_ended(self, name: str) -> bool:
        """Tells if a service has done what it is for."""
        status = self._processes[name].poll()
        assert status in (None, 0), self.log_of(name)
        return status == 0

    def run(self, name: str, *words: str) -> str:
        """Returns what a program prints, as `docker compose exec` runs it."""
        return str(subprocess.check_output(words, text=True, **self._how(name)))

    def log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _start(self, name: str) -> None:
        service = self._services[name]
        command = [self._mapped(name, str(word)) for word in service["command"]]
        if service["image"] == OURS:
            [entry] = in_dockerfile("ENTRYPOINT")
            command = [*yaml.safe_load(entry), *command]
        if command[0] == "etcd":
            command += self._peers("--{}={} ").split()
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, **self._how(name)
            )
        self.started.append(name)

    def _how(self, name: str) -> dict[str, Any]:
        """Returns the environment, the user and the directory of a service's programs."""
        service = self._services[name]
        is_ours = service["image"] == OURS
        env = PROXIES | {"HOME": "/nonexistent", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        if name == "milvus":
            env |= self._wheel_env
        pairs = " ".join(in_dockerfile("ENV")).split() if is_ours else []
        variables = dict(pair.split("=", 1) for pair in pairs) | service["environment"]
        env |= {key: self._mapped(name, str(text)) for key, text in variables.items()}
        env["no_grpc_proxy"] = _LOCAL.sub("127.0.0.1", env.get("no_grpc_proxy", ""))
        env["PATH"] = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        how: dict[str, Any] = {"env": env, "cwd": "/" if is_ours else self._volume(name)}
        user, _, group = self._user(name).partition(":")
        return how | ({"user": int(user), "group": int(group), "extra_groups": []} if user else {})

    def _user(self, name: str) -> str:
        """Returns user and group, where we may choose them, and they may read the programs."""
        service = self._services[name]
        if os.geteuid() != 0 or not _can_all_read(ROOT, Path(sys.executable).resolve()):
            return ""
        [of_image] = in_dockerfile("USER")
        return str(service.get("user", of_image if service["image"] == OURS else ""))

    def _mounts(self, name: str) -> dict[str, Path]:
        """Makes a service's volumes, which belong to its user; returns them by their place."""
        places = {}
        for mount in self._services[name].get("volumes", []):
            volume, target = mount.split(":")
            places[target] = self._folder / volume
            places[target].mkdir(exist_ok=True)
            user, _, group = self._user(name).partition(":")
            if user:
                os.chown(places[target], int(user), int(group))
        return places

    def _volume(self, name: str) -> Path:
        [folder] = [path for path in self._places[name].values() if path.is_dir()]
        return folder

    def _mapped(self, name: str, text: str) -> str:
        """Returns a service's text with the ports and folders that things have here."""
        for other, ports in self._ports.items():
            for port, here in ports.items():
                text = re.sub(rf"\b{other}:{port}\b", f"127.0.0.1:{here}", text)
        for port, here in self._ports.get(name, {}).items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", str(here), text)
        for target, path in self._places.get(name, {}).items():
            text = re.sub(rf"(?<![\w/]){target}\b", str(path), text)
        return text

    @cached_property
    def _wheel_env(self) -> dict[str, str]:
        """What Milvus' wheel needs to be told beside the file."""
        known = {"proxy.port": 19530, "metrics.port": 9091, "etcd.port": 2379}
        ports = {part: self._ports["milvus"][port] for part, port in known.items()}
        ports = {part: self._pick() for part in standalone.PORTS} | ports
        settings = standalone.write_settings(self._folder / "milvus-wheel", ports)
        return settings | {"LD_LIBRARY_PATH": str(standalone.unpack_programs())}

    def _programs(self) -> None:
        """Puts what images have onto the path; etcd and curl are there, or are not."""
        folder = self._folder / "bin"
        folder.mkdir()
        valkey = parts.valkey(folder.parent / "valkey", folder / "socket").command[0]
        client = shutil.which("valkey-cli") or shutil.which("redis-cli")
        _write_program(folder / "python", [sys.executable])
        _write_program(folder / "twinlens", [sys.executable, "-P", "-m", "twinlens.cli.main"])
        _write_program(folder / "valkey-server", [valkey])
        _write_program(folder / "milvus", [str(standalone.unpack_programs() / "milvus")])
        if client:
            _write_program(folder / "valkey-cli", [client])
        else:
            (folder / "valkey-cli").write_text(CLIENT.format(python=sys.executable))
            (folder / "valkey-cli").chmod(0o755)

    def _peers(self, form: str) -> str:
        """Returns settings by which several etcds can be on one machine."""
        peer = f"http://127.0.0.1:{self._pick()}"
        named = {"listen-peer-urls": peer, "initial-advertise-peer-urls": peer}
        every = {"name": "default", **named, "initial-cluster": f"default={peer}"}
        return "".join(form.format(name, text) for name, text in every.items())

    def _pick(self) -> int:
        """Returns a free port. They are free until their services start: none twice."""
        while (port := pick_port()) in self._taken:
            pass
        self._taken.add(port)
        return port

    def _waits_for(self, name: str) -> dict[str, str]:
        """Returns what is waited for, and for what of it; what the form has not may be left out."""
        waited = self._services[name].get("depends_on", {})
        absent = [other for other in waited if other not in self._services]
        assert not any(waited[other].get("required", True) for other in absent), absent
        there = {other: how for other, how in waited.items() if other in self._services}
        return {other: how["condition"] for other, how in there.items()}

    def _stop(self) -> None:
        for name, process in reversed(self._processes.items()):
            process.terminate()
            grace_s = float(self._services[name].get("stop_grace_period", "10s").removesuffix("s"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
            kill_group(process.pid)
            process.wait()


# By Compose's names: what has to be so of a service that another waits for.
CONDITIONS = {
    "service_healthy": Stack.is_healthy,
    "service_completed_successfully": Stack.has_ended,
}


def _write_program(path: Path, command: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _can_all_read(*paths: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for path in paths for folder in (path, *path.parents))
