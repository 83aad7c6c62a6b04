"""openSMILE's descriptors of wavs: they answer the signal, and whatever stops the work, none of it is lost."""

import os
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import psutil
import pytest
import soundfile

from nmer_fast.engine.console import Report
from nmer_fast.errors import Stopped, UserError
from nmer_fast.preparing import audio
from nmer_fast.preparing.audio import BadWav, columns, descriptors, extract, frames, read_wav

RATE = 16_000
QUIET = Report(quiet=True)


def sine(hz, amplitude=0.3, seconds=2.0, rate=RATE):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def steady(samples, name, rate=RATE):
    """A descriptor's values in the middle of two seconds."""
    return frames(samples, rate)[50:150, columns().index(name)]


def wav_of(path, samples, rate=RATE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format="WAV", **how)
    return path


def held(path):
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in file.items()}


# ---------------------------------------------------------------- what the descriptors say


def test_there_are_65_and_their_deltas():
    names = columns()
    assert len(names) == audio.DIM
    assert [f"{name.replace('_sma', '_sma_de')}" for name in names[:65]] == names[65:]


@pytest.mark.parametrize("hz", [110, 220, 440])
def test_a_tones_pitch_centroid_and_crossings(hz):
    tone = sine(hz)
    assert steady(tone, "F0final_sma") == pytest.approx(hz, rel=0.003)
    assert steady(tone, "pcm_fftMag_spectralCentroid_sma") == pytest.approx(hz, rel=0.005)
    assert steady(tone, "pcm_zcr_sma") == pytest.approx(2 * hz / RATE, rel=0.02)


def test_the_pitch_of_a_sweep_is_that_of_its_moment():
    """Frame i is the 60 ms whose middle is at 30 + 10 i ms."""
    t = np.arange(2 * RATE) / RATE
    sweep = (0.3 * np.sin(2 * np.pi * (150 * t + 50 * t**2))).astype(np.float32)
    pitch = frames(sweep, RATE)[:, 0]
    moment = 0.03 + 0.01 * np.arange(len(pitch))
    assert pitch[10:-10] == pytest.approx((150 + 100 * moment)[10:-10], rel=0.005)


def test_energy_is_the_root_of_the_mean_square_and_loudness_rises():
    energies = [steady(sine(220, a), "pcm_RMSenergy_sma").mean() for a in (0.1, 0.2, 0.4)]
    assert energies == pytest.approx([a / 2**0.5 for a in (0.1, 0.2, 0.4)], rel=0.005)
    loudness = [steady(sine(220, a), "audspec_lengthL1norm_sma").mean() for a in (0.1, 0.2, 0.4)]
    assert 1.3 * loudness[0] < loudness[1] < loudness[2] / 1.3


def test_silence_and_noise_have_no_pitch():
    silence, noise = np.zeros(2 * RATE, np.float32), np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    assert not steady(silence, "F0final_sma").any()
    assert not steady(silence, "pcm_RMSenergy_sma").any()
    assert not steady(noise.astype(np.float32), "F0final_sma").any()
    assert steady(noise.astype(np.float32), "pcm_fftMag_spectralEntropy_sma").min() > 6  # of log2(513) = 9


def test_bands_and_their_order():
    low, high = sine(440), sine(2000)
    for band, inside, outside in (("250-650", low, high), ("1000-4000", high, low)):
        name = f"pcm_fftMag_fband{band}_sma"
        assert steady(inside, name).min() > 1000 * steady(outside, name).max()


