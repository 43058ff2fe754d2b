"""Engines: what turns a kernel and data into posterior draws.

>>> import numpyro
>>> import numpyro.distributions as dist
>>> def kernel(X, y=None):
...     slope = numpyro.sample("slope", dist.Normal())
...     with numpyro.plate("obs", X.shape[0]):
...         numpyro.sample("y", dist.Normal(slope * X[:, 0]), obs=y)
>>> as_engine("nuts", kernel).name
'mcmc'
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpyro.infer import MCMC, SVI
from numpyro.infer.mcmc import MCMCKernel

from aimz.arrays import Seed
from aimz.choices import shown
from aimz.errors import InputError, nearest
from aimz.inference.auto import AutoEngine
from aimz.inference.chains import NUTS, MCMCEngine
from aimz.inference.engine import Draws, Engine, Fit, Problem, Settings
from aimz.inference.smc import SMC, Gibbs
from aimz.inference.svi import SVIEngine
from aimz.inference.vector import DADVI, MCLMC, Laplace, NestedSampling, Pathfinder

__all__ = ["AbsentEngine", "as_engine", "check_settings"]


#: Engines that need nothing but their settings, by name.
OWN: dict[str, type[Any]] = {
    "smc": SMC,
    "gibbs": Gibbs,
    "laplace": Laplace,
    "dadvi": DADVI,
    "pathfinder": Pathfinder,
    "mclmc": MCLMC,
    "nested": NestedSampling,
}


class AbsentEngine:
    """Stands for an inference object that a saved model does not hold: it can do nothing.

    Parameters
    ----------
    described : str
        What the object was.
    """

    name = "absent"

    def __init__(self, described: str) -> None:
        self.described = described

    def fit(
        self, rng_key: Seed, problem: Problem, settings: Settings, *, state: object = None
    ) -> Fit:
        """Refuse."""
        raise self._error()

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """Refuse."""
        raise self._error()

    def _error(self) -> InputError:
        msg = (
            f"The model was saved with {self.described:.60}, which is code and not in the file. "
            "Load it with inference= such an object to fit again or to sample."
        )
        return InputError(msg, code="inference-absent")


def as_engine(inference: Any, kernel: Callable[..., Any]) -> Engine:
    """The engine that an `inference` argument stands for.

    Parameters
    ----------
    inference : str, NUTS, SVI, MCMC or Engine
        A name ("auto", "svi", "nuts", "mcmc", or one of `OWN`), settings of chains, a NumPyro
        object made for `kernel` (an `SVI`, an `MCMC`, or a sampler), or an engine.
    kernel : callable
        The model's kernel.

    Returns
    -------
    Engine
        Engines are taken as they are; NumPyro objects are never changed by a fit.

    Raises
    ------
    InputError
        Code "inference": no such engine.
    KernelValidationError
        Code "inference-kernel": the object was made for another kernel.
    """
    if isinstance(inference, SVI):
        return SVIEngine(kernel, inference)
    if isinstance(inference, MCMC):
        return MCMCEngine(kernel, inference)
    if isinstance(inference, MCMCKernel):
        defaults = NUTS()
        mcmc = MCMC(
            inference, num_warmup=defaults.warmup, num_samples=1000, chain_method="sequential"
        )
        mcmc.num_chains = defaults.chains
        return MCMCEngine(kernel, mcmc)
    if isinstance(inference, NUTS):
        return MCMCEngine(kernel, settings=inference)
    if isinstance(inference, str):
        names: dict[str, Callable[[Callable[..., Any]], Engine]] = {
            "auto": AutoEngine,
            "svi": SVIEngine,
            "nuts": MCMCEngine,
            "mcmc": MCMCEngine,
            **{name: _by_itself(engine) for name, engine in OWN.items()},
        }
        if inference in names:
            return names[inference](kernel)
        raise InputError(
            f"There is no engine named '{inference}'. {nearest(inference.strip().lower(), names)}",
            code="inference",
        )
    if isinstance(inference, Engine) and not isinstance(inference, type):
        return inference
    is_class = isinstance(inference, type)
    what = f"the class {inference.__name__}" if is_class else f"a {type(inference).__name__}"
    raise InputError(
        f"inference= is {what}, which is no engine. Pass 'auto', 'svi', 'nuts', 'smc', a NumPyro "
        "SVI (with its guide and optimiser), MCMC or sampler, or an object with fit and draw.",
        code="inference",
    )


def _by_itself(engine: Callable[[], Engine]) -> Callable[[Callable[..., Any]], Engine]:
    """An engine that does not ask for the kernel."""
    return lambda _: engine()


def check_settings(engine: Engine, called: Mapping[str, Any]) -> None:
    """Refuse settings of a call that its engine has no use for, and name their place.

    Raises
    ------
    InputError
        `settings`.
    """
    warmup = called.get("num_warmup")
    if warmup is not None and not (isinstance(warmup, int | np.integer) and warmup >= 0):
        msg = f"num_warmup={shown(warmup)} is no whole number of at least 0. Pass one."
        raise InputError(msg, code="settings")
    for name, value in called.items():
        of_chains = name in ("num_chains", "num_warmup")
        users = (AutoEngine, MCMCEngine, MCLMC, Gibbs) if of_chains else (SVIEngine,)
        if value is None or isinstance(engine, users):
            continue
        if not isinstance(
            engine, (MCMCEngine, SVIEngine, *OWN.values())
        ):  # of somebody else, who may have a use
            continue
        kind, place = ("chains", "nuts") if of_chains else ("training by steps", "svi")
        msg = (
            f"{name}={value} is for {kind}, which engine '{engine.name}' does not do. Pass "
            f"inference='{place}', or leave it out (chains have num_samples and num_warmup)."
        )
        raise InputError(msg, code="settings")
