"""What was compared, in a reader's words: one record that text, tables, pictures and runs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.libraries import pd, xr
from aimz.plots import scalar_text

__all__ = ["Compared", "fault_of", "in_words", "labels_of", "share_text", "weighed_text"]


#: Settings of one scenario, and scenarios, that are spelled out.
_SPELLED = 6
_DEFAULT_NAMES = ("baseline", "intervention")


@dataclass(frozen=True)
class Compared:
    """The scenarios of an effect by name, the reference first, and what each sets, in words.

    Parameters
    ----------
    settings : mapping of str to mapping of str to str
        For each scenario the names that it sets and the values: `{"baseline": {"t": "0"}, ...}`.
    """

    settings: Mapping[str, Mapping[str, str]]

    def __str__(self) -> str:
        """All scenarios: `t=1 against t=0`, or a list where they are several."""
        names = list(self.settings)
        if len(names) == 2:
            return f"{self.of(names[1])} against {self.of(names[0])}"
        listed = [self.of(name) for name in names[:_SPELLED]]
        more = len(names) - len(listed)
        return ", ".join(listed) + (f" and {more} more" if more else "")

    def of(self, name: str) -> str:
        """A scenario in words: what it sets, after its name where the user gave one."""
        sets = self.settings[name]
        words = ", ".join(f"{what}={value}" for what, value in sets.items()) or "natural values"
        if name in _DEFAULT_NAMES or list(sets.values()) == [name]:
            return words
        return f"{name} ({words})"

    @property
    def treatment(self) -> str | None:
        """The one thing that every scenario sets, or that one does and the other leaves."""
        names = {what for sets in self.settings.values() for what in sets}
        return names.pop() if len(names) == 1 else None

    @property
    def arms(self) -> tuple[str, ...]:
        """Each scenario as a title has it: its own name, or else what it sets."""
        if any(name not in _DEFAULT_NAMES for name in self.settings):
            return tuple(self.settings)
        if self.treatment is None:
            return tuple(self.of(name) for name in self.settings)
        return tuple(next(iter(sets.values()), "natural") for sets in self.settings.values())

    @property
    def cause(self) -> str:
        """What changes, for a title: ` of t`, or nothing where it has no one name."""
        return "" if self.treatment is None else f" of {self.treatment}"

    @property
    def ending(self) -> str:
        """Who is compared with whom, for a title: `: 1 against 0`."""
        arms = self.arms
        if len(arms) == 2:
            return f": {arms[1]} against {arms[0]}"
        return f", against {arms[0]}" if arms else ""


def fault_of(health: Mapping[str, Any]) -> str:
    """What is wrong with a fit, of its account: codes of its warnings; empty where nothing is.

    A fit that is right in each of its sites may still be wrong for one effect.
    """
    kind, _, codes = str(health.get("verdict", "")).partition(": ")
    faults = [codes if kind == "bad" else str(health.get("effect_fault", ""))]
    faults = [fault for fault in faults if fault]
    return ", ".join([*faults, *(["interrupted"] if health.get("interrupted") else [])])


def weighed_text(health: Mapping[str, Any]) -> str:
    """What weights of the draws make of an effect, as a sentence; empty where none are told."""
    if "effect_k_hat" not in health:
        return ""
    ratio, shift = health["effect_sd_ratio"], health["effect_mean_shift"]
    return (
        f" Reweighted, its sd is {ratio:.2f} times as large and its mean {shift:+.2f} sd away "
        f"(Pareto-k {health['effect_k_hat']:.2f})."
    )


def in_words(changes: Mapping[Any, Mapping[str, Any]]) -> Compared:
    """What scenarios set, as they were given."""
    return Compared({scalar_text(name): _settings(change) for name, change in changes.items()})


def _settings(change: Mapping[str, Any]) -> dict[str, str]:
    words: dict[str, str] = {}
    for name, value in change.items():
        if name == "condition" and isinstance(value, Mapping):
            words |= {f"observed {site}": _value(observed) for site, observed in value.items()}
        else:
            words[str(name)] = _value(value)
    first_words = dict(list(words.items())[:_SPELLED])
    return (
        first_words
        if len(first_words) == len(words)
        else {**first_words, "more": str(len(words) - len(first_words))}
    )


def _value(value: Any) -> str:
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        return "a function" if name == "<lambda>" else f"{name}()"
    shape = () if isinstance(value, str | Mapping) else np.shape(value)
    if shape == ():
        return scalar_text(value)
    if len(shape) > 1 or not isinstance(value, list | tuple | np.ndarray | pd.Series | jax.Array):
        return f"{' x '.join(f'{size:,}' for size in shape)} values"
    return _series(np.asarray(value))


def _series(values: np.ndarray) -> str:
    """One value where all are equal, few as they are, and of more the range."""
    if values.dtype.kind in "biufmM" and values.size:
        low, high = values.min(), values.max()
        if low == high:
            return scalar_text(low)
        if values.size > _SPELLED:
            return f"{scalar_text(low)} to {scalar_text(high)} by row"
    if values.size > _SPELLED:
        return f"{values.size:,} values"
    return f"[{', '.join(map(scalar_text, values))}]"


def labels_of(draws: xr.DataArray, dim: str) -> list[Any]:
    """Labels along a dimension as Python has them; dates and durations as pandas has them."""
    if dim not in draws.coords:
        return list(range(draws.sizes[dim]))
    values = draws[dim].values
    return list(pd.Index(values)) if values.dtype.kind in "mM" else values.tolist()


def share_text(share: float, draws: int) -> str:
    """A share of draws as a percentage that says no more than so many draws can.

    >>> share_text(1.0, 1000), share_text(0.0, 100), share_text(0.912, 1000)
    ('> 99.9%', '< 1%', '91.2%')
    """
    steps = next((n for n in (1000, 100, 10) if draws >= n), max(draws, 1))
    least, digits = 100 / steps, 1 if steps == 1000 else 0
    if round(100 * share, digits) >= 100:
        return f"> {100 - least:.{digits}f}%"
    if round(100 * share, digits) <= 0:
        return f"< {least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"
