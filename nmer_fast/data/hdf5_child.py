"""The program of the child process in which `hdf5.Reader` reads HDF5 files; nothing else runs or imports it.

Each request is a line of JSON on stdin, and its answer is a line of JSON on stdout. The requests are {"open": path,
"seconds": n}, {"list": group} and {"read": [names]}; the last is answered for each name by a line with dtype and shape,
followed by the array's bytes. The answer to a request that fails is {"error": reason}.
"""

import contextlib
import json
import math
import resource
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

MARGIN = 2**31  # bytes of address space for Python and its libraries
LARGEST_CHUNK = 2**28  # bytes; h5py itself chooses chunks of at most 1 MiB
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
PART = 2**22  # bytes that are written at a time


class Refused(Exception):  # noqa: N818 (its message is sent as an answer)
    """The file holds something that is not read; the message says what."""


def main() -> None:
    """Answer requests until stdin ends."""
    largest, out, file = int(sys.argv[1]), sys.stdout.buffer, None
    limit(resource.RLIMIT_AS, largest + MARGIN)
    limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                used = resource.getrusage(resource.RUSAGE_SELF)
                limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + request["seconds"])
                if file is not None:
                    file.close()
                file = h5py.File(request["open"], "r", locking=False)
                answer(out, {})
            elif "list" in request:
                answer(out, {"members": sorted(members(found(file, request["list"])))})
            else:
                for name in request["read"]:
                    send(out, array(found(file, name), largest))
        except Refused as reason:
            answer(out, {"error": str(reason)})
        except Exception as error:  # a damaged file may make h5py raise anything
            answer(out, {"error": str(error).partition("\n")[0] or type(error).__name__})


def limit(what: int, value: int) -> None:
    """Set a soft limit of this process, if the system supports it."""
    hard = resource.getrlimit(what)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def found(file: Any, name: str) -> Any:
    """The group or dataset of this name, reached by links that stay in the file."""
    place = file
    for part in filter(None, name.split("/")):
        if not isinstance(place, h5py.Group):
            raise Refused(f"{name}: expected a group before '{part}', got a dataset")
        if not place.id.links.exists(part.encode()):
            raise Refused(f"{name}: found no such name")
        kind = place.id.links.get_info(part.encode()).type
        if kind != h5py.h5l.TYPE_HARD:
            other = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link out of the file"}
            raise Refused(f"{name}: expected what is in the file, got {other.get(kind, 'a link of another kind')}")
        place = place[part]
    return place


def members(group: Any) -> list[str]:
    """The names in a group."""
    if not isinstance(group, h5py.Group):
        raise Refused("expected a group, got a dataset")
    return [name.decode() for name in group.id]


def array(dataset: Any, largest: int) -> np.ndarray[Any, Any]:
    """Read a dataset of numbers, after checking that the file really holds as much as its header promises."""
    if not isinstance(dataset, h5py.Dataset):
        raise Refused("expected an array, got a group")
    name, shape, dtype, about = dataset.name, dataset.shape, dataset.dtype, dataset.id.get_create_plist()
    if shape is None or dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise Refused(f"{name}: expected an array of numbers, got {dtype} {shape}")
    size = math.prod(shape) * dtype.itemsize
    if size > largest:
        raise Refused(
            f"{name}: expected at most {largest / 2**30:.1f} GiB, got an array of {list(shape)}, {size:.1e} bytes"
        )
    layout = about.get_layout()
    if about.get_external_count() or layout not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise Refused(f"{name}: expected values in the file, got some of other files")
    if layout == h5py.h5d.CHUNKED:
        chunk = about.get_chunk()
        if min(chunk) < 1 or math.prod(chunk) * dtype.itemsize > LARGEST_CHUNK:
            raise Refused(f"{name}: expected chunks of at most {LARGEST_CHUNK >> 20} MiB, got {list(chunk)}")
        filters = {about.get_filter(i)[0] for i in range(about.get_nfilters())}
        if filters - FILTERS:
            raise Refused(f"{name}: expected gzip, lzf or no compression, got filters {sorted(filters - FILTERS)}")
        chunks = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        there = dataset.id.get_num_chunks() if chunks else 0
        if there != chunks:
            raise Refused(f"{name}: expected {chunks} chunks of values, got {there}")
    elif size and dataset.id.get_storage_size() != size:
        raise Refused(f"{name}: expected {size} bytes of values, got {dataset.id.get_storage_size()}")
    return np.ascontiguousarray(dataset[()])


def answer(out: BinaryIO, content: dict[str, Any]) -> None:
    """Write a line of JSON."""
    out.write(json.dumps(content).encode() + b"\n")
    out.flush()


def send(out: BinaryIO, values: np.ndarray[Any, Any]) -> None:
    """Write an array: a line with its dtype and shape, then its bytes."""
    out.write(json.dumps({"dtype": values.dtype.str, "shape": values.shape}).encode() + b"\n")
    if values.size:
        content = values.reshape(-1).view(np.uint8).data
        for i in range(0, len(content), PART):
            out.write(content[i : i + PART])
    out.flush()


if __name__ == "__main__":
    main()
