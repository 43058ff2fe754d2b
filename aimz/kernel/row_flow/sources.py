"""Names of what a value was made of: sites, arguments, columns of these, and statistics of them.

A site goes by its own name. Tags are remembered beside the sources: that a statistic over the rows
was taken of one, and that one was measured by such a statistic of itself, as in `x - x.mean()`.
"""

from collections.abc import Iterable

__all__ = [
    "argument",
    "column",
    "columns_of",
    "measured",
    "measured_tags",
    "pooled",
    "pooled_tags",
    "split",
    "without_columns",
]

# No site has a name that begins with a tab.
_ARGUMENT, _COLUMN = "\targument ", "\tcolumn "
_POOLED, _MEASURED = "\tpooled ", "\tmeasured "


def argument(name: str) -> str:
    """The source that is an argument."""
    return f"{_ARGUMENT}{name}"


def column(name: str, number: int) -> str:
    """The source that is one column of an argument, beside the argument itself."""
    return f"{_COLUMN}{number} of {name}"


def split(sources: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the sites and of the arguments among sources."""
    tags = (_COLUMN, _POOLED, _MEASURED)
    plain = frozenset(s for s in sources if not s.startswith(tags))
    arguments = frozenset(s for s in plain if s.startswith(_ARGUMENT))
    return plain - arguments, frozenset(s.removeprefix(_ARGUMENT) for s in arguments)


def without_columns(sources: Iterable[str], kept: range) -> frozenset[str]:
    """Sources without the columns that are not kept."""
    numbers = {s: int(s.split()[1]) for s in sources if s.startswith(_COLUMN)}
    return frozenset(s for s in sources if numbers.get(s, kept.start) in kept)


def pooled_tags(sources: Iterable[str]) -> frozenset[str]:
    """Tags of sources of which a statistic is taken."""
    return frozenset(_POOLED + s for s in sources if not s.startswith((_POOLED, _MEASURED)))


def measured_tags(one: Iterable[str], other: Iterable[str]) -> frozenset[str]:
    """Tags of sources that are set against a statistic of themselves, where two values meet.

    What a parameter scales is the source no more: `b * t - c * t.mean()` has an exposure in it.
    """
    plain, statistics = _plain(one), _named(_POOLED, other)
    sites = split(plain | _plain(other))[0]
    return frozenset(_MEASURED + s for s in plain & statistics if not sites - {s})


def pooled(sources: Iterable[str]) -> frozenset[str]:
    """Names of the sites and arguments of which a statistic over the rows is taken on the way."""
    return frozenset[str]().union(*split(_named(_POOLED, sources)))


def measured(sources: Iterable[str]) -> frozenset[str]:
    """Sources that are set against a statistic of themselves on the way."""
    return _named(_MEASURED, sources)


def columns_of(name: str, sources: Iterable[str]) -> frozenset[int]:
    """Numbers of an argument's columns among sources."""
    found = (s.removeprefix(_COLUMN).split(" of ", 1) for s in sources if s.startswith(_COLUMN))
    return frozenset(int(number) for number, of in found if of == name)


def _plain(sources: Iterable[str]) -> frozenset[str]:
    return frozenset(s for s in sources if not s.startswith((_POOLED, _MEASURED)))


def _named(tag: str, sources: Iterable[str]) -> frozenset[str]:
    return frozenset(s.removeprefix(tag) for s in sources if s.startswith(tag))
