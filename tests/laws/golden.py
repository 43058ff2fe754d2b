"""What the library answers, written down: digests of draws, densities, effects, fits and files.

`golden.json` beside this file holds them. The only reason to write it anew is a change that users
see, which the commit then names:

    python -m tests.laws.golden --write
    python -m tests.laws.golden --write "linear: effects" "store"

An array passes where its bits are those of the record. Another processor may round differently, so
that otherwise integers must still be equal, and floats at some places must agree within four units
in the last place of single precision, at the magnitude that they were computed at. With
`AIMZ_GOLDEN=exact` in the environment nothing but the same bits passes: for changes of structure,
before and after on one machine.
"""

import argparse
import contextlib
import hashlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from aimz import ImpactModel
from aimz.errors import AimzWarning
from aimz.sklearn import ImpactClassifier, ImpactRegressor
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.kernels import KEY, KINDS, Kind, kind_of

__all__ = ["FILE", "SECTIONS", "Answer", "Found", "difference", "differences", "recorded"]

HERE = Path(__file__).parent
FILE = HERE / "golden.json"
SAVED = HERE / "saved_models.zip"

#: Units in the last place of single precision by which another processor may differ.
ULPS = 4
#: By how many standard deviations a posterior may: an optimiser amplifies what processors round.
#: With the vector instructions of older processors, draws of fits here move by a tenth of it.
FIT_SDS = 1e-3
#: Chains take another path after the first number that is rounded otherwise: then only their means
#: must agree, by so many standard deviations, which have their own error of some tenths.
CHAIN_SDS = 0.8

type Found = dict[str, "Answer | str"]


@dataclass(frozen=True)
class Answer:
    """An array that was computed, and how closely another processor has to agree.

    Parameters
    ----------
    values : ndarray
        What to digest.
    scale : float, optional
        Magnitude that it was computed at: differences cancel. Default that of its own values.
    within : float, optional
        Absolute difference that passes, in place of one in units of the last place.
    places : int
        How many values are written down.
    stored : bytes, optional
        What to digest in place of the values: the file that holds them.
    of_chains : bool
        Whether only the mean has to be `within`.
    """

    values: np.ndarray
    scale: float | None = None
    within: float | None = None
    places: int = 6
    stored: bytes | None = None
    of_chains: bool = False

    @property
    def digest(self) -> str:
        data = self.values.tobytes() if self.stored is None else self.stored
        return hashlib.sha256(data).hexdigest()[:16]

    @property
    def is_exact(self) -> bool:
        """Whether no other bits ever pass."""
        return self.values.dtype.kind not in "fc"

    @property
    def some(self) -> np.ndarray:
        """Values at places that are spread evenly, and their sum."""
        flat = self.values.reshape(-1)
        spread = np.unique(np.linspace(0, flat.size - 1, self.places).astype(int))
        return np.asarray([*flat[spread], flat.sum(dtype=np.float64)], np.float64)

    @property
    def tolerances(self) -> np.ndarray:
        """How far the values at these places, and their sum, may be off."""
        finite = np.abs(self.values[np.isfinite(self.values)])
        size = float(finite.max(initial=0.0)) if self.scale is None else self.scale
        each = ULPS * float(np.finfo(np.float32).eps) * size if self.within is None else self.within
        anywhere = np.inf if self.of_chains else each
        return np.asarray([anywhere] * (len(self.some) - 1) + [each * self.values.size])

    def __str__(self) -> str:
        shape = "x".join(map(str, self.values.shape)) or "()"
        text = f"{self.values.dtype} {shape} {self.digest}"
        if self.is_exact:
            return text
        *values, total = (f"{value:.9g}" for value in self.some)
        return f"{text} {' '.join(values)} sum {total}"


