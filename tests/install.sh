#!/usr/bin/env bash
# Installs what the tests need and this machine lacks. Nothing is skipped: what can't be installed
# makes its test fail. `install.sh containers` installs only what runs pods as containers.
set -euo pipefail

# Debian has mosquitto in /usr/sbin and ip in /sbin, which are not in everybody's PATH.
PATH="$PATH:/usr/sbin:/sbin"

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

missing=()
# The CRI runtime: a containerd that runs, and what its images are made of.
need containerd containerd
need runc runc
need busybox busybox-static
# Networks of pods: its plugins lie where no PATH leads, and one of them calls iptables.
[ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
need iptables iptables
need ip iproute2
if [ "${1:-all}" != containers ]; then
    need mosquitto mosquitto
    need faketime faketime
    need curl curl
    need prometheus prometheus
    # libFuzzer is built from its source.
    need c++ g++
    # Not run by a test: `telemetry/record.py` records it for the figures.
    need prometheus-node-exporter prometheus-node-exporter
    need nsenter util-linux
    need docker-registry docker-registry
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

[ "${1:-all}" = containers ] || "$(dirname "$0")/kubernetes/build.sh"
