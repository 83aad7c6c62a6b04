"""Audio features: openSMILE's ComParE_2016 descriptors of a folder of wavs, as the MMIN layout's file A/comparE.h5.

openSMILE computes 65 low-level descriptors and their 65 deltas, 100 a second. They are brought to 10 a second as the
layout's authors did, by `resample_poly(x, 1, 10)`, which assumes zeros beyond a wav's ends. The descriptors of each wav
are kept in a folder beside the output, named by the wav's checksum, until the output is complete, so that the same call
resumes.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Stopped, UserError
from ..files import locked, write_atomically

if TYPE_CHECKING:
    from ..engine.console import Report

DIM = 130
DOWN = 10  # the factor of the downsampling from 100 Hz to 10 Hz
RATES = (8_000, 192_000)  # the lowest and highest sampling rate of a wav, in Hz
FORMATS = ("WAV", "WAVEX", "RF64", "W64")
UNKNOWN_SIZE = 2**32 - 1  # the size in the header of a wav that was written to a pipe
PART = 2**24  # bytes that are copied at a time


@dataclass(frozen=True)
class Task:
    """A wav that is to be read.

    Attributes:
        name: the utterance's name, which is the file's without its ending.
        wav: the file.
        parts: the folder that keeps finished descriptors.
        known: the key of the descriptors that the output already holds for this utterance; None: it holds none.
    """

    name: str
    wav: Path
    parts: Path
    known: str | None


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes:
        task: the task.
        key: the checksum of the wav and of the recipe, under which its descriptors are kept.
        rate: the wav's sampling rate, in Hz.
        new: whether the descriptors were computed by this call.
        fault: the reason why the wav cannot be read; empty if it can. With a fault, the other results are empty.
    """

    task: Task
    key: str = ""
    rate: int = 0
    new: bool = False
    fault: str = ""


class BadWav(Exception):  # noqa: N818 (its message becomes a line of the summary)
    """A wav cannot be read; the message says why."""


def extract(wavs: Path, out: Path, *, workers: int | None = None, report: Report) -> None:
    """Write the descriptors of all wavs in a folder and its subfolders into one HDF5 file.

    Args:
        wavs: the folder of *.wav files. A file's name without its ending is its utterance's name, so all names differ.
        out: the .h5 file to write, with one dataset float32 [T, 130] for each utterance; T is a tenth of the number of
            frames, rounded up. A file from an earlier call keeps its content, and only new or changed wavs are read.
        workers: the number of processes; None: one for each core.
        report: the console on which progress and, at the end, the refused wavs are printed.

    Raises:
        UserError: one line. Finished descriptors are kept, and the same call resumes.
        Stopped: on Ctrl-C or SIGTERM. Finished descriptors are kept, and the same call resumes.
    """
    _check_installed()
    if workers is not None and workers < 1:
        raise UserError(f"workers: expected 1 or more, got {workers}")
    if out.suffix != ".h5":
        raise UserError(f"out: expected a file's name that ends in .h5, got {out}")
    found = find_wavs(wavs)
    known = _known(out)
    parts = out.with_name(f"{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: expected a folder that can be written, got {parts.parent}: {error.strerror}") from None
    with locked(parts):
        tasks = [Task(name, wav, parts, known.get(name)) for name, wav in found.items()]
        outcomes = _do(tasks, workers or os.cpu_count() or 1, report)
        good = {outcome.task.name: outcome.key for outcome in outcomes if not outcome.fault}
        bad = {outcome.task.name for outcome in outcomes if outcome.fault}
        keys = {name: key for name, key in known.items() if name not in bad} | good
        if good and keys != known:
            _pack(keys, known, parts, out)
        if good:
            shutil.rmtree(parts)
    if not good:
        with suppress(OSError):
            parts.rmdir()  # it stays if an earlier call left finished descriptors in it
        raise UserError(f"audio-dir: expected wavs, got {len(outcomes)} bad ones, such as {_line(outcomes[0])}")
    _summarise(outcomes, len(keys), out, report)


def _check_installed() -> None:
    for package in ("opensmile", "soundfile", "scipy", "h5py"):
        if find_spec(package) is None:
            raise UserError(f"audio-dir: expected {package}, which is not installed: pip install 'nmer_fast[audio]'")
    try:
        import opensmile  # noqa: F401
        import soundfile  # noqa: F401
    except (ImportError, OSError) as error:  # a compiled library that does not load on this system
        raise UserError(f"audio-dir: expected openSMILE and libsndfile to load, got: {error}") from None


