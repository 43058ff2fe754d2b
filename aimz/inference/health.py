"""How far a fit can be trusted: the loss and shape of a guide, R-hat and ESS of chains.

Thresholds. A guide has not converged whose loss was still falling by more than its noise and 0.1
nats between the last two quarters of its steps. Pareto-k is bad above min(1 - 1 / log10(S), 0.7)
for S weights (Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling")
where log weights vary, or move a mean by a fifth of its sd or an sd by a tenth: the tail of weights
that do neither says nothing. A k below it says that weighting works, not that it is not needed: so
means and sds with weights and without are compared on the scales of the sites, by as much and the
noise of both. Weights cannot see a tail
that a guide has no draws in: the posterior's density is also looked at along lines through places
of the guide (`sections`), and must have the guide's moments there, on average: one step of a Gibbs
sampler from the guide must change nothing. The places are as far from the centre as draws are: at
the centre itself the residuals of a regression with p slopes and n rows are the smallest that there
are, and its scale is p / sqrt(2 n) standard deviations off. R-hat is bad above 1.05, or above 1.01
with an ESS below 400; an ESS is bad below 100, or a tenth of few draws. Divergences are reported
beyond one in a thousand draws, and an E-BFMI below 0.3 (Betancourt 2016, "Diagnosing suboptimal
cotangent disintegrations"), where draws are enough to tell. What was not computed is "not checked",
never "good".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import FitWarning, Note

__all__ = [
    "GLANCE_ROWS",
    "SECTION",
    "WEIGH_ROWS",
    "Evidence",
    "Health",
    "judge_chains",
    "judge_effect",
    "judge_shape",
    "judge_svi",
    "k_limit",
    "pareto_k",
    "smoothed",
    "still_sites",
    "told_weights",
]


#: Largest numbers of rows for which a guide's shape is looked at closely, and at all.
WEIGH_ROWS, GLANCE_ROWS = 8192, 262_144
#: Places on a line through the guide, in its standard deviations.
SECTION = np.linspace(-6.0, 6.0, 25)
MAX_K_HAT = 0.7
LEAST_WEIGHTS = 25  # a fifth of them is the tail, which needs 5
MAX_WEIGHT_SD, MAX_BLIND_WEIGHT_SD = 0.25, 0.15
MAX_SECTION_RATIO, MAX_SECTION_SHIFT = 1.15, 0.2
MAX_WEIGHTED_RATIO = 1.1
MAX_R_HAT = 1.05
GOOD_R_HAT = 1.01
GOOD_ESS, LEAST_ESS = 400, 100
MAX_DIVERGING = 0.001
MIN_BFMI = 0.3
_NATS = 0.1


@dataclass(frozen=True)
class Evidence:
    """What is known of a guide's shape.

    Parameters
    ----------
    log_weights : array (draw,), optional
        Log p - log q at draws of the guide.
    sections : array (line, origin, place), optional
        Log p along lines of the guide, at `SECTION`, each from several origins.
    sites : sequence of str
        The site of each line.
    absent : str
        Why there is nothing to judge by.
    sees_tails : bool
        Whether the posterior has no tail that the weights would miss.
    values : array (draw, number), optional
        The draws that are weighted, on the scales of their sites.
    numbers : sequence of str
        What each of them is, such as "b[3]".
    """

    log_weights: np.ndarray | None = None
    sections: np.ndarray | None = None
    sites: Sequence[str] = ()
    absent: str = ""
    sees_tails: bool = False
    values: np.ndarray | None = None
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class _Moved:
    """How far weights move the draws of one number: its sd in the guide's, its mean in sds."""

    name: str
    ratio: float
    shift: float
    noise: float

    def excess(self, *, noise: bool = True) -> float:
        """What is beyond the limits, as a multiple of them; they allow for noise or do not."""
        own = self.noise if noise else 0.0
        narrow = self.ratio / (MAX_WEIGHTED_RATIO + own)
        wide = 1.0 / (self.ratio * (MAX_SECTION_RATIO + 2.0 * own))
        aside = abs(self.shift) / (MAX_SECTION_SHIFT + 2.0 * own)
        return max(narrow, wide, aside)

    @property
    def words(self) -> str:
        """The fault as a sentence."""
        if max(self.ratio, 1.0 / self.ratio) < MAX_WEIGHTED_RATIO:
            return f"Reweighted, the mean of '{self.name}' is {self.shift:+.2f} sd away. "
        way = "narrow" if self.ratio > 1.0 else "wide"
        times = max(self.ratio, 1.0 / self.ratio)
        return f"Reweighted, the sd of '{self.name}' is {times:.2f} times too {way}. "


