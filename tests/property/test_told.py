"""Journal and manifests tell together what was last true of an image, whatever happened before."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st
from support.records import image

from twinlens.shared.journal import JournalLine, last_of
from twinlens.shared.messages import Description, Image, Metadata
from twinlens.workers.reconcile.told import Standing, Told, Word, fold

ID = "a" * 64
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

NAMES = st.sampled_from(["a", "b", None])
METADATA: st.SearchStrategy[Metadata | None] = st.sampled_from([None, {}, {"n": 1}, {"n": 2}])
DESCRIPTIONS = st.builds(lambda name, said: Description(name=name, metadata=said), NAMES, METADATA)
STEPS = st.one_of(
    st.tuples(st.just("upload"), DESCRIPTIONS),
    st.tuples(st.just("patch"), DESCRIPTIONS),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("expire"), st.none()),
    st.tuples(st.just("fold"), st.none()),
)


@dataclass
class History:
    """One image, as the service has it, and what is on the disk of it."""

    n_steps: int = 0
    image: Image | None = None
    added_at: datetime = BEGAN
    lines: list[JournalLine] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    def do(self, step: str, said: Description | None) -> None:
        self.n_steps += 1
        moment = BEGAN + timedelta(seconds=self.n_steps)
        if step == "upload" and said is not None:
            self.upload(moment, said)
        elif step == "patch" and said is not None and self.image is not None:
            self.change(moment, said)
        elif step == "remove" and self.image is not None:
            self.image = None
            self.lines.append(JournalLine(told_at=moment, gone=ID))
        elif step == "expire" and self.words:
            self.expire(self.words.pop(0))
        elif step == "fold":
            last = last_of(self.lines)
            self.lines = [] if last is None else [last]

    def upload(self, moment: datetime, said: Description) -> None:
        self.words.append(
            Word(image_id=ID, at=moment, standing="lost", name=said.name, metadata=said.metadata)
        )
        if self.image is None:
            self.added_at = moment
            self.image = said.of(image(ID, name="")).model_copy(update={"added_at": moment})
        else:
            self.change(moment, said)

    def change(self, moment: datetime, said: Description) -> None:
        assert self.image is not None
        if said.changes(self.image):
            self.image = said.of(self.image)
            self.lines.append(JournalLine(told_at=moment, image=self.image))

    def expire(self, word: Word) -> None:
        if self.image is not None and self.added_at == word.at:
            self.lines.append(JournalLine(told_at=word.at, image=self.image))

    def told(self, standing: Standing = "lost") -> Told:
        words = [one.model_copy(update={"standing": standing}) for one in self.words]
        return fold(self.lines, words)


def history_of(steps: list[tuple[str, Description | None]]) -> History:
    history = History()
    for step in steps:
        history.do(*step)
    return history


SAID = Description(name="a", metadata={"n": 1})


@given(st.lists(STEPS, max_size=12))
@example([("upload", SAID), ("remove", None), ("upload", Description())])
@example([("upload", SAID), ("upload", SAID), ("expire", None), ("patch", Description(name="b"))])
def test_what_is_told_last_counts(steps: list[tuple[str, Description | None]]) -> None:
    history = history_of(steps)
    told, true = history.told(), history.image
    assert told.is_wanted == (true is not None)
    if true is not None:
        assert (told.description.name or "") == true.name
        assert (told.description.metadata or {}) == true.metadata


@given(st.lists(STEPS, max_size=12))
def test_words_may_be_read_in_any_order(steps: list[tuple[str, Description | None]]) -> None:
    history = history_of(steps)
    told = history.told()
    history.words.reverse()
    assert history.told() == told


@given(st.lists(STEPS, max_size=12))
def test_what_a_job_has_that_redis_knows_is_left_to_it(
    steps: list[tuple[str, Description | None]],
) -> None:
    history = history_of(steps)
    journal = fold(history.lines, [])
    for standing in ("open", "ended"):
        told = history.told(standing)
        assert (told.is_wanted, told.description) == (journal.is_wanted, journal.description)
        assert told.is_known == bool(history.words)


@given(st.lists(STEPS, max_size=12))
def test_what_was_cancelled_brings_nothing_back(
    steps: list[tuple[str, Description | None]],
) -> None:
    history = history_of(steps)
    assert history.told("cancelled").is_wanted == fold(history.lines, []).is_wanted


MOMENTS = st.integers(0, 3).map(lambda n: BEGAN + timedelta(seconds=n))
IMAGES = st.builds(image, st.just(ID), st.sampled_from(["a.png", "b.png"]))
LINES = st.one_of(
    st.builds(JournalLine, told_at=MOMENTS, gone=st.just(ID)),
    st.builds(JournalLine, told_at=MOMENTS, image=IMAGES),
)


@given(st.lists(LINES, max_size=8), st.lists(LINES, max_size=4))
def test_a_journal_that_is_folded_goes_on_as_before(
    lines: list[JournalLine], later: list[JournalLine]
) -> None:
    last = last_of(lines)
    folded = [] if last is None else [last]
    assert last_of([*folded, *later]) == last_of([*lines, *later])


def test_a_change_that_was_done_late_does_not_bring_back_what_was_said_before() -> None:
    """It was accepted before another that was done first: the journal has them as done."""
    moments = [BEGAN + timedelta(seconds=n) for n in range(3)]
    lines = [
        JournalLine(told_at=moments[2], image=image(ID, "second.png")),
        JournalLine(told_at=moments[0], image=image(ID, "first.png")),
    ]
    word = Word(image_id=ID, at=moments[1], standing="lost", name="between.png")
    assert fold(lines, [word]).description.name == "first.png"
    word.at = moments[2] + timedelta(seconds=1)
    assert fold(lines, [word]).description.name == "between.png"


def test_a_removal_that_is_noted_late_is_not_of_what_was_posted_since() -> None:
    posted, asked, again = (BEGAN + timedelta(seconds=n) for n in range(3))
    removal = JournalLine(told_at=asked, gone=ID)
    old = JournalLine(told_at=posted, image=image(ID, "old.png"))
    new = JournalLine(told_at=again, image=image(ID, "new.png"))
    assert fold([old, new, removal], []).description.name == "new.png"
    assert fold([old, removal, new], []).description.name == "new.png"
    for late in ([old, removal], [old, removal, old]):
        told = fold(late, [])
        assert (told.is_gone, told.is_wanted, told.at) == (True, False, asked)