def difference(record: str, found: Answer | str, *, exact: bool) -> str:
    """In what an answer differs from its record, in words; empty where it passes."""
    text = str(found)
    if text == record:
        return ""
    if isinstance(found, str) or exact or found.is_exact:
        return f"was {record:.200}, is {text:.200}"
    dtype, shape, _, *numbers = record.split()
    if [dtype, shape] != text.split()[:2]:
        return f"was {dtype} of {shape}, is {text:.200}"
    was = np.asarray([float(number) for number in numbers if number != "sum"])
    if was.shape != found.some.shape:
        return f"was {record:.200}, is {text:.200}"
    # Infinite and nan are where they were; nine digits of the record are a unit themselves.
    is_near = np.abs(found.some - was) <= found.tolerances + 1e-8 * np.abs(was)
    is_same = (found.some == was) | (np.isnan(found.some) & np.isnan(was))
    wrong = np.flatnonzero(~(is_near | is_same))
    if not len(wrong):
        return ""
    place = int(wrong[0])
    return (
        f"was {was[place]:.9g}, is {found.some[place]:.9g}, and {found.tolerances[place]:.1g} is "
        "what another processor may differ by"
    )


def differences(record: Mapping[str, str], found: Found, *, exact: bool) -> list[str]:
    """Everything in which answers differ from a record."""
    gone = [f"{name}: is no longer answered" for name in record.keys() - found.keys()]
    new = [f"{name}: has no record" for name in found.keys() - record.keys()]
    both = [name for name in found if name in record]
    said = {name: difference(record[name], found[name], exact=exact) for name in both}
    return [
        *sorted(gone),
        *sorted(new),
        *(f"{name}: {text}" for name, text in said.items() if text),
    ]


def recorded() -> dict[str, dict[str, str]]:
    """The records by section and name."""
    found: dict[str, dict[str, str]] = json.loads(FILE.read_text())
    return found


@contextlib.contextmanager
def codes_of(found: Found, name: str) -> Iterator[None]:
    """Note the codes of the warnings, or of the error, that come up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AimzWarning)
        try:
            yield
        except Exception as error:
            if not hasattr(error, "code"):
                raise
            found[name] = f"refused: {error.code}"
    codes = sorted({str(w.message.code) for w in caught if isinstance(w.message, AimzWarning)})
    if codes:
        found[f"{name} (warnings)"] = " ".join(codes)


# ------------------------------------------------------------------ predictions


def predictions(kind: Kind) -> Found:
    """Draws and densities of a kernel whose posterior is set by hand."""
    found: Found = {}
    model, inputs = kind.model(), kind.inputs
    options: Any = {"store": "memory", "progress": False, "return_sites": kind.sites}
    with codes_of(found, "predict"):
        tree = model.predict(**inputs, **options)
        found |= _drawn(tree, "posterior_predictive", "predict")
        found["words"] = " ".join(str(word) for word in np.atleast_1d(tree.attrs["words"]))
    keyed = {**options, "rng_key": KEY}
    ways: dict[str, Any] = {
        "keyed": {},
        "keyed, seven rows at a time": {"batch_size": 7, "shard_axis": "draw"},
        "keyed, elsewhere": {"in_sample": False},
    }
    for name, way in ways.items():
        with codes_of(found, name):
            tree = model.predict(**inputs, **keyed, **way)
            group = "predictions" if "in_sample" in way else "posterior_predictive"
            drawn = _drawn(tree, group, name)
            found |= drawn if name == "keyed" else _unless_same(drawn, found, name)
    with codes_of(found, "prior"):
        sites = [*kind.draws, *kind.sites]
        settings: Any = {"num_samples": 5, "return_sites": list(dict.fromkeys(sites))}
        memory: Any = {"store": "memory", "progress": False}
        tree = model.sample_prior_predictive(**inputs, **settings, **memory)
        found |= _drawn(tree, "prior_predictive", "prior", places=3)
    given = {**inputs, **kind.outcomes}
    with codes_of(found, "log_likelihood"):
        tree = model.log_likelihood(**given, store="memory", progress=False)
        found |= _drawn(tree, "log_likelihood", "log_likelihood")
    with codes_of(found, "score"):
        found["score"] = Answer(np.asarray(model.score(**given)))
    return found


def _drawn(tree: xr.DataTree, group: str, name: str, places: int = 4) -> Found:
    variables = tree[group].data_vars
    return {f"{name} {n}": Answer(v.values, places=places) for n, v in variables.items()}


def _unless_same(drawn: Found, found: Found, way: str) -> Found:
    """What was drawn, or where its bits are those with a key alone, that they are."""
    keyed = [str(found[name.replace(way, "keyed", 1)]) for name in drawn]
    return {way: "as keyed"} if list(map(str, drawn.values())) == keyed else drawn


# ------------------------------------------------------------------ effects

COUNTERFACTUAL: dict[str, Any] = {"rung": "counterfactual"}
PREDICTION: dict[str, Any] = {"target": "prediction"}
GROUPS = np.repeat(["a", "b", "c"], 8)
WEIGHTS = np.linspace(0.5, 2.0, 24)


def log_ratio(averages: Mapping[Any, np.ndarray]) -> np.ndarray:
    """An estimand of a user's own."""
    old, new = averages.values()
    return np.asarray(np.arctan(new) - np.arctan(old))