@dataclass(frozen=True)
class Health:
    """Numbers of a fit's health, and what to say of them."""

    attrs: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def judge_svi(losses: np.ndarray, evidence: Evidence, *, explicit: bool, settled: bool) -> Health:
    """Health of a guide from its losses and from what is known of its shape."""
    shape = judge_shape(evidence)
    plateau = _is_flat(losses) if explicit else settled
    attrs = {"plateau": bool(plateau), **shape.attrs}
    if plateau:
        return Health(attrs, shape.notes)
    falling = Note(
        FitWarning,
        f"The loss was still falling after {len(losses)} steps. The posterior may be far "
        "from its answer. Train longer: more epochs or num_steps, or leave both out.",
        "not-converged",
    )
    return Health(attrs | {"verdict": "bad: not-converged"}, (falling,))


def judge_shape(evidence: Evidence) -> Health:
    """Health of an approximation's shape."""
    weights = evidence.log_weights
    absent = evidence.absent
    if weights is not None and len(weights) < LEAST_WEIGHTS:
        weights, absent = None, "too few draws"
    if weights is None:
        return Health({"k_hat": math.nan, "verdict": f"not checked: {absent}"})
    k_hat = pareto_k(weights)
    limit = k_limit(len(weights))
    blind = evidence.sections is None and not evidence.sees_tails
    spread = float(np.std(weights)) if np.all(np.isfinite(weights)) else math.inf
    seen = "" if evidence.sections is None else _section_fault(evidence)
    varies = not spread <= (MAX_BLIND_WEIGHT_SD if blind else MAX_WEIGHT_SD)
    moved = _moved(evidence)
    told = {} if moved is None else {"most_moved": moved.name, "moved_sd_ratio": moved.ratio}
    attrs = {"k_hat": k_hat, **told, "verdict": "good"}
    weighed = "" if moved is None or moved.excess() <= 1.0 else moved.words
    moves = moved is not None and moved.excess(noise=False) > 1.0
    if not k_hat <= limit and (varies or seen or moves):
        text = f"Pareto-k of the guide is {k_hat:.2f} (limit {limit:.2f}). "
        text += weighed or seen or "The guide's shape misses part of the posterior. "
        note = Note(FitWarning, text + "Fit with inference='nuts'.", "k-hat")
        return Health(attrs | {"verdict": "bad: k-hat"}, (note,))
    fault = (weighed if varies else "") or seen
    if fault:
        text = f"The guide has another shape than the posterior. {fault}"
        text += "Take reweighted(), or fit with inference='nuts'."
        note = Note(FitWarning, text, "guide-shape")
        return Health(attrs | {"verdict": "bad: guide-shape"}, (note,))
    return Health(attrs)


def told_weights(log_weights: np.ndarray | None) -> np.ndarray | None:
    """Weights that say something of what is computed from their draws: they can be, and differ."""
    if log_weights is None or len(log_weights) < LEAST_WEIGHTS:
        return None
    logs = np.asarray(log_weights, np.float64)
    return logs if np.all(np.isfinite(logs)) and float(np.std(logs)) > MAX_WEIGHT_SD else None


