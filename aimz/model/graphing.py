"""A kernel as a picture: its sites, plates and distributions, by NumPyro's renderer."""

import importlib.util
import shutil
import subprocess
from typing import Any

from numpyro.infer.inspect import render_model

from aimz.errors import AimzError, InputError, KernelValidationError
from aimz.inference import Problem
from aimz.programs import TRACE_LOCK

__all__ = ["graph_of", "picture_of"]


def graph_of(problem: Problem) -> Any:
    """The graph of a kernel on its data, as an object of Graphviz.

    Raises
    ------
    InputError
        "graphviz-missing".
    KernelValidationError
        "graph": sites inside scan, which the renderer cannot draw.
    """
    if importlib.util.find_spec("graphviz") is None:
        msg = (
            "graph() needs the package graphviz, which is not installed. Run: pip install "
            "graphviz; pictures also need Graphviz itself (dot)."
        )
        raise InputError(msg, code="graphviz-missing")
    for site in problem.spec.sites:
        if site.rows == "scan":
            msg = (
                f"Site '{site.name}' is inside scan, which NumPyro's renderer cannot draw. "
                "describe()['sites'] lists the sites and what each follows from."
            )
            raise KernelValidationError(msg, code="graph")
    arguments = {**problem.inputs.arrays, **problem.inputs.static}
    with TRACE_LOCK:
        return render_model(
            problem.kernel,
            model_kwargs=arguments,
            render_distributions=True,
            render_params=True,
        )


def picture_of(problem: Problem) -> str:
    """The graph as SVG; empty where Graphviz is not there, or cannot draw the kernel."""
    if importlib.util.find_spec("graphviz") is None or shutil.which("dot") is None:
        return ""
    try:
        picture: str = graph_of(problem).pipe(format="svg", encoding="utf-8")
    except (AimzError, OSError, subprocess.SubprocessError):
        return ""
    return picture[picture.find("<svg") :]
