"""Where the rows of a call come from: which of the fitted rows they are, and what was changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aimz.data import AtHand
from aimz.prediction.alongside import differ, found, own_labels
from aimz.prediction.fitted import argument_hashes
from aimz.prediction.inputs import Given
from aimz.prediction.request import Fitted, Origin, Request

__all__ = ["origin_of"]


def origin_of(request: Request, given: Given) -> Origin:
    """Where the rows of a call are among the fitted ones, and whose draws the posterior has.

    As far as is known before they are read. Some of the fitted rows, or all in another order, are
    recognised by label and value together; rows that are only counted are not, because other rows
    may have their values.
    """
    fitted, names = request.fitted, request.names
    if fitted.spec is None:
        labels = given.arguments.labels
        return Origin(by_hand=True, elsewhere=True, labels=labels, draw_labels=fitted.draw_labels)
    elsewhere = fitted.by_hand
    observed = frozenset(s.name for s in fitted.spec.sites if s.kind == "observed")
    if given.kept is not None:
        arguments = replace(given.arguments, rows=given.spec.rows)
        given = replace(given, arguments=arguments, source=AtHand(arguments.rows))
    now = argument_hashes(given.arguments, fitted.spec, names, request.kernel)
    if names[0] in given.source.names:  # its own rows are compared while they are read
        now = {n: v for n, v in now.items() if n not in given.source.names}
        is_known = given.rows in (None, fitted.rows)
        origin = Origin(is_known, elsewhere=elsewhere, observed=observed)
        return replace(origin, **_changes(fitted, now, None, given))
    rows: np.ndarray | None = None
    leading = 0
    labels = own_labels(given.arguments)
    if given.kept is not None:  # all fitted rows run, in their order
        labels = fitted.labels
    same = (fitted.rows, fitted.fingerprint) == (given.rows, given.fingerprint)
    if not same or differ(labels, fitted.labels):
        then = fitted.hashes.get(names[0])
        if then is None or then.ndim == 0 or now[names[0]].ndim == 0:
            return Origin(is_known=False, elsewhere=elsewhere, observed=observed)
        if fitted.spec.coupled and _go_on(now[names[0]], then, labels, fitted.labels):
            leading = len(then)
        else:
            rows = found(now[names[0]], then, labels, fitted.labels)
        if rows is None and not leading:
            return Origin(is_known=False, elsewhere=elsewhere, observed=observed)
    del now[names[0]]
    origin = Origin(elsewhere=elsewhere, rows=rows, leading=leading, observed=observed)
    return replace(origin, **_changes(fitted, now, rows, given, leading))


def _changes(
    fitted: Fitted,
    now: Mapping[str, np.ndarray],
    rows: np.ndarray | None,
    given: Given,
    leading: int = 0,
) -> dict[str, Any]:
    """Where each argument is not the fitted one, and which of them are not traced.

    Rows that follow the fitted ones have not changed.
    """
    changed = {}
    for name in now.keys() & fitted.hashes.keys():
        then, own = fitted.hashes[name], now[name]
        then = then if rows is None or then.ndim == 0 else then[rows]
        if leading and then.ndim == own.ndim == 1:
            then = np.concatenate([then, own[leading:]])
        if then.ndim == own.ndim == 1 and then.shape == own.shape:
            changed[name] = then != own
        elif then.shape != own.shape or then != own:
            changed[name] = np.array(True)
    changed = {name: differs for name, differs in changed.items() if differs.any()}
    return {"changed": changed, "static": frozenset(changed) & given.arguments.static.keys()}


def _go_on(
    now: np.ndarray, then: np.ndarray, labels: np.ndarray | None, fitted_labels: np.ndarray | None
) -> bool:
    """Whether the rows begin with the fitted ones, and others follow."""
    count = len(then)
    if len(now) <= count or not np.array_equal(now[:count], then):
        return False
    return not differ(None if labels is None else labels[:count], fitted_labels)
