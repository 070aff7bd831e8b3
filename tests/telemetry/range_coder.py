#!/usr/bin/env python3
"""Would an adaptive range coder save bytes? What the packed codec writes beside what a range coder
could at best make of the same series.

    range_coder.py FILE...

Files are those of record.py (or trace.csv.gz) and of series.py. Predictions, widths and the codes of
`column.rs` and `bits.rs` are repeated here; the range coder is counted at the Shannon cost of an
adaptive binary model a series (zero, sign, size in bits, first bit behind it), which no coder beats.
Neither keyframes nor names are counted: a range coder would lose its models at each keyframe, so what
is printed favours it.
"""
import gzip
import math
import re
import sys
from pathlib import Path

SCHEMA = Path(__file__).parents[2] / "shared/src/telemetry/schema.rs"
STEPS = {"ONE": (1, 1), "CENTI": (1, 100), "MILLI": (1, 1000), "HALF": (1, 2)}
STEPS |= {"KIB": (1024, 1), "KIB_64": (65536, 1), "MIB": (1048576, 1)}


def resolutions():
    found = {}
    for name, step in re.findall(r'metric\("([^"]+)", \w+, (\w+|\([\d_, ]+\)),', SCHEMA.read_text()):
        pair = STEPS.get(step) or tuple(int(n.replace("_", "")) for n in step.strip("()").split(","))
        found[name] = pair
    return found


def columns(path):
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)
    lines = [line.rstrip("\n") for line in opened]
    if lines[0].startswith("at_ms"):
        steps = resolutions()
        rows = [[float(cell) for cell in line.split("\t")[1:]] for line in lines[1:]]
        for number, name in enumerate(lines[0].split("\t")[1:]):
            step, per = steps.get(name.split("{")[0], (1, 1))
            yield [round(row[number] * per / step) for row in rows]
        return
    names, steps = lines[0].split(","), [int(step) for step in lines[3].split(",")]
    rows = [[int(cell) for cell in line.split(",")] for line in lines[5:]]
    below = None
    for number, name in enumerate(names):
        whole = [(2 * row[number] + steps[number]) // (2 * steps[number]) for row in rows]
        stands = below and (re.search(r"lat_le(?!10$)", name) or name.endswith("lat_count"))
        yield [a - b for a, b in zip(whole, below)] if stands else whole
        below = whole


class Bit:
    """An adaptive model of one binary decision."""

    def __init__(self):
        self.one, self.seen = 0.5, 0

    def cost(self, bit):
        cost = -math.log2(self.one if bit else 1 - self.one)
        self.seen += 1
        self.one += ((1 if bit else 0) - self.one) * max(1 / (self.seen + 1.5), 1 / 24)
        self.one = min(max(self.one, 0.001), 0.999)
        return cost


def packed_bits(code, low_bits):
    quotient = code >> low_bits
    rest = max(0, (quotient - 3).bit_length() - 1) if quotient > 3 else 0
    return min(quotient, 4) + rest + 1 + rest + low_bits


def range_bits(models, context, residual, low_bits):
    model = lambda *name: models.setdefault(name, Bit())
    cost = model("zero", context).cost(residual != 0)
    if residual == 0:
        return cost, 0
    size = abs(residual).bit_length() - 1
    cost += model("sign").cost(residual < 0)
    cost += sum(model("size", n).cost(True) for n in range(size)) + model("size", size).cost(False)
    if size:
        cost += model("first", size).cost((abs(residual) >> (size - 1)) & 1) + size - 1
    return cost, 1 if abs(residual) < 1 << max(low_bits - 1, 0) else 2


def bits_of(values, batch=6):
    last, level, trend, scale, quiet = values[0], values[0] << 6, 0, 0, 0
    misses, models, context, packed, ranged = [0, 0, 0], {}, 0, 0, 0
    for begin in range(0, len(values), batch):
        was_quiet, often, codes, exact = quiet >= 2, scale >> 4 < 2, 0, True
        for value in values[max(begin, 1) : begin + batch]:
            predictions = (last, last + ((trend + 32) >> 6), (level + 32) >> 6)
            residual = value - predictions[misses.index(min(misses))]
            code = 2 * residual if residual >= 0 else -2 * residual - 1
            low_bits = max(0, (scale >> 4).bit_length() - 1)
            codes += packed_bits(code, low_bits)
            cost, context = range_bits(models, context, residual, low_bits)
            ranged += cost
            exact &= code == 0
            for number, prediction in enumerate(predictions):
                misses[number] += ((abs(value - prediction) << 4) - misses[number]) >> 4
            scale += ((min(code, scale // 2 + 64) << 4) - scale) >> 3
            trend += (((value - last) << 6) - trend) >> 4
            level += ((value << 6) - level) >> 3
            last = value
        flag = 0 if was_quiet and exact else 5 if was_quiet else 1 if often else 0
        packed += flag + (0 if exact and (was_quiet or often) else codes)
        quiet = min(2, quiet + 1) if exact else 0
    return packed, ranged


def main():
    for path in sys.argv[1:]:
        packed = ranged = values = 0
        for column in columns(path):
            bits = bits_of(column)
            packed, ranged, values = packed + bits[0], ranged + bits[1], values + len(column) - 1
        saved = 100 * (1 - ranged / packed)
        sizes = f"packed {packed / 8 / values:.4f}, range coder at best {ranged / 8 / values:.4f}"
        print(f"{path}: bytes a sample {sizes}: {saved:.1f} % saved")


if __name__ == "__main__":
    main()
