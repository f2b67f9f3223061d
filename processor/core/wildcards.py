"""A set of actions -> few patterns that match it and nothing that they may not: the reverse of policies.expand."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from processor.core.catalogue import Catalogue, ids_in


def write_patterns(catalogue: Catalogue, wanted: int, allowed: int) -> list[str]:
    """Patterns, each `*` or an action's name or `service:Start*`, that together match all of `wanted` and nothing outside of
    `allowed`, which holds `wanted`. In the catalogue's order, none within another.

    A name stands as it is where a pattern would stand for it alone.
    """
    if wanted and allowed == catalogue.all_mask:
        return ["*"]
    ids = list(ids_in(wanted))
    forbidden = list(ids_in(catalogue.all_mask & ~allowed))
    patterns: list[str] = []
    at = 0
    while at < len(ids):
        name = catalogue.names[ids[at]]
        length = find_clean_length(catalogue.names, forbidden, ids[at])
        end = at + 1
        if length is not None:
            start = name[:length].lower()
            while end < len(ids) and catalogue.names[ids[end]].lower().startswith(start):
                end += 1
        patterns.append(name if length is None or end == at + 1 else f"{name[:length]}*")
        at = end
    return patterns


def find_clean_length(names: Sequence[str], forbidden: Sequence[int], action: int) -> int | None:
    """The length of the shortest start of a name, at least `service:`, that no forbidden name has; None where even the whole
    name is the start of one. `names` are sorted by their lower case, `forbidden` are ids in order.

    Of all names the neighbours in order have the longest start in common with it.
    """
    name = names[action].lower()
    place = bisect_right(forbidden, action)
    shared = max((_count_shared(name, names[near].lower()) for near in _list_near(forbidden, place)), default=0)
    if shared >= len(name):
        return None
    return max(shared + 1, name.index(":") + 1)


def _list_near(ordered: Sequence[int], place: int) -> Iterator[int]:
    if place > 0:
        yield ordered[place - 1]
    if place < len(ordered):
        yield ordered[place]


def _count_shared(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
