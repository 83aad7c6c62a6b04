"""The packed store: what is written is what is mapped; pages are shared; whatever is wrong is one line."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nmer_fast import evaluate, train
from nmer_fast.data import FeatureSet, Ragged, Standardiser, load_npz, load_npz_folds, store, synthetic
from nmer_fast.data.store import read_store, verify_store, write_store
from nmer_fast.errors import UserError

from .test_npz import N, arrays, saved


def assert_same(a, b):
    assert (a.name, a.class_names, a.sample_names) == (b.name, b.class_names, b.sample_names)
    assert list(a.modalities) == list(b.modalities)
    assert list(a.splits) == list(b.splits)
    pairs = [(a.labels, b.labels), (a.groups, b.groups), (a.positions, b.positions)]
    pairs += [(rows, b.splits[name]) for name, rows in a.splits.items()]
    for name, ragged in a.modalities.items():
        pairs += [(ragged.values, b.modalities[name].values), (ragged.offsets, b.modalities[name].offsets)]
    for x, y in pairs:
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
    assert a.fingerprint() == b.fingerprint()


@pytest.fixture
def small(tmp_path):
    """A store of six samples in three folds, two of them with val, and the sets it was made of."""
    split = arrays()["split"]
    folds = np.stack([split, np.roll(split, 2), np.where(split == "val", "test", split)], axis=1)
    source = saved(tmp_path, split=folds)
    write_store(load_npz_folds(source), tmp_path / "small.safetensors", source=source)
    return tmp_path / "small.safetensors", [load_npz(source, fold) for fold in (1, 2, 3)]


# ---------------------------------------------------------------- what is kept


def test_every_fold_comes_back(small):
    path, folds = small
    for number, data in enumerate(folds, start=1):
        assert_same(read_store(path, number), data)
    assert_same(read_store(path), folds[0])
    for fold in (0, 4):
        with pytest.raises(UserError, match=rf"^.*small.safetensors: fold: expected 1 to 3, got {fold}$"):
            read_store(path, fold)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_names": None, "id": None, "group": None, "position": None, "speech_lengths": None},
        {"words": None},
        {"speech_lengths": np.zeros(N, dtype=int)},
        {"id": np.array(["ä", "\n", '"', "\\", "\u2028", ""])},
    ],
)
def test_what_npz_reads_comes_back(changes, tmp_path):
    data = load_npz(saved(tmp_path, **changes))
    write_store(load_npz_folds(tmp_path / "features.npz"), tmp_path / "x.safetensors")
    assert_same(read_store(tmp_path / "x.safetensors"), data)
    verify_store(tmp_path / "x.safetensors")


def test_it_is_standardised_and_joined_to_the_same_bits(tmp_path):
    data = synthetic(60)
    write_store(data, tmp_path / "x.safetensors")
    mapped = read_store(tmp_path / "x.safetensors")
    for a, b in ((Standardiser.fit(data)(data), Standardiser.fit(mapped)(mapped)),):
        assert_same(a, b)
        assert_same(a.with_context(3), b.with_context(3))
        write_store(b, tmp_path / "again.safetensors")  # as it is read, standardised
        assert torch.equal(read_store(tmp_path / "again.safetensors").modalities["a"].stored, a.modalities["a"].values)


def test_safetensors_own_reader_reads_it(small):
    path, folds = small
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "nmer_fast features"
        assert torch.equal(file.get_tensor("values.words"), folds[0].modalities["words"].values)
        assert torch.equal(file.get_tensor("fold2.train"), folds[1].splits["train"])
        assert len(file.keys()) == 3 + 2 + 2 + 3 + 3 + 2


def test_provenance(small, tmp_path):
    about = verify_store(small[0])
    assert about["provenance"].keys() == {"source", "sha256", "date", "nmer_fast"}
    assert about["provenance"]["source"] == "features.npz"
    done = subprocess.run(["sha256sum", tmp_path / "features.npz"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(about["provenance"]["sha256"])
    assert about["modalities"] == {"speech": 3, "words": 5}
    assert str(tmp_path) not in small[0].read_bytes()[:8192].decode("latin1")  # no machine's path


# ---------------------------------------------------------------- mapped, shared, private

READER = """
import sys
from nmer_fast.data import read_store
data = read_store(sys.argv[1])
print(float(data.modalities["a"].stored.sum()), flush=True)
sys.stdin.readline()
"""


def smaps(path):
    """Kilobytes of this process's mapping of a file, by kind."""
    text = Path("/proc/self/smaps").read_text()
    block = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text)
    (ours,) = [b for b in block if str(path) in b.partition("\n")[0]]
    return {name: int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB", ours, re.M)}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="no /proc/self/smaps here")
def test_opening_reads_no_values_and_processes_share_them(tmp_path):
    path, n = tmp_path / "x.safetensors", 32
    lengths = torch.full((n,), 1000)
    data = FeatureSet(
        "x", {"a": Ragged.from_lengths(torch.randn(1000 * n, 256), lengths)}, torch.zeros(n).long(), ["x"],
        {"test": torch.arange(n)}, [str(i) for i in range(n)], torch.zeros(n).long(), torch.arange(n),
    )  # fmt: skip
    write_store(data, path)
    values_kb, expected = 1000 * n * 256 * 4 // 1024, float(data.modalities["a"].stored.sum())
    del data
    mapped = read_store(path)
    mapped.fingerprint()
    assert smaps(path)["Rss"] < values_kb / 50
    stored = mapped.modalities["a"].stored
    assert float(stored.sum()) == expected
    alone = smaps(path)
    assert alone["Private_Clean"] > 0.98 * values_kb
    assert alone["Pss"] > 0.98 * values_kb
    other = subprocess.Popen(
        [sys.executable, "-c", READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert float(other.stdout.readline()) == expected
        together = smaps(path)
    finally:
        other.communicate("\n")
    assert together["Shared_Clean"] > 0.98 * values_kb
    assert together["Private_Dirty"] == together["Anonymous"] == 0
    assert 0.49 * values_kb < together["Pss"] < 0.55 * values_kb
    before = path.read_bytes()
    stored.zero_()  # private: no crash, and nobody else sees it
    assert path.read_bytes() == before
    assert float(read_store(path).modalities["a"].stored.sum()) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="memory is promised otherwise")
def test_a_store_may_be_larger_than_memory(small):
    """A sparse file of twice the machine's memory and swap opens, and what is read of it is there."""
    path, (data, *_) = small
    pages = (
        sum(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "Total:" in line[:10])
        // 4
    )
    steps = 2 * pages  # of 1024 floats, a page each
    tensors = {**store._tensors([data]), "offsets.words": torch.tensor([0, *[7] * (N - 1), steps])}
    index = {name: t for name, t in tensors.items() if not name.startswith("values.")}
    index.pop("offsets.speech")
    about = verify_store(path) | {
        "modalities": {"words": 1024},
        "folds": [list(data.splits)],
        "shapes": {name: list(t.shape) for name, t in index.items()} | {"values.words": [steps, 1024]},
        "sha256": {name: store.sha256(t) for name, t in index.items()}
        | {"values.words": "of a file too large to read"},
    }
    with open(path, "wb") as file:
        file.writelines(store._content(about, index))
        file.truncate(file.tell() + 4096 * steps)
    words = read_store(path).modalities["words"]
    assert words.stored.nbytes > 4096 * pages
    assert torch.equal(words.padded(torch.tensor([0]))[0], torch.zeros(1, 8, 1024))
    assert (words.stored[-1] == 0).all()


# ---------------------------------------------------------------- what is wrong


def outcome(path):
    """How opening ends, and a whole look if it opens: what refused it and its line, or None."""
    for look in (read_store, verify_store):
        try:
            look(path)
        except UserError as error:
            line = str(error)
        else:
            continue
        assert line.startswith(str(path))
        assert "\n" not in line
        return look, line
    return None


def test_every_flipped_bit_is_found(small):
    """The header and the index tensors at opening, values by verify_store."""
    path, _ = small
    content = path.read_bytes()
    with safe_open(path, "np") as file:
        values = sum(file.get_tensor(f"values.{name}").nbytes for name in ("speech", "words"))
    first_value = len(content) - values
    rng = np.random.default_rng(0)
    header = content.rstrip(b"\0").find(b"   ")  # where its text ends
    places = [*range(16), *rng.integers(16, header, 300), *rng.integers(header, len(content), 200)]
    for place in map(int, places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        found = outcome(path)
        assert found is not None, place
        assert (found[0] is verify_store) == (place >= first_value), (place, found)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 4096, -1])
def test_a_truncated_file(keep, small):
    path, _ = small
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert outcome(path)[0] is read_store
    path.write_bytes(content + b"\0")
    assert re.search(r"expected \d+ bytes, got \d+: the file is truncated or has grown", outcome(path)[1])


def rewritten(path, change):
    """The store with its header changed, its checksum made right again."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    layout = json.loads(content[8 : 8 + length])
    about = json.loads(layout["__metadata__"]["about"])
    tensors = bytearray(content[8 + length :])
    change(layout, about, tensors)
    text = json.dumps(about)
    layout["__metadata__"] |= {"about": text, "sha256": store._digest(text)}
    header = json.dumps(layout).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + tensors)


def set_index(name, place, value):
    """Another int in an index tensor, and its checksum made right."""

    def change(layout, about, tensors):
        begin, end = layout[name]["data_offsets"]
        tensors[begin + 8 * place : begin + 8 * place + 8] = value.to_bytes(8, "little", signed=True)
        about["sha256"][name] = store.hashlib.sha256(bytes(tensors[begin:end])).hexdigest()

    return change


def edit(where, key, value):
    return lambda layout, about, tensors: ({"layout": layout, "about": about}[where]).__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layout, *_: layout["__metadata__"].update(version="2"), "expected a packed store of version 1, got version 2"),
        (lambda layout, *_: layout["__metadata__"].update(format="pt"), "expected a packed store of nmer_fast, got"),
        (lambda layout, *_: layout.pop("labels"), "got other tensors: the file is damaged"),
        (edit("about", "shapes", {}), "got other tensors: the file is damaged"),
        (edit("about", "shapes", 3), "expected the header that was written, got"),
        (lambda _, about, __: about.pop("folds"), "got one that lacks or misplaces 'folds'"),
        (edit("about", "modalities", {"speech": 4, "words": 5}), r"modality speech: expected values \[steps, 4\] and"),
        (edit("about", "modalities", {"x": 4}), "got one that lacks or misplaces 'values.x'"),
        (edit("about", "sample_names", ["one"]), "expected 6 sample names, got 1"),
        (edit("about", "class_names", ["x", "y"]), r"features: label: expected 0 to 1, got \[0, 1, 2\]"),
        (set_index("offsets.speech", 6, 99), r"modality speech: expected offsets that rise from 0 to \d+, got others"),
        (set_index("offsets.speech", 1, -1), r"modality speech: expected offsets that rise from 0 to \d+, got others"),
        (set_index("offsets.words", 2, 4), r"modality words: expected offsets that rise from 0 to 6, got others"),
        (set_index("fold1.train", 0, 6), "split train: expected rows 0 to 5, got others"),
        (set_index("labels", 0, -1), "features: label: expected 0 to 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit(change, message, small):
    """Files that are whole by their checksums and still wrong."""
    path, _ = small
    rewritten(path, change)
    with pytest.raises(UserError, match=message) as caught:
        read_store(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"no store", b"\x08" + bytes(7) + b"[1,2,3] ", b"\xff" * 64, b"\x02" + bytes(7) + b"{}"]
)
def test_other_files(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "expected a packed store of nmer_fast, got a file without its header" in outcome(path)[1]
    path.unlink()
    assert "expected a packed store (.safetensors), got: No such file" in outcome(path)[1]
    assert "Is a directory" in outcome(tmp_path)[1]
    np.savez(path.with_suffix(".npz"), **arrays())
    assert outcome(path.with_suffix(".npz")) is not None


# ---------------------------------------------------------------- writing


def test_a_crash_while_writing_leaves_the_old_file(small, monkeypatch):
    path, folds = small
    before = path.read_bytes()

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(UserError, match=r"small.safetensors: expected a file that can be written, got: No space left"):
        write_store(folds[0], path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.npz", "small.safetensors"]


def test_a_store_is_written_over_itself(small):
    """While it is mapped: the mapping keeps the old file."""
    path, folds = small
    mapped = read_store(path, 2)
    write_store(replace(mapped, name="other"), path)
    assert_same(mapped, folds[1])
    assert_same(read_store(path), replace(folds[1], name="other"))


def test_damaged_values_are_not_written_on(small):
    path, _ = small
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"^features: modality words: expected the values of its store, got damaged ones$"
    ):
        write_store(read_store(path), path.with_name("copy.safetensors"))


def test_folds_that_are_not_folds(small):
    path, folds = small
    words = folds[1].modalities["words"]
    changed = replace(folds[1], modalities={**folds[1].modalities, "words": replace(words, stored=words.stored + 1)})
    for other in (changed, replace(folds[1], labels=2 - folds[1].labels), replace(folds[1], name="x")):
        with pytest.raises(
            UserError, match=r"^features: fold 2: expected the samples of fold 1 with other splits, got"
        ):
            write_store([folds[0], other], path)
    with pytest.raises(UserError, match=r"expected a data set or its folds, got none"):
        write_store([], path)
    double = {"a": Ragged.from_lengths(torch.zeros(6, 2).double(), torch.ones(6))}
    with pytest.raises(UserError, match=r"values.a: expected torch.float32, got torch.float64"):
        write_store(replace(folds[0], modalities=double), path)


# ---------------------------------------------------------------- the commands


def test_training_from_a_store_gives_what_its_npz_gives(cmu_mosi, tmp_path, refused):
    """Real features, to the bit; and a store that is damaged ends the command in one line."""
    path = tmp_path / "mosi.safetensors"
    write_store(load_npz_folds(cmu_mosi), path, source=cmu_mosi)
    settings = ("training.teacher_epochs=1", "model.layers=1", "training.batch_size=256")
    one, other = (
        train.run(
            train.Options(data=str(p), epochs=1, context=2, settings=settings, out=tmp_path / p.suffix), quiet=True
        )
        for p in (cmu_mosi, path)
    )
    assert one["losses"] == other["losses"]
    assert one["conditions"] == other["conditions"]
    (point,) = evaluate.run(evaluate.Options(tmp_path / ".safetensors"), quiet=True).points
    assert point.evaluation.as_dict()["conditions"] == one["conditions"]
    path.write_bytes(path.read_bytes()[:-1])
    line = refused(train.main, "--data", path)
    assert line.startswith(f"{path}: expected ")
    assert line.endswith("the file is truncated or has grown")
