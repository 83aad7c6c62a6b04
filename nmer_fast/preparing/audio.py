"""openSMILE's ComParE_2016 descriptors of a folder of wavs, as the file A/comparE.h5 of the MMIN layout.

65 low-level descriptors and their 65 deltas, 100 a second, are brought to 10 a second as the layout's authors did: by
`resample_poly(x, 1, 10)`, which takes what is beyond a wav's ends for zeros. What is finished is kept beside the
output, under the checksum of the wav that it was made of, until the output is whole.
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
from ..files import write_atomically

if TYPE_CHECKING:
    from ..engine.console import Report

DIM = 130
DOWN = 10  # descriptors of 100 Hz for one that is kept
RATES = (8_000, 192_000)  # Hz, of wavs
FORMATS = ("WAV", "WAVEX", "RF64", "W64")
UNKNOWN_SIZE = 2**32 - 1  # of a wav that was written to a pipe
PART = 2**24  # bytes copied together


@dataclass(frozen=True)
class Task:
    """A wav to be read.

    Attributes:
        name: of the utterance: the file's, without its ending.
        wav: the file.
        parts: the folder for what is finished.
        known: the key of what the output holds of this utterance.
    """

    name: str
    wav: Path
    parts: Path
    known: str | None


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Attributes:
        task: what was to be done.
        key: the checksum of the wav and of how it was read, by which its descriptors are found.
        rate: the wav's, in Hz.
        new: the descriptors were made now.
        fault: what is wrong with the wav, if anything is; the others are empty then.
    """

    task: Task
    key: str = ""
    rate: int = 0
    new: bool = False
    fault: str = ""


class BadWav(Exception):  # noqa: N818 (its message is a line of a list)
    """A wav cannot be read; the message says why."""


def extract(wavs: Path, out: Path, *, workers: int | None = None, report: Report) -> None:
    """Descriptors of all wavs in a folder and the folders in it, into one HDF5 file.

    Args:
        wavs: where *.wav are; a file's name without its ending is its utterance's, so no two may share it.
        out: an .h5: a dataset float32 [T, 130] for each utterance, T a tenth of its frames rounded up. One that is
            there from an earlier call keeps what it holds; only wavs that are new or have changed are read again.
        workers: processes; by default one for each core.
        report: where progress, and at the end the wavs that could not be read, are printed.

    Raises:
        UserError: one line; nothing of what was finished is lost, and the same call goes on.
        Stopped: by Ctrl-C or SIGTERM; likewise.
    """
    _check_installed()
    if workers is not None and workers < 1:
        raise UserError(f"workers: expected 1 or more, got {workers}")
    if out.suffix != ".h5":
        raise UserError(f"out: expected a file's name that ends in .h5, got {out}")
    found = find_wavs(wavs)
    known = _known(out)
    from ..engine.checkpoint import locked

    parts = out.with_name(f"{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: expected a folder that can be written, got {parts.parent}: {error.strerror}") from None
    with locked(parts):
        tasks = [Task(name, wav, parts, known.get(name)) for name, wav in found.items()]
        outcomes = _do(tasks, workers or os.cpu_count() or 1, report)
        good = {outcome.task.name: outcome.key for outcome in outcomes if not outcome.fault}
        if not good:
            with suppress(OSError):
                parts.rmdir()  # unless an earlier call has left something in it
            raise UserError(f"audio-dir: expected wavs, got {len(outcomes)} bad ones, such as {_line(outcomes[0])}")
        bad = {outcome.task.name for outcome in outcomes if outcome.fault}
        keys = {name: key for name, key in known.items() if name not in bad} | good
        if keys != known:
            _pack(keys, known, parts, out)
        shutil.rmtree(parts)
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
    """Wavs by utterance, in order; hidden files, such as macOS leaves beside others, are left out.

    Raises:
        UserError: there are none, or two of a name.
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
    """The keys of what an earlier call wrote, by utterance."""
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
    """In the order in which they are ready.

    A process that dies, of a fault in openSMILE or for want of memory, ends those beside it. What they were at is done
    again, each wav in a process of its own, and what kills that too is a bad wav.
    """
    left = deque(tasks)
    while left:
        for suspect in (yield from _in_processes(left, workers)):
            for task in (yield from _in_processes(deque([suspect]), 1)):
                yield Outcome(task, fault="the process that read it died, twice")


def _in_processes(tasks: deque[Task], workers: int) -> Generator[Outcome, None, list[Task]]:
    """Take from tasks until all are done or a process dies; then what was under way is returned."""
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
    """Of a process: Ctrl-C is for the one that started it, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _pack(keys: Mapping[str, str], known: Mapping[str, str], parts: Path, out: Path) -> None:
    """The finished parts, and what the output holds already, as its next version."""
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
    """Read a wav and keep its descriptors, unless they are there already."""
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
    """The mean of a wav's channels, float32 [samples] in -1 to 1, and its rate in Hz.

    Raises:
        BadWav: it is none, ends before its header says, or holds what openSMILE is not made for.
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
    """float32 [T, 130] at 10 Hz, of samples float32 [n] in -1 to 1.

    Raises:
        BadWav: too short for more than 10 frames, the number that the layout's authors ask for.
    """
    from scipy.signal import resample_poly

    of_frames = frames(samples, rate)
    if len(of_frames) <= DOWN:
        raise BadWav(f"expected more than {DOWN} frames, that is 0.15 s, got {len(samples) / rate:.3f} s")
    if not np.isfinite(of_frames).all():
        raise BadWav("expected finite descriptors, got others")
    return resample_poly(of_frames.astype(np.float64), 1, DOWN).astype(np.float32)


def frames(samples: np.ndarray[Any, Any], rate: int) -> np.ndarray[Any, Any]:
    """Descriptors of windows of 60 ms (some of 20 ms) every 10 ms, [F, 130]; one row of NaN where not even one fits."""
    samples = samples.clip(-1, 1 - 2**-15)  # beyond it openSMILE's integers would wrap
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing fits
        return _smile()(samples, rate)[0].T


@cache
def _smile() -> Any:
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet.ComParE_2016, "lld;lld_de", loglevel=0)


def columns() -> list[str]:
    """The descriptors' names, 65 and their deltas."""
    return list(_smile().column_names)


@cache
def recipe() -> str:
    """How descriptors are made; another recipe's are not taken for these."""
    return f"openSMILE {version('opensmile')}, ComParE_2016 lld;lld_de, resample_poly 1/{DOWN}"


def _part(parts: Path, key: str) -> Path:
    return parts / f"{key}.npy"


def _is_whole(part: Path) -> bool:
    try:
        found = np.load(part, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.dtype == np.float32 and found.shape[1:] == (DIM,)
