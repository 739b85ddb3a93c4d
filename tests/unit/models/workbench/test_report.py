"""The report: one page that is whole, safe and right; and two models' rankings compared."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.random_sets import Model

from twinlens.models.distances import Metric
from twinlens.models.errors import BadInput
from twinlens.models.fusion import agreement
from twinlens.models.workbench.edits import Edits
from twinlens.models.workbench.embeddings import Embedded, LeftOut
from twinlens.models.workbench.evaluate import Evaluation, evaluate
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.rankings import compare_rankings
from twinlens.models.workbench.report import (
    N_DISAGREEMENTS,
    find_disagreements,
    measure_histogram,
    render_report,
)

SCRIPT = "<script>alert('x')</script>"
VOID = {"br", "img", "meta", "rect", "line", "hr", "input", "link"}


MODELS = {
    "a": Model(Metric.L2, 6),
    "b": Model(Metric.COSINE, 6),
    "hash": Model(Metric.HAMMING, 64),
}


@dataclass(frozen=True)
class Case:
    embedded: Embedded
    pictures: list[Labelled]
    evaluation: Evaluation

    def render(self, title: str = "labels.csv") -> str:
        return render_report(self.evaluation, self.embedded, self.pictures, title)


def make_case(
    folder: Path,
    labels: tuple[str, ...] = ("cat", "dog", "bird"),
    n_pictures: int = 4,
    models: dict[str, Model] = MODELS,
) -> Case:
    """Files with embeddings drawn at random around each label."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(len(labels)), n_pictures)
    files = tuple(folder / f"{place}.jpg" for place in range(len(codes)))
    for file in files:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(file)
    embedded = Embedded(
        files=files,
        image_ids=tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
        rows={name: make_rows(model, codes, rng) for name, model in models.items()},
        models=models,
    )
    pictures = [Labelled(file, labels[code]) for file, code in zip(files, codes, strict=True)]
    edits = Edits(
        embedded.image_ids[:5], ("flip",) * 5, {n: r[:5] for n, r in embedded.rows.items()}
    )
    return Case(embedded, pictures, evaluate(embedded, pictures, edits, n_bootstrap=50))