#: Questions of every kernel.
SHORT: dict[str, dict[str, Any]] = {
    "ate": {},
    "att": {"estimand": "att"},
    "ite": {"estimand": "ite"},
    "ate of outcomes": PREDICTION,
    "counterfactual ate": COUNTERFACTUAL,
    "counterfactual ite": {"estimand": "ite", **COUNTERFACTUAL},
    "benefit": {"estimand": "benefit", **COUNTERFACTUAL},
}
#: All others.
LONG: dict[str, dict[str, Any]] = {
    "atc": {"estimand": "atc"},
    "cate": {"estimand": "cate", "by": GROUPS},
    "own": {"estimand": log_ratio},
    "weighted ate": {"weights": WEIGHTS},
    "rows": {"row_summary": True},
    "ratio": {"comparison": "ratio"},
    "lift": {"comparison": "lift"},
    "odds ratio": {"comparison": "odds_ratio"},
    "superpopulation": {"population": "superpopulation"},
    "finite": {"population": "finite", **PREDICTION},
    "att of outcomes": {"estimand": "att", **PREDICTION},
    "nde": {"estimand": "nde"},
    "nie": {"estimand": "nie"},
    "total": {"estimand": "total"},
    "benefit by intervention": {"estimand": "benefit"},
    "necessity": {"estimand": "necessity", **COUNTERFACTUAL},
    "sufficiency": {"estimand": "sufficiency", **COUNTERFACTUAL},
    "counterfactual att": {"estimand": "att", **COUNTERFACTUAL},
    "counterfactual atc": {"estimand": "atc", **COUNTERFACTUAL},
    "counterfactual cate": {"estimand": "cate", "by": GROUPS, **COUNTERFACTUAL},
    "counterfactual nde": {"estimand": "nde", **COUNTERFACTUAL},
    "counterfactual ratio": {"comparison": "ratio", **COUNTERFACTUAL},
    "counterfactual expectation": {"target": "expectation", **COUNTERFACTUAL},
    "counterfactual superpopulation": {"population": "superpopulation", **COUNTERFACTUAL},
}


def effects(kind: Kind, questions: Mapping[str, Mapping[str, Any]]) -> Found:
    """Answers about a treatment of 1 against one of 0, or the codes of refusals."""
    found: Found = {}
    model = kind.model()
    for name, question in questions.items():
        with codes_of(found, name):
            asked = _asked(model, kind, question)
            found |= _answers(name, asked, 3 if name in SHORT else 2)
    if questions is LONG:  # one line for what is said of many
        said = [str(found.pop(name)) for name in list(found) if name.endswith("(warnings)")]
        found["warnings"] = " ".join(sorted({code for codes in said for code in codes.split()}))
    return found


def _asked(model: ImpactModel, kind: Kind, question: Mapping[str, Any]) -> Any:
    options: dict[str, Any] = {**kind.inputs, **question, "progress": False}
    if question.get("rung") == "counterfactual":
        options |= kind.outcomes
    elif question.get("population") == "finite":
        options["y"] = kind.outcomes["y"]
    if question.get("estimand") in ("nde", "nie", "total"):
        options["mediator"] = kind.mediator or "m"
    return model.effect(baseline={"t": 0.0}, intervention={"t": 1.0}, **options)


