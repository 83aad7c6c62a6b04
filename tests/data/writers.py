"""Small files of every format, made as the sources' own scripts make them; the content is returned as plain arrays."""

import json
import pickle
import struct
from dataclasses import dataclass

import h5py
import numpy as np

DIMS = {"a": 5, "v": 4, "l": 6}
KEYS = {"a": "audio", "v": "vision", "l": "text"}
SPLITS = {"train": "train", "val": "valid", "test": "test"}


@dataclass
class Utterance:
    """What a loader should give back."""

    name: str
    split: str
    score: float
    features: dict  # by modality [T, D], T maybe 0


def utterances(sizes=(8, 4, 5), steps=6, seed=0, aligned=True, dims=DIMS, dtype=np.float32):
    """Of three splits, in videos of three; scores from -3 to 3 with some 0; values without zeros."""
    rng = np.random.default_rng(seed)
    out = []
    for split, n in zip(SPLITS, sizes, strict=True):
        for i in range(n):
            common = int(rng.integers(1, steps + 1))
            lengths = {m: common if aligned else int(rng.integers(1, steps + 1)) for m in dims}
            features = {m: (1 + rng.random((lengths[m], d))).astype(dtype) for m, d in dims.items()}
            out.append(Utterance(f"{split}-video{i // 3}[{i % 3}]", split, float((i % 7) - 3), features))
    return out


def pad(sequences, steps, side, dim):
    out = np.zeros((len(sequences), steps, dim), sequences[0].dtype)
    for row, values in zip(out, sequences, strict=True):
        if len(values):
            row[slice(-len(values), None) if side == "left" else slice(len(values))] = values
    return out


def by_split(content, build):
    return {key: build([u for u in content if u.split == split]) for split, key in SPLITS.items()}


def lpadded(us, steps, side="left"):
    """By key, as CMU SDK's get_tensors pads; `steps` is one number or one for each modality."""
    of = steps if isinstance(steps, dict) else dict.fromkeys(KEYS, steps)
    return {key: pad([u.features[m] for u in us], of[m], side, us[0].features[m].shape[1]) for m, key in KEYS.items()}


def multibench(content, steps=6, ids=True):
    def build(us):
        part = {**lpadded(us, steps), "labels": np.array([[[u.score]] for u in us], np.float32)}
        return {**part, "id": np.array([[u.name] for u in us])} if ids else part

    return by_split(content, build)


def mult(content, steps=6, ids=False, side="left"):
    def build(us):
        part = {**lpadded(us, steps, side), "labels": np.array([[[u.score]] for u in us], np.float32)}
        names = [[u.name.partition("[")[0].encode(), b"%.2f" % i, b"9.50"] for i, u in enumerate(us)]
        return {**part, "id": np.array(names)} if ids else part

    return by_split(content, build)


def mmsa(content, steps=6, aligned=True):
    """`steps` of text; audio and vision are longer where they are not aligned."""
    of = dict.fromkeys(KEYS, steps) if aligned else {"l": steps, "a": steps + 5, "v": steps + 3}

    def build(us):
        lengths = np.array([len(u.features["l"]) for u in us])
        mask = (np.arange(steps) < lengths[:, None]).astype(np.float32)
        part = {
            "raw_text": np.array(["some words"] * len(us)),
            **lpadded(us, of, "right"),
            "id": [u.name.replace("[", "$_$").rstrip("]") for u in us],
            "text_bert": np.stack([100 * mask, mask, 0 * mask], axis=1),
            "annotations": ["Positive" if u.score > 0 else "Neutral" if u.score == 0 else "Negative" for u in us],
            "classification_labels": np.sign([u.score for u in us]) + 1,
            "regression_labels": np.array([u.score for u in us]),
        }
        if not aligned:
            part["audio_lengths"] = [len(u.features["a"]) for u in us]
            part["vision_lengths"] = [len(u.features["v"]) for u in us]
        return part

    return by_split(content, build)