def judge_effect(log_weights: np.ndarray, values: np.ndarray) -> Health:
    """Health of numbers computed from draws, (draw, number), by what weights of these make of them.

    A number may be a sum of many latents, each of them hardly wrong. Its own Pareto-k, of (value -
    mean) times weight, is never below that of the weights (Vehtari et al. 2024): it says whether
    weights can judge it, and what they change is the judgement.
    """
    numbers = np.shape(values)[1]
    some = np.linspace(0, numbers - 1, min(numbers, 64)).astype(int)
    draws = np.asarray(values)[: len(log_weights), some].astype(np.float64)
    draws = draws[:, np.all(np.isfinite(draws), axis=0) & (np.ptp(draws, axis=0) > 0.0)]
    if not draws.shape[1]:
        return Health()
    names = ["effect"] * draws.shape[1]
    moved = _moved(Evidence(log_weights=log_weights, values=draws, numbers=names))
    if moved is None:
        return Health()
    k_hat, limit = _own_k(log_weights, draws), k_limit(len(log_weights))
    attrs = {
        "effect_k_hat": k_hat,
        "effect_sd_ratio": float(moved.ratio),
        "effect_mean_shift": float(moved.shift),
    }
    is_weighed = k_hat <= limit
    if moved.excess(noise=is_weighed) <= 1.0:
        return Health(attrs)
    text = f"The guide is not right for this effect (Pareto-k {k_hat:.2f}). {moved.words}"
    cure = "Take reweighted(), or fit" if is_weighed else "Fit"
    note = Note(FitWarning, f"{text}{cure} with inference='nuts'.", "guide-shape")
    return Health(attrs | {"effect_fault": "guide-shape"}, (note,))


def _own_k(log_weights: np.ndarray, values: np.ndarray) -> float:
    """Largest Pareto-k of weights, and of (value - mean) times weight in both tails."""
    weights = np.exp(log_weights - log_weights.max())
    products = weights[:, None] * (values - weights @ values / weights.sum())
    found = [pareto_k(log_weights)]
    for column in products.T:
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # of a sum that nobody asks for
                told = _array_stats().pareto_khat(column, chain_axis=None, draw_axis=-1, r_eff=1.0)
        except ValueError:  # the largest are all the same: there is no tail
            continue
        found.append(float(told))
    return float(np.nanmax(found))


def _section_fault(evidence: Evidence) -> str:
    """Where the posterior has other moments along a line than the guide, as a sentence."""
    logs = np.asarray(evidence.sections, np.float64)
    logs = np.where(np.isfinite(logs), logs, -np.inf)
    top = logs.max(axis=-1, keepdims=True)
    if not np.all(np.isfinite(top)):
        return "The density is zero all along a line through the guide. "
    weights = np.exp(logs - top)
    weights /= weights.sum(axis=-1, keepdims=True)
    weights = weights.mean(axis=1)  # a step of Gibbs from any of the origins
    means = weights @ SECTION
    sds = np.sqrt(np.maximum(weights @ SECTION**2 - means**2, 1e-12))
    faults = np.maximum(
        np.abs(np.log(sds)) / math.log(MAX_SECTION_RATIO), np.abs(means) / MAX_SECTION_SHIFT
    )
    worst = int(np.argmax(faults))
    if faults[worst] <= 1.0:
        return ""
    return (
        f"Along '{evidence.sites[worst]}' the posterior's sd is {sds[worst]:.2g} times the guide's "
        f"and its mean {means[worst]:.2g} sd away. "
    )