def _answers(name: str, effect: Any, places: int = 3) -> Found:
    """Draws, whose digest has the averages in it; bounds, summaries, flags and what was redrawn."""
    averages = effect.averages.values
    scale = float(np.abs(averages).max())
    # Quotients of averages are not known as well as these.
    within = None if effect.question.comparison in ("difference", "none") else 1e-4 * scale
    whole = effect.draws.values.tobytes() + averages.tobytes()
    found: Found = {name: Answer(effect.draws.values, scale, within, places, whole)}
    if effect.bounds is not None:
        found[f"{name} (bounds)"] = Answer(effect.bounds.values, places=2)
    if effect.row_summary is not None:
        table = effect.row_summary.to_array().values
        found[f"{name} (summary)"] = Answer(table, scale, places=3)
    if name in ("ate", "far away") and effect.support is not None:
        found[f"{name} (outside)"] = Answer(effect.support["outside"].values)
    if name in SHORT and (effect.couplings or effect.redrawn):
        said = [f"{site} by {how}" for site, how in effect.couplings.items()]
        found[f"{name} (sites)"] = ", ".join([*said, *(f"{s} redrawn" for s in effect.redrawn)])
    return found


def scenarios_of_sites() -> Found:
    """Sites that are set, conditions, functions of the natural value, several scenarios."""
    found: Found = {}
    kind = kind_of("mediated")
    model, inputs = kind.model(), kind.inputs
    memory: Any = {"store": "memory", "progress": False}
    ways: dict[str, Any] = {
        "m set": {"intervention": {"m": 1.0}},
        "m seen": {"condition": {"m": kind.outcomes["m"]}},
    }
    for name, way in ways.items():
        with codes_of(found, name):
            tree = model.predict(**inputs, **memory, **way)
            found |= _drawn(tree, "posterior_predictive", name)
    asked: dict[str, dict[Any, Any]] = {
        "sites": {"old": {"m": 0.0}, "new": {"m": 1.0}},
        "a function": {"old": {}, "new": {"X": lambda X: X * 1.5}},
        "doses": {0: {"t": 0.0}, 1: {"t": 0.5}, 2: {"t": 1.0}},
    }
    for name, scenarios in asked.items():
        with codes_of(found, name):
            effect = model.effect(**inputs, scenarios=scenarios, progress=False)
            found |= _answers(name, effect)
    kind = kind_of("several")
    with codes_of(found, "visits"):
        effect = _asked(kind.model(), kind, {"site": "visits"})
        found |= _answers("visits", effect)
    return found


def loaders() -> Found:
    """Rows that are read by the piece."""
    kind = kind_of("weighted_logistic")
    rows = ArrayLoader(ArrayDataset(**kind.inputs), 0, batch_size=10)
    options: Any = {"store": "memory", "progress": False, "return_sites": kind.sites}
    return _drawn(kind.model().predict(rows, **options), "posterior_predictive", "predict")


# ------------------------------------------------------------------ fits


def _rows(name: str = "linear") -> dict[str, Any]:
    """Rows of a kernel with an outcome that its treatment moves."""
    kind = kind_of(name)
    return {**kind.inputs, "y": kind.outcomes["y"] + kind.inputs["t"]}


def _fitted(inference: str | None = None, **options: Any) -> ImpactModel:
    named: Any = {} if inference is None else {"inference": inference}
    model = ImpactModel(kind_of("linear").kernel, rng_key=KEY, num_samples=40, **named)
    return model.fit(**_rows(), progress=False, **options)


def _on_batch() -> ImpactModel:
    model = ImpactModel(kind_of("linear").kernel, rng_key=KEY, inference="svi", num_samples=40)
    return model.fit_on_batch(**_rows(), num_steps=300, progress=False)


def _by_steps() -> ImpactModel:
    model = ImpactModel(kind_of("linear").kernel, rng_key=KEY, inference="svi", num_samples=40)
    for _ in range(3):
        model.train_on_batch(**_rows())
    model.sample(num_samples=40)
    return model


