"""What a model says of itself: the account that MLflow logs, and what its attributes give."""

from __future__ import annotations

from typing import Any

import numpy as np

from aimz import errors
from aimz.capture import kept_account
from aimz.kernel import KernelSpec, SiteSpec
from aimz.libraries import pd
from aimz.model.setup import Inference, Setup, kernel_name
from aimz.plots import number_text
from aimz.prediction import Fitted
from aimz.programs import unversioned

__all__ = [
    "Diagnostics",
    "account_of",
    "column_names_of",
    "columns_of",
    "described",
    "log_evidence_of",
    "spec_of",
    "values_of_rows",
]


class Diagnostics(dict[str, Any]):
    """What a fit says of itself: a dict that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        lists = {k: "; ".join(map(str, v)) for k, v in self.items() if isinstance(v, list)}
        listed = {**self, **lists}
        shown = pd.DataFrame({"": listed.values()}, index=list(listed), dtype=object)
        return f"<div>{shown.to_html(header=False, border=0, float_format=number_text)}</div>"


def account_of(setup: Setup, fitted: Fitted | None) -> dict[str, Any]:
    """Account of a model and its fit in plain Python values."""
    account: dict[str, Any] = {
        "kernel": kernel_name(setup.kernel),
        "inference": described(setup.inference),
        "kernel_kept": kept_account(setup.kernel),
        "traced_each_call": unversioned(setup.kernel) or False,  # why
        "fitted": fitted is not None,
    }
    if fitted is None:
        return account
    account["rows"] = fitted.rows
    account["posterior"] = {name: tuple(np.shape(v)) for name, v in fitted.fit.draws.items()}
    account["health"] = dict(fitted.fit.attrs)
    if fitted.spec is not None:
        account["inputs"] = {name: _input_account(fitted, name) for name in fitted.known.shapes}
        account["coupled"] = fitted.spec.reason or False
        account["sites"] = {
            site.name: _site_account(fitted.spec, site) for site in fitted.spec.sites
        }
    return account


def spec_of(fitted: Fitted) -> KernelSpec:
    """Structure of the kernel as the fit saw it."""
    if fitted.spec is None:
        msg = "The posterior was set by hand, so no data has shown the kernel's structure yet."
        raise errors.NotFittedError(msg, code="no-spec")
    return fitted.spec


def values_of_rows(fitted: Fitted) -> dict[str, np.ndarray]:
    """Data of the fit by variable, an observed one by its site; none where rows interact."""
    problem, spec = fitted.problem, fitted.spec
    if problem is None or spec is None or spec.coupled or problem.presence is not None:
        return {}
    shown = {name: site.name for site in spec.sites for name in site.observes}
    return {
        shown.get(name, name): np.asarray(values, np.float64)
        for name, values in problem.inputs.arrays.items()
        if name in spec.row_inputs | spec.observed_arguments
        and not isinstance(values, dict)
        and np.ndim(values) in (1, 2)
    }


def log_evidence_of(fitted: Fitted) -> float:
    """Log evidence of a fit, where its engine gives one."""
    if "log_evidence" not in fitted.fit.attrs:
        msg = "The engine of this fit gives no evidence: fit with inference='smc'."
        raise AttributeError(msg)
    return float(fitted.fit.attrs["log_evidence"])


def columns_of(fitted: Fitted, primary: str) -> int:
    """Number of columns of the rows of a fit."""
    categories = getattr(fitted.kernel, "categories", ())
    if categories:
        return len(categories)
    shape = fitted.known.shapes.get(primary)
    if not shape:
        msg = "No fit has seen the columns of the input, or its rows are no vectors."
        raise AttributeError(msg)
    return shape[0]


def column_names_of(fitted: Fitted, primary: str) -> np.ndarray:
    """Names of the columns of the rows of a fit."""
    seen = tuple(name for name, _ in getattr(fitted.kernel, "categories", ()))
    names = seen or fitted.known.named.get(primary)
    if names is None:
        msg = "The input of the fit had no column names, or the posterior was set by hand."
        raise AttributeError(msg)
    return np.asarray(names, dtype=object)


def described(inference: Inference) -> str:
    """Inference argument in a few words."""
    if isinstance(inference, str):
        return inference
    part = getattr(inference, "guide", None) or getattr(inference, "sampler", None)
    own = type(inference).__name__
    return f"{own}({type(part).__name__})" if part is not None else own


def _input_account(fitted: Fitted, name: str) -> dict[str, Any]:
    """Shape of one row of an argument, and the names of its columns."""
    columns = list(fitted.known.named.get(name, ()))
    return {"shape": tuple(fitted.known.shapes[name]), "columns": columns}


def _site_account(spec: KernelSpec, site: SiteSpec) -> dict[str, Any]:
    conditional = {"full_conditional": _full_conditional(spec, site)}
    return {
        "kind": site.kind,
        "law": site.law,
        "rows": site.rows,
        "shape": tuple(site.shape),
        "plates": list(site.plates),
        "parents": sorted(site.parents),
        **(conditional if site.kind == "latent" else {}),
    }


def _full_conditional(spec: KernelSpec, latent: SiteSpec) -> dict[str, list[str]]:
    """What a latent is drawn from, all others given: its terms, and the other sites in them."""
    reads = {
        site.name: _drawn_parents(spec, site)
        for site in spec.sites
        if site.kind in ("latent", "observed", "factor")
    }
    terms = [name for name, read in reads.items() if name == latent.name or latent.name in read]
    given = {name for term in terms for name in (*reads[term], term)} - {latent.name}
    return {"terms": sorted(terms), "given": sorted(name for name in given if name in reads)}


def _drawn_parents(spec: KernelSpec, site: SiteSpec) -> set[str]:
    """Sites that a site follows from, past those that are only computed."""
    found: set[str] = set()
    ahead = set(site.parents)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            if spec[name].kind == "deterministic":
                ahead |= spec[name].parents
    return {name for name in found if spec[name].kind != "deterministic"}
