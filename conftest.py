"""What the examples of `ImpactModel` share: the names that its docstring begins with."""

import doctest
import functools
import linecache
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from typing import Any

import pytest

_SHARING = (
    *("aimz.model.impact_model", "aimz.model.described", "aimz.model.summarising"),
    "aimz.diagnostics.pictures",
    "aimz.diagnostics.course",
)


@pytest.fixture(autouse=True)
def _names_of_the_examples(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]
) -> Iterator[None]:
    """Give the examples of the facade the names that they go on from, and no other."""
    shares = hasattr(request.node, "dtest") and request.node.name.startswith(_SHARING)
    if shares:
        doctest_namespace.update(_first_block())
    yield
    if shares:
        doctest_namespace.clear()


@functools.cache
def _first_block() -> dict[str, Any]:
    """Names after the examples of the docstring of the class, up to the first prose in them."""
    from aimz import ImpactModel

    parts = doctest.DocTestParser().parse(ImpactModel.__doc__ or "")
    examples = dropwhile(lambda part: isinstance(part, str), parts)
    block = takewhile(lambda part: not isinstance(part, str) or not part.strip(), examples)
    source = "".join(part.source for part in block if not isinstance(part, str))
    file = "<examples of ImpactModel>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": _SHARING[0]}
    exec(compile(source, file, "exec"), names)  # noqa: S102  # our own docstring
    return names
