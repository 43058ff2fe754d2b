"""Models as other tools copy them: scikit-learn's parameters and clones, and pickles.

A kernel is a function, often of a notebook, and NumPyro's inference objects hold functions of their
optimiser. Neither is scikit-learn's to take apart, and pickle knows functions by name only. So both
are one parameter each and are shared by clones, and a pickle holds by value what has no name.
"""

import copy
import functools
import pickle
import types
from collections.abc import Mapping
from typing import Any, Self

from joblib import wrap_non_picklable_objects
from numpyro.infer import SVI
from sklearn.base import BaseEstimator, clone

from aimz.errors import InputError

__all__ = ["Portable"]


_PARTS = ("kernel", "inference")  # they may know one another: SVI keeps the kernel it was made for
_BY_VALUE = "_by_value"
# A value in a grid is cloned before an estimator sees it, and SVI has a `get_params` that is not
# scikit-learn's. No fit changes an SVI, so that it may be its own clone.
if not hasattr(SVI, "__sklearn_clone__"):
    SVI.__sklearn_clone__ = lambda self: self


class Portable(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no stubs
    """An estimator whose kernel and inference object are taken as they are."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Constructor parameters; an inference object is one parameter, not many."""
        del deep  # NumPyro's SVI has a get_params of its own, which is not scikit-learn's
        params: dict[str, Any] = super().get_params(deep=False)
        return params

    def __sklearn_clone__(self) -> Self:
        params = self.get_params()
        shared = set(_PARTS) if _is_numpyro(params["inference"]) else set()
        copied = {n: v if n in shared else _cloned(v) for n, v in params.items()}
        model = type(self)(**copied)
        if hasattr(self, "_metadata_request"):
            model._metadata_request = copy.deepcopy(self._metadata_request)  # noqa: SLF001  # its own class
        return model

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        parts = {name: state.pop(name) for name in _PARTS}
        return {**state, **_packed(parts)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        kept = dict(state)
        super().__setstate__({**kept, **kept.pop(_BY_VALUE, {})})


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
    return value if isinstance(value, functools.partial) else clone(value, safe=False)


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
    packed = _pickled(wrap_non_picklable_objects(dict(parts), keep_wrapper=False))
    if isinstance(packed, bytes):
        return {_BY_VALUE: _ByValue(packed)}
    for name, value in parts.items():
        error = _pickled(wrap_non_picklable_objects({name: value}, keep_wrapper=False))
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
