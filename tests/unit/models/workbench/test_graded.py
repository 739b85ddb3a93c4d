"""Pictures of several labels: what is related, what decides, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.random_sets import Model, random_set

from twinlens.models.distances import Metric
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.evaluate import Evaluation, evaluate, label_codes, relations_of
from twinlens.models.workbench.labels import Labelled, Relations
from twinlens.models.workbench.recipes import Method
from twinlens.models.workbench.report import render_report
from twinlens.models.workbench.scores import RARE_SCORE, Measure, calibrate_all, rare_shares

SETS = (("cat",), ("cat", "dog"), ("bird", "cat", "dog"), ("bird",), ("car",))
SHARES = {"sharp": 0.3, "dull": 2.5}


def graded_set(
    n_each: int = 8, noises: dict[str, float] = SHARES
) -> tuple[Embedded, list[Labelled]]:
    """Models that see how many labels pictures share, each with its own noise."""
    models = {name: Model(Metric.L2, 16) for name in noises}
    embedded, pictures = random_set((n_each,) * len(SETS), models=models)
    rng = np.random.default_rng(5)
    of_label = {label: rng.normal(size=16) for label in ("cat", "dog", "bird", "car")}
    pictures = [
        replace(one, label=first, also=tuple(also))
        for one in pictures
        for first, *also in [SETS[int(one.label.split()[1])]]
    ]
    centres = np.array([sum(of_label[label] for label in one.labels) for one in pictures])
    for name, noise in noises.items():
        rows = centres + rng.normal(size=centres.shape) * noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        embedded.rows[name] = rows.astype(np.float32)  # type: ignore[index]
    return embedded, pictures


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(*graded_set(), n_bootstrap=200)


def test_queries_have_a_label_of_three_pictures() -> None:
    labels = [("a", "b"), ("a",), ("a", "c"), ("b", "c"), ()]

    relations = Relations([frozenset(own) for own in labels])

    assert relations.queries().tolist() == [0, 1, 2]
    assert relations.count_labels(np.array([0, 1])) == 2
    assert relations.is_graded
    assert not Relations([frozenset("a")] * 3).is_graded


def test_pictures_with_the_same_labels_are_of_one_kind() -> None:
    # They are in one fold, so that weights are not judged by what they were chosen by.
    embedded, pictures = graded_set(n_each=2)
    turned = [
        replace(one, label=one.also[-1], also=(one.label, *one.also[:-1])) if one.also else one
        for one in pictures[::2]
    ]

    codes = label_codes(embedded, [*turned, *pictures[1::2]])

    labels = {one.path: one.labels for one in pictures}
    own = [labels[path] for path in embedded.files]
    assert all((codes[i] == codes[j]) == (own[i] == own[j]) for i in range(10) for j in range(10))


def test_the_graded_measure_decides_where_pictures_have_several_labels(
    evaluation: Evaluation,
) -> None:
    assert evaluation.decided_by is Measure.NDCG_AT_10
    assert (evaluation.n_labels, evaluation.n_query_labels, evaluation.n_queries) == (4, 4, 40)
    reached = [one.ndcg_at_10.value for one in evaluation.contenders]
    assert reached == sorted(reached, reverse=True)
    alone = {one.title: one for one in evaluation.contenders}
    gain = alone["dull"].ndcg_at_10.value - alone["sharp"].ndcg_at_10.value
    assert alone["dull"].gain.value == pytest.approx(gain)
    assert f"nDCG@10 {alone['sharp'].ndcg_at_10}" in evaluation.recommendation.sentence
    assert evaluate(*random_set((5, 4, 3)), n_bootstrap=5).decided_by is Measure.AVERAGE_PRECISION


def test_it_is_said_which_model_and_fusion_is_best_and_what_re_ranking_does(
    evaluation: Evaluation,
) -> None:
    model, fusion, reranking = evaluation.recommendation.findings
    alone = {one.title: one for one in evaluation.contenders}

    assert model.sentence.startswith(
        f"Best of the models: sharp, nDCG@10 {alone['sharp'].ndcg_at_10}"
    )
    assert model.sentence.endswith("above dull.")
    assert model.difference.estimate.value == pytest.approx(-alone["dull"].gain.value)
    assert model.difference.is_seen
    fused = {one.recipe.method: one for one in evaluation.contenders if one.recipe.is_equal}
    best = max(
        (one for method, one in fused.items() if method is not Method.SINGLE),
        key=lambda one: one.ndcg_at_10.value,
    )
    assert best.recipe.method is not Method.CALIBRATED
    assert fusion.sentence.startswith(f"Best of the fusions: {best.title}, nDCG@10 ")
    assert " above dull + sharp, calibrated" in fusion.sentence
    gain = alone["sharp"].ndcg_at_10.value - alone["sharp, not re-ranked"].ndcg_at_10.value
    assert reranking.sentence.startswith("Re-ranking sharp by neighbours: nDCG@10 ")
    assert reranking.difference.estimate.value == pytest.approx(gain)


def test_one_model_alone_is_told_what_re_ranking_does() -> None:
    findings = evaluate(*graded_set(noises={"only": 1.0}), n_bootstrap=20).recommendation.findings

    assert [one.sentence.split(":")[0] for one in findings] == ["Re-ranking only by neighbours"]


def test_re_ranking_that_loses_is_to_be_turned_off() -> None:
    # The pictures of a label lie along a line, so those that share neighbours are far ones.
    embedded, pictures = random_set((40,) * 4, models={"a": Model(Metric.L2, 3)})
    codes = np.array([int(one.label.split()[1]) for one in pictures])
    angles = np.random.default_rng(0).uniform(0, np.pi, len(codes))
    heights = codes * 0.06
    rows = np.stack([np.cos(angles), np.sin(angles), heights], axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedded.rows["a"] = rows.astype(np.float32)  # type: ignore[index]

    [finding] = evaluate(embedded, pictures, n_bootstrap=200).recommendation.findings

    assert finding.difference.estimate.high < 0.0
    assert finding.sentence.endswith('Turn it off: "rerank": "none", or --rerank none.')


def test_of_many_pictures_some_are_looked_for() -> None:
    embedded, pictures = graded_set()

    evaluation = evaluate(embedded, pictures, n_bootstrap=5, max_queries=12)

    assert (evaluation.n_queries, evaluation.n_pictures) == (12, 40)
    assert evaluation == evaluate(embedded, pictures[::-1], n_bootstrap=5, max_queries=12)


def test_pairs_that_share_a_label_are_not_taken_as_unrelated() -> None:
    embedded, pictures = graded_set(n_each=20, noises={"dull": 2.5})
    gallery = sort_by_id(embedded)
    calibration = calibrate_all(gallery)["dull"]
    by_path = {one.path: one for one in pictures}
    scores = []
    for query, path in enumerate(gallery.files):
        cosines = gallery.rows["dull"] @ gallery.rows["dull"][query]
        scores += [
            calibration.score(float(cosine))
            for other, cosine in zip(gallery.files, cosines, strict=True)
            if other != path and not by_path[path].is_related_to(by_path[other])
        ]

    shares = rare_shares(
        gallery, {"dull": calibration}, relations_of(gallery, pictures), np.arange(100)
    )

    assert shares["dull"] == pytest.approx(np.mean(np.array(scores) >= RARE_SCORE))
    assert shares["dull"] > 0.0


def test_the_report_shows_what_decides_and_what_is_shared(evaluation: Evaluation) -> None:
    embedded, pictures = graded_set()

    page = render_report(evaluation, embedded, pictures, "instances.json")

    assert "<h2>How much the first ten share: nDCG@10</h2>" in page
    assert '<th scope="col">nDCG@10</th><th scope="col">mAP</th>' in page
    for finding in evaluation.recommendation.findings:
        assert finding.sentence in page
    gallery = sort_by_id(embedded)
    assert relations_of(gallery, pictures).is_graded
    assert "bird, cat, dog" in page