def _regressor() -> ImpactRegressor:
    rows = _rows()
    return ImpactRegressor(num_samples=40).fit(rows["X"], rows["y"])


def _classifier() -> ImpactClassifier:
    kind = kind_of("weighted_logistic")
    return ImpactClassifier(num_samples=40).fit(kind.inputs["X"], kind.outcomes["y"])


FITS: dict[str, Callable[[], Any]] = {
    "default": _fitted,
    "regressor": _regressor,
    "classifier": _classifier,
    "svi": lambda: _fitted("svi"),
    "minibatches": lambda: _fitted("svi", batch_size=8, epochs=20),
    "on batch": _on_batch,
    "by steps": _by_steps,
    "nuts": lambda: _fitted("nuts", num_chains=2, num_warmup=200, num_samples=200),
}


def fit(name: str) -> Found:
    """Draws of a fitted posterior and what is predicted with them."""
    found: Found = {}
    with codes_of(found, "fit"):
        fitted = FITS[name]()
        model = getattr(fitted, "model_", fitted)
        found |= _posterior(model)
        found["diagnostics"] = " ".join(sorted(model.diagnostics_))
        if fitted is not model:
            X = kind_of("linear").inputs["X"]
            mean = np.asarray(fitted.predict(X), np.float64)
            found["predict"] = Answer(mean, within=FIT_SDS * float(mean.std()))
    if name == "nuts":  # whether these few draws have mixed is chance
        found.pop("fit (warnings)", None)
    return found


def _posterior(model: ImpactModel) -> Found:
    found: Found = _fit_draws(model.posterior_tree, "posterior")
    stats = model.posterior_tree.get("sample_stats")
    if stats is not None:
        flat = [np.asarray(v.values, np.float64).reshape(-1) for v in stats.data_vars.values()]
        steps = np.concatenate(flat)
        found["sample_stats"] = Answer(steps, within=np.inf, places=1, of_chains=True)
    return found


def _fit_draws(tree: xr.DataTree, name: str) -> Found:
    """Draws of a fit, that differ by parts of their standard deviations."""
    found: Found = {}
    for site, variable in tree["posterior"].data_vars.items():
        values = variable.values
        of_chains = len(values) > 1
        sds = CHAIN_SDS if of_chains else FIT_SDS
        near = sds * float(np.std(values, axis=(0, 1)).mean())
        found[f"{name} {site}"] = Answer(values, within=near, of_chains=of_chains)
    return found


# ------------------------------------------------------------------ files

#: Attributes that name the time, the place or the version.
VOLATILE = {"created_at", "artifact_path", "inference_library_version", "aimz_store"}
#: What a document says whatever the version of Zarr that wrote it.
SAID = (
    *("node_type", "zarr_format", "shape", "data_type", "chunk_grid", "chunk_key_encoding"),
    *("fill_value", "codecs", "dimension_names"),
)


def store() -> Found:
    """Every file of a result on disk; a chunk on another processor by its values."""
    kind = kind_of("weighted_logistic")
    options: dict[str, Any] = {"progress": False, "return_sites": kind.sites}
    options |= {"y": kind.outcomes["y"], "intervention": {"b": 1.5}}
    with tempfile.TemporaryDirectory() as directory:
        kind.model().predict(**kind.inputs, **options, output_dir=directory)
        (root,) = Path(directory).iterdir()
        tree = xr.open_datatree(root, engine="zarr", chunks=None).load()
        found: Found = {}
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = path.relative_to(root).as_posix()
            if path.name == "zarr.json":
                found[name] = _document(json.loads(path.read_bytes()))
                continue
            group, variable = name.split("/")[:2]
            values = np.asarray(tree[group][variable].values)
            found[name] = Answer(values, stored=path.read_bytes(), places=3)
    return found


