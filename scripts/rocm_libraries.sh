#!/bin/sh
# Unpack AMD's HIP runtime and its library for code objects, with all that they need down to the C library, into DIR:
# beside the system, which does not change. The packages are those of a Debian suite that has them, from where this
# machine's apt is configured to take Debian's packages. tests/test_rocm_libraries.py loads them.
#
#   scripts/rocm_libraries.sh DIR [SUITE]
set -eu
folder=$1
suite=${2:-forky}

site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
if [ -z "$site" ]; then
    echo "this machine's apt has no source of Debian packages" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
: > "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" > "$work/sources.list"
# No package counts as installed here, so that the C library comes along.
cat > "$work/apt.conf" <<EOF
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Sandbox::User "$(id -un)";
EOF
export APT_CONFIG="$work/apt.conf"
apt-get update -q
newest() { apt-cache pkgnames "$1" | grep -E "^$1[0-9]+\$" | sort -V | tail -n 1; }
hip=$(newest libamdhip64-)
comgr=$(newest libamd-comgr)
apt-get install -q -y --no-install-recommends --download-only "$hip" "$comgr"

# DIR appears at once, and whole.
rm -rf "$folder" "$folder.new"
mkdir -p "$folder.new"
for package in "$work"/cache/archives/*.deb; do
    dpkg -x "$package" "$folder.new"
done
mv "$folder.new" "$folder"
echo "$hip and $comgr of $suite are in $folder"
