"""Tell whether the benchmark's ratios are what they should be at least: `xray-batch bench --format json | speed.py`.

Ratios of one run, not times: what else the machine does slows both sides.  The margins are wide; what they catch is
a fast way that is no longer taken.
"""

import json
import sys
from typing import Any

#: Where the product chooses bfloat16 by itself, a full batch takes the networks 1.7 times as long in float32.
FORWARD = 1.2
#: On two cores the whole is 1.7 times as fast as one film after the other.
WHOLE = 1.2


def ratios(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Return what is compared, by which factor it is faster, and by which it should be."""
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("machine", "forward", "end_to_end")}
    runs = {run["contender"]: run for run in of_kind["end_to_end"]}
    found = []
    if runs["xray-batch"]["precision"] == "bfloat16":
        full = max(row["batch_images"] for row in of_kind["forward"])
        best = {
            row["precision"]: row["image"]["best_ms"]
            for row in of_kind["forward"]
            if row["batch_images"] == full and row["device"] == "cpu"
        }
        found.append(("bfloat16 against float32", best["float32"] / best["bfloat16"], FORWARD))
    if of_kind["machine"][0]["cores"] > 1:
        whole, naive = (runs[name]["best_images_per_second"] for name in ("xray-batch", "naive loop"))
        found.append(("all of it against a naive loop", whole / naive, WHOLE))
    return found


def main() -> int:
    """Print each ratio; 1 if one is too small."""
    found = ratios([json.loads(line) for line in sys.stdin])
    for what, ratio, at_least in found:
        print(f"speed: {what}: {ratio:.2f} times as fast, expected at least {at_least}")
    return int(any(ratio < at_least for _, ratio, at_least in found))


if __name__ == "__main__":
    sys.exit(main())
