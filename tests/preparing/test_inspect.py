"""An inspection counts what is there, measures what training will measure, and says what is wrong instead of failing."""

import io
import sys
import threading
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from nmer_fast.data import (
    FeatureSet,
    Ragged,
    Standardiser,
    load_npz_folds,
    read_store,
    standardise,
    synthetic,
    tolerant,
    write_store,
)
from nmer_fast.errors import UserError
from nmer_fast.noise import NoiseSchedule, snr_of_alpha_bar
from nmer_fast.preparing import picture
from nmer_fast.preparing.inspect import inspect

N = 60
TRAIN, VAL, TEST = range(40), range(40, 45), range(45, 58)  # and 58 and 59 in no split


def arrays(**changes):
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 40 + ["val"] * 5 + ["test"] * 15)
    base = {
        "audio": rng.normal(3, 2, size=(N, 6, 5)).astype(np.float32),
        "audio_lengths": np.arange(N) % 6 + 1,
        "text": rng.normal(size=(N, 8)).astype(np.float32),
        "label": np.arange(N) % 3,
        "label_names": np.array(["low", "middle", "high"]),
        "split": split,
        "id": np.array([f"utt{i:02}" for i in range(N)]),
    }
    merged = {**base, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def inspected(tmp_path, **changes):
    np.savez(tmp_path / "mine.npz", **arrays(**changes))
    with tolerant():
        return inspect(load_npz_folds(tmp_path / "mine.npz"))


def printed(inspection, width=120):
    console = Console(width=width, highlight=False, soft_wrap=True, record=True, file=io.StringIO())
    inspection.print(console)
    return console.export_text()


def changed(name, *places_and_values):
    array = arrays()[name].copy()
    for place, value in places_and_values:
        array[place] = value
    return {name: array}


# ---------------------------------------------------------------- what is there


def test_a_set_without_faults(tmp_path):
    found = inspected(tmp_path)
    assert (found.name, len(found.sample_names), found.class_names) == ("mine", N, ["low", "middle", "high"])
    (fold,) = found.folds
    assert {split: counts.tolist() for split, counts in fold.items()} == {
        "train": [14, 13, 13], "val": [1, 2, 2], "test": [5, 5, 5],
    }  # fmt: skip
    audio, text = found.modalities
    assert (audio.dim, text.dim) == (5, 8)
    assert audio.lengths.tolist() == arrays()["audio_lengths"].tolist()
    assert text.lengths.tolist() == [1] * N
    assert found.findings() == ["nothing unusual: no NaN or infinity, no constant column, no outlier, no sample twice"]


def test_values_are_those_of_the_train_split(tmp_path):
    """By numpy's own definitions, of valid steps alone."""
    source = arrays()
    (audio, _), data = inspected(tmp_path).modalities, load_npz_folds(tmp_path / "mine.npz")[0]
    valid = np.concatenate([source["audio"][i, : source["audio_lengths"][i]] for i in TRAIN]).astype(np.float64)
    measured = audio.measured
    assert measured.raw_variance == pytest.approx(valid.var(), rel=1e-12)
    assert measured.moments.spread.numpy() == pytest.approx(valid.std(0), rel=1e-12)
    fitted = Standardiser.fit(data)
    assert measured.variance == fitted.variances["audio"]
    everything = np.concatenate([source["audio"][i, : source["audio_lengths"][i]] for i in range(N)])
    z = (everything - fitted.mean["audio"].numpy()) / fitted.std["audio"].numpy()
    assert measured.largest == pytest.approx(np.abs(z).max(), rel=1e-6)
    assert measured.histogram.numpy().tolist() == np.histogram(z, bins=96, range=(-12, 12))[0].tolist()


def test_noise_needs_what_the_formulas_say(tmp_path):
    """alpha-bar gives the SNR exactly; no whole T gives a nearer one."""
    constant = changed("audio", ((slice(None), slice(None), 0), 0.1))
    (audio, _), schedule = inspected(tmp_path, **constant).modalities, NoiseSchedule()
    assert audio.measured.variance == pytest.approx(0.8, rel=1e-6)
    assert [need.snr_db for need in audio.measured.needs] == [-10, -20, -30, -40]
    realised = {t: snr_of_alpha_bar(schedule.alpha_bar(t), audio.measured.variance) for t in range(1, 250)}
    for need in audio.measured.needs:
        assert 10 * np.log10(need.alpha_bar * audio.measured.variance / (1 - need.alpha_bar)) == pytest.approx(
            need.snr_db
        )
        assert need.steps == min(realised, key=lambda t: abs(realised[t] - need.snr_db))
        assert need.realised_db == pytest.approx(realised[need.steps], abs=1e-12)


def test_folds_and_samples_in_no_split():
    data = synthetic(60)
    others = {"train": torch.arange(10), "test": torch.arange(20, 25)}
    found = inspect([data, FeatureSet(**{**vars(data), "splits": others})])
    assert [list(fold) for fold in found.folds] == [["train", "test"], ["train", "test", "none"]]
    assert [sum(int(counts.sum()) for counts in fold.values()) for fold in found.folds] == [60, 60]
    assert found.folds[1]["none"].tolist() == data.labels[[*range(10, 20), *range(25, 60)]].bincount().tolist()
    text = printed(found)
    assert "train split of fold 1" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith(("│ 1 ", "│ 2 "))] == [
        "1",
        "1",
        "2",
        "2",
        "2",
    ]


