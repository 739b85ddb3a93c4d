"""What ends work on models that no service does: measuring, projecting, comparing.

    TwinlensError
    └── BadInput                   422  what was given cannot be worked with

The errors of models that a service runs are in `shared/errors.py`.
"""

from __future__ import annotations

from twinlens.shared.errors import TwinlensError


class BadInput(TwinlensError):
    """Files, labels or options that cannot be worked with. Commands raise it, never a service."""

    code, title, status = "bad-input", "The input cannot be worked with", 422
