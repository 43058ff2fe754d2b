"""The house: its wings in order, their faces, and the limits that keep its files readable.

A guard against drift, not a goal: changing a limit or the order needs a reason in the commit.
"""

import ast
import importlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aimz"

# Along the road of the data: a wing imports from those before it, through their faces only.
WINGS = (
    *("_version", "libraries", "errors", "choices", "arrays"),  # the ground
    *(
        "reads",
        "programs",
        "plots",
        "likelihoods",
        "families",
        "kernels",
        "capture",
        "overlap",
        "sensitivity",
        "refutation",
        "data",
        "decisions",
        "kernel",
        "identification",
        "outcomes",
        "store",
    ),
    *("inference", "sampling", "execution", "results", "prediction", "effects"),
    *("criticism", "model"),
    *("sequential", "diagnostics", "sklearn", "mlflow", "testing", "utils"),
)
FACADE = "aimz"  # __init__.py gathers names from every wing
SHELL = ("model", "sequential", "sklearn", "mlflow", "utils")  # these may warn

PLAIN_MODULES = 8
FACE_NAMES = 25
MODULE_LINES = 600
FUNCTION_LINES = 50
COMPLEXITY = 12
PARAMETERS = 8
# Of all parameters, those that say no more than `Any`; of all names that are bound, those that say
# nothing of what they hold. These numbers may only fall.
ANY_SHARE = 0.05
GENERIC_SHARE = 0.016
GENERIC_NAMES = {"own", "given", "found", "part", "kept", "rest", "here", "known"}
PUBLIC_CLASSES = {
    "ImpactModel",
    "OverTime",
    "_Impact",
}  # public methods take what API users name
# The arguments of MLflow's own flavors, and the arrays that the formulas of a kernel name.
PUBLIC_FUNCTIONS = {"autolog", "log_model", "save_model", "kalman", "sbc"}

