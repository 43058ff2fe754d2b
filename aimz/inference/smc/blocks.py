"""Gibbs blocks that follow from a kernel: a site's members are moved together, accepted one by one.

The full conditional of a site is the sum of the terms of its Markov blanket (Koller & Friedman,
2009, section 12.3.3). Members of a site that no term joins are conditionally independent: each
element of each term then has one member as its owner, a move of all members is accepted member by
member, and costs one evaluation. Which terms join members is seen by changing one member at a
time; while moving, terms put together from accepted members are held to terms computed anew.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Array

__all__ = ["Block", "Moves", "Owners", "Particle", "Tempered", "blocks_of", "roots_of", "sweep"]

type Latents = dict[str, Any]
type Densities = dict[str, Any]
#: The member that each element of each term belongs to; None stands for the only member.
type Owners = Mapping[str, np.ndarray | None]
type Compute = Callable[[Latents], Densities]

# Elements of changes of terms that are looked at; a larger site is moved as one.
_MOST_CHANGES = 20_000_000
# Share of moves that is best accepted, of one number, of many, and along gradients, and sizes of
# moves in standard deviations (Roberts & Rosenthal, 2001, "Optimal scaling").
_ACCEPT_ONE, _ACCEPT_MANY, _ACCEPT_GRADIENT = 0.44, 0.234, 0.574
_STEP, _GRADIENT_STEP = 2.38, 0.5
_LEAST_SPREAD = 1e-12
# Moves of many sizes, so that a funnel's neck and its mouth are both explored.
_SIZES = 0.7


@dataclass(frozen=True)
class Block:
    """Sites that move together, and to which member each element of each of their terms belongs."""

    sites: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    members: int
    size: int  # numbers in one member
    owners: Owners
    values: range = range(0)  # of a discrete site
    step: Any = "rwm"

    @property
    def name(self) -> str:
        """Its sites in words."""
        return ", ".join(self.sites)

    @property
    def target(self) -> float:
        """Share of moves that is best accepted."""
        if self.step == "mala":
            return _ACCEPT_GRADIENT
        return _ACCEPT_MANY + (_ACCEPT_ONE - _ACCEPT_MANY) / self.size

    def flat(self, latents: Latents) -> Array:
        """The numbers of its sites, (member, size)."""
        parts = [jnp.reshape(latents[name], (self.members, -1)) for name in self.sites]
        return jnp.concatenate(parts, axis=1)

    def at(self, latents: Latents, flat: Array) -> Latents:
        """Latents with other numbers of its sites."""
        ends = np.cumsum([math.prod(shape) // self.members for shape in self.shapes])[:-1]
        parts = jnp.split(flat, ends, axis=1)
        named = zip(self.sites, self.shapes, parts, strict=True)
        return latents | {name: jnp.reshape(part, shape) for name, shape, part in named}

    def by_member(self, terms: Densities) -> Array:
        """Sums of terms for each member; those of the block that are not given are left out."""
        total = jnp.zeros(self.members)
        for name, owner in self.owners.items():
            if name not in terms:
                continue
            if owner is None:
                total += jnp.sum(terms[name])
            else:
                flat = jnp.ravel(terms[name])
                total += jax.ops.segment_sum(flat, owner.ravel(), self.members)
        return total

    def choose_terms(self, which: Array, old: Densities, new: Densities) -> Densities:
        """The terms with the new elements of each chosen member."""
        chosen = dict(old)
        for name, owner in self.owners.items():
            by_element = which[0] if owner is None else which[owner]
            chosen[name] = jnp.where(by_element, new[name], old[name])
        return chosen


class Particle(NamedTuple):
    """Where one particle is: its latents, unconstrained, and the terms there."""

    latents: Latents
    terms: Densities


class Moves(NamedTuple):
    """How far each block is moved: roots of its spread, (member, size, size), and factors."""

    roots: dict[str, Array]
    factors: dict[str, Array]


def blocks_of(
    compute: Compute,
    readers: Mapping[str, list[str]],
    latents: Latents,
    batch_dims: Mapping[str, int],
    values: Mapping[str, range],
    steps: Mapping[tuple[str, ...], Any],
    known: Mapping[str, Owners | None],
) -> list[Block]:
    """The blocks of a kernel.

    Parameters
    ----------
    compute : callable
        The terms at latents.
    readers : dict
        For each latent, the terms that read it.
    latents : dict
        Several draws of the latents, each (draw, ...).
    batch_dims : dict
        Number of leading axes of each latent that count its members.
    values : dict
        Values of each discrete latent.
    steps : dict
        Groups of sites that move together, and how.
    known : dict
        For latents whose members are the rows, the owners that are known.
    """
    blocks = []
    grouped = {name for group in steps for name in group}
    groups = [*steps, *((name,) for name in latents if name not in grouped)]
    for group in groups:
        shapes = tuple(jnp.shape(latents[name])[1:] for name in group)
        terms = sorted({term for name in group for term in readers[name]})
        step = steps.get(group, "rwm")
        owners: Owners | None = None
        members = 1
        if len(group) == 1 and step in ("rwm", "enumerate"):
            (name,) = group
            members = math.prod(shapes[0][: batch_dims[name]])
            if members > 1:
                owners = known.get(name) or _owners(compute, terms, latents, name, members)
        if owners is None:
            members, owners = 1, dict.fromkeys(terms)
        size = sum(math.prod(shape) for shape in shapes) // members
        of_values = values.get(group[0], range(0))
        blocks.append(Block(group, shapes, members, size, owners, of_values, step))
    return blocks


def _owners(
    compute: Compute, terms: list[str], latents: Latents, site: str, members: int
) -> Owners | None:
    """The owner of each element of each term; None where a term joins members."""
    first = {name: value[0] for name, value in latents.items()}
    shapes = jax.eval_shape(compute, first)
    if members * sum(math.prod(shapes[name].shape) for name in terms) > _MOST_CHANGES:
        return None

    def changes(start: Latents, other: Array) -> Any:
        before = compute(start)
        flat = jnp.reshape(start[site], (members, -1))
        moved = jnp.reshape(other, (members, -1))

        def changed(member: Any) -> dict[str, Any]:
            value = jnp.reshape(flat.at[member].set(moved[member]), jnp.shape(other))
            after = compute({**start, site: value})
            return {n: ~_same(after[n], before[n]) for n in terms}

        return jax.lax.map(changed, jnp.arange(members), batch_size=64)

    look = jax.jit(changes)
    seen: dict[str, Any] = dict.fromkeys(terms, False)
    for draw in range(len(latents[site]) - 1):
        start = {name: value[draw] for name, value in latents.items()}
        for name, change in look(start, latents[site][draw + 1]).items():
            seen[name] = np.asarray(change) | seen[name]
    if any(np.any(change.sum(axis=0) > 1) for change in seen.values()):
        return None
    return {name: np.argmax(change, axis=0) for name, change in seen.items()}


def _same(one: Array, other: Array) -> Array:
    return (one == other) | (jnp.isnan(one) & jnp.isnan(other))


def roots_of(blocks: list[Block], latents: Latents) -> dict[str, Array]:
    """Roots of the blocks' own spread, (member, size, size); latents are (particle, ...)."""
    roots = {}
    for block in blocks:
        if block.values:
            continue
        value = jax.vmap(block.flat)({name: latents[name] for name in block.sites})
        centred = value - jnp.mean(value, axis=0)
        cov = jnp.einsum("pmi,pmj->mij", centred, centred) / len(value)
        # Few particles tell little of many correlations.
        share = block.size / (block.size + len(value))
        spread = share * jnp.einsum("mii->mi", cov) + _LEAST_SPREAD
        cov = (1 - share) * cov + spread[:, None, :] * jnp.eye(block.size)
        roots[block.name] = jnp.linalg.cholesky(cov)
    return roots