def write_pickle(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# ---------------------------------------------------------------- pickles as Python 2 made them


def python2(thing):
    """Protocol 2 as Python 2's cPickle and NumPy 1 write it: byte strings for text and for arrays' contents."""
    if isinstance(thing, np.ndarray):
        of = thing.dtype
        order, size = ("|" if of.kind == "S" or of.itemsize == 1 else "<"), (-1 if of.kind in "fiub" else of.itemsize)
        state = (3, order, None, None, None, size, -1 if size < 0 else 1, 0)
        dtype = b"cnumpy\ndtype\n" + python2((of.str.lstrip("<|>="), 0, 1)) + b"R" + python2(state) + b"b"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + python2((0,)) + python2("b") + b"tR"
        contents = python2(1) + python2(thing.shape) + dtype + python2(False) + python2(thing.tobytes())
        return empty + b"(" + contents + b"tb"
    if isinstance(thing, (str, bytes)):
        content = thing.encode("latin1") if isinstance(thing, str) else thing
        short = len(content) < 256
        return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + content
    if isinstance(thing, dict):
        return b"}(" + b"".join(python2(x) for pair in thing.items() for x in pair) + b"u"
    if isinstance(thing, (list, tuple)):
        inside = b"".join(map(python2, thing))
        return b"(" + inside + b"t" if isinstance(thing, tuple) else b"](" + inside + b"e"
    if isinstance(thing, bool):
        return b"\x89\x88"[thing : thing + 1]
    return pickle.dumps(thing, 2)[2:-1]  # numbers and None are as they are today


def write_python2_pickle(path, content):
    path.write_bytes(b"\x80\x02" + python2(content) + b".")
    return path


# ---------------------------------------------------------------- CMU SDK


def write_csd_file(path, root, entries, compression=None):
    """As the SDK's write_CSD does; entries: name -> (features, intervals)."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        data = group.create_group("data")
        for name, (features, intervals) in entries.items():
            entry = data.create_group(name)
            entry.create_dataset("features", data=features, compression=compression)
            entry.create_dataset("intervals", data=intervals, compression=compression)
        metadata = group.create_group("metadata")
        for key, value in {"root name": root, "computational sequence version": "1.0"}.items():
            metadata.create_dataset(key, (1,), dtype=h5py.special_dtype(vlen=str))
            metadata[key][0] = json.dumps(value)


def write_csd(folder, content, aligned=False, compression=None):
    """Videos whose utterances follow each other, 10 s each, a gap of 1 s between them; steps at each modality's rate.

    With `aligned` the keys are video[i], as after the SDK's align.
    """
    folder.mkdir(exist_ok=True)
    videos = {}
    for u in content:
        videos.setdefault(u.name.partition("[")[0], []).append(u)
    files = {"a": ("COVAREP", "CMU_MOSEI_COVAREP"), "v": ("FACET 4.2", "CMU_MOSEI_VisualFacet42"),
             "l": ("glove_vectors", "CMU_MOSEI_TimestampedWordVectors")}  # fmt: skip

    def interval(i):
        return 11.0 * i, 11.0 * i + 10.0

    for m, (root, name) in files.items():
        entries = {}
        for video, us in videos.items():
            per = []
            for i, u in enumerate(us):
                start, end = interval(i)
                edges = np.linspace(start, end, len(u.features[m]) + 1)
                per.append((u.features[m].astype(np.float64), np.stack([edges[:-1], edges[1:]], axis=1).reshape(-1, 2)))
            if aligned:
                entries |= {f"{video}[{i}]": pair for i, pair in enumerate(per) if len(pair[0])}
            else:
                gaps = [
                    (np.full((1, DIMS[m]), 99.0), np.array([[11.0 * i + 10, 11.0 * i + 11]])) for i in range(len(per))
                ]
                pairs = [pair for two in zip(per, gaps, strict=True) for pair in two]
                entries[video] = tuple(np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
        write_csd_file(folder / f"{name}.csd", root, entries, compression)
    labels = {}
    for video, us in videos.items():
        rows = [([u.score, 0, 0, 0, 0, 0, 0], interval(i)) for i, u in enumerate(us)]
        if aligned:
            labels |= {f"{video}[{i}]": (np.array([row]), np.array([at])) for i, (row, at) in enumerate(rows)}
        else:
            labels[video] = np.array([row for row, _ in rows]), np.array([at for _, at in rows])
    write_csd_file(folder / "CMU_MOSEI_Labels.csd", "All Labels", labels, compression)
    text = ""
    for split, word in {"train": "train", "val": "valid", "test": "test"}.items():
        names = sorted({u.name.partition("[")[0] for u in content if u.split == split})
        text += f"standard_{word}_fold = {names!r}\n"
    (folder / "cmu_mosei_std_folds.py").write_text(text)
    return folder


# ---------------------------------------------------------------- MMIN's layout


def mmin_utterances(n=24, seed=0, v=7, l=5):  # noqa: E741
    """Names, classes and features: a of 1 to 9 steps, v and l constant."""
    rng = np.random.default_rng(seed)
    names = [f"Ses0{1 + i % 5}{'FM'[i % 2]}_impro0{1 + i % 3}_{'FM'[i % 2]}{i:03d}" for i in range(n)]
    steps = {"a": rng.integers(1, 10, n), "v": [v] * n, "l": [l] * n}
    features = {m: [(1 + rng.random((int(t), d))).astype(np.float32) for t in steps[m]] for m, d in DIMS.items()}
    return names, [i % 4 for i in range(n)], features


def write_mmin(folder, corpus="iemocap", n=24, folds=10, mean_std=True, seed=0):
    """As MMIN's scripts write it; returns names, labels, features and the rows of each fold's splits."""
    names, labels, features = mmin_utterances(n, seed)
    iemocap = corpus == "iemocap"
    if not iemocap:
        features["a"] = [np.resize(f, (6, f.shape[1])) for f in features["a"]]
    files = {"a": "A/comparE.h5" if iemocap else "A/comparE_raw.h5", "v": "V/denseface.h5", "l": "L/bert_large.h5"}
    for m, name in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / name, "w") as file:
            for utterance, values in zip(names, features[m], strict=True):
                file[utterance] = values
    divisions = []
    for k in range(1, folds + 1):
        order = np.roll(np.arange(n), k * n // folds)
        rows = {"train": order[: n // 2], "val": order[n // 2 : n // 2 + n // 4], "test": order[n // 2 + n // 4 :]}
        divisions.append(rows)
        target = folder / "target" / str(k)
        target.mkdir(parents=True, exist_ok=True)
        for split, short in {"train": "trn", "val": "val", "test": "tst"}.items():
            chosen = [names[i] for i in rows[split]]
            classes = np.array([labels[i] for i in rows[split]])
            np.save(target / f"{short}_label.npy", np.eye(4)[classes] if iemocap else classes)
            columns = np.array([[name.encode(), b"x"] for name in chosen])
            np.save(target / f"{short}_int2name.npy", columns if iemocap else np.array(chosen))
    if mean_std and iemocap:
        with h5py.File(folder / "A/comparE_mean_std.h5", "w") as file:
            for k, rows in enumerate(divisions, start=1):
                frames = np.concatenate([features["a"][i] for i in rows["train"]])
                std = frames.std(0)
                std[std == 0] = 1
                file[f"{k}/mean"], file[f"{k}/std"] = frames.mean(0), std
    return names, labels, features, divisions


# ---------------------------------------------------------------- malice


class Runs:
    """A pickle of it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments
