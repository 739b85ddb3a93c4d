"""`evaluate`, `compare-models`, `models calibrate`: models measured on the user's own photos."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import checked
from twinlens.cli.output import make_bars, say, show
from twinlens.cli.show.libraries import change_library, told_models
from twinlens.cli.show.sheet import MAX_COLUMNS, Cell, draw_sheet
from twinlens.cli.show.tables import MIN_NAME_CHARS, Column, named, print_table
from twinlens.cli.upload.files import find_pictures
from twinlens.cli.upload.index import OUTAGE_S
from twinlens.client.client import Client
from twinlens.models.calibration import calibrate, measure_model, prior_of
from twinlens.models.pictures import thumbnail
from twinlens.models.workbench.by_name import evaluate_names
from twinlens.models.workbench.edits import EDITS, N_EDITED, embed_edits
from twinlens.models.workbench.embeddings import EmbeddingCache, embed_all
from twinlens.models.workbench.evaluate import count_labels, evaluate, label_codes
from twinlens.models.workbench.labels import Labelled, read_labels
from twinlens.models.workbench.rankings import ComparedRankings, compare_rankings
from twinlens.models.workbench.report import render_report
from twinlens.models.workbench.scores import RARE_SCORE, Measure
from twinlens.shared.answers import LibraryPlan
from twinlens.shared.libraries import Library
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from twinlens.models.registry import Registry
    from twinlens.models.session import Embedder
    from twinlens.models.workbench.embeddings import Embedded
    from twinlens.models.workbench.evaluate import Evaluation
    from twinlens.models.workbench.intervals import Estimate
    from twinlens.models.workbench.recommend import Contender, Recommendation

# How many of the best have their figures by source printed too.
N_BY_SOURCE = 8
# Pictures that a model is calibrated on: two million pairs.
N_CALIBRATED = 2_000


def run_evaluate(
    registry: Registry,
    pictures: Sequence[Labelled],
    refs: Sequence[str],
    cache: Path,
    report: Path,
    *,
    title: str,
    max_queries: int,
) -> Callable[[str, str], None]:
    """Evaluates models and their fusions, prints a table and writes a report.

    Args:
        registry: The models.
        pictures: Labelled photos.
        refs: Which models.
        cache: Keeps embeddings, so that a second run, or one that was interrupted, goes on.
        report: The HTML file.
        title: Its title.
        max_queries: How many pictures are looked for at most.

    Returns:
        A function of a service's URL and a library, which makes the recommendation its plan.

    Raises:
        CommandFailed: The report cannot be written.
    """
    embedders = [registry.open(ref) for ref in refs]
    kept = EmbeddingCache(cache)
    files = [picture.path for picture in pictures]
    embedded = embed_with_progress(embedders, files, cache)
    with show_progress("edited copies", min(N_EDITED, len(files)) * len(EDITS)) as on_progress:
        edits = embed_edits(embedders, embedded, kept, on_progress)
    with show_progress("rankings", len(embedded.files)) as on_progress:
        evaluation = evaluate(
            embedded, pictures, edits, on_progress=on_progress, max_queries=max_queries
        )
    _show_evaluation(evaluation, embedded, pictures, title, report)

    def apply(url: str, library: str) -> None:
        _apply(evaluation.recommendation, embedders, url, library)

    return apply


def run_evaluate_names(
    registry: Registry,
    pictures: Sequence[Labelled],
    refs: Sequence[str],
    cache: Path,
    report: Path,
    *,
    title: str,
    max_queries: int,
) -> None:
    """Evaluates how well models and their fusions find pictures by the names of their labels.

    Args:
        registry: The models.
        pictures: Labelled photos.
        refs: Which models; those that understand no words have no part.
        cache: Keeps embeddings of pictures.
        report: The HTML file.
        title: Its title.
        max_queries: How many names are looked for at most.

    Raises:
        CommandFailed: No model understands words, or the report cannot be written.
    """
    knowing = [ref for ref in refs if registry.card(ref).text is not None]
    if not knowing:
        raise CommandFailed(
            f"none of these models has a text encoder: {', '.join(refs)}; name one with --models"
        )
    embedders = [registry.open(ref) for ref in knowing]
    embedded = embed_with_progress(embedders, [picture.path for picture in pictures], cache)
    encoders = {
        name: registry.open_text(ref) for name, ref in zip(embedded.models, knowing, strict=True)
    }
    with show_progress("names", count_labels(pictures)) as on_progress:
        evaluation = evaluate_names(
            embedded, pictures, encoders, on_progress=on_progress, max_queries=max_queries
        )
    _show_evaluation(evaluation, embedded, pictures, title, report)


def _show_evaluation(
    evaluation: Evaluation,
    embedded: Embedded,
    pictures: Sequence[Labelled],
    title: str,
    report: Path,
) -> None:
    show(evaluation, lambda: _print_evaluation(evaluation))
    try:
        report.write_text(render_report(evaluation, embedded, pictures, title), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {report}: {error.strerror}") from error
    say(f"report: {report}")


def run_compare(
    registry: Registry, query: Path, folder: Path, refs: Sequence[str], cache: Path, save: Path
) -> None:
    """Ranks a folder's pictures by each of two models, and draws both rankings.

    Raises:
        CommandFailed: The picture cannot be written.
    """
    embedders = [registry.open(ref) for ref in refs]
    files = [checked(query), *(path for path in find_pictures(folder) if path != query)]
    embedded = embed_with_progress(embedders, files, cache)
    compared = compare_rankings(embedded, query, MAX_COLUMNS)
    show(compared, lambda: _print_rankings(compared))
    try:
        draw_sheet(query.read_bytes(), _agreement(compared), _cells(compared)).save(save, "PNG")
    except OSError as error:
        raise CommandFailed(f"cannot write {save}: {error.strerror}") from error
    say(f"saved {save}")


def read_photos(photos: Path) -> list[Labelled]:
    """Finds the pictures to calibrate with: a folder's, or those of a CSV of `file` and `label`.

    Labels say which pairs are unrelated. Without them the nearest are taken to be related, as in a
    library.
    """
    if photos.is_dir():
        return [Labelled(path, "") for path in find_pictures(photos)]
    return read_labels(photos)


def run_calibrate(registry: Registry, ref: str, pictures: Sequence[Labelled], cache: Path) -> None:
    """Measures how far apart a model puts unrelated pictures, and writes it into its card.

    Args:
        registry: The models.
        ref: Which model.
        pictures: From `read_photos`.
        cache: Keeps embeddings.

    Raises:
        CommandFailed: The labelled pictures are too few, or the model sees no difference.
    """
    chosen = np.random.default_rng(0).permutation(len(pictures))[:N_CALIBRATED]
    embedder = registry.open(ref)
    some = [pictures[place].path for place in sorted(chosen)]
    embedded = embed_with_progress([embedder], some, cache)
    [rows] = embedded.rows.values()
    if any(picture.label for picture in pictures):
        try:
            calibration = measure_model(rows, label_codes(embedded, pictures))
        except ValueError as error:
            raise CommandFailed(str(error)) from error
    else:
        calibration = calibrate(rows, prior_of(embedder.card))
    measured = {"calibration": calibration, "calibrated_on": folder_of(embedded.files)}
    registry.rewrite(embedder.card.model_copy(update=measured))
    say(f"the card of {embedder.card.ref} now has:")
    say("[calibration]")
    for name, value in calibration.model_dump(mode="json").items():
        say(f"{name} = {value}")
    say(f"# on photos of {measured['calibrated_on']}")


def calibrate_new(
    registry: Registry, ref: str, pictures: Sequence[Labelled] | None, cache: Path
) -> None:
    """Measures a model that was just added, unless its card knows already; or says it should be.

    Raises:
        CommandFailed: As `run_calibrate` does. The model is there all the same.
    """
    if registry.card(ref).calibration is not None:
        return
    if pictures is not None:
        run_calibrate(registry, ref, pictures, cache)
        return
    say(
        "no calibration: scores are rough until a library has some 100 pictures; "
        f"`twinlens models calibrate {ref} PHOTOS` measures it, as --photos does"
    )


def folder_of(files: Sequence[Path]) -> str:
    """Returns the name of the folder that all these lie in, as a card may have it."""
    return printable(Path(os.path.commonpath([path.resolve().parent for path in files])).name)


def embed_with_progress(
    embedders: Sequence[Embedder], files: Sequence[Path], cache: Path
) -> Embedded:
    """Embeds pictures by all models, or takes what the cache has, and shows a bar."""
    with show_progress("embedding", len(files)) as on_progress:
        return embed_all(embedders, files, EmbeddingCache(cache), on_progress)


def _print_evaluation(evaluation: Evaluation) -> None:
    is_graded = evaluation.decided_by is Measure.NDCG_AT_10
    columns = (
        named("models"),
        *([Column("nDCG@10"), Column("95 % of it", leave_out=3)] if is_graded else []),
        Column("mAP"),
        Column("95 %", leave_out=4),
        Column("P@1"),
        Column("P@5", leave_out=2),
        Column("edits @1", leave_out=3),
        Column("gain", leave_out=1),
        Column("95 % of gain", leave_out=5),
    )
    print_table(
        columns,
        [_row(contender, is_graded=is_graded) for contender in evaluation.contenders],
        _title(evaluation),
    )
    _print_sources(evaluation.contenders)
    # Two labels at least, or the list would have been refused; but not all may be embedded.
    if evaluation.rare_shares:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in evaluation.rare_shares.items())
        say(f"pairs of different labels that score {RARE_SCORE} or more: {shares}")
    for finding in evaluation.recommendation.findings:
        say(finding.sentence)
    say(evaluation.recommendation.sentence)


def _title(evaluation: Evaluation) -> str:
    if evaluation.is_of_words:
        return f"names of {evaluation.n_queries} labels, {evaluation.n_pictures} pictures"
    return (
        f"{evaluation.n_queries} queries of {evaluation.n_query_labels} labels,"
        f" {evaluation.n_pictures} pictures; re-ranked by neighbours as searches are"
    )


def _row(contender: Contender, *, is_graded: bool) -> tuple[str, ...]:
    precision, near = contender.mean_average_precision, contender.near_duplicates
    ndcg = contender.ndcg_at_10
    return (
        contender.title,
        *([f"{ndcg.value:.3f}", interval(ndcg)] if is_graded else []),
        f"{precision.value:.3f}",
        interval(precision),
        f"{contender.precision_at_1.value:.3f}",
        f"{contender.precision_at_5.value:.3f}",
        f"{near.value:.3f}" if near else "",
        f"{contender.gain.value:+.3f}",
        interval(contender.gain, sign="+"),
    )


def _print_sources(contenders: Sequence[Contender]) -> None:
    """Prints the mAP by source of each model and of the best combinations."""
    shown = [
        one for place, one in enumerate(contenders) if place < N_BY_SOURCE or one.recipe.is_baseline
    ]
    if shown[0].by_source:
        rows = [
            (one.title, *(f"{by.value:.3f}  {interval(by)}" for by in one.by_source.values()))
            for one in shown
        ]
        sources = (
            Column(source, MIN_NAME_CHARS, leave_out=place)
            for place, source in enumerate(shown[0].by_source, start=1)
        )
        print_table((named("models"), *sources), rows, "mAP by source, 95 %")


def interval(estimate: Estimate, sign: str = "") -> str:
    """For a table: `0.512 to 0.533`."""
    return f"{estimate.low:{sign}.3f} to {estimate.high:{sign}.3f}"


def _apply(
    recommended: Recommendation, embedders: Sequence[Embedder], url: str, library: str
) -> None:
    refs = {embedder.card.name: embedder.card.ref for embedder in embedders}
    refs |= {ref: ref for ref in refs.values()}
    models = [refs[name] for name in recommended.recipe.models]
    weights = {refs[name].partition("@")[0]: w for name, w in recommended.weights.items()}
    plan = LibraryPlan(models=models, weights=weights)
    with Client(url, outage_s=OUTAGE_S) as client:
        for there in client.libraries():
            if there.name == library:
                # Nothing that was measured says that these should change.
                plan = plan.model_copy(update={"metric": there.metric, "index": there.index})
        made = change_library(client, library, plan)
        assert isinstance(made, Library)
        say(told_models(client, made))


def _print_rankings(compared: ComparedRankings) -> None:
    rows = [
        (str(place + 1), *(_hit_text(compared, model, place) for model in compared.rankings))
        for place in range(max(len(ranking) for ranking in compared.rankings.values()))
    ]
    models = (
        Column(model, MIN_NAME_CHARS, leave_out=place)
        for place, model in enumerate(compared.rankings)
    )
    print_table(("#", *models), rows)
    say(_agreement(compared))


def _hit_text(compared: ComparedRankings, model: str, place: int) -> str:
    hits = compared.rankings[model][place : place + 1]
    return "".join(f"{hit.path.name}  {hit.distance:.3f}" for hit in hits)


def _cells(compared: ComparedRankings) -> dict[str, list[Cell]]:
    return {
        model: [
            Cell(
                thumbnail(hit.path.read_bytes()),
                hit.path.name,
                f"{rank}. distance {hit.distance:.3f}",
            )
            for rank, hit in enumerate(ranking, start=1)
        ]
        for model, ranking in compared.rankings.items()
    }


def _agreement(compared: ComparedRankings) -> str:
    line = f"overlap of the first {MAX_COLUMNS}: {compared.overlap_at_k:.0%}"
    if compared.rank_correlation is not None:
        line += f"; rank correlation over all pictures: {compared.rank_correlation:.2f}"
    return line


@contextmanager
def show_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar, and yields a function that moves it to a number of files."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with make_bars(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n_done: progress.update(task, completed=n_done)
