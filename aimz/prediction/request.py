"""The records of a call: what a fit left, what is asked for, and where the result goes."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.choices import check_choice, check_switches, names_of, shown
from aimz.data import Known, check_positive
from aimz.errors import InputError, nearest
from aimz.inference import Fit, Problem, Settings
from aimz.kernel import KernelSpec
from aimz.overlap import Support
from aimz.sampling import left_out_block, log_likelihood_block, score_block
from aimz.store import Sink, destination

__all__ = ["Delivery", "Fitted", "LateSupport", "Origin", "Request", "Use"]


class Use(enum.IntEnum):
    """What the model's key is used for: the keys of different uses have nothing in common."""

    FIT = 0
    STEP = 1
    SAMPLE = 2
    PREDICT = 3
    PRIOR = 4


@dataclass
class LateSupport:
    """Where the rows of a fit lie, to be found when that is first asked: it costs as much as a fit.

    The arrays may be the user's own: `hashes` say what they were.
    """

    arrays: Mapping[str, np.ndarray]
    columns: Mapping[str, tuple[str, ...]]
    leave_out: frozenset[str]
    codes: Mapping[str, Any]
    hashes: Mapping[str, np.ndarray]
    found: Support | None = None


@dataclass(frozen=True)
class Fitted:
    """What a fit left: draws and health, the kernel's structure, and a number for its rows."""

    fit: Fit
    spec: KernelSpec | None = None
    rows: int = 0
    fingerprint: int = 0
    known: Known = field(default_factory=Known)
    draw_labels: Mapping[str, Any] = field(default_factory=dict)  # of draws made elsewhere
    hashes: Mapping[str, np.ndarray] = field(default_factory=dict)  # of each argument, or its rows
    labels: np.ndarray | None = None
    steps: int = 0
    seen: Support | LateSupport | None = None  # where the rows of the fit lie: ask `located`
    problem: Problem | None = None  # in this process only: never saved
    course: Settings | None = None  # how the problem was fitted; as short-lived
    by_hand: bool = False  # whether the draws were made elsewhere
    kernel: Callable[..., Any] | None = None  # a ready-made one, as the data of the fit settled it

    def with_draws(self, fit: Fit, labels: Mapping[str, Any]) -> "Fitted":
        """What is known of the rows of the fit, with draws made elsewhere, if they are of these.

        Draws of other rows belong to another fit, of which nothing is known.
        """
        if self.spec is None or not all(self._has_rows(name, fit, labels) for name in fit.draws):
            return Fitted(fit, draw_labels=labels, by_hand=True)
        fit = replace(fit, params=self.fit.params)
        return replace(self, fit=fit, draw_labels=labels, by_hand=True)

    def _has_rows(self, name: str, fit: Fit, labels: Mapping[str, Any]) -> bool:
        """Whether draws of a latent of rows may be of the fitted ones, by shape and labels."""
        assert self.spec is not None  # noqa: S101  # from the caller
        if name not in self.spec or not self.spec[name].belongs_to_rows:
            return True
        site = self.spec[name]
        if np.shape(fit.draws[name])[2:] != tuple(site.shape):
            return False
        draw_labels = labels.get(name, {}).get(2 + (site.axis))
        fitted = np.arange(self.rows) if self.labels is None else self.labels
        return draw_labels is None or site.row_axis is None or np.array_equal(draw_labels, fitted)


@dataclass(frozen=True)
class Delivery:
    """Where a streamed result goes, and how it is read and shown on the way.

    Raises
    ------
    InputError
        `option-unknown`, `not-positive`, `output-dir`, `obstore-missing`.
    """

    shard_axis: str = "obs"
    batch_size: int | None = None
    store: str | Sink = "persistent"
    output_dir: Any = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_positive(self.batch_size, "batch_size")
        check_choice(self.shard_axis, "shard_axis", ("obs", "draw"))
        if not isinstance(self.store, Sink) or isinstance(self.store, type):
            check_choice(self.store, "store", ("persistent", "memory"))
        check_switches(progress=self.progress)
        if self.output_dir is None:
            return
        destination(self.output_dir)
        if self.store != "persistent":
            given = repr(self.store) if isinstance(self.store, str) else type(self.store).__name__
            msg = (
                f"output_dir says where to write, but store={given} does not write there. Drop one."
            )
            raise InputError(msg, code="option-unknown")


