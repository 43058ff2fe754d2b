"""The `steps` of an SMC engine, read and checked: which sites move together, and how."""

from collections.abc import Collection, Mapping
from typing import Any

from aimz.choices import shown
from aimz.errors import InputError, nearest

__all__ = ["STEPS", "check_steps", "grouped_steps"]


#: Names of steps.
STEPS = ("rwm", "mala", "elliptical", "enumerate")


def check_steps(steps: Any) -> None:
    """Refuse what names no step.

    Raises
    ------
    InputError
        "settings".
    """
    if steps is None:
        return
    if not isinstance(steps, Mapping):
        msg = f'steps={shown(steps)} is no dict of sites. Pass one, as in {{"theta": "mala"}}.'
        raise InputError(msg, code="settings")
    for sites, step in steps.items():
        if not (callable(step) or step in STEPS):
            msg = (
                f"steps={{{sites!r:.40}: {shown(step)}}} names no step. Pass one of {STEPS}, or a "
                "function that makes an algorithm of Blackjax from a log density."
            )
            raise InputError(msg, code="settings")


def grouped_steps(
    steps: Mapping[Any, Any] | None, latents: Collection[str], discrete: Collection[str]
) -> dict[tuple[str, ...], Any]:
    """Steps by their sites, each a tuple.

    Raises
    ------
    InputError
        "settings": a site that is not there or is named twice, or a step that cannot move it.
    """
    grouped: dict[tuple[str, ...], Any] = {}
    seen: set[str] = set()
    for sites, step in (steps or {}).items():
        group = (sites,) if isinstance(sites, str) else tuple(sites)
        for name in group:
            if name not in latents:
                msg = f"steps= names '{name}', which is no latent site. {nearest(name, latents)}"
                raise InputError(msg, code="settings")
            if name in seen:
                msg = f"steps= names site '{name}' twice. A site moves in one way."
                raise InputError(msg, code="settings")
            if (name in discrete) != (step == "enumerate"):
                what = "discrete: only 'enumerate'" if name in discrete else "continuous: any other"
                msg = f"steps= moves '{name}' by {shown(step)}, but it is {what} can."
                raise InputError(msg, code="settings")
            seen.add(name)
        if len(group) > 1 and step in ("elliptical", "enumerate"):
            msg = f"steps= moves {group} together by '{step}', which moves one site. Use 'rwm'."
            raise InputError(msg, code="settings")
        grouped[group] = step
    return grouped
