"""Worked examples: a page for each script of `examples/`, with what it prints and draws.

The pages are notebooks that are written while the site is built, so that a script is told once.
They run when everything does (`make site-all`); a digest of the script stands in the cell, so that
a kept run is that of the script as it is.
"""

import ast
import hashlib
from pathlib import Path
from typing import Any

SCRIPTS = (
    "quickstart", "experiment", "overlap", "counterfactuals", "mediation", "eight_schools",
    "simulator", "learning", "impact",
)  # fmt: skip
PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
language_info:
  name: python
  pygments_lexer: ipython3
---

# {title}

{text}

```{{code-cell}} ipython3
:tags: [hide-input]

# {digest}
%run ../../examples/{name}.py
```
{picture}

The whole script, `examples/{name}.py`:

```{{literalinclude}} ../../examples/{name}.py
:language: python
```
"""
PICTURE = """
```{{code-cell}} ipython3
---
tags: [remove-input]
mystnb:
  image:
    alt: "The picture that the script draws: {title}"
---
from IPython.display import Image
Image("../../examples/{name}.png")
```
"""


def written(script: Path) -> str:
    """The page of a script: its docstring, what it gives, and its source."""
    source = script.read_text()
    title, _, text = (ast.get_docstring(ast.parse(source)) or script.stem).partition("\n")
    name = script.stem
    picture = PICTURE.format(name=name, title=title) if "FIGURE" in source else ""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return PAGE.format(name=name, title=title, text=text.strip(), digest=digest, picture=picture)


def _write_all(app: Any) -> None:
    docs = Path(app.srcdir)
    (docs / "worked").mkdir(exist_ok=True)
    for name in SCRIPTS:
        page = docs / "worked" / f"{name}.md"
        text = written(docs.parent / "examples" / f"{name}.py")
        if not page.exists() or page.read_text() != text:  # or it would be read anew
            page.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", _write_all)
    return {"parallel_read_safe": True}
