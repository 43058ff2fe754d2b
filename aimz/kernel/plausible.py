"""Made-up values that the sites of a kernel could take, where none are known yet."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.primitives import Messenger

from aimz.kernel.equations import drawn_sites
from aimz.kernel.samplers import inside_support, stand_ins
from aimz.kernel.statements import Reading, Watch, row_plates

__all__ = ["plausible_values"]


def plausible_values(
    kernel: Callable[..., Any], static: Mapping[str, Any], plates: Collection[str], rows: int
) -> Callable[..., dict[str, Any]]:
    """A function of arrays and a key that makes up every given value, inside its support.

    Samplers are slow to compile, so values come from constant noise where the support allows it.
    """

    def draw(arrays: dict[str, Any], key: jax.Array) -> dict[str, Any]:
        made_up = stand_ins(_MadeUp(row_plates(kernel, plates, rows)))
        watch = Watch(handlers.seed(made_up, key))
        watch(**arrays, **static)
        reading = Reading(rows, watch.statements, watch.plates, None, states=watch.states)
        values = {name: watch.statements[name].value for name in drawn_sites(reading)}
        made: dict[str, Any] = jax.tree.map(jnp.asarray, values | reading.states)
        return made

    return draw


class _MadeUp(Messenger):  # type: ignore[misc]  # NumPyro has no stubs
    """Gives each sample site a value inside its support, without a sampler where possible."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["value"] is None:
            msg["value"] = inside_support(msg["fn"], msg["name"])
