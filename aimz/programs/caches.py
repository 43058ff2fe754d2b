"""Bounded caches of what is dear to make again, all in one register."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Cache", "clear_caches", "forget_holders"]

_ALL: "list[Cache[Any, Any]]" = []


class Cache[Key: Hashable, Value]:
    """What was made, by name; the least recently used goes first.

    A value must keep alive whatever its name holds the address of.

    Parameters
    ----------
    limit : int
        How many values are kept.

    Examples
    --------
    >>> squares = Cache[int, int](limit=2)
    >>> [squares.get_or_make(n, lambda n=n: n * n) for n in (1, 2, 3, 3)], len(squares)
    ([1, 4, 9, 9], 2)
    >>> squares.made
    3
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.made = limit, 0
        self._values: OrderedDict[Any, Value] = OrderedDict()
        self._owners: set[int] = set()
        self._lock = threading.RLock()  # an owner may go while this thread holds it
        _ALL.append(self)

    def get_or_make(
        self, key: Key, make: Callable[[], Value], is_so: Callable[[], bool] = lambda: True
    ) -> Value:
        """The value of this name; of two threads that make one at a time, the first one's.

        What has been made is kept if the name `is_so`, still, afterwards.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()  # outside the lock: to make one may take another lock, or this cache
        if not is_so():
            return made
        with self._lock:
            self.made += key not in self._values
            value = self._values.setdefault(key, made)
            self._values.move_to_end(key)
            while len(self._values) > self.limit:
                self._values.popitem(last=False)
        return value

    def of_owner(self, owner: object, key: Key, make: Callable[[], Value]) -> Value:
        """The value of this name among those of one object; it must not hold the object.

        Objects are told apart by identity, and what is kept of one goes when it does.
        """
        number = id(owner)
        with self._lock:
            if number not in self._owners:
                self._owners.add(number)
                weakref.finalize(owner, self._forget, number).atexit = False
        return self.get_or_make((number, key), make)  # type: ignore[arg-type]  # a name of its own

    def _forget(self, number: int) -> None:
        """Drop what is kept of an object that is no more."""
        with self._lock:
            self._owners.discard(number)
            for key in [key for key in self._values if key[0] == number]:
                del self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget every value."""
        with self._lock:
            self._values.clear()

    def forget_holder(self) -> None:
        """Release the lock in a forked child, where the thread that held it is gone."""
        reset: Any = getattr(self._lock, "_at_fork_reinit", None)  # as threading does with its own
        reset()


def clear_caches() -> None:
    """Empty every cache of the process."""
    for cache in _ALL:
        cache.clear()


def forget_holders() -> None:
    """Release the locks of all caches in a forked child."""
    for cache in _ALL:
        cache.forget_holder()
