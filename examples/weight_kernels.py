"""Kernels of the weight that people gain, in a module of their own, so that a server finds them."""

import numpyro
import numpyro.distributions as dist


def same_for_all(X, stopped, intensity, y=None):
    """Quitting adds the same number of kg to everybody's weight."""
    del intensity
    effect = numpyro.sample("effect", dist.Normal(0.0, 10.0))
    gained(X, stopped * effect, y)


def by_intensity(X, stopped, intensity, y=None):
    """What quitting adds depends on how much somebody smoked."""
    effect = numpyro.sample("effect", dist.Normal(0.0, 10.0))
    per_cigarette = numpyro.sample("per_cigarette", dist.Normal(0.0, 1.0))
    gained(X, stopped * (effect + per_cigarette * intensity), y)


def gained(X, effect, y):
    """Weight gained: linear in the covariates, and an effect."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + X @ slopes + effect, sigma), obs=y)