def test_real_features(cmu_mosi):
    """As the data's README says: 32 columns of v are always 0; audio has outliers past 20."""
    found = inspect(load_npz_folds(cmu_mosi))
    a, v, text = found.modalities
    assert [len(m.measured.constant) for m in found.modalities] == [0, 32, 0]
    assert a.measured.largest > 20
    assert {split: int(counts.sum()) for split, counts in found.folds[0].items()} == {"train": 1447, "test": 752}
    variances = Standardiser.fit(load_npz_folds(cmu_mosi)[0]).variances
    assert {m.name: m.measured.variance for m in (a, v, text)} == variances
    assert not found.equal


# ---------------------------------------------------------------- what is wrong


def test_what_is_not_finite_is_found_where_training_refuses_it(tmp_path):
    bad = changed("audio", ((5, 4, 1), np.nan), ((17, 0, 1), np.nan), ((17, 2, 3), -np.inf), ((4, 5, 2), np.nan))
    found = inspected(tmp_path, **bad)  # the last lies beyond its sample's length
    audio, text = found.modalities
    assert audio.not_finite == {"NaN": 2, "-inf": 1}
    assert audio.not_finite_samples == [5, 17]
    assert audio.not_finite_columns.tolist() == [False, True, False, True, False]
    assert audio.measured is None
    assert text.measured.needs
    assert found.findings() == [
        "audio: not finite: 2 NaN, 1 -inf in 2 of 5 columns (1, 3) and 2 samples: utt05, utt17",
        "audio: values are not measured: not all are finite",
    ]
    assert "utt05, utt17" in printed(found)
    with pytest.raises(UserError, match="modality audio: sample utt05 holds nan"):
        load_npz_folds(tmp_path / "mine.npz")


def test_tolerance_ends():
    with pytest.raises(RuntimeError), tolerant():
        raise RuntimeError
    with pytest.raises(UserError, match="expected finite numbers"):
        FeatureSet(
            **{
                **vars(synthetic(40)),
                "modalities": {"a": Ragged.from_lengths(torch.full((40, 1), torch.inf), torch.ones(40))},
            }
        )


def test_names_of_several_samples(tmp_path):
    names = changed("id", (3, "utt02"), (9, "utt02"), (50, "utt51"))
    found = inspected(tmp_path, **names)
    assert found.repeated_names == {"utt02": 3, "utt51": 2}
    assert found.findings() == ["names of several samples: utt02 (3 times), utt51 (2 times)"]
    with pytest.raises(UserError, match="id: expected 60 different names, got 57"):
        load_npz_folds(tmp_path / "mine.npz")


def test_samples_that_are_equal(tmp_path):
    """In every modality and step; and, of them, those that one split could learn of another."""
    source, n = arrays(), np.array
    audio, text, lengths = source["audio"], source["text"], source["audio_lengths"]
    for copy, of in ((6, 0), (12, 0), (50, 2), (30, 24), (13, 1), (14, 8)):
        audio[copy], text[copy], lengths[copy] = audio[of], text[of], lengths[of]
    text[13] += 1  # so it is another
    lengths[14] -= 1  # likewise
    lengths[[20, 21]], lengths[0] = 0, 1
    found = inspected(tmp_path, audio=audio, text=text, audio_lengths=lengths)
    assert found.equal == [[0, 6, 12], [2, 50], [24, 30]]
    assert found.leaks == [[2, 50]]
    assert found.findings() == [
        "samples: 7 are equal to another in all modalities: utt00 = utt06 = utt12, utt02 = utt50, utt24 = utt30",
        "samples of different splits: 2 are equal to another in all modalities: utt02 = utt50",
    ]
    silent = inspected(tmp_path, audio_lengths=n([0] * 3 + [1] * 57), text=None)
    assert silent.equal == []


def test_a_leak_in_any_fold_counts(tmp_path):
    source = arrays()
    source["audio"][1], source["text"][1], source["audio_lengths"][1] = source["audio"][0], source["text"][0], 1
    folds = np.stack([source["split"], source["split"]], axis=1)
    assert inspected(tmp_path, **{**source, "split": folds}).leaks == []
    folds[1, 1] = "test"
    assert inspected(tmp_path, **{**source, "split": folds}).leaks == [[0, 1]]