@dataclass(frozen=True)
class Tempered:
    """A posterior whose likelihood counts by degrees.

    `compute` gives the terms at latents, `data` names those that count by degrees, and `prior` the
    mean and covariance of a normal site given the others.
    """

    compute: Compute
    data: frozenset[str]
    temperature: Array
    prior: Callable[[str, Latents], tuple[Array, Array]]

    def by_member(self, block: Block, terms: Densities, without: str = "") -> Array:
        """The log full conditional of each member; impossible data count nothing at 0."""
        degree = self.temperature
        heated = {
            name: jnp.where(degree > 0, degree * terms[name], 0.0)
            if name in self.data
            else terms[name]
            for name in block.owners
            if name != without
        }
        total = block.by_member(heated)
        return jnp.where(jnp.isnan(total), -jnp.inf, total)


def sweep(
    key: Array, particle: Particle, blocks: list[Block], target: Tempered, moves: Moves
) -> tuple[Particle, dict[str, Array]]:
    """Move every block once; the particle, and the share of moves accepted by member."""
    accepted: dict[str, Array] = {}
    for number, block in enumerate(blocks):
        move = _walk if block.step == "rwm" else _by_algorithm
        if block.values:
            move = _enumerate if block.size == 1 else _enumerate_in_turn
        block_key = jax.random.fold_in(key, number)
        particle, accepted[block.name] = move(block_key, particle, block, target, moves)
    return particle, accepted


