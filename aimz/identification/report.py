"""Roles of a kernel's variables between a treatment and an outcome, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aimz.identification.graph import Graph, graph_of, node_of
from aimz.kernel import KernelSpec
from aimz.libraries import pd
from aimz.plots import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Assumptions", "assumptions_of"]


_DRAWS = 400  # of the Bayesian bootstrap of a correlation
_WORDS = {
    "treatment": "the treatment",
    "outcome": "the outcome",
    "mediator": "lies between treatment and outcome",
    "after": "follows from the treatment, and leads nowhere",
    "collider": "follows from the treatment and from another cause of the outcome",
    "confounder": "causes both treatment and outcome in the model",
    "instrument": "causes the treatment, and the outcome only through it",
    "covariate": "causes the outcome; the kernel does not say whether it came before the treatment",
    "other": "has no path to the outcome",
}


@dataclass(frozen=True, eq=False, repr=False)
class Assumptions:
    """What a kernel takes for granted about an effect; `ImpactModel.assumptions` makes it.

    Parameters
    ----------
    treatment, outcome : str
        The two ends.
    roles : DataFrame
        Each variable of the rows, its role, whether data give it, and what the role means.
    warnings : tuple of str
        What can make an effect another one than was meant, in sentences.
    assumed : tuple of str
        What the kernel assumes and data cannot show, in sentences.
    implied : DataFrame
        Pairs that the kernel says are independent `given` others, with the partial correlation in
        the data, its interval (94%, over a Bayesian bootstrap of rows), and whether that holds 0.
    graph : Graph
        Variables and their parents.
    """

    treatment: str
    outcome: str
    roles: pd.DataFrame
    warnings: tuple[str, ...]
    assumed: tuple[str, ...]
    implied: pd.DataFrame
    graph: Graph

    def role(self, name: str) -> str:
        """Role of one variable."""
        return str(self.roles.loc[self.roles["variable"] == name, "role"].item())

    def to_text(self) -> str:
        """The report in sentences."""
        broken = self.implied[~self.implied["holds"]] if len(self.implied) else self.implied
        checks = [
            f"The data contradict that '{row['first']}' is independent of '{row['second']}' given "
            f"{row['given']}: their partial correlation is {row['correlation']:.2f} "
            f"({row['low']:.2f} to {row['high']:.2f})."
            for _, row in broken.iterrows()
        ]
        return "\n".join([*self.warnings, *checks, *self.assumed])

    def to_dot(self) -> str:
        """The graph as DOT source, with the paths from treatment to outcome coloured."""
        path = {self.treatment, self.outcome}
        path |= set(self.roles.loc[self.roles["role"] == "mediator", "variable"])
        lines = []
        for node in self.graph.parents:
            colour = COLOURS[1] if node in path else GREY
            shape = "ellipse" if node in self.graph.observed else "diamond"
            lines.append(f'  "{node}" [shape={shape}, color="{colour}"];')
        for node, above in self.graph.parents.items():
            for parent in sorted(above):
                on_path = {node, parent} <= path
                style = f' [color="{COLOURS[1]}", penwidth=2]' if on_path else ""
                lines.append(f'  "{parent}" -> "{node}"{style};')
        return "\n".join(["digraph {", *lines, "}"])

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the graph: what carries the effect, and what treatment and outcome share."""
        from aimz.identification.plot import plot_assumptions

        return plot_assumptions(self, ax=ax)

    def __repr__(self) -> str:
        tables = [self.roles.to_string(index=False)]
        if len(self.implied):
            tables.append(self.implied.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
        return "\n".join(["Assumptions", self.to_text(), *tables])


def assumptions_of(
    spec: KernelSpec, treatment: str, outcome: str, values: Mapping[str, np.ndarray]
) -> Assumptions:
    """Read roles and assumptions from a kernel; `ImpactModel.assumptions` is the public form.

    Parameters
    ----------
    spec : KernelSpec
        The kernel.
    treatment, outcome : str
        Arguments or sites of rows.
    values : mapping of str to array, shape (rows,) or (rows, columns)
        Data of the observed variables, where they are known.

    Raises
    ------
    InputError
        `treatment-unknown`
    """
    graph = graph_of(spec)
    cause = node_of(graph, spec, treatment, "treatment")
    effect = node_of(graph, spec, outcome, "outcome")
    roles = {node: _role(graph, node, cause, effect) for node in graph.parents}
    table = pd.DataFrame(
        {
            "variable": list(roles),
            "role": list(roles.values()),
            "observed": [node in graph.observed for node in roles],
            "means": [_WORDS[role] for role in roles.values()],
        }
    )
    named = {role: sorted(n for n, own in roles.items() if own == role) for role in _WORDS}
    return Assumptions(
        cause,
        effect,
        table,
        _warnings(spec, graph, named, cause, effect),
        _assumed(graph, named, cause, effect),
        _implied(graph, values),
        graph,
    )


def _role(graph: Graph, node: str, cause: str, effect: str) -> str:
    """Role of one variable; what comes first of these holds."""
    if node in (cause, effect):
        return "treatment" if node == cause else "outcome"
    below, after = graph.below(node), graph.below(cause)
    if node in after:
        causes = graph.above(effect) - {cause} - after
        is_hit = bool((graph.above(node) - {cause}) & causes) or effect in graph.above(node)
        return "mediator" if effect in below else "collider" if is_hit else "after"
    reaches = effect in graph.below(node, without={cause})
    if cause in below:
        return "confounder" if reaches else "instrument"
    return "covariate" if reaches else "other"


def _warnings(
    spec: KernelSpec, graph: Graph, named: Mapping[str, list[str]], cause: str, effect: str
) -> tuple[str, ...]:
    said = []
    if effect not in graph.below(cause):
        said.append(f"No path leads from '{cause}' to '{effect}': every effect is exactly none.")
    said += [
        f"'{node}' lies between '{cause}' and '{effect}' and is observed: passed to `effect`, it "
        "stays as it was, and the effect is a direct one. Leave it out for the whole effect."
        for node in named["mediator"]
        if node in graph.observed
    ]
    said += [
        f"'{node}' is a collider of '{cause}' and other causes of '{effect}': select no rows by "
        "it, and give it to no equation of the outcome."
        for node in named["collider"]
        if node in graph.observed
    ]
    hidden = [node for node in named["confounder"] if node not in graph.observed]
    said += [
        f"'{node}' is hidden and causes both '{cause}' and '{effect}': the effect rests on the "
        "kernel's form and priors, not on an adjustment for what was measured."
        for node in hidden
    ]
    if spec.coupled:
        said.append(
            f"Rows interact, so that one row's '{cause}' may reach another's '{effect}': scenarios "
            "that set all rows include that."
        )
    return tuple(said)


def _assumed(
    graph: Graph, named: Mapping[str, list[str]], cause: str, effect: str
) -> tuple[str, ...]:
    given = [*named["confounder"], *named["covariate"]]
    listed = ", ".join(f"'{node}'" for node in given if node in graph.observed) or "nothing"
    said = [
        (
            f"Assumed: no cause that '{cause}' and '{effect}' share is missing, given {listed} "
            "(`Effect.sensitivity` says how strong one must be)."
        )
    ]
    covariates = [node for node in named["covariate"] if not graph.parents[node]]
    if covariates:
        names = ", ".join(f"'{node}'" for node in covariates)
        said.append(
            f"Assumed: {names} came before '{cause}'. Nothing in the kernel says so; what "
            "follows from the treatment must be a site."
        )
    said += [
        f"Assumed: '{node}' moves '{effect}' only through '{cause}' (exclusion)."
        for node in named["instrument"]
    ]
    between = named["mediator"]
    if between and cause not in graph.parents[effect]:
        names = ", ".join(f"'{node}'" for node in between)
        said.append(f"Assumed: '{cause}' moves '{effect}' only through {names}.")
    return tuple(said)


def _implied(graph: Graph, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Independences that the data can check, and what they say."""
    names = ["first", "second", "given", "correlation", "low", "high", "holds"]
    rows = []
    for first, second, given in graph.independences():
        if not {first, second, *given} <= values.keys():
            continue
        columns = [np.reshape(values[n], (len(values[n]), -1)) for n in sorted(given)]
        for suffix, column in _columns(values[second]):
            drawn = _partial_correlations(values[first], column, np.column_stack(columns))
            low, high = np.quantile(drawn, [0.03, 0.97])
            words = ", ".join(f"'{name}'" for name in sorted(given))
            holds = bool(low <= 0 <= high)
            rows.append((first, second + suffix, words, drawn.mean(), low, high, holds))
    return pd.DataFrame(rows, columns=names)


def _columns(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if np.ndim(values) == 1:
        return [("", values)]
    return [(f"[{place}]", column) for place, column in enumerate(np.asarray(values).T)]


def _partial_correlations(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Draws of a correlation of what `given` leaves over, by a Bayesian bootstrap of the rows."""
    design = np.column_stack([np.ones(len(given)), given])
    both = np.column_stack([first, second]).astype(np.float64)
    rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
    spread = rest.std(axis=0)
    if not (spread > 1e-9 * (1 + np.abs(both).max(axis=0))).all():
        return np.zeros(_DRAWS)  # one of them follows from what is given: nothing can contradict
    weights = np.random.default_rng(0).exponential(size=(_DRAWS, len(rest)))
    weights /= weights.sum(axis=1, keepdims=True)
    means = weights @ rest
    products = weights @ np.column_stack([rest**2, rest[:, :1] * rest[:, 1:]])
    cov = products[:, 2] - means[:, 0] * means[:, 1]
    variances = products[:, :2] - means**2
    return np.asarray(cov / np.sqrt(variances[:, 0] * variances[:, 1]))
