"""Polls a weather sensor and prints one line per reading."""

import json
import sys
import time
from dataclasses import asdict, dataclass


@dataclass
class Reading:
    taken_at: float
    temperature_c: float
    wind_m_per_s: float


def parse(line: str) -> Reading:
    temperature, wind = (float(field) for field in line.split(";"))
    return Reading(time.time(), temperature, wind)


def main() -> None:
    for line in sys.stdin:
        try:
            print(json.dumps(asdict(parse(line))))
        except ValueError as error:
            print(f"skipped {line!r}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
