"""Loading in a process of bounded memory and time."""

import subprocess
import sys

LOADER = """
import resource, sys
from pathlib import Path
from nmer_fast.data import load
from nmer_fast.errors import UserError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
for path in sys.argv[1:]:
    try:
        load(path)
    except UserError as error:
        print(error, flush=True)
    else:
        print("loaded", flush=True)
"""


def load_bounded(paths):
    """How each path ends, a line for each, in one process that may have 2 GB more than it starts with, and 100 s."""
    done = subprocess.run([sys.executable, "-c", LOADER, *map(str, paths)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (len(lines), done.stderr[-500:])
    assert len(lines) == len(paths), lines
    return lines
