"""A whole service does what its OpenAPI document says, whatever it is sent (schemathesis)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from twinlens.cli.service.background import running_service

CONFIG = Path(__file__).with_name("schemathesis.toml")

# The same requests in each run; with `make fuzz` others, and more of them.
SIZES = {
    "fixed": ("--max-examples", "10", "--generation-deterministic"),
    "fuzz": ("--max-examples", "200"),
}


@pytest.mark.timeout(7200)  # `make fuzz` takes its time
def test_the_service_keeps_its_document(data_dir: Path, tmp_path: Path) -> None:
    with running_service(data_dir) as service:
        # The perceptual hash alone, which is quick.
        plan = {"models": ["phash"]}
        httpx.put(f"{service.url}/v1/libraries/default", json=plan).raise_for_status()
        paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
        command = [sys.executable, "-P", "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
        command += ["--no-color", "run", f"{service.url}/openapi.json", "--checks", "all"]
        command += SIZES[settings.get_current_profile_name()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert done.returncode == 0
    assert f"Tested: {sum(map(len, paths.values()))}\n" in done.stdout
    assert re.search(r"Scenarios: +[1-9]", done.stdout)  # of several requests each
