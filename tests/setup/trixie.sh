#!/bin/sh
# sh tests/setup/trixie.sh [DIRECTORY]: unpacks Debian 13's Podman with all it needs to run, and the
# two Composes that drive it, into DIRECTORY/trixie (target/setup), where the tests of Podman 5 enter
# it. Nothing is installed, no package script runs. What is there already stays, unless it was
# unpacked for another list of packages. Needs root, mmdebstrap and a network; takes 25 s and 300 MiB.
set -eu

packages=podman,netavark,crun,podman-compose,docker-compose
into=${1:-$(dirname "$0")/../../target/setup}
mkdir -p "$into"
cd "$into"
if [ -d trixie ] && [ "$(cat trixie/packages 2>/dev/null)" = "$packages" ]; then exit; fi

# The finished directory appears in one step, so that an interrupted run is simply repeated.
rm -rf trixie.new
if ! mmdebstrap --mode=root --variant=extract --include="$packages" trixie trixie.new \
    >trixie.log 2>&1; then
    cat trixie.log >&2
    echo "cannot unpack Debian 13's podman: is there a network?" >&2
    exit 1
fi
# The links of base-files, which is not part of it.
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "trixie.new/$dir"; done
ln -s /run trixie.new/var/run
echo "$packages" >trixie.new/packages
chown -R --reference=. trixie.new
rm -rf trixie
mv trixie.new trixie
rm trixie.log