def _moved(evidence: Evidence) -> _Moved | None:
    """The number whose mean and spread weights change most; None where there are none to weigh.

    A k-hat below its limit says that weighting works, not that it is not needed.
    """
    if evidence.values is None or evidence.log_weights is None or not len(evidence.numbers):
        return None
    draws = np.asarray(evidence.values, np.float64)
    logs = np.asarray(evidence.log_weights, np.float64)
    sds = draws.std(axis=0)
    if not np.all(np.isfinite(logs)) or not np.all(sds > 0.0):
        return None
    logs, _ = _smoothed(logs)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    centred = (draws - weights @ draws) / sds
    # Where one draw has all the weight, nothing is left but rounding.
    squares = np.maximum(weights @ centred**2, 1e-30)
    # The standard error of a standard deviation, with as many draws as the weights leave.
    kurtosis = weights @ centred**4 / squares**2
    noise = np.sqrt(np.maximum(kurtosis - 1.0, 0.0) / 4.0 * float(weights @ weights))
    ratios, shifts = np.sqrt(squares), (weights @ draws - draws.mean(axis=0)) / sds
    columns = (evidence.numbers, ratios.tolist(), shifts.tolist(), noise.tolist())
    moved = [_Moved(*each) for each in zip(*columns, strict=True)]
    return max(moved, key=_Moved.excess)


def still_sites(draws: Mapping[str, Any]) -> list[str]:
    """Sites that have the same value in every draw: points, without any uncertainty."""
    still = []
    for name, value in draws.items():
        array = np.asarray(value)
        flat = array.reshape(array.shape[0] * array.shape[1], -1)
        if len(flat) > 1 and flat.shape[1] and np.array_equal(flat.min(axis=0), flat.max(axis=0)):
            still.append(name)
    return still


def pareto_k(log_weights: np.ndarray) -> float:
    """Pareto-k of importance weights log p - log q; infinite where a weight is not finite."""
    if not np.all(np.isfinite(log_weights)):
        return math.inf
    if np.ptp(log_weights) > 600.0:  # a few weights are everything, and their powers overflow
        return math.inf
    spread = log_weights - log_weights.max()
    if np.ptp(spread) < 1e-3:  # the guide is the posterior, up to rounding
        return -math.inf
    _, k_hat = _smoothed(log_weights)
    if math.isnan(k_hat):  # of a tail that is too short to be fitted, or of ties by rounding
        return math.inf if np.ptp(spread) > MAX_WEIGHT_SD else -math.inf
    return k_hat


def k_limit(count: int) -> float:
    """Largest Pareto-k of so many weights at which what they give can be relied on."""
    return min(1.0 - 1.0 / math.log10(max(count, 11)), MAX_K_HAT)


def smoothed(log_weights: np.ndarray) -> np.ndarray:
    """Log weights whose largest are the quantiles of a Pareto distribution of the tail."""
    return _smoothed(log_weights)[0]


