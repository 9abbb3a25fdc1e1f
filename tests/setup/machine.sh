#!/bin/sh
# sh tests/setup/machine.sh [DIRECTORY]: makes DIRECTORY/machine (target/setup), the root of a whole
# Debian 13 host with systemd, D-Bus, NetworkManager, firewalld, Open vSwitch, Docker, Compose and Podman,
# which the tests boot (tests/src/machine.rs), each on a copy of its own. What is there already stays
# unless this file has changed since. Needs root, mmdebstrap and a network; about a minute, 1 GiB.
set -eu

into=${1:-$(dirname "$0")/../../target/setup}
recipe=$(sha256sum "$0" | cut -d' ' -f1)
mkdir -p "$into"
cd "$into"
if [ "$(cat machine/etc/recipe 2>/dev/null)" = "$recipe" ]; then exit; fi

packages='systemd,systemd-sysv,udev,dbus,libglib2.0-bin,sudo,procps,iproute2,iputils-ping,ethtool,
nftables,iptables,network-manager,firewalld,openvswitch-switch,docker.io,docker-cli,docker-compose,podman,netavark,
crun,busybox-static,ca-certificates'

# After the packages: $1 is the new root. No unit of a fresh machine fails or waits here, and it has
# booted before, or systemd would enable units by its own presets.
cat >machine.hook <<'HOOK'
set -eu
root=$1
echo 5d4b3a2f1e0c4d6b8a79685746352413 >"$root/etc/machine-id"
echo host13 >"$root/etc/hostname"
printf '127.0.0.1 localhost host13\n::1 localhost\n' >"$root/etc/hosts"
printf 'auto lo\niface lo inet loopback\n' | install -D -m 644 /dev/stdin "$root/etc/network/interfaces"
# Test machines often cannot give a container a limit of processes, nor raise its limit of files.
install -D -m 644 /dev/stdin "$root/etc/containers/containers.conf" <<'CONF'
[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
CONF
# No wire here has DHCP.
install -D -m 644 /dev/stdin "$root/etc/NetworkManager/conf.d/10-no-dhcp.conf" <<'CONF'
[main]
no-auto-default=*
CONF
chroot "$root" useradd -m -s /bin/bash user
chroot "$root" systemctl -q disable firewalld.service console-getty.service getty@tty1.service
# The kernel's other devices are not this machine's to look at; a test that wants udev starts it.
chroot "$root" systemctl -q mask systemd-udev-trigger.service systemd-udevd.service \
    systemd-udevd-kernel.socket systemd-udevd-control.socket \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    podman-auto-update.timer NetworkManager-wait-online.service
mkdir -p "$root/usr/src/ovs-agent" "$root/usr/src/programs"
rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists"
HOOK

# The finished directory appears in one step, so that an interrupted run is simply repeated.
rm -rf machine machine.new
if ! mmdebstrap --mode=root --variant=minbase --include="$(printf '%s' "$packages" | tr -d '\n')" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="sh $PWD/machine.hook \"\$1\"" trixie machine.new >machine.log 2>&1; then
    cat machine.log >&2
    echo "cannot make a Debian 13 host: is there a network?" >&2
    exit 1
fi
printf '%s\n' "$recipe" >machine.new/etc/recipe
mv machine.new machine
rm machine.log machine.hook