def test_deltas_are_the_regression_over_two_frames_either_way():
    x = frames(sine(220) + np.random.default_rng(0).normal(0, 0.05, 2 * RATE).astype(np.float32), RATE)
    slope = (x[3:-1] - x[1:-3] + 2 * (x[4:] - x[:-4])) / 10
    of_all = slice(6, 65)  # those of the pitch, before them, stop where the voice does
    error = np.abs(slope[10:-10, of_all] - x[12:-12, 65:][:, of_all])
    assert (error.max(0) <= 1e-4 * np.abs(x[:, of_all]).max(0)).all()
    assert (np.abs(x[12:-12, 71:]).max(0) > 0).sum() > 55  # a roll-off may stay in its bin


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("milliseconds", [150, 155, 250, 1000])
def test_frames_and_steps(milliseconds, rate):
    """A frame each 10 ms while 60 fit, and one that smoothing adds; a tenth of them, rounded up."""
    tone = sine(220, seconds=milliseconds / 1000, rate=rate)
    n = (milliseconds - 60) // 10 + 2
    assert frames(tone, rate).shape == (n, 130)
    assert descriptors(tone, rate).shape == (-(-n // 10), 130)


def test_ten_a_second_keep_what_is_steady_but_at_the_ends():
    """The ends are taken for the beginning of zeros, as by the authors: a steady value begins at 0.55 of it."""
    tone = sine(220)
    at_100, at_10 = (f(tone, RATE)[:, columns().index("pcm_RMSenergy_sma")] for f in (frames, descriptors))
    assert at_10[7:-3] == pytest.approx(at_100[100], rel=0.01)
    assert at_10[0] == pytest.approx(0.55 * at_100[100], rel=0.01)


def test_ten_a_second_hold_no_more_than_five_hertz():
    """What changes 20 times a second is averaged away instead of aliased to something slow."""
    t = np.arange(2 * RATE) / RATE
    for hz, share in ((1, 0.7), (20, 0.06)):
        tone = (sine(440) * (1 + 0.5 * np.sin(2 * np.pi * hz * t))).astype(np.float32)
        energy = descriptors(tone, RATE)[5:-5, columns().index("pcm_RMSenergy_sma")]
        spread = (energy.max() - energy.min()) / energy.mean()
        assert spread > share if hz == 1 else spread < share


def test_a_full_scale_wav_does_not_wrap():
    full = np.where(np.arange(RATE) % 100 < 50, 1.0, -1.0).astype(np.float32)
    largest = np.where(full > 0, 1 - 2**-15, -1).astype(np.float32)  # that 16 bits hold
    assert np.array_equal(frames(full, RATE), frames(largest, RATE))
    assert np.array_equal(frames(3 * full, RATE), frames(largest, RATE))


# ---------------------------------------------------------------- what is a wav


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"])
def test_kinds_of_samples(subtype, tmp_path):
    samples, rate = read_wav(wav_of(tmp_path / "x.wav", sine(220), subtype=subtype).read_bytes())
    assert rate == RATE
    assert samples == pytest.approx(sine(220), abs=0.02 if subtype in ("PCM_U8", "ULAW") else 4e-5)


def test_channels_are_averaged(tmp_path):
    left, right = sine(220), sine(330, 0.1)
    wav_of(tmp_path / "x.wav", np.stack([left, right], axis=1))
    assert read_wav((tmp_path / "x.wav").read_bytes())[0] == pytest.approx((left + right) / 2, abs=4e-5)
    wav_of(tmp_path / "x.wav", np.stack([left, -left], axis=1))
    assert np.abs(read_wav((tmp_path / "x.wav").read_bytes())[0]).max() < 4e-5


def test_a_wav_from_a_pipe_has_no_size(tmp_path):
    content = wav_of(tmp_path / "x.wav", sine(220)).read_bytes()
    assert len(read_wav(content[:40] + b"\xff" * 4 + content[44:])[0]) == 2 * RATE


BAD = {
    "empty": (lambda c: b"", "expected a wav, got: Format not recognised"),
    "text": (lambda c: b"no audio at all" * 100, "expected a wav, got: Format not recognised"),
    "header": (lambda c: c[:30], "expected a wav, got: Error in WAV file. No 'data' chunk marker"),
    "cut": (lambda c: c[:20_000], "expected 64000 bytes of samples, as its header says, got 19956"),
    "odd": (lambda c: c[:-1], "expected 64000 bytes of samples, as its header says, got 63999"),
    "bare": (lambda c: c[:44], "expected 64000 bytes of samples, as its header says, got 0"),
    "terabyte": (lambda c: c[:40] + b"\xf0\xff\xff\xff" + c[44:], "expected 4294967280 bytes of samples"),
    "slow": (
        lambda c: c[:24] + (100).to_bytes(4, "little") + c[28:],
        "expected 8000 to 192000 samples a second, got 100",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_wav(name, tmp_path):
    change, message = BAD[name]
    with pytest.raises(BadWav, match=rf"^{message}"):
        read_wav(change(wav_of(tmp_path / "x.wav", sine(220)).read_bytes()))


def test_what_is_another_format_or_not_finite(tmp_path):
    soundfile.write(tmp_path / "x.flac", sine(220), RATE)
    with pytest.raises(BadWav, match=r"^expected a wav, got FLAC$"):
        read_wav((tmp_path / "x.flac").read_bytes())
    samples = sine(220)
    samples[77] = np.nan
    with pytest.raises(BadWav, match=r"^expected finite samples, got others$"):
        read_wav(wav_of(tmp_path / "x.wav", samples, subtype="FLOAT").read_bytes())


@pytest.mark.parametrize("seconds", [0, 0.001, 0.05, 0.06, 0.149])
def test_what_is_too_short(seconds):
    with pytest.raises(BadWav, match=rf"^expected more than 10 frames, that is 0.15 s, got {seconds:.3f} s$"):
        descriptors(sine(220, seconds=seconds), RATE)


# ---------------------------------------------------------------- a folder of them


def test_a_folder_becomes_a_file_that_later_calls_extend(tmp_path, capsys):
    wavs, out = tmp_path / "wavs", tmp_path / "A" / "comparE.h5"
    tones = {"one": sine(150), "two": sine(200, seconds=0.5), "low": sine(220, rate=8_000)}
    wav_of(wavs / "s1" / "one.wav", tones["one"], subtype="FLOAT")
    wav_of(wavs / "s2" / "deep" / "two.WAV", tones["two"], subtype="FLOAT")
    wav_of(wavs / "low.wav", tones["low"], rate=8_000, subtype="FLOAT")
    (wavs / "s1" / "._one.wav").write_bytes(b"macOS")
    (wavs / "notes.txt").write_text("no wav")
    (wavs / "text.wav").write_text("no wav")
    wav_of(wavs / "short.wav", sine(220, seconds=0.1))
    extract(wavs, out, workers=2, report=Report())
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("wavs 5/5") for line in printed)
    assert printed[-5:] == [
        "3 wavs read, 0 done before, 2 refused",
        f"refused: {wavs}/short.wav: expected more than 10 frames, that is 0.15 s, got 0.100 s",
        f"refused: {wavs}/text.wav: expected a wav, got: Format not recognised.",
        "warning: descriptors of wavs of different sampling rates do not compare: 1 of 8000 Hz, 2 of 16000 Hz",
        f"{out}: 3 utterances, 130-d, 10 steps a second",
    ]
    found = held(out)
    assert found.keys() == tones.keys()
    for name, tone in tones.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], descriptors(tone, 8_000 if name == "low" else RATE))
    assert [path.name for path in out.parent.iterdir()] == ["comparE.h5"]

    os.remove(wavs / "s1" / "one.wav")  # stays in the file
    wav_of(wavs / "s2" / "deep" / "two.WAV", sine(300), subtype="FLOAT")  # is read again
    (wavs / "low.wav").write_bytes(b"damaged")  # what was made of it is of another wav
    wav_of(wavs / "new.wav", sine(400), subtype="FLOAT")
    extract(wavs, out, workers=1, report=Report())
    assert "2 wavs read, 0 done before, 3 refused" in capsys.readouterr().out
    later = held(out)
    assert later.keys() == {"one", "two", "new"}
    assert np.array_equal(later["one"], found["one"])
    assert np.array_equal(later["two"], descriptors(sine(300), RATE))

    before = out.read_bytes(), out.stat().st_mtime_ns
    extract(wavs, out, workers=1, report=Report())
    assert "0 wavs read, 2 done before, 3 refused" in capsys.readouterr().out
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


SCRIPT = """
import sys
from pathlib import Path
from nmer_fast.command import fail_in_one_line
from nmer_fast.engine.console import Report
from nmer_fast.preparing.audio import extract
if __name__ == "__main__":
    sys.exit(fail_in_one_line(lambda: extract(Path(sys.argv[1]), Path(sys.argv[2]), workers=1, report=Report())))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A dozen tones, long enough that a run of them can be stopped half-way, and what they give."""
    folder = tmp_path_factory.mktemp("many")
    tones = {f"utt{i:02}": sine(100 + 20 * i, seconds=4) for i in range(12)}
    for name, tone in tones.items():
        wav_of(folder / f"{name}.wav", tone, subtype="FLOAT")
    return folder, {name: descriptors(tone, RATE) for name, tone in tones.items()}


def finished(out):
    return {path: path.stat().st_mtime_ns for path in out.with_name("x.h5.parts").glob("[!.]*.npy")}


def assert_same(out, expected):
    found = held(out)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stop_loses_nothing(number, many, tmp_path):
    wavs, expected = many
    out, script = tmp_path / "x.h5", tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(wavs), str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while len(finished(out)) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    stderr, kept = process.communicate()[1], finished(out)
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert not out.exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert stderr.startswith("stopped; ")
        assert stderr.endswith(" of 12 wavs are done; the same command goes on\n")
    for path in list(finished(out))[:1]:  # one of them damaged: it is made again
        path.write_bytes(path.read_bytes()[:100])
        kept.pop(path)
    made_again = []

    def look(*arguments):
        made_again.append({path for path, when in finished(out).items() if kept.get(path, when) != when})
        pack(*arguments)

    pack = audio._pack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "_pack", look)
        extract(wavs, out, workers=1, report=QUIET)
    assert made_again == [set()]
    assert_same(out, expected)


