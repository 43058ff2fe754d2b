"""Models as other tools copy them: scikit-learn's parameters and clones, and pickles.

A kernel is a function, often of a notebook, and NumPyro's inference objects hold functions of their
optimiser. Neither is scikit-learn's to take apart, and pickle knows functions by name only. So both
are one parameter each and are shared by clones, and a pickle holds by value what has no name.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import types
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpyro.infer import SVI

from aimz.errors import InputError
from aimz.libraries import joblib, sklearn
from aimz.model.graphing import picture_of
from aimz.prediction import Fitted

__all__ = ["Portable"]


_PARTS = ("kernel", "inference")  # they may know one another: SVI keeps the kernel it was made for
_BY_VALUE = "_by_value"
# A value in a grid is cloned before an estimator sees it, and SVI has a `get_params` that is not
# scikit-learn's. No fit changes an SVI, so that it may be its own clone.
if not hasattr(SVI, "__sklearn_clone__"):
    SVI.__sklearn_clone__ = lambda self: self


def _of_estimators(name: str) -> Any:
    """A method of scikit-learn's `BaseEstimator`, which is loaded when the method is called."""

    def method(self: Portable, *args: Any, **kwargs: Any) -> Any:
        return getattr(sklearn.base.BaseEstimator, name)(self, *args, **kwargs)

    return method


class Portable:
    """An estimator whose kernel and inference object are taken as they are.

    It follows scikit-learn's protocol, which asks for methods and no base class: to inherit from
    `BaseEstimator` would load scikit-learn and pandas where nobody uses them.
    """

    _fitted: Fitted | None
    _metadata_request: Any

    __sklearn_tags__ = _of_estimators("__sklearn_tags__")
    _get_params_html = _of_estimators("_get_params_html")
    _get_fitted_attr_html = _of_estimators("_get_fitted_attr_html")
    _html_repr = _of_estimators("_html_repr")
    _repr_html_inner = _of_estimators("_repr_html_inner")
    _bundled = _of_estimators("_repr_mimebundle_")

    @classmethod
    def _get_param_names(cls) -> list[str]:
        parameters = list(inspect.signature(cls).parameters.values())
        return sorted(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Constructor parameters; an inference object is one parameter, not many."""
        del deep  # NumPyro's SVI has a get_params of its own, which is not scikit-learn's
        return {name: getattr(self, name) for name in self._get_param_names()}

    def set_params(self, **params: Any) -> Self:
        """Replace constructor parameters."""
        sklearn.base.BaseEstimator.set_params(self, **params)
        return self

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """What a notebook shows: scikit-learn's own, and the kernel's picture after a fit."""
        bundle: dict[str, str] = self._bundled(**kwargs)
        problem = None if self._fitted is None else self._fitted.problem
        if problem is not None and "text/html" in bundle:
            bundle["text/html"] += picture_of(problem)
        return bundle

    @property
    def _repr_html_(self) -> Any:
        return sklearn.base.BaseEstimator._repr_html_.fget(self)  # its own property

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = [(n, repr(v)) for n, v in self.get_params().items()]
        shown = ", ".join(f"{n}={v}" for n, v in changed if v != repr(defaults[n].default))
        return f"{type(self).__name__}({shown})"

    def __sklearn_clone__(self) -> Self:
        params = self.get_params()
        shared = set(_PARTS) if _is_numpyro(params["inference"]) else set()
        copied = {n: v if n in shared else _cloned(v) for n, v in params.items()}
        model = type(self)(**copied)
        if hasattr(self, "_metadata_request"):
            model._metadata_request = copy.deepcopy(self._metadata_request)  # noqa: SLF001  # its own class
        return model

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        """Refuse to be an array, which is what ArviZ asks of a model that it is given."""
        del dtype, copy
        msg = (
            "An ImpactModel is no array of draws, and keeps no data. For ArviZ (loo, summary, ...) "
            "pass im.log_likelihood(X, y) or im.to_datatree(X, y); im.posterior_tree has its draws."
        )
        raise InputError(msg, code="no-array")

    def __copy__(self) -> Self:
        # Fits work on private copies and the fitted record is frozen: both may be shared.
        copied = type(self)(**self.get_params())
        copied._fitted = self._fitted  # noqa: SLF001  # its own class
        if hasattr(self, "_metadata_request"):
            copied._metadata_request = copy.deepcopy(self._metadata_request)  # noqa: SLF001  # as above
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        del memo
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        parts = {name: state.pop(name) for name in _PARTS}
        return {**state, **_packed(parts)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        kept = dict(state)
        vars(self).update({**kept, **kept.pop(_BY_VALUE, {})})


class _ByValue:
    """Parts that a pickle holds by value; once it is read they are in this object's place."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.pickled,)

    def __getstate__(self) -> Any:
        # Formats that promise to run nothing, such as skops, ask for the state of each object.
        msg = (
            "The model's kernel or inference object has no import path, so that only a pickle "
            "holds it. Move it to a module, or choose cloudpickle."
        )
        raise InputError(msg, code="not-pickled")


def _is_numpyro(inference: Any) -> bool:
    """Whether it is an object of NumPyro's, which no fit changes."""
    return type(inference).__module__.split(".")[0] == "numpyro"


def _cloned(value: Any) -> Any:
    # A partial of a function is as immutable as the function, and may be the kernel of an engine.
    return value if isinstance(value, functools.partial) else sklearn.clone(value, safe=False)


def _packed(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts as they are, or by value where another process could not import them.

    Raises
    ------
    InputError
        `not-pickled`: a part holds what cannot be copied at all.
    """
    plain = _pickled(parts)
    if isinstance(plain, bytes) and b"__main__" not in plain and b"__mp_main__" not in plain:
        return dict(parts)
    packed = _pickled(joblib.wrap_non_picklable_objects(dict(parts), keep_wrapper=False))
    if isinstance(packed, bytes):
        return {_BY_VALUE: _ByValue(packed)}
    for name, value in parts.items():
        error = _pickled(joblib.wrap_non_picklable_objects({name: value}, keep_wrapper=False))
        if not isinstance(error, bytes):
            kind = "" if isinstance(value, types.FunctionType) else f" ({type(value).__name__})"
            msg = (
                f"The model cannot be pickled, because its {name}{kind} holds something that "
                f"cannot be copied: {error!s:.70}. Make it where it is used, or use save()."
            )
            raise InputError(msg, code="not-pickled") from error
    raise packed


def _pickled(value: Any) -> bytes | Exception:
    try:
        return pickle.dumps(value)
    except Exception as error:  # noqa: BLE001  # objects raise what they like; `_packed` rethrows it
        return error
