"""When each fact is injected, and which of its texts: the two published schedules and others of their kind.

A schedule is `count` injections, `interval` updates apart, of groups of facts. A group says which variant of
its facts an injection has: `paraphrase` (the original, then one paraphrase after the other), `duplicate`
(the original each time), `once` (the original at the first injection), `split` (the originals, dealt in
consecutive runs over the injections), or a variant for each injection.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chunk_provenance.injection.fact_file import InjectableFact
from chunk_provenance.injection.plan_file import list_problems

NAMED = ("paraphrase", "duplicate", "once", "split")


@dataclass(frozen=True)
class Group:
    """Facts that are injected in one way."""

    facts: tuple[int, ...]
    """Positions in the list of facts, in the order of their items."""
    variants: str | tuple[int, ...]
    """One of `NAMED`, or the variant of every injection."""


@dataclass(frozen=True)
class Schedule:
    """Injections of groups of facts; items of one update come in the order of the groups and their facts."""

    start: int
    """The update (from 1) of the first injection."""
    interval: int
    """Updates from one injection to the next."""
    count: int
    """Injections in an epoch."""
    groups: tuple[Group, ...]
    group_spacing: int = 0
    """Updates by which every group comes later than the one before it."""
    epochs: int = 1
    """How often everything is repeated."""
    epoch_updates: int | None = None
    """Updates from one repetition to the next; None: `interval` times `count`."""

    @property
    def period(self) -> int:
        """Updates from one repetition to the next."""
        return self.interval * self.count if self.epoch_updates is None else self.epoch_updates


Item = tuple[int, int]
"""Position of a fact, and variant of its text."""


def fka_schedule(groups: Sequence[Group] = (), *, interval: int = 100, count: int = 10) -> Schedule:
    """The schedule of arXiv 2406.11813: at t = 0, 100, ..., 900 updates done, which are the updates t + 1.

    Facts 0-39 are paraphrased, 40-79 duplicated, 80-119 injected once.
    """
    published = (
        Group(tuple(range(40)), "paraphrase"),
        Group(tuple(range(40, 80)), "duplicate"),
        Group(tuple(range(80, 120)), "once"),
    )
    return Schedule(1, interval, count, tuple(groups) or published)


def ke_schedule(
    groups: Sequence[Group] = (), *, interval: int = 160, count: int = 10, epochs: int = 1
) -> Schedule:
    """The schedule of arXiv 2410.01380: at the updates s with s % 160 == 0, in every epoch all ten again.

    Facts 0-69 are paraphrased, 70-129 injected once, six at a time.
    """
    published = (Group(tuple(range(70)), "paraphrase"), Group(tuple(range(70, 130)), "split"))
    return Schedule(interval, interval, count, tuple(groups) or published, epochs=epochs)


def parse_group(words: str, facts: Sequence[InjectableFact]) -> Group:
    """A group from words like `0-39=paraphrase`, `0,5,7-9=once`, `my-fact=0,0,1` or `all=split`.

    Numbers are positions of facts, from 0; any other word is a fact's id.

    Raises:
        ValueError: the words have another form, or name a fact that is not there.
    """
    chosen, equals, variants = words.partition("=")
    if not equals or not chosen or not variants:
        raise ValueError(f"--group {words!r}: expected FACTS=VARIANTS, such as 0-39=paraphrase")
    positions = [position for part in chosen.split(",") for position in _positions(part, facts)]
    if variants in NAMED:
        return Group(tuple(positions), variants)
    numbers = variants.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f"--group {words!r}: the variants are one of {', '.join(NAMED)}, or numbers for each injection "
            "such as 0,1,1"
        )
    return Group(tuple(positions), tuple(map(int, numbers)))


def _positions(part: str, facts: Sequence[InjectableFact]) -> Sequence[int]:
    if part == "all":
        return range(len(facts))
    first, _, last = part.partition("-")
    if first.isdecimal() and (last or first).isdecimal():
        found = range(int(first), int(last or first) + 1)
        if not found or found[-1] >= len(facts):
            raise ValueError(f"no facts {part}: there are {len(facts)}, from 0 to {len(facts) - 1}")
        return found
    for position, fact in enumerate(facts):
        if fact.fact_id == part:
            return (position,)
    raise ValueError(f"no fact {part!r}: name a position from 0 to {len(facts) - 1}, an id, or all")


def schedule_items(schedule: Schedule, facts: Sequence[InjectableFact]) -> dict[int, list[Item]]:
    """The items of every update that has any, in the order of their rows.

    Raises:
        ValueError: all that is wrong with the schedule: numbers out of range, a fact in two groups, a
            variant that a fact does not have.
    """
    if problems := list(_schedule_problems(schedule, facts)):
        raise ValueError(list_problems("the schedule does not fit the facts", problems))
    found: dict[int, list[Item]] = {}
    for epoch in range(schedule.epochs):
        for number, group in enumerate(schedule.groups):
            first = schedule.start + epoch * schedule.period + number * schedule.group_spacing
            for injection in range(schedule.count):
                update = first + injection * schedule.interval
                items = _group_items(group, injection, schedule.count)
                if items:
                    found.setdefault(update, []).extend(items)
    return dict(sorted(found.items()))


def _group_items(group: Group, injection: int, count: int) -> list[Item]:
    """The items that a group has at an injection (from 0)."""
    if group.variants == "split":
        return [(fact, 0) for fact in np.array_split(group.facts, count)[injection].tolist()]
    if group.variants == "once":
        return [(fact, 0) for fact in group.facts] if injection == 0 else []
    if isinstance(group.variants, tuple):
        return [(fact, group.variants[injection]) for fact in group.facts]
    return [(fact, injection if group.variants == "paraphrase" else 0) for fact in group.facts]


def _schedule_problems(schedule: Schedule, facts: Sequence[InjectableFact]) -> Iterator[str]:
    for name in ("start", "interval", "count", "epochs", "period"):
        if getattr(schedule, name) < 1:
            yield f"{name} is {getattr(schedule, name)}, it must be at least 1"
    if schedule.group_spacing < 0:
        yield f"group_spacing is {schedule.group_spacing}, it must not be negative"
    if not schedule.groups:
        yield "there is no group of facts"
    seen: set[int] = set()
    for group in schedule.groups:
        for fact in group.facts:
            if fact in seen:
                yield f"fact {fact} is named twice: a fact has one group"
            seen.add(fact)
        yield from _variant_problems(group, schedule.count, facts)


def _variant_problems(group: Group, count: int, facts: Sequence[InjectableFact]) -> Iterator[str]:
    if isinstance(group.variants, tuple) and len(group.variants) != count:
        yield f"{len(group.variants)} variants {list(group.variants)} for {count} injections"
        return
    highest = {"paraphrase": count - 1}.get(str(group.variants), 0)
    if isinstance(group.variants, tuple):
        highest = max(group.variants)
    for fact in group.facts:
        if fact >= len(facts):
            yield f"fact {fact}: there are {len(facts)}, from 0 to {len(facts) - 1}"
        elif highest >= len(facts[fact].texts):
            yield (
                f"fact {facts[fact].fact_id} has {len(facts[fact].texts) - 1} paraphrases, "
                f"an injection needs number {highest}"
            )