# Written so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(?:root|hom[e]/\w|User[s]/\w|wor[k]/|opt/[p]y|var/fol[d]ers)"
)
REGISTRY_HOSTS = re.compile(
    r"py[p]i\.org|python[h]osted\.org|npm[j]s\.(?:org|com)|ana[c]onda\.(?:org|com)|py[p]i\.python|"
    r"deb\.debia[n]\.org|arti[f]actory|proxy\.gol[a]ng"
)
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".cfg", ".ini", ".txt", ".json", ""}
NOT_COMMITTED = {"__pycache__", "build", "dist", "mlruns", "node_modules"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing_of(module: str) -> str:
    """Wing of a module: the first name below `aimz`."""
    wing = module.split(".")[1]
    assert wing in WINGS, f"{module} is in no wing: add '{wing}' to WINGS of this test."
    return wing


def faces_of(module: str) -> list[str]:
    """Packages below `aimz` that a module lies in, outer first."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(2, len(parts))]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively."
            found |= {module_named(node.module or "", alias.name) for alias in node.names}
    return {name for name in found if name.split(".")[0] == "aimz"} - {name_of(path)}


def module_named(module: str, name: str) -> str:
    """`from module import name` may import a module."""
    path = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.with_suffix(".py").exists() or path.is_dir() else module


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a module, in the order of `ast.walk`."""
    return list(ast.walk(tree_of(path)))


def functions() -> Iterator[tuple[str, str | None, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the package: where it is, the class that holds it, its definition."""
    for path in MODULES:
        owners = {
            method: node.name
            for node in nodes_of(path)
            if isinstance(node, ast.ClassDef)
            for method in node.body
        }
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield where, owners.get(node), node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]  # set by ast.parse


def docstring_lines(path: Path) -> int:
    """Lines of a module that its docstrings take."""
    count = 0
    for node in nodes_of(path):
        documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            count += (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return count


BRANCHES = (
    *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While),
    *(ast.ExceptHandler, ast.comprehension, ast.match_case),
)


def complexity(node: ast.AST) -> int:
    """Cyclomatic complexity as McCabe counts it; nested functions count for themselves."""
    total = 1
    stack = list(ast.iter_child_nodes(node))
    while stack:
        inner = stack.pop()
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        total += isinstance(inner, BRANCHES)
        stack.extend(ast.iter_child_nodes(inner))
    return total


def committed() -> list[Path]:
    """Text files of the project that a commit would hold."""
    files = []
    for folder, within, names in os.walk(ROOT):
        within[:] = [
            name
            for name in within
            if name not in NOT_COMMITTED and (name == ".ci" or not name.startswith("."))
        ]  # else it walks through .venv
        files += [Path(folder, name) for name in names if name not in {"uv.lock", ".git"}]
    return sorted(path for path in files if path.suffix in TEXT)


def test_wings_import_only_from_wings_before_them():
    wrong = [
        f"{name_of(path)} imports {other}, which comes after it"
        for path in MODULES
        if name_of(path) != FACADE
        for other in imports_of(path) - {FACADE}
        if WINGS.index(wing_of(other)) > WINGS.index(wing_of(name_of(path)))
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_past_a_face():
    wrong = [
        f"{user} imports {other}: ask {face}"
        for path in (*MODULES, *sorted((ROOT / "examples").glob("*.py")))
        for user in [name_of(path)]
        for other in imports_of(path)
        for face in faces_of(other)
        if face != other and user != face and not user.startswith(f"{face}.")
        if face not in ("aimz.utils", "aimz.inference") or user.startswith("aimz.")
    ]
    assert not wrong, "\n".join(wrong)


def test_faces_are_narrow():
    for path in MODULES:
        name = name_of(path)
        if path.name == "__init__.py" and name != FACADE:
            names = len(importlib.import_module(name).__all__)
            assert names <= FACE_NAMES, f"{name} shows {names} names: what could it do by itself?"


def needed_wings() -> dict[str, set[str]]:
    """Wings that each wing imports from, without those that follow from others."""
    direct: dict[str, set[str]] = {}
    for path in MODULES:
        name = name_of(path)
        if name != FACADE:
            others = {"model" if other == FACADE else wing_of(other) for other in imports_of(path)}
            direct.setdefault(wing_of(name), set()).update(others - {wing_of(name)})
    beyond: dict[str, set[str]] = {}
    for wing in WINGS:  # in order: what a wing needs comes before it
        needed = direct.get(wing, set())
        beyond[wing] = needed.union(*(beyond[other] for other in needed))
    return {
        wing: needed - set().union(*(beyond[other] for other in needed))
        for wing, needed in direct.items()
    }


def test_the_page_shows_the_imports_as_they_are():
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", page, re.MULTILINE))
    real = {(wing, other) for wing, needed in needed_wings().items() for other in needed}
    assert drawn == real, f"draw {sorted(real - drawn)}, and not {sorted(drawn - real)}"
    for wing in {*WINGS} - {"_version"}:
        assert f"**{wing}**" in page, f"docs/architecture.md has no word on {wing}"


def test_few_modules_stand_outside_the_wings():
    plain = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(plain) <= PLAIN_MODULES, plain


def test_tests_mirror_the_wings():
    rooms = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert rooms <= {*WINGS, "laws", "real_data", "pages"}, rooms


def test_imports_have_no_cycle():
    graph = {
        name_of(path): imports_of(path) - {FACADE} for path in MODULES if name_of(path) != FACADE
    }
    while free := [name for name, needed in graph.items() if not needed & set(graph)]:
        for name in free:
            del graph[name]
    # What is left lies on a cycle or below one; a package's __init__ counts with its modules.
    assert not graph, f"import cycle among {sorted(graph)}"


def test_only_the_facade_is_imported_as_aimz():
    wrong = [
        name_of(path)
        for path in MODULES
        if FACADE in imports_of(path) and wing_of(name_of(path)) not in SHELL
    ]
    assert not wrong, f"{wrong} import the facade `aimz`, which imports every wing."


def test_only_the_shell_and_its_companions_warn():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        if name_of(path) != FACADE and wing_of(name_of(path)) not in SHELL
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"warnings.warn", "warn"}
    ]
    assert not wrong, f"Return a note instead; only the shell warns: {wrong}"


def test_modules_are_short_enough_to_read():
    lines = {
        name_of(path): len(path.read_text().splitlines()) - docstring_lines(path)
        for path in MODULES
    }
    wrong = {name: count for name, count in lines.items() if count > MODULE_LINES}
    assert not wrong, f"Which second concept lives here? Lines: {wrong}"


def test_function_bodies_are_short():
    wrong = [
        f"{where}: {body_lines(node)} lines"
        for where, _, node in functions()
        if body_lines(node) > FUNCTION_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_are_simple():
    wrong = [
        f"{where}: {complexity(node)}"
        for where, _, node in functions()
        if complexity(node) > COMPLEXITY
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_take_few_parameters():
    wrong = []
    for where, owner, node in functions():
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in {"self", "cls"}])
        public = owner in PUBLIC_CLASSES and (
            not node.name.startswith("_") or node.name == "__init__"
        )
        public = public or (owner is None and node.name in PUBLIC_FUNCTIONS)
        if count > PARAMETERS and not public:
            wrong.append(f"{where}: {count} parameters")
    assert not wrong, "\n".join(wrong)


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Parameters of a function, starred ones too, but for `self` and `cls`."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    starred = [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
    return [arg for arg in (*named, *starred) if arg.arg not in {"self", "cls"}]


def test_parameters_say_their_types():
    types = [
        (where, ast.unparse(arg.annotation) if arg.annotation else "Any")
        for where, _, node in functions()
        for arg in parameters_of(node)
    ]
    bare = [where for where, text in types if text == "Any"]
    share = len(bare) / len(types)
    assert share <= ANY_SHARE, f"{share:.2%} of parameters are `Any`, e.g. {bare[:5]}"


def test_names_say_what_they_hold():
    bound = [
        (path, node.arg if isinstance(node, ast.arg) else node.id)
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.arg)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    generic = [(name_of(path), name) for path, name in bound if name in GENERIC_NAMES]
    share = len(generic) / len(bound)
    most = Counter(generic).most_common(5)
    assert share <= GENERIC_SHARE, f"{share:.2%} of names say nothing, e.g. {most}"


def test_modules_say_what_they_give():
    wrong = [name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path))]
    assert not wrong, f"No docstring: {wrong}"


def test_all_holds_the_visible_names():
    hidden, missing = {}, {}
    for module in [name for name in map(name_of, MODULES) if "._" not in name]:
        loaded = importlib.import_module(module)
        visible = {
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", module) == module
        }
        hidden[module] = sorted(visible - set(loaded.__all__))
        missing[module] = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    wrong = {module: names for module, names in hidden.items() if names}
    assert not wrong, f"not in __all__: {wrong}"
    wrong = {module: names for module, names in missing.items() if names}
    assert not wrong, f"in __all__ but not there: {wrong}"


@pytest.mark.parametrize(
    ("pattern", "what"),
    [(MACHINE_PATHS, "a path of one machine"), (REGISTRY_HOSTS, "a package registry's host")],
    ids=["paths", "hosts"],
)
def test_no_committed_file_names(pattern, what):
    texts = {path: path.read_text(errors="replace") for path in committed()}
    wrong = [
        f"{path.relative_to(ROOT)}:{text.count('\n', 0, match.start()) + 1}: {match.group()}"
        for path, text in texts.items()
        for match in pattern.finditer(text)
    ]
    assert not wrong, f"{what}: {wrong}"


def codes_of(path: Path) -> set[str]:
    """Codes that a module gives to its exceptions, warnings and notes."""
    given = []
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            given += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            given += node.args[2:3] if ast.unparse(node.func) == "Note" else []
    return {str(value.value) for value in given if isinstance(value, ast.Constant) and value.value}


def test_nobody_asks_where_rows_are():
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        if name_of(path) != FACADE and wing_of(name_of(path)) != "data"
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if re.search(r"\b(AtHand|Stream)\b", ast.unparse(node))
    ]
    assert not wrong, f"Let the source answer what is needed: {wrong}"


def test_table_of_errors_is_complete():
    used = {code: name_of(path) for path in MODULES for code in codes_of(path)}
    page = (ROOT / "docs" / "errors.md").read_text()
    table = set(re.findall(r"^\| `([\w-]+)`", page, re.MULTILINE))
    missing = {code: used[code] for code in sorted(set(used) - table)}
    assert not missing, f"not in docs/errors.md: {missing}"
    assert not table - set(used), f"in docs/errors.md but not used: {sorted(table - set(used))}"
