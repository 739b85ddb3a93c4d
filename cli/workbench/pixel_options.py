"""The options of `models add` that say what a network wants done to pixels."""

# ruff: noqa: PLC0415 (imports wait until they are used: onnx's takes a while)
from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import click

if TYPE_CHECKING:
    from twinlens.models.build.presets import Channels, Layout, PerChannel, Preprocessing


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers, one per channel: 0.485,0.456,0.406."""

    name = "a,b,c"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Reads the numbers."""
        try:
            red, green, blue = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not three numbers with commas between", param, ctx)
        return red, green, blue


class PixelOptions(TypedDict):
    """The options of `models add` that say what is done to pixels; None where not given."""

    layout: Layout | None
    channels: Channels | None
    scale: float | None
    mean: PerChannel | None
    std: PerChannel | None


def preprocessing_of(preset: str | None, asked: PixelOptions) -> Preprocessing:
    """Returns a preset with the given options in place of its own; without a preset, the identity.

    Raises:
        click.UsageError: There is no such preset.
    """
    from twinlens.models.build.presets import PRESETS, Preprocessing

    if preset is not None and preset not in PRESETS:
        raise click.UsageError(f"no preset is named {preset!r}; there are {', '.join(PRESETS)}")
    plain = Preprocessing("nchw", "rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    base = PRESETS[preset] if preset else plain
    scale, mean, std = asked["scale"], asked["mean"], asked["std"]
    return Preprocessing(
        layout=asked["layout"] or base.layout,
        channels=asked["channels"] or base.channels,
        scale=base.scale if scale is None else scale,
        mean=base.mean if mean is None else mean,
        std=base.std if std is None else std,
    )
