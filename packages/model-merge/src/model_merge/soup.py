"""The greedy soup: start with the best part, take in each next one that makes the average better."""

from collections.abc import Callable, Sequence


def greedy_soup(parts: Sequence[str], loss: Callable[[tuple[str, ...]], float]) -> tuple[str, ...]:
    """The members of the greedy soup, in the order in which they were taken in.

    Args:
        parts: the parts' names; of equally good ones the first comes first.
        loss: of the average of some parts, lower is better. It is asked twice a part at most.

    >>> goodness = {("a",): 2.0, ("b",): 1.0, ("c",): 3.0, ("b", "a"): 1.5, ("b", "c"): 0.5}
    >>> greedy_soup(["a", "b", "c"], goodness.__getitem__)
    ('b', 'c')
    """
    alone = {part: loss((part,)) for part in parts}
    ordered = sorted(parts, key=alone.__getitem__)
    chosen: tuple[str, ...] = (ordered[0],)
    best = alone[ordered[0]]
    for part in ordered[1:]:
        tried = loss((*chosen, part))
        if tried < best:
            chosen, best = (*chosen, part), tried
    return chosen
