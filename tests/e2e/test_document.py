"""A whole service does what its OpenAPI document says, whatever it is sent (schemathesis)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import Grant, new_key
from twinlens.cli.service.background import running_service

CONFIG = Path(__file__).with_name("schemathesis.toml")

# The same requests in each run; with `make fuzz` others, and more of them.
SIZES = {
    "fixed": ("--max-examples", "10", "--generation-deterministic"),
    "fuzz": ("--max-examples", "200"),
}


@pytest.mark.timeout(7200)  # `make fuzz` takes its time
def test_the_service_keeps_its_document(data_dir: Path, tmp_path: Path) -> None:
    made = new_key(Grant(scope="admin"))
    Keyring(data_dir / "keys").add(made.record)
    headers = {"Authorization": f"Bearer {made.key}"}
    with running_service(data_dir) as service:
        # The perceptual hash alone, which is quick.
        plan, default = {"models": ["phash"]}, f"{service.url}/v1/libraries/default"
        httpx.put(default, json=plan, headers=headers).raise_for_status()
        paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
        command = [sys.executable, "-P", "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
        command += ["--no-color", "run", f"{service.url}/openapi.json", "--checks", "all"]
        # Without it, or with another, each operation that needs a key has to refuse.
        command += ["--header", f"Authorization:{headers['Authorization']}"]
        command += SIZES[settings.get_current_profile_name()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert done.returncode == 0
    assert f"Tested: {sum(map(len, paths.values()))}\n" in done.stdout
    assert re.search(r"Scenarios: +[1-9]", done.stdout)  # of several requests each
