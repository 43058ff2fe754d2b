"""Requests for metadata, in scikit-learn's sense, for the arguments of a kernel.

scikit-learn learns from a method's signature which metadata it can be sent. What `fit`, `predict`
and `score` take beyond their own keywords is known only from the kernel, so the requests are made
from the kernel's signature, when they are asked for. What the user has set is kept under the name
that scikit-learn's `clone` copies.
"""

import inspect
from collections.abc import Callable
from typing import Any, Self

from aimz.errors import InputError, check_names
from aimz.kernel import read_signature
from aimz.libraries import sklearn

__all__ = ["Routed", "keywords_of"]


_METHODS = ("fit", "partial_fit", "predict", "score")


def keywords_of(method: Callable[..., Any]) -> list[str]:
    """The own keywords of a method."""
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


class Routed:
    """Requests for metadata of a model whose methods take a kernel's arguments."""

    kernel: Callable[..., Any]
    param_input: str
    param_output: str
    _metadata_request: Any

    def get_metadata_routing(self) -> Any:
        """Requests for metadata, by method: what meta-estimators of scikit-learn ask for.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRequest
            For `fit`, `partial_fit`, `predict` and `score` what was set for each argument of the
            kernel and each keyword of the method; None where nothing was.

        Examples
        --------
        >>> from aimz import ImpactModel
        >>> def kernel(X, dose, y=None): ...
        >>> ImpactModel(kernel).get_metadata_routing().score.requests
        {'dose': None, 'sample_weight': None, 'missing': None}
        """
        stored = getattr(self, "_metadata_request", None)
        requests = sklearn.utils.metadata_routing.MetadataRequest(
            owner=type(self).__name__
        )  # not self: clones would keep it
        for method in _METHODS:
            own = {} if stored is None else getattr(stored, method).requests
            for name in self._routable(method):
                getattr(requests, method).add_request(param=name, alias=own.get(name))
        return requests

    def set_fit_request(self, **requests: bool | str | None) -> Self:
        """Say which metadata meta-estimators of scikit-learn send to `fit`.

        Parameters
        ----------
        **requests
            For an argument of the kernel or a keyword of the method: True sends it row by row as
            the meta-estimator splits rows, False never, None is an error where it is passed, and a
            string is the name that it is passed by.

        Returns
        -------
        Self
            The model itself.

        Raises
        ------
        InputError
            `routing-off`: routing is not enabled; `argument-unknown`, `option-unknown`.

        Examples
        --------
        >>> import sklearn
        >>> from aimz import ImpactModel
        >>> def kernel(X, dose, y=None): ...
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     im = ImpactModel(kernel).set_fit_request(dose=True, sample_weight="importance")
        >>> request = im.get_metadata_routing().fit.requests
        >>> request["dose"], request["sample_weight"]
        (True, 'importance')
        """
        return self._request_metadata("fit", requests)

    def set_partial_fit_request(self, **requests: bool | str | None) -> Self:
        """Say which metadata are sent to `partial_fit`; see `set_fit_request`."""
        return self._request_metadata("partial_fit", requests)

    def set_predict_request(self, **requests: bool | str | None) -> Self:
        """Say which metadata are sent to `predict`; see `set_fit_request`."""
        return self._request_metadata("predict", requests)

    def set_score_request(self, **requests: bool | str | None) -> Self:
        """Say which metadata are sent to `score`; see `set_fit_request`."""
        return self._request_metadata("score", requests)

    def _request_metadata(self, method: str, requests: dict[str, Any]) -> Self:
        if not sklearn.get_config()["enable_metadata_routing"]:
            msg = (
                "Metadata are not routed, so a request would do nothing. Call "
                "sklearn.set_config(enable_metadata_routing=True) first."
            )
            raise InputError(msg, code="routing-off")
        check_names(requests, self._routable(method), what="argument")
        routing = self.get_metadata_routing()
        for name, alias in requests.items():
            if alias == sklearn.utils.metadata_routing.UNCHANGED:
                continue
            try:
                getattr(routing, method).add_request(param=name, alias=alias)
            except ValueError as error:
                msg = f"'{name}' is requested as {alias!r:.40}: write True, False, None or a name."
                raise InputError(msg, code="option-unknown") from error
        self._metadata_request = routing
        return self

    def _routable(self, method: str) -> tuple[str, ...]:
        """Names that can be sent to a method: the kernel's arguments and its own keywords."""
        roles = (self.param_input, self.param_output)
        arguments = read_signature(self.kernel, *roles).names
        return (
            *(name for name in arguments if name not in roles),
            *keywords_of(getattr(type(self), method)),
        )
