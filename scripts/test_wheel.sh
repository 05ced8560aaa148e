#!/bin/sh
# Build the sdist and, from it, the wheel; install the wheel beside the tests' tools in an environment of its own, and
# run the tests of an installed package (marker `installed`) there, from a directory without the checkout.
#
# All tests have run against the checkout. Only what the wheel holds can differ, so this compares it file by file,
# imports every module, and goes each path from source to result once.
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
"$work/venv/bin/python" - "$root/aiterlite" <<'PYTHON'
import hashlib, pathlib, pkgutil, importlib, sys
import aiterlite
package, checkout = pathlib.Path(aiterlite.__file__).resolve().parent, pathlib.Path(sys.argv[1]).resolve()
assert checkout not in (package, *package.parents), f"the wheel's tests would run against {package}"

def files(root):
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"}

there, here = files(checkout), files(package)
different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
assert not different, f"in the wheel, in the checkout, or not alike in both: {different}"
modules = [module.name for module in pkgutil.walk_packages(aiterlite.__path__, "aiterlite.")]
for name in modules:
    if not name.endswith(".__main__"):
        importlib.import_module(name)
print(f"the wheel holds the checkout's {len(there)} files; {len(modules)} modules import")
PYTHON
"$work/venv/bin/aiterlite" --version
# Collecting all files takes longer than the tests that are chosen.
"$work/venv/bin/python" -m pytest -q -m installed -p no:cacheprovider $(grep -lE 'mark\.installed' tests/test_*.py)
