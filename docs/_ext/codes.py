"""Each code of an error or a warning has an anchor on its page: `errors.html#not-fitted`."""

from typing import Any

from docutils import nodes


def _anchor_codes(app: Any, tree: Any) -> None:
    if app.env.docname != "errors":
        return
    for row in tree.findall(nodes.row):
        code = next(iter(row.findall(nodes.literal)), None)
        if code is not None and code.astext() not in tree.ids:
            row["ids"].append(code.astext())


def setup(app: Any) -> dict[str, bool]:
    """Give the rows of the tables their names."""
    app.connect("doctree-read", _anchor_codes)
    return {"parallel_read_safe": True}
