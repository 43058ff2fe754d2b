#!/usr/bin/env bash
# Make .venv with a Python that is new enough, and install the project and its tools into it.
# PYTHON=/path/to/python names the interpreter; otherwise the usual places are tried in turn.
set -euo pipefail
cd "$(dirname "$0")/.."

new_enough() { "$@" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

candidates() {
  if [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON"
    return
  fi
  printf '%s\n' python3.13 python3.14 python3.12 python3 python
  # A pyenv shim runs only the version that is selected; look at the installed ones too.
  local root="${PYENV_ROOT:-$HOME/.pyenv}"
  printf '%s\n' "$root"/versions/3.13*/bin/python "$root"/versions/3.1[2-9]*/bin/python
  uv python find --no-python-downloads '>=3.12' 2>/dev/null || true
}

find_python() {
  local candidate
  while read -r candidate; do
    if new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done < <(candidates)
  return 1
}

if ! new_enough .venv/bin/python; then
  if ! python=$(find_python); then
    echo "aimz needs Python 3.12 or later and found none; install one, or name it: make PYTHON=/path/to/python3.13 ..." >&2
    exit 1
  fi
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
echo "Installing aimz and its development tools into .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, every process would compile all it imports.
.venv/bin/python -m uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable . --group dev
touch .venv/.ready
