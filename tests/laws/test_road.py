"""How long the road of a warm call is: functions and files of ours that run, and kinds of record.

Budgets only fall.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pandas as pd
import pytest

import aimz
from aimz import ImpactModel
from tests.support.kernels import ROWS, kind_of


@dataclass(frozen=True)
class Budget:
    """Most named functions, files and kinds of record of ours in a warm call.

    And how often rows meet label code.
    """

    functions: int
    files: int
    records: int
    asked: int


# What was counted last: lower them with what is counted, never raise them.
PREDICT = Budget(133, 30, 23, 1)
EFFECT = Budget(209, 45, 44, 1)

PACKAGE = str(Path(aimz.__file__).parent)
LABELS = ("labels.py",)  # code that asks a container for its labels


@dataclass
class Road:
    """What ran: our code, records that it made, and how often rows went to the code of labels."""

    rows: Any
    records: set[str] = field(default_factory=set)
    ours: set[CodeType] = field(default_factory=set)
    asked: int = 0

    @property
    def functions(self) -> set[str]:
        """Names of functions; what stands inside an expression is no function of its own."""
        named = (code for code in self.ours if not code.co_name.startswith("<"))
        return {f"{Path(code.co_filename).stem}.{code.co_qualname}" for code in named}

    @property
    def files(self) -> set[str]:
        return {code.co_filename for code in self.ours}

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code.co_filename == "<string>":  # what Python writes for dataclasses and named tuples
            self.records |= record_of(frame)
        if not code.co_filename.startswith(PACKAGE):
            return
        self.ours.add(code)
        is_asked = code.co_filename.endswith(LABELS)
        caller = frame.f_back
        if is_asked and caller is not None and not caller.f_code.co_filename.endswith(LABELS):
            self.asked += any(value is self.rows for value in frame.f_locals.values())


def record_of(frame: FrameType) -> set[str]:
    """The kind of record of ours that a frame makes, if it does."""
    makers = {"__init__": "self", "<lambda>": "_cls"}
    maker = frame.f_locals.get(makers.get(frame.f_code.co_name, ""))
    kind = maker if isinstance(maker, type) else type(maker)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {name} if name.startswith("aimz.") else set()


@contextmanager
def walked(rows: Any) -> Iterator[Road]:
    road = Road(rows)
    before = sys.getprofile()
    threading.setprofile(road.note)  # of threads that the call starts
    sys.setprofile(road.note)
    try:
        yield road
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def predict() -> tuple[Callable[[], Any], Any]:
    model, inputs = linear()
    return lambda: model.predict(**inputs, store="memory", progress=False), inputs["X"]


def effect() -> tuple[Callable[[], Any], Any]:
    model, inputs = linear()
    scenarios: Any = {"baseline": {"t": 0.0}, "intervention": {"t": 1.0}}
    return lambda: model.effect(**inputs, **scenarios, progress=False), inputs["X"]


def linear() -> tuple[ImpactModel, dict[str, Any]]:
    """A model and its inputs, rows and columns of which have names."""
    kind = kind_of("linear")
    rows = [f"row {number}" for number in range(ROWS)]
    frame = pd.DataFrame(kind.inputs["X"], columns=["u", "v"], index=rows)
    return kind.model(), {**kind.inputs, "X": frame}


@pytest.mark.parametrize(("make", "most"), [(predict, PREDICT), (effect, EFFECT)])
def test_a_warm_call_runs_no_more_than_its_budget(make, most):
    call, rows = make()
    call()
    walks = []
    for _ in range(2):  # once in many traces, caches are emptied on the way
        with walked(rows) as road:
            call()
        walks.append(road)
    road = min(walks, key=lambda walk: len(walk.functions))
    assert len(road.functions) <= most.functions, sorted(road.functions)
    assert len(road.files) <= most.files, sorted(road.files)
    assert len(road.records) <= most.records, sorted(road.records)
    assert road.asked <= most.asked
