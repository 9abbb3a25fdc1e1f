# shellcheck shell=sh
# Debian's ifupdown and ifupdown2, side by side and not installed: as packages they conflict, and
# installing either could touch the machine's own network. To be sourced.

# fetch_ifupdown DIRECTORY: unpacks both below DIRECTORY, with links named ifup, ifdown and ifquery
# in DIRECTORY/ifupdown/bin and DIRECTORY/ifupdown2/bin (there also ifreload). Needs apt's package
# lists (apt-get update); the second one runs on python3. Does nothing where it has been run before.
fetch_ifupdown() {
    mkdir -p "$1" &&
        fetch_ifupdown_one "$1" ifupdown ifup ifdown ifquery &&
        fetch_ifupdown_one "$1" ifupdown2 ifup ifdown ifquery ifreload
}

# The finished directory appears in one step, so that an interrupted run is simply repeated.
# No "set -e" here: a caller's "||" would switch it off.
fetch_ifupdown_one() (
    cd "$1" || exit
    package=$2
    shift 2
    if [ -d "$package" ]; then exit 0; fi
    rm -rf "$package.new" && mkdir -p "$package.new/bin" && cd "$package.new" || exit
    # As root apt would fetch as the user _apt, who cannot write here, and say so.
    if ! apt-get -q -o APT::Sandbox::User=root download "$package" >download.log 2>&1; then
        cat download.log >&2
        echo "cannot fetch $package: is there a network, and has apt-get update been run?" >&2
        exit 1
    fi
    dpkg -x "$package"_*.deb . && rm -- "$package"_*.deb download.log || exit
    # Debian 13 has merged /sbin into /usr.
    for program in usr/share/ifupdown2/__main__.py usr/sbin/ifup sbin/ifup none; do
        if [ -f "$program" ]; then break; fi
    done
    if [ "$program" = none ]; then
        echo "the package $package has no ifup where Debian 12 and 13 keep it" >&2
        exit 1
    fi
    chmod +x "$program" || exit
    for link; do ln -s "../$program" "bin/$link" || exit; done
    cd .. && mv "$package.new" "$package"
)
