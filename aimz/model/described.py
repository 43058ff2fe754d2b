"""What `ImpactModel` says of itself: its kernel, its fit, and what it takes for granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.criticism import PredictiveCheck
from aimz.identification import Assumptions, assumptions_of
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.model import account, asking, checking, fitting, graphing
from aimz.model.files import held_rows
from aimz.model.predicting import Planned
from aimz.model.setup import KeyLike, RowsLike, Setup
from aimz.prediction import Fitted

__all__ = ["Described"]


class Described:
    """The part of the facade that says what there is."""

    param_input: str
    param_output: str
    _fitted: Fitted | None
    _trained: Callable[..., Fitted]
    _streamed: Callable[[Planned], xr.DataTree]

    if TYPE_CHECKING:  # what the facade has

        @property
        def _setup(self) -> Setup: ...

    @property
    def kernel_spec(self) -> KernelSpec:
        """Structure of the kernel as the fit saw it."""
        return account.spec_of(self._trained(with_draws=True))

    @property
    def diagnostics_(self) -> dict[str, Any]:
        """Health of the last fit: engine, steps, plateau and k-hat, or R-hat, ESS, divergences.

        A dict, which a notebook shows as a table.
        """
        return account.Diagnostics(self._trained(with_draws=True).fit.attrs)

    @property
    def log_evidence_(self) -> float:
        """Log probability of the data under kernel and priors; absent where no engine gave it.

        Its standard error, over runs, is `diagnostics_["log_evidence_se"]`.
        """
        return account.log_evidence_of(self._trained(with_draws=True))

    @property
    def n_features_in_(self) -> int:
        """Number of columns of the input at the fit; absent where its rows are not vectors."""
        return account.columns_of(self._trained(), self.param_input)

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of the input at the fit; absent where they had none."""
        return account.column_names_of(self._trained(), self.param_input)

    def is_fitted(self) -> bool:
        """Whether the model holds a posterior."""
        return self._fitted is not None

    def assumptions(self, treatment: str, outcome: str | None = None) -> Assumptions:
        """Say what the kernel takes for granted about an effect, and what the data say of it.

        Roles follow from which site reads which argument or site: what lies between treatment and
        outcome, what causes both, what follows from the treatment. Columns of one argument are not
        told apart. What no kernel can say (that a covariate came before, that nothing is missing)
        is listed as assumed.

        Parameters
        ----------
        treatment : str
            An argument of one value per row, or a site of rows.
        outcome : str, optional
            A site of rows; default the output.

        Returns
        -------
        Assumptions
            Tables of roles and of independences that the data can check, sentences, and the graph
            (`plot()`, `to_dot()`).

        Raises
        ------
        InputError
            `treatment-unknown`

        Examples
        --------
        >>> im = ImpactModel(kernel).fit(X, y, t=t, progress=False)
        >>> im.assumptions("t").role("X")
        'covariate'
        """
        fitted = self._trained()
        spec, outcome = account.spec_of(fitted), self.param_output if outcome is None else outcome
        return assumptions_of(spec, treatment, outcome, account.values_of_rows(fitted))

    def check(
        self,
        X: RowsLike,
        y: ArrayLike,
        *,
        treatment: str | None = None,
        regions: int | ArrayLike = 4,
        missing: str = "raise",
        inputs: Mapping[str, Any] | None = None,
        rng_key: KeyLike | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> PredictiveCheck:
        """Say where outcomes do not fall as predicted: by arm, by region, along each column.

        Each outcome is ranked among its own predictions. Where the model is right, normal scores of
        the ranks are standard normal in every part of the data, and have no slope or curvature
        along any column. Rows of the fit are predicted by the posterior without them (by weights),
        others as they are; latents of single rows are drawn anew. All draws of all rows are in
        memory.

        Parameters
        ----------
        X, y : array-like
            Rows and their outcomes, one number each, of the fit or held out.
        treatment : str, optional
            An argument of one number per row, or a column: its values are arms.
        regions : int or array-like, shape (rows,)
            Number of bins of the mean predictions, or a label for each row.
        missing : {"raise", "mask"}
            As in `fit`; rows without an outcome do not count.
        inputs : mapping, optional
            Arguments of the kernel whose names are options here.
        rng_key, progress, **kwargs
            As in `predict`.

        Returns
        -------
        PredictiveCheck
            Tables `regions` and `columns`, `to_text` and `plot`.

        Raises
        ------
        InputError
            `check-site`: outcomes whose ranks would not be uniform, such as those of a series;
            `treatment-unknown`, `rows-mismatch`, `draws-few`, `outcome-missing`; as in `predict`.

        See Also
        --------
        loo : How well rows are predicted, in nats, to compare models.

        Examples
        --------
        >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(400, 2.0)})
        >>> check = im.check(X, X[:, 0] + 9.0, t=t, treatment="t", regions=1, progress=False)
        >>> check.regions["verdict"][0]
        'too low, too narrow'
        """
        named = asking.arguments_of(self._setup, type(self).check, {**locals()}, kwargs)
        arguments = held_rows(self._setup.arguments(self.check, named, X, y), self.param_input)
        return checking.checked(
            self._setup,
            self._trained(with_draws=True),
            fitting.Data(arguments, missing=missing),
            self._streamed,
            by={"treatment": treatment, "regions": regions},
            rng_key=rng_key,
            progress=progress,
        )

    def describe(self) -> dict[str, Any]:
        """Account of kernel, sites, fit and health in plain Python values.

        Each latent site lists its full conditional: the terms that it is drawn from, all others
        given, and the sites that these terms read (its Markov blanket).
        """
        return account.account_of(self._setup, self._fitted)

    def graph(self, X: RowsLike | None = None, y: ArrayLike | None = None, **kwargs: Any) -> Any:
        """Picture of the kernel: sites, plates, distributions and what follows from what.

        Parameters
        ----------
        X, y : array-like, optional
            Rows and outcomes that the kernel is run on; without them, those of the fit.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        graphviz.Digraph
            By NumPyro's `render_model`; a notebook shows it, and ``render("file")`` writes it.

        Raises
        ------
        InputError
            "graphviz-missing": `pip install graphviz`; "no-data": there is no fit to take rows of.
        KernelValidationError
            "graph": sites inside scan, which the renderer cannot draw.
        """
        named = self._setup.arguments(self.graph, kwargs, X, y)
        return graphing.graph_of(fitting.problem_for(self._setup, self._fitted, named))
