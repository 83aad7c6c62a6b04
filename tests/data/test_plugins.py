"""A format of another package: the example of docs/formats.md is recognised, read and packed, without a line of ours."""

import re
from pathlib import Path

import pytest
import torch

from nmer_fast import prepare, registry
from nmer_fast.data import load, load_folds, read_store
from nmer_fast.errors import UserError

from . import writers
from .test_npz import saved

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
TABLE = """id,split,label,x,y
one,train,sad,0.5,1
two,train,happy,1.5,-1
three,test,sad,-0.5,2
"""


def section():
    """The docs' section, from its heading to the next of the same level."""
    return re.search(r"^## A format of your own\n(.*?)^## ", DOCS.read_text(), re.M | re.S)[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module beside the user's data that holds the docs' reader; nothing is installed."""
    (code,) = re.findall(r"^```python\n(.*?)^```", section(), re.M | re.S)
    (tmp_path / "my_formats.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    registry._plugins.cache_clear()
    yield tmp_path
    registry._plugins.cache_clear()


@pytest.fixture
def installed(package):
    """The same, with the entry point that the docs show, as pip would leave it on the path."""
    (entry,) = re.findall(r"^```toml\n(.*?)^```", section(), re.M | re.S)
    name, path = re.search(r'^(\S+) = "(.*)"$', entry, re.M).groups()
    assert f'[project.entry-points."{registry.FORMATS.group}"]' in entry
    info = package / "my_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.FORMATS.group}]\n{name} = {path}\n")
    registry._plugins.cache_clear()
    return package


@pytest.fixture
def table(tmp_path):
    (tmp_path / "mine.csv").write_text(TABLE)
    return tmp_path / "mine.csv"


def check(data):
    assert data.sample_names == ["one", "two", "three"]
    assert [data.class_names[label] for label in data.labels] == ["sad", "happy", "sad"]
    assert {split: rows.tolist() for split, rows in data.splits.items()} == {"train": [0, 1], "test": [2]}
    assert torch.equal(data.modalities["a"].values, torch.tensor([[0.5, 1.0], [1.5, -1.0], [-0.5, 2.0]]))


@pytest.mark.usefixtures("package")
def test_a_format_by_module_and_attribute(table, tmp_path, capsys):
    name = "my_formats:CSV"
    data, findings = load(table, format=name)
    check(data)
    assert findings.lines[0] == "mine.csv: read as my_formats:CSV"
    (data,), _ = load_folds(table, format=name)
    check(data)
    out = tmp_path / "mine.safetensors"
    prepare.run(prepare.Options((table, out), format=name))
    assert capsys.readouterr().out.splitlines()[0] == "mine.csv: read as my_formats:CSV"
    check(read_store(out))
    with pytest.raises(UserError, match=r"binarise: expected with a source of scores alone, got gt0 beside .*mine.csv"):
        load(table, format=name, binarise="gt0")
    with pytest.raises(UserError, match=r"expected a file for the format my_formats:CSV, got a folder"):
        load(tmp_path, format=name)


@pytest.mark.usefixtures("installed")
def test_an_installed_format_is_known_by_name_and_recognised(table, tmp_path, capsys):
    assert list(registry.FORMATS)[-1] == "csv"
    check(load(table, format="csv")[0])
    data, findings = load(table)
    check(data)
    assert findings.lines == ["mine.csv: read as csv", "2 columns"]
    out = tmp_path / "mine.safetensors"
    prepare.run(prepare.Options((table, out)))
    assert capsys.readouterr().out.splitlines()[0] == "mine.csv: read as csv"
    check(read_store(out))
    with pytest.raises(UserError, match=r"expected one of auto, iemocap-h5, .*, npz, csv, or package.module:attribute"):
        load(table, format="xml")


@pytest.mark.usefixtures("installed")
def test_an_installed_format_leaves_the_others_as_they_are(tmp_path):
    """Own formats are asked first, and what nothing recognises is refused as without plug-ins."""
    path = writers.write_pickle(tmp_path / "x.pkl", writers.mmsa(writers.utterances()))
    assert load(path)[1].lines[0] == "x.pkl: read as mmsa-pkl"
    assert not load(saved(tmp_path))[1].lines
    (tmp_path / "x.h5").touch()
    with pytest.raises(UserError, match=r"x.h5: expected the folder that holds it, got the one file"):
        load(tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"nowhere: expected a feature-set file \(.npz\), found no such file"):
        load(tmp_path / "nowhere")


@pytest.mark.usefixtures("package")
def test_what_a_format_of_another_package_refuses_is_one_line(table):
    table.write_text(TABLE.replace("0.5", "half", 1))
    with pytest.raises(UserError) as caught:
        load(table, format="my_formats:CSV")
    assert str(caught.value) == f"{table}: expected a table of numbers, got: could not convert string to float: 'half'"


def test_a_pickle_is_read_once_however_many_formats_are_asked(tmp_path, monkeypatch):
    from nmer_fast.data import formats

    calls, read = [], formats.load_pickle
    monkeypatch.setattr(formats, "load_pickle", lambda path: calls.append(path) or read(path))
    path = writers.write_pickle(tmp_path / "x.pkl", writers.mmsa(writers.utterances()))
    load(path)
    assert calls == [path]
