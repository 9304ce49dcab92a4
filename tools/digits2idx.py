#!/usr/bin/env python3
"""UCI optical digits, digits.csv(.gz) with 64 pixels 0..16 and the label a row, to the four IDX files of examples/data.

    tools/digits2idx.py digits.csv.gz examples/data

Rows 0, 5, 10, ... (360) test, the other 1,437 train. A pixel v becomes the byte (v * 255 + 8) // 16."""
import gzip
import struct
import sys

EVERY = 5


def main(source, folder):
    opener = gzip.open if source.endswith(".gz") else open
    with opener(source, "rt") as f:
        rows = [[int(float(v)) for v in line.split(",")] for line in f if line.strip() and line[0].isdigit()]
    assert len(rows) == 1797 and all(len(r) == 65 and 0 <= r[64] <= 9 for r in rows)
    for part, chosen in (("train", [r for i, r in enumerate(rows) if i % EVERY]), ("test", rows[::EVERY])):
        with open(f"{folder}/digits-{part}-images.idx", "wb") as f:
            f.write(struct.pack(">4B3I", 0, 0, 8, 3, len(chosen), 8, 8))
            f.write(bytes((v * 255 + 8) // 16 for r in chosen for v in r[:64]))
        with open(f"{folder}/digits-{part}-labels.idx", "wb") as f:
            f.write(struct.pack(">4BI", 0, 0, 8, 1, len(chosen)))
            f.write(bytes(r[64] for r in chosen))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
