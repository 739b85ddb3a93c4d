"""What is known of copies, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.queries import WHOLE_SHARE

if TYPE_CHECKING:
    from twinlens.shared.queries import CopyEvidence


def describe_copy(evidence: CopyEvidence | None) -> str:
    """Says what the query is of an image.

    >>> from twinlens.shared.queries import CopyEvidence
    >>> part = CopyEvidence(verified=True, region=(0.2, 0.2, 0.7, 0.7), query_region=(0, 0, 1, 1))
    >>> describe_copy(part)
    'shows 25 % of it'
    """
    if evidence is None:
        return ""
    if not evidence.verified:
        return "no"
    words = []
    if evidence.shown < WHOLE_SHARE:
        words.append(f"shows {evidence.shown:.0%} of it".replace("%", " %"))
    if evidence.filled < WHOLE_SHARE:
        words.append(f"it fills {evidence.filled:.0%}".replace("%", " %"))
    if evidence.mirrored:
        words.append("mirrored")
    if evidence.is_turned:
        words.append(f"turned {evidence.turned}°")
    return ", ".join(words) or "copy"
