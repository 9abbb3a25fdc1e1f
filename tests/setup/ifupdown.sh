#!/bin/sh
# sh tests/setup/ifupdown.sh [DIRECTORY]: unpacks Debian's ifupdown and ifupdown2 side by side into
# DIRECTORY (target/setup), where the tests of the managed block look for them. They are not
# installed: as packages they conflict, and either could touch the machine's own network.
# What is there already stays. Works on Debian 12 and 13; needs apt and, to run ifupdown2, python3.
set -eu

into=${1:-$(dirname "$0")/../../target/setup}
mkdir -p "$into"
cd "$into"

# As root apt would fetch as the user _apt, who cannot write here, and say so.
download() {
    apt-get -q -o APT::Sandbox::User=root download "$1"
}

# unpack PACKAGE LINK…: the links go to PACKAGE/bin, all to its one program.
unpack() {
    package=$1
    shift
    if [ -d "$package" ]; then return; fi
    # The finished directory appears in one step, so that an interrupted run is simply repeated.
    rm -rf "$package.new"
    mkdir -p "$package.new/bin"
    cd "$package.new"
    # Old package lists name files that the mirror has replaced.
    if ! download "$package" >download.log 2>&1 &&
        ! { apt-get -q update && download "$package"; } >download.log 2>&1; then
        cat download.log >&2
        echo "cannot fetch the package $package: is there a network?" >&2
        exit 1
    fi
    dpkg -x "$package"_*.deb .
    rm -- "$package"_*.deb download.log
    # Debian 13 has merged /sbin into /usr.
    for program in usr/share/ifupdown2/__main__.py usr/sbin/ifup sbin/ifup; do
        if [ -f "$program" ]; then break; fi
    done
    chmod +x "$program"
    for link; do ln -s "../$program" "bin/$link"; done
    cd ..
    mv "$package.new" "$package"
}

unpack ifupdown ifup ifdown ifquery
unpack ifupdown2 ifup ifdown ifquery ifreload
