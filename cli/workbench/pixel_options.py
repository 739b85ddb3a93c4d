"""The options of `models add` that say what a network wants done to pictures."""

# ruff: noqa: PLC0415 (imports wait until they are used: onnx's takes a while)
from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import click

from twinlens.cli.parameters import read_as

if TYPE_CHECKING:
    from twinlens.models.build.presets import Channels, Layout, PerChannel, Preset
    from twinlens.models.card import Resizing


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
    """The options of `models add` that say what is done to pictures; None where not given."""

    layout: Layout | None
    channels: Channels | None
    scale: float | None
    mean: PerChannel | None
    std: PerChannel | None
    resize: str | None
    fit: str | None
    crop: float | None
    resized_px: int | None


def preset_of(name: str | None, asked: PixelOptions) -> Preset:
    """Returns a preset with the given options in place of its own; without a name, the identity.

    Raises:
        click.UsageError: There is no such preset, or options contradict each other.
    """
    from twinlens.models.build.presets import PRESETS, Preprocessing, Preset
    from twinlens.models.card import Resizing

    if name is not None and name not in PRESETS:
        raise click.UsageError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
    plain = Preprocessing("nchw", "rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    base, resizing = PRESETS[name] if name else Preset(plain, Resizing())
    scale, mean, std = asked["scale"], asked["mean"], asked["std"]
    preprocessing = Preprocessing(
        layout=asked["layout"] or base.layout,
        channels=asked["channels"] or base.channels,
        scale=base.scale if scale is None else scale,
        mean=base.mean if mean is None else mean,
        std=base.std if std is None else std,
    )
    return Preset(preprocessing, _resizing_of(resizing, asked))


def _resizing_of(base: Resizing, asked: PixelOptions) -> Resizing:
    from twinlens.models.card import Fit, Resizing

    fit, crop, resized_px = asked["fit"], asked["crop"], asked["resized_px"]
    if fit is None and crop is None and resized_px is None:
        resized_px = base.resized_px
    elif crop is not None and fit is None:
        fit = Fit.CROP
    return read_as(
        Resizing,
        resample=asked["resize"] or base.resample,
        fit=fit or base.fit,
        crop_fraction=1.0 if crop is None else crop,
        resized_px=resized_px,
    )
