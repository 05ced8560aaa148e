#!/bin/sh
# Build the sdist and, from it, the wheel; install the wheel beside the tests' tools in an environment of its own, and
# run the tests there from a directory without the checkout.
set -eu
: "${VENV:=.venv}"
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$root/$VENV/bin/python" -m build -q --outdir "$work/dist" "$root"
site=$("$root/$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$root/$VENV/bin/python" -m venv "$work/venv"
# torch and the tools come from the first environment; its editable install must not shadow the wheel.
own=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$work/venv/bin/python" -m pip install -q --no-deps "$work"/dist/*.whl
echo "$site" >"$own/tools.pth"
cp -r "$root/tests" "$root/pyproject.toml" "$work/"
cd "$work"
"$work/venv/bin/python" - "$root" <<'EOF'
import pathlib, sys
import aiterlite
where = pathlib.Path(aiterlite.__file__).resolve()
assert pathlib.Path(sys.argv[1]).resolve() not in where.parents, f"the wheel's tests would run against {where}"
sources = {str(p.relative_to(pathlib.Path(sys.argv[1]) / "aiterlite"))
           for pattern in ("csrc/**/*", "asm/**/*", "tables/*.json")
           for p in (pathlib.Path(sys.argv[1]) / "aiterlite").glob(pattern) if p.is_file()}
missing = sorted(name for name in sources if not (where.parent / name).is_file())
assert not missing, f"the wheel lacks {missing}"
EOF
"$work/venv/bin/python" -m pytest -q -m 'not slow and not emulated' -p no:cacheprovider --ignore-glob='tests/test_emulator_decode_*' tests