def test_constant_columns_are_those_of_train(tmp_path):
    columns = changed(
        "text", ((slice(None), 2), 0.1), ((slice(0, 40), 3), 7), ((slice(40, None), 4), 7), ((slice(0, 40), 5), 1e-3)
    )
    found = inspected(tmp_path, **columns)
    assert found.modalities[1].measured.constant == [2, 3, 5]
    (line,) = (line for line in found.findings() if "constant" in line)
    assert line == "text: constant in train: 3 of 8 columns (2-3, 5)"
    assert found.modalities[1].measured.variance == pytest.approx(5 / 8, rel=1e-6)


def test_outliers_are_what_training_clips(tmp_path):
    outliers = changed("audio", ((23, 3, 4), 1e4), ((50, 1, 0), -500.0), ((50, 2, 1), 3 + 2 * 15.0), ((4, 5, 0), 1e6))
    found = inspected(tmp_path, **outliers)  # the last lies beyond its sample's length
    measured = found.modalities[0].measured
    assert measured.outliers == 3
    assert measured.outlier_columns.tolist() == [True, True, False, False, True]
    assert measured.outlier_samples == [23, 50]
    assert measured.largest_at == (50, 1, 0)
    assert measured.largest == pytest.approx(250, rel=0.1)
    assert int(measured.histogram[0]) == 1  # all beyond the edge are in the outermost bins
    assert int(measured.histogram[-1]) == 1
    assert (
        ": 3 values beyond 10 standard deviations, which training clips, in 3 of 5 columns (0-1, 4) and 2 "
        in (found.findings()[0])
    )
    assert found.findings()[0].endswith(f"the largest, {measured.largest:.1f}, in utt50, step 1, column 0")


@pytest.mark.parametrize(
    ("changes", "obstacle", "finding"),
    [
        ({"split": np.array(["test"] * N)}, "there is no train split", "values are not measured: there is no train split"),
        ({"audio_lengths": np.where(np.arange(N) < 40, 0, 3)}, "there is no step in the train split", "values are not"),
        ({"audio": np.full((N, 6, 5), 0.1)}, "", "no SNR is defined, for the variance in train is 0"),
    ],
)  # fmt: skip
def test_what_keeps_values_from_being_measured(changes, obstacle, finding, tmp_path):
    found = inspected(tmp_path, **changes)
    assert found.modalities[0].obstacle == obstacle
    assert any(line.startswith(f"audio: {finding}") for line in found.findings())
    assert "audio" in printed(found)
    picture.draw(found, tmp_path / "x.png")


# ---------------------------------------------------------------- how it is measured


def test_parts_change_nothing(tmp_path, monkeypatch):
    faults = changed("audio", ((23, 3, 4), 1e4), ((50, 1, 0), -500.0))
    whole = printed(inspected(tmp_path, **faults))
    for size in (1, 35, 1000):
        monkeypatch.setattr(standardise, "CHUNK", size)
        assert printed(inspected(tmp_path, **faults)) == whole