@pytest.mark.slow
def test_a_process_that_dies_is_made_up_for(many, tmp_path):
    wavs, expected = many
    out, killed = tmp_path / "x.h5", []

    def kill():
        while not finished(out):
            time.sleep(0.005)
        killed.append(psutil.Process().children()[-1])
        killed[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    extract(wavs, out, workers=2, report=QUIET)
    thread.join()
    assert killed
    assert_same(out, expected)


def test_a_wav_that_kills_its_process_is_refused(monkeypatch, tmp_path, capsys):
    """No wav is known to; so reading one is made to, in the processes that find this file's module in their path."""
    (tmp_path / "soundfile.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a", "deadly", "z"):
        wav_of(tmp_path / "wavs" / f"{name}.wav", sine(220, 0.5 if name == "deadly" else 0.1, seconds=0.5))
    extract(tmp_path / "wavs", tmp_path / "x.h5", workers=1, report=Report())
    assert f"refused: {tmp_path}/wavs/deadly.wav: the process that read it died, twice" in capsys.readouterr().out
    assert held(tmp_path / "x.h5").keys() == {"a", "z"}


DEADLY = f"""
import os, sys
sys.path.remove(os.path.dirname(__file__))
del sys.modules["soundfile"]
import soundfile
class SoundFile(soundfile.SoundFile):
    def read(self, *arguments, **others):
        samples = super().read(*arguments, **others)
        if abs(samples).max() > 0.4 and os.getpid() != {os.getpid()}:
            os.kill(os.getpid(), 9)
        return samples
soundfile.SoundFile = SoundFile
"""


# ---------------------------------------------------------------- what is refused at once


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    wavs = tmp_path / "wavs"
    wavs.mkdir()
    (tmp_path / "other.h5").write_bytes(b"not HDF5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["utt"] = np.zeros((3, 130))

    def refused(message, out="x.h5", **options):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match=message) as found:
            extract(options.pop("wavs", wavs), tmp_path / out, report=QUIET, **options)
        assert "\n" not in str(found.value)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert not (tmp_path / "x.h5.parts").exists()

    refused("^audio-dir: expected a folder of wavs, got .*nowhere$", wavs=tmp_path / "nowhere")
    refused(r"^audio-dir: expected \*.wav files in .*wavs or below, found none$")
    wav_of(wavs / "a" / "same.wav", sine(220))
    wav_of(wavs / "b" / "same.wav", sine(220))
    refused("^audio-dir: expected wavs of different names, got .*a/same.wav and .*b/same.wav$")
    os.rename(wavs / "a" / "same.wav", os.fsencode(wavs) + b"/\xff.wav")
    refused(r"^audio-dir: expected names of printable characters, got '\\udcff.wav'$")
    os.remove(os.fsencode(wavs) + b"/\xff.wav")
    refused("^workers: expected 1 or more, got 0$", workers=0)
    refused("^out: expected a file's name that ends in .h5, got .*x.npz$", out="x.npz")
    refused("^out: expected a new file or one of an earlier --audio-dir, got .*other.h5: ", out="other.h5")
    refused("^out: expected a new file or one of an earlier --audio-dir, got .*foreign.h5: ", out="foreign.h5")
    refused("^out: expected a folder that can be written, got .*other.h5/deep: ", out="other.h5/deep/x.h5")
    (wavs / "b" / "same.wav").write_bytes(b"text")
    refused("^audio-dir: expected wavs, got 1 bad ones, such as .*same.wav: expected a wav, got: Format", workers=1)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "opensmile.py").write_text("raise OSError('libstdc++.so.6: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.delitem(sys.modules, "opensmile")
    refused(r"^audio-dir: expected openSMILE and libsndfile to load, got: libstdc\+\+.so.6: cannot open")
    monkeypatch.setattr(audio, "find_spec", lambda name: None)
    refused(r"^audio-dir: expected opensmile, which is not installed: pip install 'nmer_fast\[audio\]'$")


def test_two_at_once_are_refused(tmp_path):
    from nmer_fast.files import locked

    wav_of(tmp_path / "wavs" / "x.wav", sine(220))
    (tmp_path / "x.h5.parts").mkdir()
    with (
        locked(tmp_path / "x.h5.parts"),
        pytest.raises(UserError, match=r"no other process works in, got .*x.h5.parts$"),
    ):
        extract(tmp_path / "wavs", tmp_path / "x.h5", report=QUIET)


def test_sigterm_says_resume_hint(many, tmp_path, monkeypatch):
    """As `run_command` has it: the signal becomes `Stopped`, wherever it meets the work."""

    def stop(tasks, workers):
        yield audio.Outcome(tasks[0], "key", RATE)
        raise Stopped(None, signal.SIGTERM)

    monkeypatch.setattr(audio, "_outcomes", stop)
    with pytest.raises(Stopped) as stopped:
        extract(many[0], tmp_path / "x.h5", report=QUIET)
    assert stopped.value.signal == signal.SIGTERM
    assert stopped.value.how == "1 of 12 wavs are done; the same command goes on"
