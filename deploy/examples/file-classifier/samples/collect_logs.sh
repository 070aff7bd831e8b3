#!/bin/sh
# Packs yesterday's logs of every service for the next visit.
set -eu

day=$(date -d yesterday +%F)
target="${1:-/media/usb}/logs-$day"
mkdir -p "$target"

for service in camera modem power; do
    if [ -f "/var/log/$service-$day.log" ]; then
        gzip -c "/var/log/$service-$day.log" > "$target/$service.log.gz"
    else
        echo "no log of $service on $day" >&2
    fi
done
sync
