"""Settings of the site that `make site` builds; the pages themselves read well without it."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx_design.shared import PassthroughTextElement

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "aimz"
author = "The aimz developers"
copyright = f"2026, {author}"  # noqa: A001  # Sphinx's name
release = installed("aimz")
version = release

extensions = [
    "codes",
    "flowcharts",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_llm.txt",
    "worked",
]
exclude_patterns = ["_build", "performance.json", "api/_*"]
# The first is what the reference's pages are written in.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "aimz"
html_static_path = ["_static"]
html_css_files = ["aimz.css"]
html_theme_options: dict[str, Any] = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    # No page asks a network for anything: icons and fonts are the theme's own.
    "icon_links": [],
}
# Pages that no other stands below have nothing to navigate.
html_sidebars = {"index": [], "map/choose": [], "map/compare": []}
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Pages that begin with a kernel's name are notebooks: they are run, and an error ends the build.
nb_execution_mode = os.environ.get("AIMZ_SITE_EXECUTION", "cache")
# The worked examples take minutes: they run when everything does.
nb_execution_excludepatterns = [] if nb_execution_mode == "force" else ["worked/*"]
nb_execution_cache_path = str(ROOT / "build" / "executed")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # bars, and what notebooks say of each other
nb_render_image_options = {"align": "center"}

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

llms_txt_description = (
    "aimz: causal impact modelling with NumPyro kernels. A kernel is a plain NumPyro model "
    "function; ImpactModel(kernel) fits, predicts, and answers what-if questions with draws."
)
nitpicky = False


def _is_skipped(_app: Any, _what: str, name: str, obj: Any, skip: bool, _options: Any) -> bool:  # noqa: FBT001
    """What comes from other libraries refers to pages of theirs."""
    origin = getattr(getattr(obj, "fget", obj), "__module__", None) or "aimz"
    return skip or name.endswith("_request") or not origin.startswith("aimz")


def _write_text(visitor: Any, node: Any) -> None:
    visitor.add(node.astext())
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Skip what is not ours, and tell the plain twins of the pages about nodes new to them.

    The twins show Mermaid as it is written.
    """
    app.add_lexer("mermaid", TextLexer)
    app.connect("autodoc-skip-member", _is_skipped)
    for node in (nodes.abbreviation, nodes.classifier, PassthroughTextElement):
        app.add_node(node, override=True, markdown=(_write_text, None))
