#!/usr/bin/env python3
"""Records 60 series of a running prometheus-node_exporter, as the benchmarks of the codec read them.

    record.py --url http://127.0.0.1:9100/metrics --interval 10 --scrapes 360 --out trace.csv

The first line holds `at_ms` and the series as Prometheus writes them, between tabs; then one line a
scrape: the moment in Unix milliseconds, and each value as the exporter wrote it, empty where it was
missing. A device that this machine does not have is refused at the start. `trace.csv.gz` beside this
script was recorded so, at an interval of 10 s, on a machine of 2 cores that built software most of
the time, and packed by `gzip -9n`.
"""
import argparse
import re
import sys
import time
import urllib.request

PLAIN = """
node_load1 node_load5 node_load15
node_memory_MemTotal_bytes node_memory_MemFree_bytes node_memory_MemAvailable_bytes
node_memory_Cached_bytes node_memory_Buffers_bytes node_memory_Active_bytes
node_memory_Inactive_bytes node_memory_AnonPages_bytes node_memory_Mapped_bytes
node_memory_Slab_bytes node_memory_Dirty_bytes node_memory_SwapFree_bytes
node_memory_Committed_AS_bytes
node_context_switches_total node_intr_total node_forks_total node_procs_running node_procs_blocked
node_netstat_Tcp_CurrEstab node_netstat_Tcp_InSegs node_netstat_Tcp_OutSegs
node_netstat_Tcp_RetransSegs node_vmstat_pgfault node_vmstat_pgmajfault
node_pressure_cpu_waiting_seconds_total node_pressure_io_waiting_seconds_total
node_filefd_allocated
""".split()
CPU_MODES = "user system idle iowait nice softirq steal".split()
DISK = """
node_disk_read_bytes_total node_disk_written_bytes_total node_disk_reads_completed_total
node_disk_writes_completed_total node_disk_io_time_seconds_total
""".split()
FILE_SYSTEM = """
node_filesystem_size_bytes node_filesystem_avail_bytes node_filesystem_files_free
""".split()
NETWORK = [
    f"node_network_{way}_{what}_total"
    for way in ("receive", "transmit")
    for what in ("bytes", "packets", "errs", "drop")
]
LINE = re.compile(r"([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)$")


def scrape(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = (LINE.match(line) for line in lines if not line.startswith("#"))
    return {match[1]: match[2] for match in found if match}


def chosen(values, disk, network, mountpoint):
    def labelled(name, label):
        return [key for key in values if key.startswith(name + "{") and label in key]

    series = [key for key in PLAIN if key in values]
    for cpu in ("0", "1"):
        series += [f'node_cpu_seconds_total{{cpu="{cpu}",mode="{mode}"}}' for mode in CPU_MODES]
    for names, label in (
        (DISK, f'device="{disk}"'),
        (FILE_SYSTEM, f'mountpoint="{mountpoint}"'),
        (NETWORK, f'device="{network}"'),
    ):
        series += [key for name in names for key in labelled(name, label)]
    if len(series) != 60:
        sys.exit(f"this exporter has {len(series)} of the 60 series: {series}")
    return series


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--url", default="http://127.0.0.1:9100/metrics")
    arguments.add_argument("--interval", type=float, default=10)
    arguments.add_argument("--scrapes", type=int, default=360)
    arguments.add_argument("--disk", default="vda")
    arguments.add_argument("--network", default="eth0")
    arguments.add_argument("--mountpoint", default="/")
    arguments.add_argument("--out", required=True)
    given = arguments.parse_args()
    series = chosen(scrape(given.url), given.disk, given.network, given.mountpoint)
    due = time.monotonic()
    with open(given.out, "w") as out:
        print("at_ms", *series, sep="\t", file=out, flush=True)
        for _ in range(given.scrapes):
            at_ms = int(time.time() * 1000)
            values = scrape(given.url)
            print(at_ms, *(values.get(key, "") for key in series), sep="\t", file=out, flush=True)
            due += given.interval
            time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