def make_rows(model: Model, codes: Any, rng: np.random.Generator) -> Any:
    if model.metric is Metric.HAMMING:
        return rng.integers(0, 256, (len(codes), model.dimension // 8), np.uint8)
    centres = rng.normal(size=(codes.max() + 1, model.dimension))
    rows = centres[codes] + rng.normal(size=(len(codes), model.dimension)) * 1.2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(attributes) == len(dict(attributes)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_has_every_contender_and_all_that_was_measured(case: Case) -> None:
    page = Page(case.render())

    assert case.evaluation.recommendation.sentence in page.words
    assert "labels.csv · 12 pictures, 3 labels" in page.words
    assert [attributes.get("class") for attributes in page.all("tr")].count("chosen") == 1
    for one in case.evaluation.contenders:
        assert page.words.count(one.title) >= 2
        estimate = one.mean_average_precision
        assert f"{estimate.value:.3f} {estimate.low:.3f} to {estimate.high:.3f}" in page.words
        gain = f"{one.gain.value:+.3f} {one.gain.low:+.3f} to {one.gain.high:+.3f}"
        is_best_single = one.gain.low == one.gain.high == 0.0
        assert is_best_single or gain.replace("-", "−") in page.words  # noqa: RUF001 - a minus
    assert {"a", "b", "hash"} <= set(page.text)
    assert len(page.all("article")) == N_DISAGREEMENTS
    n_thumbnails = N_DISAGREEMENTS * (1 + 2 * 8)
    assert len(page.all("img")) == n_thumbnails
    assert "Near duplicates: 5 edited copies" in page.words
    assert "The first 100 of each ranking were re-ranked by their neighbours" in page.words


def test_the_page_needs_nothing_else(case: Case) -> None:
    text = case.render()
    page = Page(text)

    assert text.startswith("<!DOCTYPE html>")
    without_pictures = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", "", text)
    for sign_of_an_address in ("http:", "https:", "//", "url(", "@import"):
        assert sign_of_an_address not in without_pictures
    assert {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
    } == set()
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")}, tag
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
    [policy] = [a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_names_and_labels_are_text_and_nothing_more(tmp_path: Path) -> None:
    case = make_case(tmp_path, labels=(SCRIPT, '" onerror="x', "{{ 7 * 7 }}&amp;"))
    odd = Path(tmp_path / f"{SCRIPT.replace('/', '')}.jpg")
    renamed = {case.embedded.files[0]: odd}
    odd.write_bytes(case.embedded.files[0].read_bytes())
    files = tuple(renamed.get(file, file) for file in case.embedded.files)
    left_out = (LeftOut(Path("<u>.jpg"), "<s>broken</s>"),)
    embedded = replace(case.embedded, files=files, left_out=left_out)
    pictures = [replace(p, path=renamed.get(p.path, p.path)) for p in case.pictures]

    text = replace(case, embedded=embedded, pictures=pictures).render(f"{SCRIPT}.csv")

    page = Page(text)
    assert "<script" not in text
    assert page.all("script") == page.all("u") == page.all("s") == []
    assert all(set(a) == {"src", "alt", "title"} for a in page.all("img"))
    assert f"{SCRIPT}.csv" in page.words
    assert '" onerror="x' in page.words
    assert "{{ 7 * 7 }}&amp;" in page.words
    assert "<u>.jpg: <s>broken</s>" in page.words
    assert {a["title"] for a in page.all("img")} >= {odd.name}


def test_a_name_that_is_no_utf_8_can_be_written(case: Case) -> None:
    left_out = (LeftOut(Path("w\udce9st.jpg"), "broken"),)

    text = replace(case, embedded=replace(case.embedded, left_out=left_out)).render()

    assert b"w?st.jpg" in text.encode("utf-8")


def test_thumbnails_tell_no_more_than_their_pixels(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    for file in case.embedded.files:
        image = Image.open(file)
        image.resize((900, 600)).save(file, exif=exif, comment=b"secret place")
        assert b"secret" in file.read_bytes()

    page = Page(case.render())

    for attributes in page.all("img"):
        content = base64.b64decode(str(attributes["src"]).partition(",")[2])
        assert b"secret" not in content
        image = Image.open(io.BytesIO(content))
        assert image.format == "JPEG"
        assert max(image.size) == 160
        assert not image.getexif()


def test_a_file_that_is_gone_by_now_is_a_gap_in_the_page(case: Case) -> None:
    for file in case.embedded.files:
        file.unlink()

    page = Page(case.render())

    assert page.all("img") == []
    assert "the file is gone" in page.words


@pytest.mark.parametrize("names", [["a"], ["a", "hash"], ["hash"]])
def test_a_report_of_fewer_models_is_a_report_too(tmp_path: Path, names: list[str]) -> None:
    page = Page(make_case(tmp_path, models={name: MODELS[name] for name in names}).render())

    assert bool(page.all("article")) == (len(names) > 1)
    assert len(page.all("figure")) == len(names)


def test_an_evaluation_without_edits_has_no_column_for_them(case: Case) -> None:
    evaluation = evaluate(case.embedded, case.pictures, n_bootstrap=5)

    page = Page(replace(case, evaluation=evaluation).render())

    assert "near duplicates" not in page.words.lower()
    assert "edited" not in page.words


# Rankings compared


def slow_ranking(embedded: Embedded, name: str, query: int) -> list[tuple[float, str]]:
    rows, metric = embedded.rows[name], embedded.models[name].metric
    hits = []
    for place, image_id in enumerate(embedded.image_ids):
        left, right = rows[query], rows[place]
        if metric is Metric.HAMMING:
            distance = float(np.bitwise_count(left ^ right).sum())
        elif metric is Metric.L2:
            distance = float(((left.astype(float) - right) ** 2).sum())
        else:
            distance = float(left.astype(float) @ right)
        if place != query:
            hits.append((distance, image_id))
    sign = -1 if metric is Metric.COSINE else 1
    return sorted(hits, key=lambda hit: (sign * round(hit[0], 9), hit[1]))


def test_a_comparison_has_both_rankings_and_how_far_they_agree(case: Case) -> None:
    embedded = case.embedded

    comparison = compare_rankings(embedded, embedded.files[3], k=5)

    slow = {name: slow_ranking(embedded, name, 3) for name in MODELS}
    for name, ranking in comparison.rankings.items():
        assert [hit.image_id for hit in ranking] == [image_id for _, image_id in slow[name][:5]]
        distances = [distance for distance, _ in slow[name][:5]]
        assert [hit.distance for hit in ranking] == pytest.approx(distances, abs=1e-5)
        paths = dict(zip(embedded.image_ids, embedded.files, strict=True))
        assert all(hit.path == paths[hit.image_id] for hit in ranking)
    agreed = agreement({name: [image_id for _, image_id in slow[name]] for name in MODELS}, 5)
    assert agreed is not None
    assert comparison.overlap_at_k == agreed.overlap_at_k
    assert comparison.rank_correlation == agreed.rank_correlation


def test_a_query_that_could_not_be_embedded_says_why(case: Case) -> None:
    query = Path("query.jpg")
    embedded = replace(case.embedded, left_out=(LeftOut(query, "the file has no bytes"),))

    with pytest.raises(BadInput, match=r"query.jpg: the file has no bytes"):
        compare_rankings(embedded, query)
    with pytest.raises(BadInput, match="not among the files"):
        compare_rankings(embedded, Path("other.jpg"))


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path, models={"a": MODELS["a"]})

    with pytest.raises(BadInput, match="1 models and 11 other pictures; give two"):
        compare_rankings(case.embedded, case.embedded.files[0])


def test_the_queries_of_most_disagreement_come_first_and_one_of_each_label(case: Case) -> None:
    embedded, k = case.embedded, 4
    labels = {picture.path: picture.label for picture in case.pictures}

    disagreements = find_disagreements(embedded, case.pictures, ("a", "b"), n_queries=12, k=k)

    def key(query: int) -> tuple[float, float]:
        ids = {name: [i for _, i in slow_ranking(embedded, name, query)] for name in ("a", "b")}
        agreed = agreement(ids, k)
        assert agreed is not None
        assert agreed.rank_correlation is not None
        return agreed.overlap_at_k, agreed.rank_correlation

    keys = {file: key(place) for place, file in enumerate(embedded.files)}
    assert [(one.overlap_at_k, one.rank_correlation) for one in disagreements] == [
        keys[one.query] for one in disagreements
    ]
    assert len({one.query for one in disagreements}) == 12
    for start in range(0, 12, 3):
        batch = [one.query for one in disagreements[start : start + 3]]
        assert len({labels[query] for query in batch}) == 3
        assert [keys[query] for query in batch] == sorted(keys[query] for query in batch)
    of_cats = [keys[one.query] for one in disagreements if labels[one.query] == "cat"]
    assert of_cats == sorted(of_cats)


@pytest.mark.parametrize("name", MODELS)
def test_a_histogram_has_all_pairs_and_how_often_one_label_is_nearer(case: Case, name: str) -> None:
    embedded = case.embedded
    labels = dict(zip(embedded.image_ids, (p.label for p in case.pictures), strict=True))
    same, different = list[float](), list[float]()
    for query, own in enumerate(embedded.image_ids):
        for distance, image_id in slow_ranking(embedded, name, query):
            (same if labels[image_id] == labels[own] else different).append(distance)

    histogram = measure_histogram(embedded, case.pictures, name)

    sign = -1 if MODELS[name].metric is Metric.COSINE else 1
    wins = [
        1.0 if sign * a < sign * b - 1e-9 else 0.5 if abs(a - b) <= 1e-9 else 0.0
        for a in same
        for b in different
    ]
    assert histogram.separation == pytest.approx(np.mean(wins), abs=1e-3)
    assert histogram.low == pytest.approx(min(same + different), abs=1e-5)
    assert histogram.high >= max(same + different) - 1e-5
    edges = np.linspace(histogram.low, histogram.high, len(histogram.same) + 1)
    assert sum(histogram.same) == pytest.approx(1.0)
    assert sum(histogram.different) == pytest.approx(1.0)
    half = len(histogram.same) // 2
    below = np.mean(np.array(different) < edges[half] - 1e-9)
    assert sum(histogram.different[:half]) == pytest.approx(below, abs=0.03)
