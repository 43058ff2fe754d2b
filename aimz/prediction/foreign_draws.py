"""Posterior draws made elsewhere, held to what the kernel says of its sites."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.errors import InputError, nearest
from aimz.families import takes
from aimz.kernel import KernelSpec

__all__ = ["check_names", "check_supports"]


def check_names(spec: KernelSpec, draws: Mapping[str, Any]) -> None:
    """Refuse draws of the outcome, and of another kernel's sites where this one lacks draws."""
    if spec.output in draws and spec.output in spec and spec[spec.output].kind == "observed":
        msg = (
            f"The posterior holds '{spec.output}', the outcome itself. Predictions would repeat "
            "these draws. Leave it out."
        )
        raise InputError(msg, code="draws-unknown")
    unknown = sorted(name for name in draws if name not in spec)
    lacking = [name for name in spec.latents if name not in draws]
    if unknown and lacking:
        msg = (
            f"The posterior has draws of '{unknown[0]}', which is no site of the kernel, and none "
            f"of '{lacking[0]}'. {nearest(unknown[0], lacking)}"
        )
        raise InputError(msg, code="draws-unknown")


def check_supports(spec: KernelSpec, draws: Mapping[str, Any]) -> None:
    """Refuse draws made elsewhere that their sites cannot take."""
    for name in spec.latents:
        support = spec[name].support
        if name not in draws or support is None:
            continue
        values = np.asarray(draws[name])
        inside = takes(support, values)
        if not inside.all():
            chain, draw, *place = (int(n) for n in np.argwhere(~inside)[0])
            example = values[(chain, draw, *place)].tolist()
            msg = (
                f"Posterior draws of '{name}' hold {example!s:.50} (chain {chain}, draw {draw}), "
                f"outside its support {support!r:.70}. Pass draws on the scale of the kernel's "
                "site."
            )
            raise InputError(msg, code="draws-support")