def find_wavs(folder: Path) -> dict[str, Path]:
    """The wavs of a folder by utterance name, in order; hidden files, as macOS writes them beside others, are left out.

    Raises:
        UserError: one line, if there are no wavs, or two have the same name.
    """
    if not folder.is_dir():
        raise UserError(f"audio-dir: expected a folder of wavs, got {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".wav" and not path.name.startswith(".") and path.is_file():
            if not path.stem.isprintable():
                raise UserError(f"audio-dir: expected names of printable characters, got {path.name!r}")
            if path.stem in found:
                raise UserError(f"audio-dir: expected wavs of different names, got {found[path.stem]} and {path}")
            found[path.stem] = path
    if not found:
        raise UserError(f"audio-dir: expected *.wav files in {folder} or below, found none")
    return found


def _known(out: Path) -> dict[str, str]:
    """The keys of the descriptors that an earlier call wrote, by utterance."""
    import h5py

    if not out.exists():
        return {}
    try:
        with h5py.File(out) as file:
            return {name: str(dataset.attrs["key"]) for name, dataset in file.items()}
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(f"out: expected a new file or one of an earlier --audio-dir, got {out}: {error}") from None


# ---------------------------------------------------------------- many wavs


def _do(tasks: Sequence[Task], workers: int, report: Report) -> list[Outcome]:
    outcomes = []
    try:
        with report.epochs("wavs", len(tasks)) as advance:
            for outcome in _outcomes(tasks, min(workers, len(tasks))):
                outcomes.append(outcome)
                advance(1, outcome.task.name)
    except (KeyboardInterrupt, Stopped) as stop:
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        how = f"{len(outcomes)} of {len(tasks)} wavs are done; the same command goes on"
        raise Stopped(None, number, how) from None
    return sorted(outcomes, key=lambda outcome: outcome.task.wav)


def _outcomes(tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    """Yield outcomes in the order in which they are ready.

    If a process dies, by a fault in openSMILE or for lack of memory, the pool stops. The wavs that were being read are
    then read again, each in a process of its own; a wav that kills this process too is a bad wav.
    """
    left = deque(tasks)
    while left:
        for suspect in (yield from _in_processes(left, workers)):
            for task in (yield from _in_processes(deque([suspect]), 1)):
                yield Outcome(task, fault="the process that read it died, twice")


def _in_processes(tasks: deque[Task], workers: int) -> Generator[Outcome, None, list[Task]]:
    """Do tasks until all are done or a process dies, and return the tasks that were being done when it died."""
    flying: dict[Future[Outcome], Task] = {}
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        while tasks or flying:
            while tasks and len(flying) < 2 * workers:
                flying[pool.submit(describe, tasks[0])] = tasks[0]
                tasks.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                yield future.result()
                del flying[future]
    except BrokenProcessPool:
        return list(flying.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _begin() -> None:
    """Set up a worker: it ignores Ctrl-C, which its parent handles, and it exits when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _pack(keys: Mapping[str, str], known: Mapping[str, str], parts: Path, out: Path) -> None:
    """Write the next version of the output from the finished descriptors and those that the output already holds."""
    import h5py

    packed = parts / "packed.h5"
    old: Any
    with h5py.File(packed, "w") as new, h5py.File(out) if known else nullcontext() as old:
        new.attrs["recipe"] = recipe()
        new.attrs["columns"] = columns()
        for name, key in sorted(keys.items()):
            if known.get(name) == key:
                old.copy(name, new)
            else:
                new.create_dataset(name, data=np.load(_part(parts, key))).attrs["key"] = key
    with open(packed, "rb") as file:
        write_atomically(out, iter(lambda: file.read(PART), b""))


def _summarise(outcomes: Sequence[Outcome], total: int, out: Path, report: Report) -> None:
    new, bad = sum(outcome.new for outcome in outcomes), [outcome for outcome in outcomes if outcome.fault]
    report.line(f"{new} wavs read, {len(outcomes) - new - len(bad)} done before, {len(bad)} refused")
    for outcome in bad:
        report.line(f"refused: {_line(outcome)}")
    rates = [outcome.rate for outcome in outcomes if not outcome.fault]
    if len(set(rates)) > 1:
        counts = ", ".join(f"{rates.count(rate)} of {rate} Hz" for rate in sorted(set(rates)))
        report.line(f"warning: descriptors of wavs of different sampling rates do not compare: {counts}")
    report.line(f"{out}: {total} utterances, {DIM}-d, {100 // DOWN} steps a second")


def _line(outcome: Outcome) -> str:
    return f"{outcome.task.wav}: {outcome.fault}"


# ---------------------------------------------------------------- one wav


def describe(task: Task) -> Outcome:
    """Read a wav, and compute and keep its descriptors unless they exist already."""
    try:
        content = task.wav.read_bytes()
    except OSError as error:
        return Outcome(task, fault=f"expected a file that can be read, got: {error.strerror}")
    try:
        samples, rate = read_wav(content)
        key = hashlib.sha256(recipe().encode() + b"\0" + content).hexdigest()
        part = _part(task.parts, key)
        is_new = key != task.known and not _is_whole(part)
        if is_new:
            file = io.BytesIO()
            np.save(file, descriptors(samples, rate))
            write_atomically(part, file.getvalue())
    except BadWav as fault:
        return Outcome(task, fault=str(fault))
    return Outcome(task, key, rate, is_new)


def read_wav(content: bytes) -> tuple[np.ndarray[Any, Any], int]:
    """The mean of a wav's channels, float32 [samples] from -1 to 1, and the sampling rate in Hz.

    Raises:
        BadWav: the content is no wav, is shorter than its header says, or is not fit for openSMILE.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.format not in FORMATS:
                raise BadWav(f"expected a wav, got {file.format}")
            sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.M)
            if sizes and int(sizes[1]) != UNKNOWN_SIZE:
                raise BadWav(f"expected {sizes[1]} bytes of samples, as its header says, got {sizes[2]}")
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1]:
                raise BadWav(f"expected {RATES[0]} to {RATES[1]} samples a second, got {rate}")
            samples = file.read(dtype="float32", always_2d=True).mean(1)
    except soundfile.LibsndfileError as error:
        raise BadWav(f"expected a wav, got: {error.error_string}") from None
    if not np.isfinite(samples).all():
        raise BadWav("expected finite samples, got others")
    return samples, rate


def descriptors(samples: np.ndarray[Any, Any], rate: int) -> np.ndarray[Any, Any]:
    """The descriptors at 10 Hz, float32 [T, 130], of samples float32 [n] from -1 to 1.

    Raises:
        BadWav: there are at most 10 frames (the layout's authors require more), or a descriptor is not finite.
    """
    from scipy.signal import resample_poly

    fast = frames(samples, rate)
    if len(fast) <= DOWN:
        raise BadWav(f"expected more than {DOWN} frames, that is 0.15 s, got {len(samples) / rate:.3f} s")
    if not np.isfinite(fast).all():
        raise BadWav("expected finite descriptors, got others")
    return resample_poly(fast.astype(np.float64), 1, DOWN).astype(np.float32)


def frames(samples: np.ndarray[Any, Any], rate: int) -> np.ndarray[Any, Any]:
    """The descriptors at 100 Hz, [F, 130], over windows of 60 ms (some 20 ms); one row of NaN if no window fits."""
    samples = samples.clip(-1, 1 - 2**-15)  # openSMILE's integers would wrap beyond this
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that no window fits
        return _smile()(samples, rate)[0].T


@cache
def _smile() -> Any:
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet.ComParE_2016, "lld;lld_de", loglevel=0)


def columns() -> list[str]:
    """The names of the 65 descriptors and of their 65 deltas."""
    return list(_smile().column_names)


@cache
def recipe() -> str:
    """How descriptors are computed; it is part of each key, so that those of another recipe are never reused."""
    return f"openSMILE {version('opensmile')}, ComParE_2016 lld;lld_de, resample_poly 1/{DOWN}"


def _part(parts: Path, key: str) -> Path:
    return parts / f"{key}.npy"


def _is_whole(part: Path) -> bool:
    try:
        found = np.load(part, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.dtype == np.float32 and found.shape[1:] == (DIM,)
