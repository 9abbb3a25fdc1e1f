#!/bin/sh
# sh tests/setup/trixie.sh [DIRECTORY]: unpacks Debian 13's Podman with all it needs to run into
# DIRECTORY/trixie (target/setup), where the tests of Podman 5 enter it. Nothing is installed, no
# package script runs. What is there already stays. Needs root, mmdebstrap and a network; takes
# 16 s and 175 MiB.
set -eu

into=${1:-$(dirname "$0")/../../target/setup}
mkdir -p "$into"
cd "$into"
if [ -d trixie ]; then exit; fi

# The finished directory appears in one step, so that an interrupted run is simply repeated.
rm -rf trixie.new
if ! mmdebstrap --mode=root --variant=extract --include=podman,netavark,crun trixie trixie.new \
    >trixie.log 2>&1; then
    cat trixie.log >&2
    echo "cannot unpack Debian 13's podman: is there a network?" >&2
    exit 1
fi
# The links of base-files, which is not part of it.
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "trixie.new/$dir"; done
ln -s /run trixie.new/var/run
chown -R --reference=. trixie.new
mv trixie.new trixie
rm trixie.log
