"""The log density of a kernel term by term, on the unconstrained scale of its latents.

Each site gives one term, an array with the site's batch shape; a continuous latent's holds the log
determinant of the way to its own scale. Their sum is minus NumPyro's potential energy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.infer.util import compute_log_probs
from numpyro.ops.provenance import eval_provenance

from aimz.arrays import Array
from aimz.errors import KernelValidationError
from aimz.families import base_distribution
from aimz.inference.binding import RowScale, outcome_sites, raw_sites
from aimz.inference.engine import Problem

__all__ = ["Terms"]

type Latents = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """The terms of a kernel on its data.

    Parameters
    ----------
    problem : Problem
        What is fitted.
    params : dict
        Values of the kernel's `param` sites.
    """

    problem: Problem
    params: dict[str, Any]

    @cached_property
    def discrete(self) -> frozenset[str]:
        """Latents that are finite and discrete: they stay on their own scale."""
        spec = self.problem.spec
        return frozenset(name for name in spec.latents if spec[name].discrete)

    @cached_property
    def tempered(self) -> frozenset[str]:
        """Sites that bring data: their terms are what likelihoods are made of."""
        return frozenset(site.name for site in outcome_sites(self.problem))

    def check(self, engine: str) -> None:
        """Refuse latents that have no term of their own, or no prior to start from."""
        spec = self.problem.spec
        for name in spec.latents:
            if spec[name].rows == "scan":
                raise KernelValidationError(
                    f"Latent site '{name}' is inside scan, where it has no term of its own. "
                    f"Engine '{engine}' cannot move it. Use inference='nuts' or 'svi'.",
                    code="terms",
                )
        for site in raw_sites(self.problem):
            if site.has_no_draws:
                raise KernelValidationError(
                    f"Latent site '{site.name}' has no proper prior. Engine '{engine}' starts "
                    "from draws of it. Give it a prior, or use inference='nuts' or 'svi'.",
                    code="terms",
                )
            if site.type == "plate" and site.args[1] not in (None, site.args[0]):
                raise KernelValidationError(
                    f"Plate '{site.name}' takes a subsample. Engine '{engine}' needs the whole "
                    "likelihood. Leave subsample_size out, or use inference='svi'.",
                    code="terms",
                )

    def start(self, key: Array, arrays: dict[str, Any], weights: Array | None) -> Latents:
        """Draws of the latents from their priors, unconstrained."""
        sites = self._traced(handlers.seed(self.problem.kernel, key), arrays, weights)
        found = {}
        for name in self.problem.spec.latents:
            value = sites[name]["value"]
            found[name] = value if name in self.discrete else self._way(sites[name]).inv(value)
        return found

    def values(
        self, latents: Latents, arrays: dict[str, Any], weights: Array | None
    ) -> dict[str, Any]:
        """The latents on their own scales."""
        sites = self._traced(self._at(latents, {}), arrays, weights)
        return {name: sites[name]["value"] for name in self.problem.spec.latents}

    def __call__(
        self, latents: Latents, arrays: dict[str, Any], weights: Array | None
    ) -> dict[str, Any]:
        """One term for each site, with its batch shape."""
        dets: dict[str, Any] = {}
        model = self._at(latents, dets)
        with handlers.block(), RowScale(self.problem, {}, weights):
            substituted = handlers.substitute(handlers.seed(model, 0), data=self.params)
            kwargs = {**arrays, **self.problem.inputs.static}
            terms, _ = compute_log_probs(substituted, (), kwargs, {}, sum_log_prob=False)
        return {name: term + dets.get(name, 0.0) for name, term in terms.items()}

    def readers(
        self, latents: Latents, arrays: dict[str, Any], weights: Array | None
    ) -> dict[str, list[str]]:
        """For each latent, the terms that its full conditional is the sum of."""
        sets = eval_provenance(lambda **given: self(given, arrays, weights), **latents)
        return {name: [term for term in sets if name in sets[term]] for name in latents}

    def normal_prior(
        self, name: str, latents: Latents, arrays: dict[str, Any], weights: Array | None
    ) -> tuple[Array, Array]:
        """Mean and covariance of a normal latent given the others, over all its numbers."""
        sites = self._traced(self._at(latents, {}), arrays, weights)
        fn = base_distribution(sites[name]["fn"])
        if isinstance(fn, dist.Normal):
            shape = jnp.shape(sites[name]["value"])
            loc, scale = (jnp.ravel(jnp.broadcast_to(x, shape)) for x in (fn.loc, fn.scale))
            return loc, jnp.diag(scale**2)
        if isinstance(fn, dist.MultivariateNormal) and not fn.batch_shape:
            return fn.loc, fn.covariance_matrix
        raise KernelValidationError(
            f"Latent site '{name}' has no normal prior ({type(fn).__name__}): elliptical steps "
            "need one. Leave the site out of steps=.",
            code="terms",
        )

    def _at(self, latents: Latents, dets: dict[str, Any]) -> Callable[..., Any]:
        """The kernel with its latents at unconstrained values; fills in the log determinants."""

        def value_of(site: dict[str, Any]) -> Any:
            name = site["name"]
            if name not in latents or site["type"] != "sample":
                return None
            if name in self.discrete:
                return latents[name]
            way = self._way(site)
            value = way(latents[name])
            det = way.log_abs_det_jacobian(latents[name], value)
            batch = len(site["fn"].batch_shape)
            dets[name] = sum_rightmost(det, jnp.ndim(det) - batch)
            return value

        model: Callable[..., Any] = handlers.substitute(self.problem.kernel, substitute_fn=value_of)
        return model

    def _way(self, site: dict[str, Any]) -> Any:
        try:
            return biject_to(site["fn"].support)
        except NotImplementedError as error:
            raise KernelValidationError(
                f"The support of latent site '{site['name']}' has no unconstrained scale, so that "
                "its members cannot be moved. Write the site by a transform of one that has.",
                code="terms",
            ) from error

    def _traced(
        self, model: Callable[..., Any], arrays: dict[str, Any], weights: Array | None
    ) -> dict[str, Any]:
        with handlers.block(), RowScale(self.problem, {}, weights):
            seeded = handlers.seed(handlers.substitute(model, data=self.params), 0)
            sites: dict[str, Any] = handlers.trace(seeded).get_trace(
                **arrays, **self.problem.inputs.static
            )
        return sites
