"""A record of places and of what was found there, which can be looked at again cheaply.

What was found is held, and compared by identity: an object that is still there is the same one, and
its address is never that of another. What can change in place (lists, dicts, attributes, NumPy's
arrays) is a place of its own.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from itertools import count, repeat
from operator import call, is_
from types import CodeType
from typing import Any

import numpy as np

__all__ = ["MISSING", "Record"]


MISSING: Any = object()
_NUMBERS = count(1)


class Record:
    """Places, and what was found there.

    Examples
    --------
    >>> settings = {"scale": 2.0}
    >>> record = Record()
    >>> record.add_entry(settings, "scale")
    2.0
    >>> record.holds()
    True
    >>> settings["scale"] = 3.0
    >>> record.holds()
    False
    """

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self._seen: dict[Any, Any] = {}
        # Entries of dicts, by three lists as `map` takes them.
        self._dicts: list[dict[Any, Any]] = []
        self._names: list[Hashable] = []
        self._entries: list[Any] = []
        # What functions give of an object.
        self._getters: list[Callable[[Any], Any]] = []
        self._objects: list[Any] = []
        self._gotten: list[Any] = []
        self._contents: list[tuple[Collection[Any], tuple[Any, ...]]] = []
        self._begun: list[tuple[Collection[Any], tuple[Any, ...]]] = []
        self._mappings: list[tuple[Mapping[Any, Any], tuple[Any, ...], tuple[Any, ...]]] = []
        self._arrays: list[tuple[np.ndarray, tuple[int, ...], np.dtype, bytes]] = []

    def add_entry(self, holder: dict[Any, Any], name: Hashable) -> Any:
        """Note an entry of a dict; gives it, or MISSING."""
        key = id(holder), name
        if key not in self._seen:
            self._seen[key] = holder.get(name, MISSING)
            self._dicts.append(holder)
            self._names.append(name)
            self._entries.append(self._seen[key])
        return self._seen[key]

    def add_result(self, get: Callable[[Any], Any], thing: Any) -> Any:
        """Note what a function gives of an object."""
        key = id(get), id(thing)
        if key not in self._seen:
            self._seen[key] = get(thing)
            self._getters.append(get)
            self._objects.append(thing)
            self._gotten.append(self._seen[key])
        return self._seen[key]

    def add_contents(self, container: Collection[Any]) -> tuple[Any, ...]:
        """Note the items of a list or a set."""
        items = tuple(container)
        self._contents.append((container, items))
        return items

    def add_beginning(self, container: Collection[Any]) -> tuple[Any, ...]:
        """Note the items of what may grow at its end, as a module does that loads others."""
        items = tuple(container)
        self._begun.append((container, items))
        return items

    def add_mapping(self, mapping: Mapping[Any, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Note the keys and the values of a mapping."""
        keys, values = tuple(mapping), tuple(mapping.values())
        self._mappings.append((mapping, keys, values))
        return keys, values

    def add_array(self, array: np.ndarray) -> None:
        """Note the values of an array."""
        self._arrays.append((array, array.shape, array.dtype, array.tobytes()))

    def arrays(self) -> list[np.ndarray]:
        """Those whose values were noted."""
        return [array for array, *_ in self._arrays]

    def numbers(self) -> list[Any]:
        """Numbers and arrays of NumPy that were noted, and constants of code."""
        places: list[Any] = [*self._entries, *self._gotten]
        places += [item for _, items in self._contents for item in items]
        places += [entry for *_, entries in self._mappings for entry in entries]
        found: list[Any] = self.arrays()
        while places:
            place = places.pop()
            if isinstance(place, CodeType):
                places += place.co_consts
            elif isinstance(place, tuple):
                places += place
            elif isinstance(place, int | float | np.generic):
                found.append(place)
        return found

    def holds(self) -> bool:
        """Whether nothing has changed in any of the places."""
        try:
            entries = map(dict.get, self._dicts, self._names, repeat(MISSING))
            if not all(map(is_, entries, self._entries)):
                return False
            results = map(call, self._getters, self._objects)
            return (
                all(map(is_, results, self._gotten))
                and all(len(c) == len(i) and all(map(is_, c, i)) for c, i in self._contents)
                and all(len(c) >= len(i) and all(map(is_, c, i)) for c, i in self._begun)
                and all(
                    len(m) == len(keys)
                    and all(map(is_, m, keys))
                    and all(map(is_, m.values(), values))
                    for m, keys, values in self._mappings
                )
                and all(
                    array.shape == shape and array.dtype == dtype and array.tobytes() == values
                    for array, shape, dtype, values in self._arrays
                )
            )
        except Exception:  # noqa: BLE001  # whatever a place raises now, it did not when noted
            return False

    def __len__(self) -> int:
        return (
            len(self._entries)
            + len(self._gotten)
            + sum(len(items) for _, items in self._contents)
            + sum(len(keys) for _, keys, _ in self._mappings)
        )