def _document(document: Mapping[str, Any]) -> str:
    """Digest of a document of metadata, without what differs from run to run."""
    attributes = document["attributes"]
    said: dict[str, Any] = {name: document[name] for name in SAID if name in document}
    said["attributes"] = {n: value for n, value in attributes.items() if n not in VOLATILE}
    if "aimz_store" in attributes:  # the root
        manifest = json.loads(attributes["aimz_store"])
        said |= {name: manifest[name] for name in ("format_version", "complete", "tiles")}
        said |= {"key": manifest["identity"]["key"], "from": sorted(manifest["identity"])}
        said["documents"] = sorted(manifest["documents"])
    text = json.dumps(said, sort_keys=True)
    return f"metadata {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def captured() -> Callable[..., Any]:
    """A kernel that no import finds: its code is in the saved model."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    table = np.asarray([0.5, 1.5], np.float32)

    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(X @ jnp.asarray(table), 1.0))
            numpyro.sample("y", dist.Normal(z + b * t, sigma), obs=y)

    return kernel


def _saved_models() -> dict[str, ImpactModel]:
    """The models of `SAVED`, as they were when it was made."""
    chains = ImpactModel(captured(), rng_key=KEY, inference="nuts", num_samples=20)
    rows = _rows()
    return {
        "normal": _fitted("svi"),
        "chains": chains.fit(**rows, num_chains=2, num_warmup=60, progress=False),
    }


def _save() -> None:
    """Save the models anew; they are packed, as a kernel's code must stay as it was saved."""
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(SAVED, "w") as packed:
        for name, model in _saved_models().items():
            model.save(Path(directory) / name)
        for path in sorted(path for path in Path(directory).rglob("*") if path.is_file()):
            packed.write(path, path.relative_to(directory))


def saved(name: str) -> Found:
    """What a model of the first format that had kernels in it answers."""
    found: Found = {}
    kind = kind_of("linear")
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(SAVED) as packed:
        packed.extractall(directory)
        with codes_of(found, "load"):
            model = ImpactModel.load(Path(directory) / name)
    found["posterior"] = " ".join(
        f"{site} {Answer(v.values).digest}" for site, v in model.posterior_tree.posterior.items()
    )
    found["sites"] = " ".join(
        f"{site.name}:{site.kind}:{site.rows}" for site in model.kernel_spec.sites
    )
    with codes_of(found, "predict"):
        tree = model.predict(**kind.inputs, store="memory", progress=False)
        found |= _drawn(tree, "posterior_predictive", "predict")
    with codes_of(found, "ate"):
        found |= _answers("ate", _asked(model, kind, {}))
    with codes_of(found, "far away"):
        far: Any = {"old": {}, "new": {"X": lambda X: 2.0 * X}}
        effect = model.effect(**kind.inputs, scenarios=far, progress=False)
        found |= _answers("far away", effect)
    with codes_of(found, "sample"):
        more: Any = model.sample(num_samples=10, **_rows())
        found |= _fit_draws(more, "sample")
    return found


# ------------------------------------------------------------------ the record

SECTIONS: dict[str, Callable[[], Found]] = {
    **{f"{kind.name}: predictions": partial(predictions, kind) for kind in KINDS},
    **{f"{kind.name}: effects": partial(effects, kind, SHORT) for kind in KINDS},
    **{f"{kind.name}: more effects": partial(effects, kind, LONG) for kind in KINDS},
    "scenarios of sites": scenarios_of_sites,
    "loaders": loaders,
    **{f"fit: {name}": partial(fit, name) for name in FITS},
    "store": store,
    **{f"saved: {name}": partial(saved, name) for name in ("normal", "chains")},
}


def write(sections: list[str]) -> None:
    """Compute sections anew and put them into the record."""
    if not SAVED.exists():
        _save()
    records = recorded() if FILE.exists() else {}
    for name in sections or SECTIONS:
        records[name] = {key: str(answer) for key, answer in SECTIONS[name]().items()}
        ordered = {name: records[name] for name in SECTIONS if name in records}
        FILE.write_text(json.dumps(ordered, indent=0, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write down what the library answers now.")
    parser.add_argument("--write", nargs="*", metavar="SECTION", help="all, or these")
    options = parser.parse_args()
    if options.write is None:
        parser.error("nothing to do: pass --write, and say in the commit what users will see")
    jax.config.update("jax_platforms", "cpu")
    write(options.write)


if __name__ == "__main__":
    main()
