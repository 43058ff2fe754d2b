"""The variables of the rows of a kernel, and which is computed from which.

An argument that a site observes is that site: whichever of them another site reads, the arrow is
the same. Latents that belong to no row are parameters, and no part of the graph.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from aimz.errors import InputError, nearest
from aimz.kernel import KernelSpec, SiteSpec

__all__ = ["Graph", "graph_of", "node_of"]


@dataclass(frozen=True)
class Graph:
    """Which variable reads which.

    Parameters
    ----------
    parents : mapping of str to frozenset of str
        Of each variable, those that it is computed from; none of an argument.
    observed : frozenset of str
        Variables that data give: arguments, and sites that observe some.
    """

    parents: Mapping[str, frozenset[str]]
    observed: frozenset[str]

    def below(self, name: str, *, without: Collection[str] = ()) -> frozenset[str]:
        """What follows from a variable by paths around some others."""
        reached, new = {name}, {name}
        while new:
            new = {
                node
                for node, above in self.parents.items()
                if above & new and node not in reached and node not in without
            }
            reached |= new
        return frozenset(reached - {name})

    def above(self, name: str) -> frozenset[str]:
        """What a variable follows from."""
        return frozenset(node for node in self.parents if name in self.below(node))

    def independences(self) -> Iterator[tuple[str, str, frozenset[str]]]:
        """Pairs that the graph says are independent given the parents of the first, all observed.

        The local Markov property, of variables that the kernel models (Pearl, 2009, 1.2).
        """
        for node, above in self.parents.items():
            if node not in self.observed or not above or not above <= self.observed:
                continue
            others = self.observed - above - self.below(node) - {node}
            yield from ((node, other, above) for other in sorted(others))


def graph_of(spec: KernelSpec) -> Graph:
    """The graph of a kernel's rows.

    Examples
    --------
    >>> from aimz.kernel import SiteSpec
    >>> y = SiteSpec("y", "observed", rows="leading", row_axis=0, inputs=frozenset({"t"}))
    >>> graph_of(KernelSpec((y,), frozenset({"t"}), frozenset(), 5, "y", False)).parents["y"]
    frozenset({'t'})
    """
    of_rows = [site for site in spec.sites if site.belongs_to_rows and site.kind != "factor"]
    names = {site.name for site in of_rows}
    shown = {argument: site.name for site in of_rows for argument in _observes(site)}
    arguments = spec.row_inputs - shown.keys() - {spec.output}
    parents = {name: frozenset[str]() for name in arguments}
    for site in of_rows:
        read = {shown.get(name, name) for name in site.inputs & (spec.row_inputs | shown.keys())}
        read |= site.parents & names
        parents[site.name] = frozenset(read & (names | arguments)) - {site.name}
    observed = frozenset(site.name for site in of_rows if site.observes or site.name == spec.output)
    return Graph(parents, observed | arguments)


def node_of(graph: Graph, spec: KernelSpec, name: str, option: str) -> str:
    """The variable that a name stands for: a site, or an argument that one may observe.

    Raises
    ------
    InputError
        `treatment-unknown`
    """
    for site in spec.sites:
        if name in _observes(site) and site.name in graph.parents:
            return site.name
    if name not in graph.parents:
        msg = f"{option}='{name}' is no argument or site of rows. "
        raise InputError(msg + nearest(name, graph.parents), code="treatment-unknown")
    return name


def _observes(site: SiteSpec) -> frozenset[str]:
    return site.observes if len(site.observes) == 1 else frozenset()
