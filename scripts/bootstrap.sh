#!/bin/sh
# Make the virtual environment of `make demo` and `make test`. Says early what it needs and cannot install itself.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH=torch==2.13.0}"

missing() {
    printf 'aiterlite: %s\n  Debian, Ubuntu: %s\n' "$1" "$2" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null || missing "no $PYTHON on PATH" "apt-get install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    missing "$PYTHON is older than Python 3.10" "name another with: make PYTHON=python3.12 ..."
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing "$PYTHON cannot make virtual environments" \
    "apt-get install python3-venv"
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || [ -n "${AITERLITE_CXX:-}" ] ||
    missing "no C++ compiler on PATH" "apt-get install g++"

if [ -n "$TORCH" ]; then
    "$PYTHON" -m venv "$VENV"
    # CPU wheels where an index offers them; torch itself decides by its version otherwise.
    "$VENV/bin/python" -m pip install -q "$TORCH"
else
    "$PYTHON" -m venv --system-site-packages "$VENV"
    "$VENV/bin/python" -c 'import torch' || missing "$PYTHON has no torch" "make TORCH=torch==2.13.0 ..."
fi
"$VENV/bin/python" -m pip install -q -c constraints.txt -e '.[amdgpu,test]'
