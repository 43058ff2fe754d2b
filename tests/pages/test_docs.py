"""Every Python example of the README and the docs runs, and prints what it says."""

import doctest
import pkgutil
import re
from pathlib import Path

import pytest

import aimz

ROOT = Path(__file__).parents[2]
# Pages whose examples fit models or compile many programs; the README fits in the fast suite.
SLOW = {
    "SKILL.md",
    "concepts.md",
    "counterfactuals.md",
    "decisions.md",
    "deployment.md",
    "effects.md",
    "evidence.md",
    "experiment.md",
    "health.md",
    "kernels.md",
    "learning.md",
    "likelihoods.md",
    "impact.md",
    "mediation.md",
    "migrating.md",
    "pipelines.md",
    "results.md",
    "service.md",
    "time_and_trials.md",
    "trust.md",
}
SKILL = ROOT / "aimz" / ".agents" / "skills" / "aimz" / "SKILL.md"
MADE = {"api", "worked"}  # while the site is built
WRITTEN = [page for page in (ROOT / "docs").rglob("*.md") if not MADE & set(page.parts)]
PAGES = [ROOT / "README.md", SKILL, *sorted(WRITTEN)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=_name(page), marks=pytest.mark.slow if page.name in SLOW else ())
        for page in PAGES
    ],
)
def test_examples_of_the_page_run(page):
    text = page.read_text()
    source = "\n".join(match.group(1) for match in BLOCK.finditer(text))
    test = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    plain = [block for block in BLOCK.findall(text) if ">>>" not in block]
    assert not plain, f"Write it with >>>, so that it runs:\n{plain[0]}" if plain else ""
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_the_page_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"no such file: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_pictures_of_the_page_are_described(page):
    """Who does not see a picture reads what it shows."""
    text = page.read_text()
    described = re.findall(r"!\[([^\]]*)\]\(|:img-alt: *(.*)", text)
    assert text.count(":img-top:") + text.count("![") == len(described)
    assert all(len("".join(alt).split()) > 3 for alt in described), described


def test_codes_that_the_skill_names_are_codes():
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|[^|]*\|$", SKILL.read_text(), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}
    known = set(re.findall(r"`([a-z-]+)`", (ROOT / "docs" / "errors.md").read_text()))
    assert named
    assert named <= known, named - known


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "map" / "reference.md").read_text()
    names = re.findall(r"^   (aimz\.[\w.]+)$", page, re.MULTILINE)
    for name in names:
        pkgutil.resolve_name(name)
    assert {f"aimz.{name}" for name in aimz.__all__ if name != "__version__"} <= set(names)