@dataclass(frozen=True)
class Request:
    """One streamed result: which program, over which draws, into which group.

    `names` are those of the primary input and of the outcome.
    """

    kernel: Callable[..., Any]
    names: tuple[str, str]
    fitted: Fitted
    program: Callable[..., Any]
    method: str
    group: str
    use: Use
    fit: Fit
    chains: int
    draws: int
    to: Delivery
    return_sites: str | Sequence[str] | None = None
    rng_key: Any = None
    in_sample: bool = True
    intervention: Mapping[str, Any] | None = None
    condition: Mapping[str, Any] | None = None
    missing: str = "raise"
    new_groups: str = "refuse"  # or "prior": latents of groups that the fit did not see are drawn
    seen_specs: dict[Any, KernelSpec] | None = None  # what one call has found out, by structure

    def __post_init__(self) -> None:
        check_switches(in_sample=self.in_sample)
        check_choice(self.missing, "missing", ("raise", "mask"))
        check_choice(self.new_groups, "new_groups", ("refuse", "prior"))
        for option in ("intervention", "condition"):
            value = getattr(self, option)
            if value is not None and not isinstance(value, Mapping):
                msg = f"{option}= is {shown(value)}, but must be a dict, such as {{'site': 1.0}}."
                raise InputError(msg, code="scenario-form")

    @property
    def conditions(self) -> bool:
        """Whether the outcome is data of the kernel, rather than kept beside its draws."""
        return self.program in (left_out_block, log_likelihood_block, score_block)

    def sites(self, spec: KernelSpec) -> tuple[str, ...]:
        """Names of the sites of the result: those that data condition, or those that are asked for.

        Where none is named, these are the output and the deterministic ones.

        Raises
        ------
        InputError
            `site-unknown`, `latent-missing`, `nothing-observed`.
        """
        if self.conditions:
            return _observed_sites(spec, self.fitted.fit.draws)
        valid = [site.name for site in spec.sites if site.kind not in ("param", "factor")]
        if self.return_sites is None:
            chosen = [
                s.name for s in spec.sites if s.kind == "deterministic" or s.name == spec.output
            ]
            return tuple(name for name in chosen if name in valid)
        names = names_of(self.return_sites, "return_sites")
        for name in names:
            if name not in valid:
                msg = f"There is no site '{name}' to return. {nearest(name, valid)}"
                raise InputError(msg, code="site-unknown")
        return names


def _observed_sites(spec: KernelSpec, draws: Mapping[str, Any]) -> tuple[str, ...]:
    """Sites whose density is one of data; refused where the posterior lacks a latent."""
    lacking = [name for name in spec.latents if name not in draws]
    if lacking:
        msg = (
            f"The posterior holds no draws of '{lacking[0]}', so the likelihood given it is not "
            "known. Fit the model, or pass its draws to set_posterior_sample."
        )
        raise InputError(msg, code="latent-missing")
    sites = spec.data_sites
    if not sites:
        msg = f"The kernel observes nothing here. Pass '{spec.output}' so that a site observes it."
        raise InputError(msg, code="nothing-observed")
    return sites


@dataclass(frozen=True)
class Origin:
    """Where the rows of a call are among the fitted ones, and which of their arguments changed.

    `rows` is None where they are the fitted ones in order, else their numbers there; `leading` is
    how many fitted ones the rows begin with, where they go on after these. `changed` says
    for each argument that is not the fitted one in which rows, (rows,) or (). `labels` are those of
    the call's rows. A posterior that was set by hand without a fit knows no rows but by the labels
    of its draws; `elsewhere` says that no fit has made the draws. `observed` names the sites that
    were data of the fit: left out, they are drawn. `static` names changed arguments that are not
    traced, so that it is not known what they reach.
    """

    is_known: bool = True
    by_hand: bool = False
    elsewhere: bool = False
    labels: np.ndarray | None = None
    draw_labels: Mapping[str, Any] = field(default_factory=dict)
    rows: np.ndarray | None = None
    leading: int = 0
    changed: Mapping[str, np.ndarray] = field(default_factory=dict)
    observed: frozenset[str] = frozenset()
    static: frozenset[str] = frozenset()
