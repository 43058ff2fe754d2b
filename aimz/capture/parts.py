"""What a captured file calls to make objects again that have no constructor of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["objects", "rebuilt"]


def rebuilt(
    make: Callable[..., Any],
    *args: object,
    state: Any = None,
    items: Sequence[Any] = (),
    pairs: Sequence[tuple[Any, Any]] = (),
) -> Any:
    """An object made as `copy` would make it."""
    made = make(*args)
    if items:
        made.extend(items)
    for key, value in pairs:
        made[key] = value
    if state is None:
        return made
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return made
    plain, slots = state if isinstance(state, tuple) else (state, None)
    if plain:
        made.__dict__.update(plain)
    for key, value in (slots or {}).items():
        object.__setattr__(made, key, value)
    return made


def objects(values: Sequence[Any], *shape: int) -> np.ndarray:
    """An array of objects."""
    made = np.empty(len(values), object)
    made[:] = values
    return made.reshape(shape)
