"""Models of the same outcome side by side: their evidence, and how they predict rows left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.errors import InputError, Note, OutputWarning
from aimz.libraries import pd
from aimz.model.impact_model import ImpactModel
from aimz.model.notes import show
from aimz.model.setup import RowsLike

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["compare"]

_SAME_NATS = 0.5  # that two evidences of one kernel may differ by without a word


def compare(
    models: Mapping[str, ImpactModel],
    X: RowsLike | None = None,
    y: ArrayLike | None = None,
    **kwargs: Any,
) -> DataFrame:
    """Compare fitted models by their evidence and by rows left out, side by side.

    The evidence asks how probable the data were under the kernel and its *priors*; leaving rows
    out asks how well the *posterior* predicts a new row. They may prefer different models, mostly
    where priors are wide, and then a warning says so.

    Parameters
    ----------
    models : mapping of str to ImpactModel
        Two or more fitted models of the same outcome, by name.
    X, y : array-like, optional
        The data of the fits, for the comparison by rows left out (`ImpactModel.loo`).
    **kwargs
        Further arguments of `ImpactModel.loo`.

    Returns
    -------
    pandas.DataFrame
        One row for each model, the best first. Of models with evidence: `log_evidence` (nats), its
        standard error `log_evidence_se`, `log_bayes_factor` against the best, and `probability`,
        all models being as probable before. With X: `elpd_diff`, its standard error `elpd_dse` and
        the stacking weight `weight` of Yao, Vehtari, Simpson & Gelman (2018), as ArviZ gives them.

    Raises
    ------
    InputError
        "compare": fewer than two models, other outcomes, or nothing to compare by.

    Warns
    -----
    OutputWarning
        "compare": the two ways prefer different models; the error of the evidence is large or not
        known; the fit that it comes from is bad; or two engines disagree on the same kernel.

    Examples
    --------
    >>> import aimz, numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import SMC
    >>> def near(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> def zero(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 0.01))
    ...     with numpyro.plate("rows", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> X, y = np.zeros((6, 1)), np.full(6, 1.5)
    >>> smc = SMC(particles=200, mutations=5)
    >>> models = {k.__name__: ImpactModel(k, inference=smc, rng_key=0) for k in (near, zero)}
    >>> fitted = {name: im.fit(X, y, progress=False) for name, im in models.items()}
    >>> table = aimz.compare(fitted)
    >>> list(table.index), round(table.loc["zero", "log_bayes_factor"])  # -4.8 in closed form
    (['near', 'zero'], -5)
    """
    _check(models)
    evidence = _by_evidence(models)
    parts = [part for part in (evidence, _by_rows(models, X, y, kwargs)) if part is not None]
    if not parts:
        msg = (
            "None of the models has an evidence, and there are no rows to leave out. Fit with "
            "inference='smc', or pass the data: compare(models, X, y)."
        )
        raise InputError(msg, code="compare")
    table = pd.concat(parts, axis=1)
    by = "log_evidence" if evidence is not None and evidence.notna().all(axis=None) else "weight"
    if by in table:
        table = table.sort_values(by, ascending=False, kind="stable")
    texts = [*_doubts(table), *_doubts_of_evidence(table, models)]
    show([Note(OutputWarning, text, "compare") for text in texts])
    return table


def _check(models: Any) -> None:
    """Refuse what cannot be compared."""
    if not isinstance(models, Mapping) or len(models) < 2:  # two sides
        msg = 'compare takes two or more models by name, as in compare({"a": im1, "b": im2}).'
        raise InputError(msg, code="compare")
    outcomes: dict[str, Any] = {}
    for name, model in models.items():
        if not isinstance(model, ImpactModel):
            msg = f"'{name}' is a {type(model).__name__:.60}, not an ImpactModel. Pass the model."
            raise InputError(msg, code="compare")
        hashes = model._trained(with_draws=True).hashes  # noqa: SLF001  # of this wing
        seen = (model.param_output, "sample_weight")
        outcomes[name] = {what: hashes[what].tolist() for what in seen if what in hashes}
    first = next(iter(outcomes))
    for name, digest in outcomes.items():
        if digest != outcomes[first]:
            msg = (
                f"'{name}' and '{first}' were fitted to other outcomes, or weights of them. "
                "Densities of different data cannot be compared. Fit both to the same y."
            )
            raise InputError(msg, code="compare")


def _by_evidence(models: Mapping[str, ImpactModel]) -> DataFrame | None:
    found = {name: model.diagnostics_ for name, model in models.items()}
    logs = np.array([health.get("log_evidence", np.nan) for health in found.values()], float)
    errors = [health.get("log_evidence_se", np.nan) for health in found.values()]
    if np.isnan(logs).all():
        return None
    best = np.nanmax(logs)
    weights = np.exp(logs - best)
    known = not np.isnan(logs).any()
    columns = {
        "log_evidence": logs,
        "log_evidence_se": errors,
        "log_bayes_factor": logs - best,
        "probability": weights / weights.sum() if known else np.full(len(logs), np.nan),
    }
    table: DataFrame = pd.DataFrame(columns, index=list(found))
    return table


def _by_rows(
    models: Mapping[str, ImpactModel], X: Any, y: Any, options: Mapping[str, Any]
) -> DataFrame | None:
    if X is None:
        return None
    import arviz as az

    records = {name: model.loo(X, y, **options) for name, model in models.items()}
    table = az.compare(records, round_to="none")
    kept: DataFrame = table[["elpd_diff", "dse", "weight"]].rename(columns={"dse": "elpd_dse"})
    return kept


def _doubts(table: DataFrame) -> list[str]:
    """What to say of a comparison."""
    texts = []
    if "log_evidence" in table and "weight" in table:
        first, other = table["log_evidence"].idxmax(), table["elpd_diff"].idxmax()
        if first != other:
            texts.append(
                f"The evidence prefers '{first}', and rows left out prefer '{other}'. The evidence "
                "depends on the priors, also where the posterior does not: see whether they are "
                "meant."
            )
    if "log_evidence" in table:
        ordered = table.sort_values("log_evidence", ascending=False)
        gap = ordered["log_evidence"].iloc[0] - ordered["log_evidence"].iloc[1]
        error = float(np.hypot(*ordered["log_evidence_se"].iloc[:2]))
        if gap < 2 * error:
            texts.append(
                f"The two best log evidences differ by {gap:.2f} with a standard error of "
                f"{error:.2f}: which is better is not known. Take more particles or runs."
            )
    return texts


def _doubts_of_evidence(table: DataFrame, models: Mapping[str, ImpactModel]) -> list[str]:
    """What to say of single log evidences, and of two of the same kernel."""
    if "log_evidence" not in table:
        return []
    logs, errors = table["log_evidence"].dropna(), table["log_evidence_se"]
    texts = []
    unknown = [name for name in logs.index if not np.isfinite(errors[name])]
    if unknown:
        texts.append(
            f"The error of the log evidence of {_listed(unknown)} is not known: it is of one run, "
            "or of a formula. Take several runs, as SMC(runs=4) does."
        )
    bad = [n for n in logs.index if str(models[n].diagnostics_.get("verdict")).startswith("bad")]
    if bad:
        texts.append(
            f"The evidence of {_listed(bad)} comes from a fit that is bad: it may be off by more "
            "than its error. See diagnostics_."
        )
    pairs = [
        (abs(float(logs[one] - logs[other])), one, other)
        for one, other in itertools.combinations(logs.index, 2)
        if _same_question(models[one], models[other])
    ]
    gap, one, other = max(pairs, default=(0.0, "", ""))
    if pairs and gap > max(3.0 * float(np.hypot(errors[one], errors[other])), _SAME_NATS):
        texts.append(
            f"'{one:.30}' and '{other:.30}' are the same kernel and data, and their log evidences "
            f"differ by {gap:.1f}. Tempering passes a narrow spike by, which inference='nested' "
            "finds; or one of them needs more particles or moves."
        )
    return texts


def _same_question(one: ImpactModel, other: ImpactModel) -> bool:
    """Whether two models are the same kernel, fitted to the same arguments."""
    seen = [
        {name: value.tolist() for name, value in model._trained(with_draws=True).hashes.items()}  # noqa: SLF001  # of this wing
        for model in (one, other)
    ]
    return one.kernel is other.kernel and seen[0] == seen[1]


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name:.40}'" for name in names[:3])
