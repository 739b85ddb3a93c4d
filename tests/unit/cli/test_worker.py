"""What the command line decides before a worker's modules are imported."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_workers_process_computes_on_one_core() -> None:
    """It is refused a setting, and ends before numpy would have started its threads."""
    code = (
        "import os, sys; from click.testing import CliRunner; from twinlens.cli.main import main;"
        "CliRunner().invoke(main, ['worker', '--lanes', 'bulk']);"
        "print(os.environ.get('OMP_NUM_THREADS'), 'numpy' in sys.modules)"
    )
    without = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    for given, expected in (({}, "1 False\n"), ({"OMP_NUM_THREADS": "4"}, "4 False\n")):
        ended = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=without | given | {"TWINLENS_PORT": "none"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ended.stdout == expected
