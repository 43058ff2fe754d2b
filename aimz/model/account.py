"""What a model says of itself: attributes of results, and the account that MLflow logs."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np

from aimz._version import __version__
from aimz.data import only_counted
from aimz.kernel import SiteSpec
from aimz.prediction import Fitted

__all__ = ["account_of", "attributes_of", "described", "kernel_name"]


def account_of(fitted: Fitted) -> dict[str, Any]:
    """Account of a fit in plain Python values."""
    account: dict[str, Any] = {
        "rows": fitted.rows,
        "posterior": {name: tuple(np.shape(v)) for name, v in fitted.fit.draws.items()},
        "health": dict(fitted.fit.attrs),
    }
    if fitted.spec is not None:
        account["inputs"] = {name: _input_account(fitted, name) for name in fitted.known.shapes}
        account["coupled"] = fitted.spec.reason or False
        account["sites"] = {site.name: _site_account(site) for site in fitted.spec.sites}
    return account


def attributes_of(kernel: Callable[..., Any], fitted: Fitted | None, group: str) -> dict[str, Any]:
    """Attributes that every result carries."""
    attrs: dict[str, Any] = {
        "inference_library": "aimz",
        "inference_library_version": __version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "kernel": kernel_name(kernel),
        "group": group,
    }
    health = fitted.fit.attrs if fitted else {}
    told = {f"fit_{n}": v for n, v in health.items() if np.isscalar(v)}
    # netCDF has no bools.
    return attrs | {n: int(v) if isinstance(v, bool | np.bool_) else v for n, v in told.items()}


def described(inference: Any) -> str:
    """Inference argument in a few words."""
    if isinstance(inference, str):
        return inference
    part = getattr(inference, "guide", None) or getattr(inference, "sampler", None)
    own = type(inference).__name__
    return f"{own}({type(part).__name__})" if part is not None else own


def kernel_name(kernel: Any) -> str:
    """Module and qualified name of a kernel."""
    module = getattr(kernel, "__module__", "")
    return f"{module}.{getattr(kernel, '__qualname__', type(kernel).__name__)}"


def _input_account(fitted: Fitted, name: str) -> dict[str, Any]:
    """Shape of one row of an argument, and the names of its columns."""
    columns = fitted.known.columns.get(name, ())
    named = [] if only_counted(columns) else list(columns)
    return {"shape": tuple(fitted.known.shapes[name]), "columns": named}


def _site_account(site: SiteSpec) -> dict[str, Any]:
    return {
        "kind": site.kind,
        "law": site.law,
        "rows": site.rows,
        "shape": tuple(site.shape),
        "plates": list(site.plates),
        "parents": sorted(site.parents),
    }