def _walk(
    key: Array, particle: Particle, block: Block, target: Tempered, moves: Moves
) -> tuple[Particle, Array]:
    """A random walk of all members, each accepted on its own (Metropolis et al., 1953)."""
    move_key, size_key, accept_key = jax.random.split(key, 3)
    value = block.flat(particle.latents)
    noise = jax.random.normal(move_key, value.shape)
    step = jnp.einsum("mij,mj->mi", moves.roots[block.name], noise) * (_STEP / block.size**0.5)
    sizes = jnp.exp(_SIZES * jax.random.normal(size_key, (block.members,)))
    proposed = value + step * (moves.factors[block.name] * sizes)[:, None]
    terms = target.compute(block.at(particle.latents, proposed))
    ratio = target.by_member(block, terms) - target.by_member(block, particle.terms)
    accept = jnp.log(jax.random.uniform(accept_key, (block.members,))) < ratio
    latents = block.at(particle.latents, jnp.where(accept[:, None], proposed, value))
    moved = Particle(latents, block.choose_terms(accept, particle.terms, terms))
    return moved, jnp.minimum(1.0, jnp.exp(ratio))


def _by_algorithm(
    key: Array, particle: Particle, block: Block, target: Tempered, moves: Moves
) -> tuple[Particle, Array]:
    """One step of an algorithm of Blackjax on the block's full conditional, all members as one."""
    factor, root = moves.factors[block.name][0], moves.roots[block.name][0]
    value = block.flat(particle.latents)[0]
    is_elliptical = block.step == "elliptical"
    own = block.sites[0] if is_elliptical else ""

    def latents_at(white: Array) -> Latents:
        number = white if is_elliptical else value + root @ white
        return block.at(particle.latents, number[None])

    def density(white: Array) -> Array:
        return target.by_member(block, target.compute(latents_at(white)), without=own)[0]

    if is_elliptical:
        mean, cov = target.prior(own, particle.latents)
        algorithm: Any = blackjax.elliptical_slice(density, mean=mean, cov=cov)
    elif block.step == "mala":
        algorithm = blackjax.mala(density, _GRADIENT_STEP * factor / block.size ** (1 / 3))
    else:
        algorithm = block.step(density)
    start = algorithm.init(value if is_elliptical else jnp.zeros_like(value))
    state, info = algorithm.step(key, start)
    latents = latents_at(state.position)
    share = getattr(info, "acceptance_rate", jnp.ones(()))
    return Particle(latents, target.compute(latents)), jnp.reshape(share, (1,))


def _enumerate(
    key: Array, particle: Particle, block: Block, target: Tempered, moves: Moves
) -> tuple[Particle, Array]:
    """Draw each member from its full conditional over all its values."""
    del moves
    value = block.flat(particle.latents)
    numbers = jnp.asarray(block.values)

    def at(number: Array) -> Densities:
        terms = target.compute(block.at(particle.latents, jnp.full_like(value, number)))
        return {name: terms[name] for name in block.owners}

    terms = jax.vmap(at)(numbers)
    logits = jax.vmap(lambda one: target.by_member(block, one))(terms)
    drawn = jax.random.categorical(key, logits, axis=0)  # (member,)
    latents = block.at(particle.latents, numbers[drawn].astype(value.dtype)[:, None])
    chosen = dict(particle.terms)
    for name, owner in block.owners.items():
        which = jnp.broadcast_to(drawn[0] if owner is None else drawn[owner], terms[name].shape[1:])
        chosen[name] = jnp.take_along_axis(terms[name], which[None], axis=0)[0]
    return Particle(latents, chosen), jnp.ones(block.members)


def _enumerate_in_turn(
    key: Array, particle: Particle, block: Block, target: Tempered, moves: Moves
) -> tuple[Particle, Array]:
    """Members that terms join: each is drawn given the others."""
    del moves
    numbers = jnp.asarray(block.values)

    def one(flat: Any, member: tuple[Any, Any]) -> tuple[Any, None]:
        def logit(number: Array) -> Array:
            other = flat.at[0, member[0]].set(number.astype(flat.dtype))
            return target.by_member(block, target.compute(block.at(particle.latents, other)))[0]

        drawn = numbers[jax.random.categorical(member[1], jax.vmap(logit)(numbers))]
        return flat.at[0, member[0]].set(drawn.astype(flat.dtype)), None

    members = jnp.arange(block.size), jax.random.split(key, block.size)
    flat, _ = jax.lax.scan(one, block.flat(particle.latents), members)
    latents = block.at(particle.latents, flat)
    return Particle(latents, target.compute(latents)), jnp.ones(block.members)