def _smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights, and their k."""
    logs = np.asarray(log_weights, np.float64)
    try:
        smoothed, k_hat = _array_stats().psislw(-logs)  # ArviZ negates what it is given
    except ValueError:  # the largest are all the same, by rounding: there is no tail
        return logs, -math.inf
    return smoothed, float(k_hat)


def judge_chains(draws: dict[str, Any], stats: dict[str, Any]) -> Health:
    """Health of chains: R-hat, effective sample size, divergences, energy, trees cut short."""
    mixing = _convergence(draws)
    diverging = np.asarray(stats.get("diverging", np.zeros((1, 1))))
    count = int(diverging.sum())
    notes = []
    r_hat, ess = mixing.r_hat, mixing.ess
    least = min(LEAST_ESS, 0.1 * mixing.draws)
    if mixing.draws and not (
        r_hat <= MAX_R_HAT and ess >= least and (r_hat <= GOOD_R_HAT or ess >= GOOD_ESS)
    ):
        notes.append(
            Note(
                FitWarning,
                f"The chains have not mixed: R-hat is {r_hat:.3f} and the effective sample size "
                f"{ess:.0f}. Posterior summaries are unreliable. Run longer, or reparametrise.",
                "r-hat",
            )
        )
    if count > MAX_DIVERGING * diverging.size:
        notes.append(
            Note(
                FitWarning,
                f"{count} of {diverging.size} draws diverged. The chains may miss part of the "
                "posterior. Try inference=NUTS(target_accept_prob=0.95), or LocScaleReparam.",
                "divergences",
            )
        )
    energy, note = _energy(stats)
    notes += [] if note is None else [note]
    verdict = "not checked: too few draws"
    if notes:
        verdict = f"bad: {', '.join(note.code for note in notes)}"
    elif mixing.draws:
        verdict = "good"
    attrs = {"rhat_max": r_hat, "ess_min": ess, "divergences": count, **energy, "verdict": verdict}
    return Health(attrs, tuple(notes))


def _energy(stats: dict[str, Any]) -> tuple[dict[str, Any], Note | None]:
    """Whether the energy moved as freely as it should, and how many trees were cut short."""
    attrs: dict[str, Any] = {}
    if "reached_max_treedepth" in stats:
        attrs["max_tree_depths"] = int(np.asarray(stats["reached_max_treedepth"]).sum())
    energy = np.asarray(stats.get("energy", np.zeros((1, 0))), np.float64)
    if (
        energy.shape[1] < 4
        or not np.all(np.isfinite(energy))
        or np.any(np.ptp(energy, axis=1) == 0)
    ):
        return attrs, None
    attrs["bfmi_min"] = bfmi = float(np.min(_array_stats().bfmi(energy)))
    # Noise of a ratio of sums of as many squares.
    if bfmi * (1.0 + 3.0 / math.sqrt(energy.shape[1])) >= MIN_BFMI:
        return attrs, None
    message = (
        f"The energy of a chain hardly moves (E-BFMI {bfmi:.2f}, limit {MIN_BFMI}): tails of the "
        "posterior may be missed. Reparametrise, or run a longer warm-up."
    )
    return attrs, Note(FitWarning, message, "energy")


@dataclass(frozen=True)
class _Mixing:
    """Largest R-hat and smallest bulk ESS over all scalars; `draws` 0 where none was computed."""

    r_hat: float = math.nan
    ess: float = math.nan
    draws: int = 0


def _is_flat(losses: np.ndarray) -> bool:
    """Whether the loss had stopped falling by the last two quarters of the steps."""
    quarter = len(losses) // 4
    if quarter < 5:
        return False
    before, after = losses[-2 * quarter : -quarter], losses[-quarter:]
    gain = float(before.mean() - after.mean())
    noise = math.sqrt((float(before.var()) + float(after.var())) / quarter)
    return gain < max(3 * noise, _NATS, 1e-4 * abs(float(after.mean())))


def _convergence(draws: dict[str, Any]) -> _Mixing:
    """R-hat and ESS of what varies, and of all that is not finite; one chain counts as two."""
    array_stats = _array_stats()
    worst, least, count = 1.0, math.inf, 0
    for value in draws.values():
        array = np.asarray(value, np.float64)
        if array.shape[0] == 1:
            half = array.shape[1] // 2
            array = np.concatenate([array[:, :half], array[:, half : 2 * half]])
        if array.shape[1] < 4:
            continue
        flat = array.reshape(*array.shape[:2], -1)
        moving = flat.min(axis=(0, 1)) != flat.max(axis=(0, 1))
        if not moving.any():
            continue
        columns = flat[:, :, moving]
        count = columns.shape[0] * columns.shape[1]
        if not np.all(np.isfinite(columns)):  # ranks would take an infinite draw for a large one
            worst = least = math.nan
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            r_hat = np.asarray(array_stats.rhat(columns, chain_axis=0, draw_axis=1))
            ess = np.asarray(array_stats.ess(columns, chain_axis=0, draw_axis=1))
        # np.max keeps a nan, which is never healthy.
        worst = float(np.max([worst, np.max(r_hat)]))
        least = float(np.min([least, np.min(ess)]))
    return _Mixing(worst, least, count) if count else _Mixing()


def _array_stats() -> Any:
    """ArviZ's functions on arrays; imported late, it is heavy."""
    from arviz_stats import base

    return getattr(base, "array_stats")  # noqa: B009  # not among the names ArviZ declares