def test_a_store_is_inspected_as_what_it_was_made_of(tmp_path):
    found = inspected(tmp_path)
    write_store(load_npz_folds(tmp_path / "mine.npz"), tmp_path / "mine.safetensors")
    assert printed(inspect([read_store(tmp_path / "mine.safetensors")])) == printed(found)


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_store_is_inspected_in_bounded_memory(tmp_path):
    """Of 100 MB, mapped, no more than a fifth is ever held."""
    lengths = torch.full((2000,), 100)
    values = torch.randn(1000, 125).repeat(200, 1)
    data = {**vars(synthetic(2000)), "modalities": {"a": Ragged.from_lengths(values, lengths)}}
    write_store(FeatureSet(**data), tmp_path / "big.safetensors")
    del values, data
    mapped = read_store(tmp_path / "big.safetensors")
    inspect([synthetic(40)])
    before, peak, done = anonymous(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    found = inspect([mapped])
    done.set()
    thread.join()
    assert peak - before < 20e6
    assert [len(group) for group in found.equal] == [200] * 10


# ---------------------------------------------------------------- how it is shown


def test_the_tables(tmp_path):
    lines = printed(inspected(tmp_path, audio_lengths=np.array([0] * 20 + [2] * 10 + [3] * 30))).splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells[:3] == [
        ["train", "40", "14 (35%)", "13 (32%)", "13 (32%)"],
        ["val", "5", "1 (20%)", "2 (40%)", "2 (40%)"],
        ["test", "15", "5 (33%)", "5 (33%)", "5 (33%)"],
    ]
    assert cells[3] == ["audio", "5", "110", "0", "2", "3", "3", "20", "▆ ▄█"]
    assert cells[4] == ["text", "8", "60", "1", "1", "1", "1", "0", "█"]
    assert [row[:2] for row in cells[7:]] == [
        [m, snr] for m in ("audio", "text") for snr in ("-10", "-20", "-30", "-40")
    ]
    assert cells[7][3] == "46"


def test_names_of_other_peoples_are_printed_as_they_are(tmp_path):
    hostile = {"label_names": np.array(["[red]x", "[/]", "$5_{a"]), **changed("id", (0, "[b]x"), (1, "[b]x"))}
    found = inspected(tmp_path, text=None, **{"text[/]$x": arrays()["text"]}, **hostile)
    text = printed(found)
    for name in ("[red]x", "[/]", "$5_{a", "[b]x (2 times)", "text[/]$x"):
        assert name in text
    picture.draw(found, tmp_path / "x.png")


def axes_of(found, path, monkeypatch):
    """What the picture is drawn of, by title."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig

    def keep(self, *arguments, **others):
        figures.append(self)
        save(self, *arguments, **others)

    monkeypatch.setattr(Figure, "savefig", keep)
    picture.draw(found, path)
    return {ax.get_title(loc="left"): ax for ax in figures[0].axes}


def test_the_picture_shows_the_numbers(tmp_path, monkeypatch):
    faults = {**changed("text", ((slice(None), 2), 0.1)), **changed("audio", ((23, 3, 4), 1e4))}
    found = inspected(tmp_path, **faults)
    axes = axes_of(found, tmp_path / "x.png", monkeypatch)
    assert [bar.get_height() for bar in axes["audio: steps"].patches] == [10] * 6
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes["audio: steps"].patches] == [1, 2, 3, 4, 5, 6]
    values = axes["audio: standardised values, 5-d"]
    density, edges, _ = values.patches[0].get_data()
    counts = found.modalities[0].measured.histogram.numpy()
    assert np.diff(edges) @ np.where(counts, density, 0) == pytest.approx(1)
    assert values.texts[0].get_text().startswith("clipped: 1\n")
    varies, constant = axes["text: columns as they are stored"].lines
    assert varies.get_xdata().tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert varies.get_ydata() == pytest.approx(np.delete(found.modalities[1].measured.moments.spread.numpy(), 2))
    assert constant.get_xdata().tolist() == [2]
    shares = [bar.get_height() for bar in axes["classes in each split"].patches]
    assert shares == pytest.approx([35, 32.5, 32.5, 20, 40, 40, *[100 / 3] * 3])
    noise = axes["noise: the nearest whole T, and the exact alpha-bar below it"]
    for line, modality in zip(noise.lines, found.modalities, strict=True):
        assert line.get_ydata().tolist() == [need.steps for need in modality.measured.needs]
    with open(tmp_path / "x.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("modalities", [1, 6])
def test_a_picture_of_few_and_of_many(modalities, tmp_path, monkeypatch):
    source = arrays(text=None, audio=None, audio_lengths=None)
    rng = np.random.default_rng(0)
    found = inspected(
        tmp_path,
        text=None,
        audio=None,
        audio_lengths=None,
        **{f"m{i}": rng.normal(size=(N, i + 1)) for i in range(modalities)},
        label_names=source["label_names"],
    )
    axes = axes_of(found, tmp_path / "x.png", monkeypatch)
    assert len(axes) == 3 * modalities + 2
    import matplotlib.image

    height, width, _ = matplotlib.image.imread(tmp_path / "x.png").shape
    assert width == 1690
    assert height > 300 * modalities


def test_a_picture_does_not_read_the_users_style(tmp_path):
    import matplotlib

    found = inspected(tmp_path)
    picture.draw(found, tmp_path / "x.png")
    with matplotlib.rc_context({"figure.facecolor": "black", "lines.markersize": 50, "axes.facecolor": "red"}):
        picture.draw(found, tmp_path / "y.png")
        assert matplotlib.rcParams["lines.markersize"] == 50
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


def test_a_picture_that_cannot_be_is_one_line(tmp_path, monkeypatch):
    found = inspected(tmp_path)
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("x.jpg", r"^plot: expected a name that ends in .png, in a folder that exists, got .*x.jpg$"),
        ("nowhere/x.png", r"^plot: expected a name that ends in .png, in a folder that exists, got .*nowhere/x.png$"),
        ("folder.png", r"^plot: expected a file that can be written, got .*folder.png: Is a directory$"),
    ):
        with pytest.raises(UserError, match=message):
            picture.draw(found, tmp_path / name)
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^plot: expected matplotlib, which is not installed: pip install 'nmer_fast\[report\]'$"
    ):
        picture.draw(found, tmp_path / "x.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "mine.npz"]
