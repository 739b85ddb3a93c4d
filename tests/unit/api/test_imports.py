from __future__ import annotations

import json
import subprocess
import sys

FORBIDDEN = (
    "onnxruntime",
    "onnx",
    "pymilvus",
    "PIL",
    "numpy",
    "twinlens.models",
    "twinlens.workers",
    "twinlens.cli",
)


def test_the_api_loads_nothing_that_decodes_embeds_or_searches() -> None:
    modules = "json, sys, twinlens.api.app, twinlens.api.wsgi"
    code = f"import {modules}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = json.loads(done.stdout)
    assert "twinlens.api.app" in loaded
    assert [name for name in FORBIDDEN if name in loaded] == []
