"""What decoding may take of memory, and a query's pictures together."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
from support.hostile import saved

from twinlens.shared.errors import BrokenPicture, PictureTooLarge
from twinlens.workers.decoding import Decoder
from twinlens.workers.memory import MemoryLimit

MIB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, memory has no limit")


@on_linux
def test_an_allocation_beyond_the_limit_fails_while_the_limit_is_held() -> None:
    limit = MemoryLimit(64 * MIB)
    with limit.held():
        with pytest.raises(MemoryError):
            np.ones(128 * MIB, np.uint8)
        np.ones(16 * MIB, np.uint8)
    np.ones(128 * MIB, np.uint8)


@on_linux
def test_whoever_holds_a_limit_has_it_with_the_others_until_the_last_has_ended() -> None:
    limit = MemoryLimit(64 * MIB)
    with limit.held():
        with limit.held():
            np.ones(96 * MIB, np.uint8)
        with pytest.raises(MemoryError):
            np.ones(256 * MIB, np.uint8)
    np.ones(256 * MIB, np.uint8)


@on_linux
def test_a_picture_that_takes_more_memory_than_there_is_is_too_large_and_the_next_is_not() -> None:
    script = """
        import resource
        from pathlib import Path
        from support.hostile import saved
        from support.small_models import colour_model
        from twinlens.shared.errors import PictureTooLarge
        from twinlens.workers.decoding import Decoder

        large, small = saved("PNG", (6000, 6000)), saved("PNG")
        decoder, models = Decoder(80_000_000), [colour_model()]
        decoder.decode(small, models)
        n_pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = n_pages * resource.getpagesize() + (32 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        try:
            Decoder(80_000_000).decode(large, models)
        except PictureTooLarge as error:
            print(error.detail)
        print(decoder.decode(small, models)[0].width)
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", dedent(script)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "takes more memory than may be used" in done.stdout, done.stderr
    assert done.stdout.endswith("\n16\n")


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_the_pictures_of_a_query_have_a_limit_together(format_name: str) -> None:
    content = saved(format_name)
    decoder = Decoder(256 if format_name == "PNG" else 3 * 256)
    decoder.check_together([content] * 3)
    with pytest.raises(PictureTooLarge, match="send fewer"):
        decoder.check_together([content] * 4)
    with pytest.raises(BrokenPicture):
        decoder.check_together([content, content[:20]])
