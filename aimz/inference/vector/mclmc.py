"""Microcanonical Langevin Monte Carlo, with every move accepted or not, as an engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.arrays import Seed
from aimz.errors import AimzError
from aimz.inference import health
from aimz.inference.binding import check_draws, param_notes
from aimz.inference.chains import cut_short
from aimz.inference.engine import Fit, Problem, Settings
from aimz.inference.progress import Bar
from aimz.inference.settings import check_count, check_probability
from aimz.inference.vector.posterior import VectorPosterior, begun, import_blackjax
from aimz.programs import as_key

__all__ = ["MCLMC"]

_SAMPLES = 1000
_PIECE = 200  # draws of each chain in one call of the program


@dataclass(frozen=True)
class MCLMC:
    """Microcanonical Langevin Monte Carlo: pass it as `inference=`, or its name "mclmc".

    Chains of fixed speed (Robnik, De Luca, Silverstein & Seljak, 2023), adjusted: each move is
    accepted or not, so that the draws have no bias of the step size. Each chain starts from a draw
    of a quasi-Newton path of its own, in coordinates that the best of these paths has scaled.

    Parameters
    ----------
    chains : int
        Chains, which run side by side.
    warmup : int
        Moves of each chain that tune it and are not kept.
    thinning : int
        Moves for each draw that is kept.
    target_accept_prob : float
        Share of moves that is to be accepted.

    Raises
    ------
    InputError
        "settings": a number that cannot be; "blackjax-missing".

    Examples
    --------
    >>> from aimz.inference import MCLMC
    >>> MCLMC(chains=2, warmup=500).thinning
    5
    """

    chains: int = 4
    warmup: int = 2000
    thinning: int = 5
    target_accept_prob: float = 0.9

    name = "mclmc"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for setting, least in (("chains", 1), ("warmup", 100), ("thinning", 1)):
            check_count("MCLMC", setting, getattr(self, setting), least)
        check_probability("MCLMC", "target_accept_prob", self.target_accept_prob)

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: dict[str, Any] | None = None,
    ) -> Fit:
        """Tune the chains and draw, or go on where they are; see `Engine`."""
        import_blackjax("MCLMC")
        key = as_key(rng_key)
        count = settings.num_samples or _SAMPLES
        asked = replace(
            self,
            chains=settings.num_chains or self.chains,
            warmup=self.warmup if settings.num_warmup is None else settings.num_warmup,
        )
        posterior = begun(self.name, problem, key, state)
        with Bar("chains", count, shown=settings.progress) as bar:
            if state is None:
                state = _tuned(posterior, asked, jax.random.fold_in(key, 1))
            draw_key = jax.random.fold_in(key, 2)
            fit = self._moved(posterior, draw_key, state, count, bar.advance)
        check_draws(problem.spec.latents, fit.draws, self.name)
        judged = health.judge_chains(fit.draws, fit.stats)
        kept = fit.stats["lp"].shape[1]
        attrs = {
            "engine": self.name,
            "sampler": "adjusted MCLMC",
            "chains": len(state["positions"]),
            "warmup": asked.warmup,
            "interrupted": kept < count,
            "notes": [],
            **judged.attrs,
        }
        notes = (*param_notes(posterior.params), *judged.notes)
        if kept < count:
            notes = (cut_short(len(state["positions"]), kept), *notes)
        return replace(fit, attrs=attrs, notes=notes)

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """Continue the chains; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """Continue the chains: the new draws, and where the chains are afterwards."""
        import_blackjax("MCLMC")
        key = as_key(rng_key)
        posterior = VectorPosterior(self.name, problem, key, fit.state["params"])
        moved = self._moved(posterior, jax.random.fold_in(key, 3), fit.state, num_samples)
        return fit.with_draws(moved.draws, stats=moved.stats, state=moved.state)

    def _moved(
        self,
        posterior: VectorPosterior,
        key: jax.Array,
        state: dict[str, Any],
        count: int,
        advance: Callable[[int], Any] | None = None,
    ) -> Fit:
        """Draws of chains that go on, without an account; a fit keeps those before Ctrl-C."""
        pieces = -(-count // _PIECE)
        each = -(-count // pieces)  # all of one length: one program
        made: list[Fit] = []
        try:
            while len(made) < pieces:
                made.append(self._piece(posterior, key, made[-1].state if made else state, each))
                if advance is not None:
                    advance(each)
        except KeyboardInterrupt:
            if not made or advance is None:
                raise
        draws, stats = (
            {
                name: np.concatenate([one[name] for one in parts], axis=1)[:, :count]
                for name in parts[0]
            }
            for parts in ([fit.draws for fit in made], [fit.stats for fit in made])
        )
        return made[-1].with_draws(draws, stats=stats)

    def _piece(
        self, posterior: VectorPosterior, key: jax.Array, state: dict[str, Any], count: int
    ) -> Fit:
        """So many draws in one call of the program."""
        from aimz.inference.vector.trajectories import moved_chains  # needs the extra

        with jax.enable_x64(True):
            key = jax.random.fold_in(key, int(state["rounds"]))
            keys = jax.random.split(key, len(state["positions"]))
        chains = {name: state[name] for name in ("positions", "tuned", "loc", "root")}
        points, stats, positions = posterior.call(
            moved_chains, keys, chains, count=count, thinning=self.thinning
        )
        after = {**state, "positions": positions, "rounds": state["rounds"] + 1}
        stats = {name: np.asarray(value) for name, value in stats.items()}
        return Fit(posterior.draws(points), stats, {}, {}, after, posterior.params)


def _tuned(posterior: VectorPosterior, settings: MCLMC, key: jax.Array) -> dict[str, Any]:
    """The state of chains after their warm-up."""
    from aimz.inference.vector.paths import pool_of, root_of_path, walked_paths
    from aimz.inference.vector.trajectories import tuned_chains

    with jax.enable_x64(True):
        path_key, pool_key, key = jax.random.split(key, 3)
        keys = jax.random.split(key, settings.chains)
    paths = walked_paths(posterior, path_key, settings.chains)
    pool = pool_of(posterior, pool_key, paths, 1)
    loc, root = root_of_path(paths)
    starts = np.where(np.isfinite(pool.log_weights)[:, None], pool.points, loc)
    chains = {"positions": starts, "loc": loc, "root": root}
    options = {"warmup": settings.warmup, "target": settings.target_accept_prob}
    positions, tuned = posterior.call(tuned_chains, keys, chains, **options)
    if not np.all(np.isfinite(positions)):
        msg = (
            "The chains have not found a finite log density. Check the outcome against its "
            "distribution's support and the priors' scales."
        )
        raise AimzError(msg, code="fit-diverged")
    return {
        "positions": positions,
        "tuned": tuned,
        "loc": loc,
        "root": root,
        "params": posterior.params,
        "rounds": 0,
    }
