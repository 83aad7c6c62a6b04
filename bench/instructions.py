"""Instructions an element of the CPU kernels, counted by valgrind's callgrind, and the limits that CI holds them to.

A count is the same on every machine, which a time is not; a limit is the count of GCC 12 and a tenth. The instruction
set is AVX2, because callgrind knows no AVX-512. `make instructions` builds what it counts. Takes 30 s.
"""

from __future__ import annotations

import re
import subprocess
import sys

import measure
from rich.console import Console
from rich.table import Table

COUNTED = measure.ROOT / "build" / "count" / "kernels_count"
ELEMENTS, REPEATS = 4096, (20, 60)
LONG = 0  # one sample of all elements

# (what, element type, elements of a sample): the most instructions an element
LIMITS: dict[tuple[str, str, int], float] = {
    ("gaussian", "float32", LONG): 16.5,
    ("gaussian", "bfloat16", LONG): 19.2,
    ("gaussian", "float16", LONG): 17.4,
    ("gaussian", "float64", LONG): 23.0,
    ("impulse", "float32", LONG): 12.2,
    ("impulse", "float64", LONG): 14.9,
    ("statistics", "float32", LONG): 19.2,
    ("reparameterize_kl", "float32", LONG): 21.9,
    ("reparameterize_kl", "float64", LONG): 33.9,
    ("reparameterize_kl_backward", "float32", LONG): 21.3,
    ("reparameterize_kl_backward", "float64", LONG): 34.1,
    ("gaussian", "float32", 1): 48.0,
    ("gaussian", "float32", 2): 25.9,
    ("gaussian", "float32", 3): 30.8,
    ("gaussian", "float32", 4): 17.5,
    ("gaussian", "float32", 5): 38.0,
    ("gaussian", "float32", 8): 20.5,
    ("gaussian", "float32", 35): 24.0,
    ("gaussian", "bfloat16", 4): 20.1,
    ("gaussian", "float64", 1): 60.4,
    ("gaussian", "float64", 4): 23.9,
    ("impulse", "float32", 1): 39.2,
    ("own_alpha_bar", "float32", 4): 33.1,
    ("noise", "float32", 4): 16.2,
    ("statistics", "float32", 4): 20.2,
    ("reparameterize_kl", "float32", 4): 35.2,
    ("reparameterize_kl_backward", "float32", 4): 26.1,
}


def refs(*arguments: str | int) -> int:
    """The instructions of a whole run of kernels_count."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", COUNTED, "avx2", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"refs: *([\d,]+)", done.stderr)[1].replace(",", ""))


def an_element(what: str, dtype: str, size: int) -> float:
    """The instructions an element of one kernel."""
    few, many = (refs(what, dtype, size, repeats) for repeats in REPEATS)
    return (many - few) / (REPEATS[1] - REPEATS[0]) / ELEMENTS


def main() -> None:
    """Count, print, and with --check fail where a limit is passed."""
    parser = measure.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="exit with an error where a limit is passed")
    options = parser.parse_args()
    table = Table(title="instructions an element, AVX2", title_justify="left")
    for column in ("", "dtype", "elements of a sample", "counted", "limit"):
        table.add_column(column, justify="left" if column in ("", "dtype") else "right")
    passed = []
    for (what, dtype, size), limit in LIMITS.items():
        counted = an_element(what, dtype, size)
        table.add_row(what, dtype, str(size or ELEMENTS), f"{counted:.2f}", f"{limit:.1f}")
        if counted > limit:
            passed.append(
                f"{what}, {dtype}, samples of {size or ELEMENTS}: {counted:.2f} instructions an element, {limit}"
            )
    Console(width=120).print(table)
    if passed and options.check:
        sys.exit("expected no more than the limit:\n" + "\n".join(passed))


if __name__ == "__main__":
    main()
