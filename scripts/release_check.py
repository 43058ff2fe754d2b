"""Is what would be released whole? Builds wheel and sdist, and uses them where nothing else is.

`--bounds` also runs the fast tests on the oldest versions that pyproject.toml allows (long), and
`--python 3.12` does all of it with another Python than this one.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
USE = """
import importlib.metadata, importlib.resources as files
import numpy as np, numpyro, numpyro.distributions as dist
import aimz

assert importlib.metadata.version("aimz") == aimz.__version__
package = files.files("aimz")
assert (package / "py.typed").is_file()
assert (package / ".agents" / "skills" / "aimz" / "SKILL.md").is_file()

def kernel(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)

X, t = np.linspace(-1.0, 1.0, 50)[:, None], np.arange(50) % 2
im = aimz.ImpactModel(kernel).fit(X, X[:, 0] + 2.0 * t, t=t, progress=False)
effect = im.effect(X, {"t": 0}, {"t": 1}, t=t, progress=False)
assert abs(float(effect.draws.mean()) - 2.0) < 0.2
print(effect.to_text())
"""
TYPED = """
import numpy as np
from aimz import ImpactModel
from aimz.effects import Effect

def answer(im: ImpactModel, X: np.ndarray) -> Effect:
    return im.effect(X, {"t": 0}, {"t": 1})

reveal_type(ImpactModel.score)
"""


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command, which must end well."""
    done = subprocess.run(  # noqa: S603  # our own commands
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _environment(base: str, folder: Path, *packages: str, resolution: str = "highest") -> Path:
    """The Python of a new environment with these packages, made by the Python `base`."""
    uv = (sys.executable, "-m", "uv")
    python = folder / "bin" / "python"
    _run(*uv, "venv", "--quiet", "--python", base, folder, cwd=ROOT)
    install = ("pip", "install", "--quiet", "--resolution", resolution, "--python", python)
    _run(*uv, *install, *packages, cwd=ROOT)
    return python


def check_contents(wheel: Path, sdist: Path) -> None:
    """No test is shipped in the wheel; the sdist has what the tests need."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"aimz", next(top for top in tops if top.endswith(".dist-info"))}, tops
    assert "aimz/py.typed" in names
    assert not [name for name in names if "test_" in name]
    with tarfile.open(sdist) as packed:
        parts = {name.split("/")[1] for name in packed.getnames() if "/" in name}
    assert {"aimz", "tests", "docs", "examples", "pyproject.toml"} <= parts, parts


def main() -> None:
    """Build, look inside, install in a clean environment, and use it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bounds", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        away = Path(made)
        _run(sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", away, ROOT, cwd=ROOT)
        wheel, sdist = next(away.glob("*.whl")), next(away.glob("*.tar.gz"))
        check_contents(wheel, sdist)
        print("contents of", wheel.name, "and", sdist.name)
        python = _environment(asked.python, away / "clean", str(wheel), "mypy", "pandas-stubs")
        print(_run(python, "-c", USE, cwd=away, JAX_PLATFORMS="cpu").strip())
        (away / "typed.py").write_text(TYPED)
        said = _run(python, "-m", "mypy", "--strict", "typed.py", cwd=away)
        assert "def (" in said, said
        print("types reach a user's mypy")
        if asked.bounds:
            needs = f"aimz[all] @ {wheel.as_uri()}"
            group = ("--group", f"{ROOT / 'pyproject.toml'}:test")
            python = _environment(
                asked.python, away / "oldest", needs, *group, resolution="lowest-direct"
            )
            # What old versions of others say about each other is not ours.
            quiet = ("-W", "ignore::DeprecationWarning", "-p", "no:cacheprovider")
            tests = ("-m", "pytest", "-q", "-m", "not slow and not gpu", *quiet)
            print(_run(python, *tests, "-n", "2", "--dist", "loadfile", "tests", cwd=ROOT)[-500:])


if __name__ == "__main__":
    main()
