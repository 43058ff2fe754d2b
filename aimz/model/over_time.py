"""Impact over time: what `ImpactModel` says of a series before and after an intervention."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import check_choice
from aimz.effects import Impact
from aimz.libraries import xr
from aimz.model import asking, fitting, impacting
from aimz.model.files import held_rows
from aimz.model.predicting import Planned, planned
from aimz.model.setup import KeyLike, RowsLike, Setup
from aimz.prediction import Fitted

__all__ = ["OverTime"]


class OverTime:
    """The part of the facade that asks about an intervention at a time."""

    param_input: str
    param_output: str
    fit: Callable[..., Any]
    _fitted: Fitted | None
    _trained: Callable[..., Fitted]
    _streamed: Callable[[Planned], xr.DataTree]

    if TYPE_CHECKING:  # what the facade has

        @property
        def diagnostics_(self) -> dict[str, Any]:
            """Health of the fit."""

        @property
        def _setup(self) -> Setup: ...

    def impact(
        self,
        X: RowsLike,
        y: ArrayLike,
        *,
        intervention_time: object = None,
        post: ArrayLike | None = None,
        target: str = "prediction",
        missing: str = "raise",
        inputs: Mapping[str, Any] | None = None,
        rng_key: KeyLike | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> Impact:
        """Compare what followed an intervention with what would have without it.

        A model that is not fitted is fitted to the rows before the intervention, in a copy. Then
        the rows after it are predicted, given the outcomes before it where rows follow from one
        another, and compared with the outcomes that were observed.

        The model must predict the rows after the intervention from what it did not touch: controls,
        trend, season. The effect is what is left, and is causal only so far.

        Parameters
        ----------
        X, y : array-like
            All rows in the order of time, and their outcomes, before and after. Several series are
            columns of `y`.
        intervention_time : label, optional
            First time of the intervention: a label of the rows, such as a date, or without labels
            the number of a row.
        post : array of bool, shape (rows,), optional
            In its place: which rows come after.
        target : {"prediction", "expectation"}
            Compare with the outcome that would have been, with its noise, or with its mean.
        missing : {"raise", "mask"}
            As in `fit`; times without an outcome add nothing to the effect.
        inputs : mapping, optional
            Arguments of the kernel whose names are options here.
        rng_key, progress, **kwargs
            As in `predict`.

        Returns
        -------
        Impact
            Draws of the effect at each time and so far, a table, sentences and a picture.

        Raises
        ------
        InputError
            `post-unclear`, `time-unknown`, `fit-saw-after`: the model was fitted to rows after the
            intervention; `not-quantity`: an angle, or a category without an order; and as in `fit`
            and `predict`.

        See Also
        --------
        aimz.kernels.structural_time_series : A kernel for those who bring none.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     base = numpyro.sample("base", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(base + X[:, 0], 0.1), obs=y)
        >>> X, rng = np.linspace(-1.0, 1.0, 50)[:, None], np.random.default_rng(0)
        >>> sales = X[:, 0] + 0.1 * rng.normal(size=50) + 2.0 * (np.arange(50) >= 40)
        >>> im = ImpactModel(kernel).set_posterior_sample({"base": np.zeros(200)})
        >>> impact = im.impact(X, sales, intervention_time=40, progress=False)
        >>> round(float(impact.average.mean()))
        2
        >>> impact.summary()["effect"].tolist()
        ['average', 'cumulative']
        """
        named = asking.arguments_of(self._setup, type(self).impact, {**locals()}, kwargs)
        check_choice(target, "target", ("prediction", "expectation"))
        arguments = held_rows(self._setup.arguments(self.impact, named, X, y), self.param_input)
        setup = fitting.with_categories(self._setup, arguments)
        halves = impacting.halves_of(setup, self._fitted, arguments, post, intervention_time)
        impacting.check_missing(halves, missing, self.param_output)
        model = self
        if self._fitted is None:
            model = copy.copy(self)
            rows = halves.first(halves.known)
            first = rows.pop(self.param_input)
            model.fit(first, halves.outcome_before, missing=missing, progress=progress, **rows)
        impacting.check_fitted_before(model._trained(with_draws=True), halves, self.param_input)  # noqa: SLF001  # of its own class

        setup, trained, streamed = model._setup, model._trained(), model._streamed  # noqa: SLF001  # as above

        def drawn(once: impacting.Pass) -> xr.DataTree:
            request = setup.request(trained, **once.options, rng_key=rng_key)
            return streamed(impacting.without_coupling(planned(setup, request, once.arguments)))

        def pretended(place: int, size: int, X: Any, y: Any) -> Impact:
            rows, fresh = halves.first(size), copy.copy(self)
            fresh._fitted = None  # noqa: SLF001  # as above
            first = rows.pop(self.param_input)
            return fresh.impact(
                first if X is None else X,
                y,
                post=np.arange(size) >= place,
                target=target,
                missing=missing,
                inputs=rows,
                rng_key=rng_key,
                progress=False,
            )

        def again(place: int) -> Impact:
            return pretended(place, halves.known, None, halves.outcome_before)

        def of_donor(at: int) -> Impact:
            X, y = impacting.without_donor(halves, self.param_input, at)
            return pretended(halves.known, len(y), X, y)

        donors = impacting.donors_of(halves, self.param_input)
        elsewhere = {name: partial(of_donor, at) for at, name in enumerate(donors)}

        made = impacting.impact_of(halves, drawn, target=target, site=self.param_output)
        return replace(made, diagnostics=model.diagnostics_, again=again, elsewhere=elsewhere)
