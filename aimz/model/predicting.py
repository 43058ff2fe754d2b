"""Predictions, densities and scores: one road from a request to a tree with labels."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from aimz._version import __version__
from aimz.choices import check_switches
from aimz.data import check_positive, values_of
from aimz.inference import Fit
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.model.setup import Kernel, KeyLike, Setup, kernel_name
from aimz.prediction import (
    Delivery,
    Fitted,
    Given,
    Prepared,
    Request,
    Result,
    Use,
    gather,
    leads,
    origin_of,
    prepare,
)
from aimz.programs import Cache, fingerprint_values
from aimz.results import Schema, check_labels, constant_dataset, draws_dataset, flat_arrays
from aimz.sampling import left_out_block, log_likelihood_block, predict_block, score_block
from aimz.store import tree_of

__all__ = [
    "Planned",
    "constants_of",
    "density_request",
    "groups_of_the_prior",
    "in_form",
    "inputs_of",
    "labelled",
    "planned",
    "posterior_tree",
    "prior_request",
    "prior_sites",
    "request_in_memory",
]


# Draws with labels, of each fit: copied into every result, with what they hold shared.
_GROUPS: Cache[str, dict[str, xr.Dataset]] = Cache(limit=64)
# Numbers for all draws of a fit, which nothing changes.
_DIGESTS: Cache[str, str] = Cache(limit=64)


@dataclass(frozen=True)
class Planned:
    """A call before it runs: what is asked, its inputs, and what they are made into."""

    request: Request
    inputs: Given
    prepared: Prepared


def planned(setup: Setup, request: Request, arguments: Mapping[str, Any]) -> Planned:
    """Gather the inputs of a request and prepare it."""
    inputs = gather(request, values_of(arguments))
    words = setup.words(request.rng_key, request.use, inputs.fingerprint, *inputs.source.unread)
    return Planned(request, inputs, prepare(request, inputs, origin_of(request, inputs), words))


def labelled(setup: Setup, call: Planned) -> Result:
    """What the result of a call carries beside its draws."""
    request, inputs, prepared = call.request, call.inputs, call.prepared
    fitted = request.fitted
    attrs = _attributes_of(setup.kernel, fitted, request.group)
    attrs["words"] = " ".join(map(str, prepared.words))
    attrs["rung"] = "intervention" if request.intervention else "association"
    attrs["redrawn"] = list(prepared.redrawn)
    if request.use is Use.PREDICT:
        attrs["arguments"] = leads(inputs, prepared, fitted)
    attrs["row_dim"] = prepared.call.task.results.row_dim
    schema = setup.schema(request.chains, request.draws, inputs.arguments.labels)
    check_labels(inputs.spec, schema)
    if not request.fit.draws:
        return Result(schema, dict, attrs)
    of_fit = replace(schema, labels=fitted.labels)
    return Result(schema, partial(_groups_of, request.fit, fitted, of_fit, attrs), attrs)


def _attributes_of(kernel: Kernel, fitted: Fitted, group: str) -> dict[str, Any]:
    """Attributes that every result carries."""
    attrs: dict[str, Any] = {
        "inference_library": "aimz",
        "inference_library_version": __version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "kernel": kernel_name(kernel),
        "group": group,
    }
    told = {f"fit_{n}": v for n, v in fitted.fit.attrs.items() if np.isscalar(v)}
    # netCDF has no bools.
    return attrs | {n: int(v) if isinstance(v, bool | np.bool_) else v for n, v in told.items()}


def _groups_of(
    fit: Fit, fitted: Fitted, schema: Schema, attrs: Mapping[str, Any]
) -> dict[str, xr.Dataset]:
    """What every tree carries of a fit: its draws, and what the sampler says of each."""

    def make() -> dict[str, xr.Dataset]:
        told = {"draws_digest": _digest_of(fit, fitted)}
        groups = {"posterior": draws_dataset(fit.draws, schema, fitted.spec, told)}
        if fit.stats:
            groups["sample_stats"] = draws_dataset(fit.stats, schema, None, {})
        return groups

    is_own = fit is fitted.fit and not schema.coords and not schema.dims
    groups = _GROUPS.of_owner(fitted, "groups", make) if is_own else make()
    return {name: group.assign_attrs({**attrs, "group": name}) for name, group in groups.items()}


def _digest_of(fit: Fit, fitted: Fitted) -> str:
    """A number for all draws: two results are of one posterior where theirs are equal."""

    def make() -> str:
        return fingerprint_values([(name, fit.draws[name]) for name in sorted(fit.draws)])

    return _DIGESTS.of_owner(fitted, "draws", make) if fit is fitted.fit else make()


def posterior_tree(setup: Setup, fit: Fit, fitted: Fitted) -> xr.DataTree:
    """Draws of a posterior with labels, and the attributes of the fit behind them."""
    attrs = _attributes_of(setup.kernel, fitted, "posterior")
    schema = setup.schema(*setup.counts(fit), fitted.labels)
    return tree_of(_groups_of(fit, fitted, schema, attrs), attrs)


def in_form(tree: xr.DataTree, *, return_datatree: bool) -> xr.DataTree | dict[str, np.ndarray]:
    """A result as it is, or as arrays by name."""
    check_switches(return_datatree=return_datatree)
    return tree if return_datatree else flat_arrays(tree)


def prior_request(
    setup: Setup, fitted: Fitted | None, draws: int | None, **options: Any
) -> Request:
    """A request to the prior; parameters that a fit has learned are those of its kernel."""
    draws = 1000 if draws is None else draws
    check_positive(draws, "num_samples")
    fit = Fit(draws={}, params=fitted.fit.params if fitted else {})
    return Request(
        setup.kernel,
        setup.names,
        fitted or Fitted(fit),
        program=predict_block,
        method="sample_prior_predictive",
        group="prior_predictive",
        use=Use.PRIOR,
        fit=fit,
        chains=1,
        draws=draws,
        **options,
    )


def density_request(
    setup: Setup, fitted: Fitted, method: str, missing: str, to: Delivery
) -> Request:
    """A request for densities of what was observed: of each value, or of each row for a score."""
    programs = {"score": score_block, "loo": left_out_block}
    return setup.request(
        fitted,
        program=programs.get(method, log_likelihood_block),
        method=method,
        group="log_likelihood",
        to=to,
        missing=missing,
    )


def request_in_memory(setup: Setup, fitted: Fitted, rng_key: KeyLike | None = None) -> Request:
    """A request for outcomes of rows, in memory and without a bar."""
    return setup.request(
        fitted,
        program=predict_block,
        method="predict",
        group="posterior_predictive",
        to=Delivery(store="memory", progress=False),
        rng_key=rng_key,
    )


def inputs_of(setup: Setup, fitted: Fitted, arguments: Mapping[str, Any]) -> Given:
    """The inputs of a prediction as the kernel sees them."""
    return gather(request_in_memory(setup, fitted), values_of(arguments))


def constants_of(setup: Setup, inputs: Given, attrs: dict[str, Any]) -> dict[str, xr.Dataset]:
    """The group of a call's arguments; none of rows that are read by the piece."""
    arguments = inputs.arguments
    held = inputs.source.held(arguments.arrays)
    if not held:
        return {}
    schema = setup.schema(1, 0, arguments.labels)
    constants = constant_dataset(held, arguments.columns, inputs.spec, schema, attrs)
    return {"constant_data": constants}


def prior_sites(spec: KernelSpec) -> list[str]:
    """Sites that have draws of the prior."""
    return [site.name for site in spec.sites if site.kind not in ("param", "factor")]


def groups_of_the_prior(tree: xr.DataTree, spec: KernelSpec) -> dict[str, xr.Dataset]:
    """Draws of the prior of all sites, those of outcomes apart."""
    prior = tree["prior_predictive"].to_dataset()
    observed = {site.name for site in spec.sites if site.kind == "observed"} | {spec.output}
    outcomes = [name for name, value in prior.items() if value.attrs["site"] in observed]
    latent = prior.drop_vars(outcomes).assign_attrs(group="prior")
    return {"prior": latent, "prior_predictive": prior[outcomes]}
