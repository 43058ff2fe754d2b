"""A stranger's tasks are answered within three clicks of the first page of the site."""

import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimz import InputError

DOCS = Path(__file__).parents[2] / "docs"
# What somebody wants to do, and the heading that answers it.
TASKS = {
    "install it": "map/start.md#install",
    "see it on real data": "map/start.md#first-commands",
    "find out whether my fit can be trusted": "health.md#reading-the-health-report",
    "know what to do about a bad fit": "inference.md#what-a-bad-verdict-asks-for",
    "get the effect on the treated with an interval": "effects.md#which-effect",
    "serve a what-if": "service.md#from-notebook-to-service",
    "understand an error's code": "errors.md#errors-and-warnings",
    "choose an engine": "map/choose.md",
    "fit a time series and forecast": "time_and_trials.md",
    "use a cluster or a bucket": "deployment.md",
    "come from EconML or CausalImpact": "map/compare.md",
    "look a method up": "map/reference.md",
}
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)|^:link: +(\S+)|^((?:\.\./)?[\w/]+)$", re.MULTILINE)


def anchor(heading: str) -> str:
    """The name of a heading in an address, as MyST makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links(page: Path) -> Iterator[str]:
    """The pages and headings that a page leads to."""
    for found in LINK.finditer(page.read_text()):
        target, _, heading = next(filter(None, found.groups())).partition("#")
        path = page.parent / target if target else page
        path = path if path.suffix == ".md" else path.with_name(f"{path.name}.md")
        if path.is_file():
            yield "#".join(filter(None, (os.path.relpath(path, DOCS), heading)))


def clicks() -> dict[str, int]:
    """How many clicks each page is away from the first one."""
    found, edge = {"index.md": 0}, ["index.md"]
    while edge:
        page = edge.pop(0)
        for link in links(DOCS / page):
            name = link.partition("#")[0]
            if name not in found:
                found[name] = found[page] + 1
                edge.append(name)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_answered_within_three_clicks(task):
    page, _, heading = TASKS[task].partition("#")
    assert clicks()[page] <= 3
    if heading:
        headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        assert heading in map(anchor, headings)


def test_links_to_headings_lead_to_headings():
    lost = []
    for page in clicks():
        for link in links(DOCS / page):
            name, _, heading = link.partition("#")
            headings = re.findall(r"^#+ (.*)$", (DOCS / name).read_text(), re.MULTILINE)
            if heading and heading not in map(anchor, headings):
                lost.append((page, link))
    assert not lost


def test_a_traceback_ends_with_the_page_of_its_code():
    error = InputError("No.", code="rows-mismatch")
    page, _, code = traceback.format_exception(error)[-1].split()[-1].partition("#")
    assert page == "errors.html"
    assert f"`{code}`" in (DOCS / "errors.md").read_text()
