"""`twinlens demo`: the whole way with real photos, and a right answer that is known.

Photos that scikit-image's wheel carries are indexed together with edited copies of each. Each
query is another edit, which is not among the indexed, of a photo that is.
"""

from __future__ import annotations

import io
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say
from twinlens.cli.service.background import running_service
from twinlens.cli.show.search import save_sheet
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.cli.upload.index import upload
from twinlens.client.client import Client
from twinlens.shared.queries import SearchQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinlens.shared.queries import SearchResult

PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
QUERIES = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
SHOWN = "chelsea.png"
SHEET = Path("twinlens-demo.png")
# So many that everything made from a photo is among them, if all is well.
N_HITS = 8
TITLE = "How many of the first five are of the query's photo"
EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "original": lambda photo: photo,
    "crop": lambda photo: ImageOps.crop(photo, round(min(photo.size) * 0.12)),
    "flip": ImageOps.mirror,
    "blur": lambda photo: photo.filter(ImageFilter.GaussianBlur(2.5)),
    "recolour": lambda photo: ImageEnhance.Color(ImageOps.posterize(photo, 4)).enhance(0.3),
}


def run_demo(data_dir: Path, port: int, *, keep: bool) -> None:
    """Starts the service, indexes, searches, shows what was found, and stops it again.

    Args:
        data_dir: Kept, so that `twinlens up` can serve it afterwards.
        port: 0 for any free one.
        keep: Stay up until Ctrl-C.

    Raises:
        CommandFailed: scikit-image is not there, or the service did not come up.
    """
    began = time.monotonic()
    photos = data_dir / "photos"
    make_photos(_samples(), photos)
    with running_service(data_dir, port) as service, Client(service.url) as client:
        say(f"the service is up at {service.url} after {time.monotonic() - began:.1f} s")
        totals = upload(client, [photos], "default")
        if totals.n_failed:
            raise CommandFailed(f"not all photos were indexed: {totals.failures[0]}")
        say(f"indexed {len(PHOTOS)} photos and edited copies of each: {totals}")
        _search_all(client)
        say()
        say(f"The contact sheet of the first query is {SHEET.absolute()}")
        if keep:
            say(f"Open {service.url}/docs; Ctrl-C stops the service.")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    say(f"Keep it running:  {Path(sys.argv[0])} up --data-dir {data_dir}")
    say("then open         http://127.0.0.1:8000/docs")


def make_photos(samples: Path, folder: Path) -> None:
    """Writes every photo and its edited copies as JPEG, unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        for edit, change in EDITS.items():
            path = folder / f"{Path(name).stem}-{edit}.jpg"
            if not path.exists():
                change(_photo(samples, name)).save(path, quality=90)


def make_query(photo: Image.Image) -> bytes:
    """Returns a query as JPEG: turned a little, cut, brightened and strongly compressed."""
    turned = photo.rotate(7, Image.Resampling.BICUBIC)
    cut = ImageOps.crop(turned, round(min(turned.size) * 0.15))
    content = io.BytesIO()
    ImageEnhance.Brightness(cut).enhance(1.2).save(content, "JPEG", quality=40)
    return content.getvalue()


def _search_all(client: Client) -> None:
    """Searches with each query; everything made from the same photo should come first."""
    samples = _samples()
    columns: list[Column | str] = []
    rows = []
    n_right = 0
    for name in QUERIES:
        picture = make_query(_photo(samples, name))
        result = client.search(SearchQuery(k=N_HITS), [picture])
        models = [Column(name) for name in result.by_model]
        columns = [named("query"), "fused", *models, Column("ms", leave_out=1)]
        n_right += _is_of(result.hits[0].image.name, name)
        took_ms = f"{result.timing_ms.total:.0f}"
        rows.append((Path(name).stem, *_counts_of_right(result, name), took_ms))
        if name == SHOWN:
            save_sheet(client, result, picture, "default", SHEET)
    print_table(columns, rows, TITLE)
    say(f"{n_right} of {len(QUERIES)} queries found the photo that they were made from.")


def _counts_of_right(result: SearchResult, query: str) -> list[str]:
    """Of the first pictures of each ranking, how many are of the query's photo."""
    right = {hit.image.id for hit in result.hits if _is_of(hit.image.name, query)}
    rankings = [[hit.image.id for hit in result.hits]]
    rankings += [[one.image_id for one in ranking] for ranking in result.by_model.values()]
    return [str(sum(one in right for one in ranking[: len(EDITS)])) for ranking in rankings]


def _is_of(name: str, query: str) -> bool:
    return name.startswith(f"{Path(query).stem}-")


def _samples() -> Path:
    """Returns the folder of scikit-image's photos. It is not imported: that takes a second."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise CommandFailed("the demo's photos are missing; install 'twinlens[embedded,demo]'")
    return Path(package.origin).parent / "data"


def _photo(samples: Path, name: str) -> Image.Image:
    with Image.open(samples / name) as photo:
        return photo.convert("RGB")
