"""Words with pictures, asked through the HTTP interface, and answered by a worker's process."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support.requests import Client, form_body, post
from support.tiny_pair import (
    pair_card,
    parted_pair,
    picture_graph,
    plain_picture,
    text_graph,
    tokenizer_file,
)

from twinlens.shared.blobs import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.inside_worker import WorkerProcess

    from twinlens.shared.settings import Settings

PARTED, PHASH = "parted", "phash"
BOTH = [PHASH, PARTED]
COLOURS = {
    "red": (250, 5, 5),
    "rose": (250, 5, 60),
    "magenta": (220, 5, 220),
    "violet": (90, 5, 240),
    "blue": (5, 5, 250),
    "azure": (5, 90, 240),
    "cyan": (5, 220, 220),
    "green": (5, 250, 5),
    "lime": (90, 240, 5),
    "yellow": (220, 220, 5),
    "orange": (250, 90, 5),
    "grey": (120, 120, 120),
}
PICTURES = {name: plain_picture(colour) for name, colour in COLOURS.items()}
IDS = {name: image_id_of(content) for name, content in PICTURES.items()}


@pytest.fixture
def coloured(
    client: Client, process: WorkerProcess, settings: Settings, models_dir: Path
) -> WorkerProcess:
    """A library of plain pictures, under a model that knows words and a hash that does not."""
    settings.models_dir.unlink()
    settings.models_dir.mkdir()
    for file in models_dir.iterdir():
        (settings.models_dir / file.name).symlink_to(file)
    card, pictures, words = parted_pair()
    process.runtime.registry.add(card, pictures, (words, tokenizer_file()))
    process.runtime.publish()
    for library, models in (("default", BOTH), ("words", [PARTED]), ("hashes", [PHASH])):
        client.put(f"/v1/libraries/{library}", json={"models": models})
        post(client, [*PICTURES.items()], library=library)
    process.run_all("single")
    process.run_all("bulk")
    return process


def ask(client: Client, process: WorkerProcess, *sent: bytes, **query: Any) -> dict[str, Any]:
    """Searches, and returns the job once it has ended."""
    body: dict[str, Any] = {"json": query}
    if sent:
        files = [("file", ("q.png", content)) for content in sent]
        body = form_body([*files, ("query", (None, json.dumps(query)))])
    accepted = client.post("/v1/search", **body)
    assert accepted.status_code == 202, accepted.text
    process.run_all("search")
    job: dict[str, Any] = client.get(f"/v1/jobs/{accepted.json['id']}").json
    return job


def find(client: Client, process: WorkerProcess, *sent: bytes, **query: Any) -> dict[str, Any]:
    job = ask(client, process, *sent, **({"library": "words", "k": 100} | query))
    assert job["status"] == "succeeded", job["error"]
    result: dict[str, Any] = job["result"]
    return result


def names(result: dict[str, Any]) -> list[str]:
    return [hit["image"]["name"] for hit in result["hits"]]


def test_this_but_red(client: Client, coloured: WorkerProcess) -> None:
    blue = PICTURES["blue"]
    for answer in (
        find(client, coloured, blue, text="red"),
        find(client, coloured, image_id=IDS["blue"], text="red", include_query=True),
        find(client, coloured, blue, PICTURES["violet"], PICTURES["azure"], text="red"),
    ):
        assert names(answer)[0] == "magenta"
        assert answer["asked_with"] == {PARTED: ["pictures", "words"]}
    assert names(find(client, coloured, blue))[0] == "blue"
    assert names(find(client, coloured, text="red"))[0] == "red"


def as_png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def test_this_part_of_it_but_red(client: Client, coloured: WorkerProcess) -> None:
    half = Image.new("RGB", (80, 40), COLOURS["green"])
    half.paste(COLOURS["blue"], (40, 0, 80, 40))
    answer = find(client, coloured, as_png(half), region=[0.5, 0, 1, 1], text="red")
    assert names(answer)[0] == "magenta"


def test_words_say_what_to_avoid(client: Client, coloured: WorkerProcess) -> None:
    plain = names(find(client, coloured, text="red"))
    avoiding = names(find(client, coloured, text="red", negative_text="blue"))
    assert plain.index("rose") < plain.index("orange")
    assert avoiding.index("orange") < avoiding.index("rose")
    magenta = PICTURES["magenta"]
    less = names(find(client, coloured, magenta, negative_text="blue"))
    assert less.index("red") < names(find(client, coloured, magenta)).index("red")
    unlike = {"text": "red", "negative": [IDS["blue"]], "include_query": True}
    answer = find(client, coloured, **unlike)
    assert names(answer).index("orange") < names(answer).index("rose")
    # What is to be avoided counts less than what is looked for.
    same = find(client, coloured, text="red", negative=[IDS["red"]], include_query=True)
    assert names(same)[0] == "red"


def test_models_take_part_by_what_they_understand(client: Client, coloured: WorkerProcess) -> None:
    both = find(client, coloured, PICTURES["blue"], text="red", library="default")
    assert both["asked_with"] == {PARTED: ["pictures", "words"], PHASH: ["pictures"]}
    assert both["by_model"].keys() == {PARTED, PHASH}
    assert all(hit["models"].keys() == {PARTED, PHASH} for hit in both["hits"])
    alone = find(client, coloured, text="red", library="default")
    assert alone["asked_with"] == {PARTED: ["words"]}
    assert alone["by_model"].keys() == {PARTED}
    asked: dict[str, Any] = {"text": "red", "negative": [IDS["blue"]], "library": "default"}
    assert find(client, coloured, **asked)["asked_with"] == {PARTED: ["pictures", "words"]}
    plain = find(client, coloured, PICTURES["blue"], library="default")
    assert plain["asked_with"] == {PARTED: ["pictures"], PHASH: ["pictures"]}
    # Of the hash, all plain pictures are one.
    assert names(both)[0] == "magenta"


def test_words_count_half_where_models_that_know_none_would_outvote_them(
    client: Client, coloured: WorkerProcess
) -> None:
    plan = {"models": BOTH, "weights": {PHASH: 3, PARTED: 1}}
    assert client.put("/v1/libraries/default", json=plan).status_code == 200
    asked: dict[str, Any] = {"text": "red", "library": "default"}
    patterned = as_png(Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20))
    for weights, share in (({}, 0.5), ({PHASH: 3, PARTED: 1}, 0.25)):
        [hit, *_] = find(client, coloured, patterned, weights=weights, **asked)["hits"]
        rest = {name: 1 - one["score"] for name, one in hit["models"].items()}
        assert min(rest.values()) > 1e-5
        fused = 1 - rest[PARTED] ** share * rest[PHASH] ** (1 - share)
        assert hit["score"] == pytest.approx(fused, abs=1e-6)


def test_a_score_is_the_share_of_the_library_that_is_farther_from_the_words(
    client: Client, coloured: WorkerProcess
) -> None:
    hits = find(client, coloured, text="red")["hits"]
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.8
    assert scores[-1] < 0.4


def test_filters_and_pages_are_as_ever(client: Client, coloured: WorkerProcess) -> None:
    asked: dict[str, Any] = {"image_id": IDS["blue"], "text": "red"}
    whole = names(find(client, coloured, **asked))
    assert len(whole) == len(COLOURS) - 1
    pages = [names(find(client, coloured, k=4, offset=at, **asked)) for at in (0, 4, 8)]
    assert [name for page in pages for name in page] == whole
    some = find(client, coloured, filter='name in ["green", "rose"]', **asked)
    assert names(some) == ["rose", "green"]


def test_words_that_a_model_makes_nothing_of_fail_with_a_reason(
    client: Client, coloured: WorkerProcess
) -> None:
    words = text_graph(), tokenizer_file()
    coloured.runtime.registry.add(pair_card(), picture_graph(), words)
    coloured.runtime.publish()
    client.put("/v1/libraries/colours", json={"models": ["colours"]})
    assert find(client, coloured, text="red", library="colours")["hits"] == []
    job = ask(client, coloured, text="nonsense", library="colours")
    assert job["status"] == "failed"
    assert job["error"]["type"].endswith(":bad-embedding")


def test_a_named_model_that_knows_no_words_is_asked_with_the_picture(
    client: Client, coloured: WorkerProcess
) -> None:
    asked: dict[str, Any] = {"text": "red", "models": BOTH, "library": "default"}
    answer = find(client, coloured, PICTURES["blue"], max_distance={PHASH: 64}, **asked)
    assert answer["asked_with"] == {PARTED: ["pictures", "words"], PHASH: ["pictures"]}


def test_pictures_to_avoid_can_be_sent_with_words(client: Client, coloured: WorkerProcess) -> None:
    body = form_body(
        [
            ("negative", ("blue.png", PICTURES["blue"])),
            ("query", (None, json.dumps({"text": "red", "library": "words", "k": 100}))),
        ]
    )
    accepted = client.post("/v1/search", **body)
    assert accepted.status_code == 202, accepted.text
    coloured.run_all("search")
    result = client.get(f"/v1/jobs/{accepted.json['id']}").json["result"]
    assert names(result).index("orange") < names(result).index("rose")
