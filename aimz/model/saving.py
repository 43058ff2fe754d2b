"""Models to files and back: settings as plain values, and what is said where these fall short."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import jax

from aimz.capture import fetched, kept
from aimz.errors import InputError, Note, OutputWarning, StoreError
from aimz.inference import AbsentEngine
from aimz.kernels import OutcomeUnits
from aimz.model.account import described
from aimz.model.archive import read_archive, write_archive
from aimz.model.setup import Inference, Kernel, PathLike, kernel_name
from aimz.prediction import Fitted, located
from aimz.store import local_path

__all__ = ["portable", "read_model", "write_model"]


def write_model(path: PathLike, settings: Mapping[str, Any], fitted: Fitted) -> tuple[Note, ...]:
    """Write the settings of a model, its fit and its kernel; returns what to tell the user."""
    kernel, inference = settings["kernel"], settings["inference"]
    plain = {**settings, "kernel": _shown(kernel)}
    if not isinstance(inference, str):
        plain["inference"] = {"object": described(inference)}
    code = kept(kernel)
    seen, lost = located(fitted)
    write_archive(path, plain, replace(fitted, seen=seen, kernel=None), code)
    if not code.absent:
        return lost
    text = (
        f"The kernel is not in the saved model, because of {code.absent:.120}. Pass it to load, or "
        "move it to a module that can be imported."
    )
    return (*lost, Note(OutputWarning, text, "kernel-not-kept"))


def portable(fitted: Fitted | None) -> tuple[Fitted | None, tuple[Note, ...]]:
    """A fit as it goes to another process, without its data; and what to say of it."""
    if fitted is None:
        return None, ()
    seen, notes = located(fitted)
    return replace(fitted, seen=seen, problem=None, course=None), notes


def read_model(
    path: PathLike, kernel: Kernel | None, inference: Inference | None, valid: Collection[str]
) -> tuple[dict[str, Any], Fitted, tuple[Note, ...]]:
    """Read the settings of a model and its fit; returns also what to tell the user.

    `valid` are the names of settings. With a `kernel` nothing in the files is executed.
    """
    archive = read_archive(path)
    settings = dict(archive.settings)
    saved = settings.pop("inference", None)
    if saved is None or settings.keys() - set(valid):
        msg = f"{path!s:.100} does not hold the settings of a saved model."
        raise StoreError(msg, code="store-damaged")
    if inference is None:
        inference = AbsentEngine(saved["object"]) if isinstance(saved, dict) else saved
    if kernel is None:
        kernel = fetched(archive.kernel, archive.files, local_path(path, "path"))
    _check_same(kernel, str(settings.get("kernel")))
    settings |= {"kernel": kernel, "inference": inference}
    if archive.double in (None, bool(jax.config.jax_enable_x64)):
        return settings, archive.fitted, ()
    text = (
        f"The model was saved with jax_enable_x64={archive.double}, which is not so here. "
        "Predictions are drawn from other random bits than they were. Set it to the same."
    )
    return settings, archive.fitted, (Note(OutputWarning, text, "precision-differs"),)


def _shown(kernel: object) -> str:
    """The name of a kernel; of a ready-made one with its settings, in whose units the draws are."""
    return repr(kernel) if isinstance(kernel, OutcomeUnits) else kernel_name(kernel)  # type: ignore[arg-type]  # any callable


def _check_same(kernel: object, saved: str) -> None:
    """Refuse a ready-made kernel of other settings than those that the model was fitted with.

    One that this version of the library reads from a model of another may have others, too.
    """
    if not isinstance(kernel, OutcomeUnits) or "(" not in saved or repr(kernel) == saved:
        return
    msg = (
        "The kernel has other settings than the one that was fitted, so the draws would mean "
        "something else. Leave kernel= out, or pass the kernel_ of the fit; a model of another "
        "version of aimz must be fitted again."
    )
    raise InputError(msg, code="kernel-differs")
