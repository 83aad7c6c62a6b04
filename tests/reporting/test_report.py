"""The page that a person opens, looked at as a browser shows it; and what it is made of."""

import csv
import json
import re
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest

from nmer_fast import evaluate, registry, report, sweep, train
from nmer_fast.colours import COLOURS, SERIES
from nmer_fast.errors import UserError
from nmer_fast.models import SYSTEMS
from nmer_fast.reporting import figures
from nmer_fast.reporting.collection import read_collection

from .browser import FOUND, browser

TINY = ("data.size=40", "training.teacher_epochs=1", "model.layers=1", "training.lr=3e-3")
BAD = '<script>alert("x")</script>'
CLASSES = [BAD, '" style="}*{display:none"', "$\\frac{1}{0}$ & Ünï"]
SPEECH, WORDS = "<img src=x onerror=alert(1)>", "text"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A sweep, one of its systems evaluated under one more noise, and its page."""
    folder = tmp_path_factory.mktemp("grid") / "sweep"
    options = sweep.Options(
        folder, ("nmer", "men"), ("gaussian",), (-10.0, -20.0), seeds=(0, 1), epochs=2, settings=TINY
    )
    assert sweep.run(options, quiet=True).failed == {}
    assert sweep.run(replace(options, systems=("men",), noise=("missing",), snr=()), quiet=True).failed == {}
    report.run(report.Options(folder), quiet=True)
    return folder


def names_to_fear(path):
    """Features whose class and modality names are code."""
    rng = np.random.default_rng(0)
    content = {SPEECH: rng.normal(size=(40, 5, 4)), WORDS: rng.normal(size=(40, 8))}
    content |= {
        "label": np.arange(40) % 3,
        "label_names": CLASSES,
        "split": np.where(np.arange(40) < 24, "train", "test"),
    }
    np.savez(path, **content, id=[f"{BAD}{i}" for i in range(40)])


@pytest.fixture(scope="module")
def feared(tmp_path_factory):
    """A run of such data, evaluated at two SNRs beside its own, its page made."""
    folder = tmp_path_factory.mktemp("feared")
    names_to_fear(folder / "mine.npz")
    options = train.Options(
        system="mmin", data=str(folder / "mine.npz"), epochs=2, out=folder / "run", settings=TINY[1:]
    )  # fmt: skip
    train.run(options, quiet=True)
    evaluate.run(evaluate.Options(folder / "run", snr=(0.0, -30.0), out=folder / "run" / "more"), quiet=True)
    report.run(report.Options(folder / "run", folder / "page"), quiet=True)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if FOUND is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium): the page is not tested in a browser")
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


POINTS = 2 * 2 + 2 * 3  # of nmer, each a run; of men, each of its two runs three times


def rows_of(folder):
    return list(csv.DictReader((folder / "results.csv").open()))


def table(chromium, name):
    """A table's header and rows; a cell is what was written, where that is more than what is shown."""
    script = f"""
        Array.from(document.querySelectorAll("#table-{name} tr"), (row) =>
            Array.from(row.cells, (cell) => cell.dataset.v ?? cell.textContent.trim().replace("\\u2212", "-")))
    """
    header, *rows = chromium.run(script)
    return header, rows


def visible(chromium, selector):
    """The texts of what matches and is shown."""
    return chromium.run(f"""
        Array.from(document.querySelectorAll({json.dumps(selector)})).filter((e) => e.checkVisibility())
            .map((e) => e.textContent.trim())
    """)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360], ids=["desktop", "phone"])
@pytest.mark.parametrize("which", ["grid", "feared"])
def test_it_opens_from_disk_and_asks_for_nothing(which, width, dark, request, chromium):
    folder = request.getfixturevalue(which)
    page = folder / ("report" if which == "grid" else "page") / "index.html"
    chromium.open(page, width=width, dark=dark)
    assert [url for url in chromium.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert chromium.complaints == []
    assert "Page.javascriptDialogOpening" not in chromium.events
    assert chromium.run("document.documentElement.scrollWidth") <= width  # nothing to scroll to the side
    assert chromium.run(
        "Array.from(document.querySelectorAll('.panels svg')).every((e) => e.clientWidth <= innerWidth)"
    )
    background, ink = chromium.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
    )
    assert luminance(background) < 0.1 if dark else luminance(background) > 0.9
    assert abs(luminance(background) - luminance(ink)) > 0.1  # a picture's text follows


def luminance(colour):
    """Relative luminance (WCAG) of rgb(...) or #rrggbb."""
    found = re.findall(r"\d+", colour) if colour.startswith("rgb") else [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float(np.dot(linear(np.array(found[:3], dtype=float) / 255), [0.2126, 0.7152, 0.0722]))


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def test_the_tables_hold_every_cell_of_the_csv(grid, chromium):
    chromium.open(grid / "report" / "index.html")
    expected = rows_of(grid)
    scores, runs = table(chromium, "scores")[1], table(chromium, "runs")[1]
    columns = ["run", "system", "noise", "snr_db", "fold", "seed", "condition", "wa", "ua", "f1", "n"]
    assert len(expected) == len(scores) == 8 * POINTS
    assert sorted(scores) == sorted([row[name] for name in columns] for row in expected)
    left = [name for name in expected[0] if name not in columns[6:] and name not in ("versions", "config")]
    once = {tuple(row[name] for name in left) for row in expected}
    assert len(runs) == POINTS
    assert {tuple(row) for row in runs} == once
    settings = dict(table(chromium, "settings")[1])
    for row in expected:
        for name, value in json.loads(row["versions"]).items():
            assert settings[name] == value
        for section, fields in json.loads(row["config"]).items():
            for name, value in fields.items():
                text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
                shown = settings[f"{section}.{name}"]
                assert text == shown or text in shown.split(", ")


def test_means_and_deviations(grid, chromium):
    """Against the CSV, counted by hand."""
    chromium.open(grid / "report" / "index.html")
    rows = rows_of(grid)
    for metric in ("wa", "ua", "f1"):
        header, averages = table(chromium, f"averages-{metric}")
        assert header[1:-1] == ["gaussian, -10 dB", "gaussian, -20 dB", "missing"]
        points = [("gaussian", "-10.0"), ("gaussian", "-20.0"), ("missing", "")]
        found = {}
        for row in averages:
            for point, cell in zip(points, row[1:-1], strict=True):
                own = [r for r in rows if (r["system"], r["noise"], r["snr_db"]) == (row[0], *point)]
                if not own:
                    assert (row[0], point, cell) == ("nmer", ("missing", ""), "")
                    continue
                partial = [r for r in own if r["condition"] not in ("none", "all")]
                seeds = [statistics.mean(100 * float(r[metric]) for r in partial if r["seed"] == s) for s in "01"]
                found[row[0], point] = seeds
                assert float(cell) == pytest.approx(statistics.mean(seeds), abs=1e-5)
        shown = chromium.run(
            f"""Array.from(document.querySelectorAll("#table-averages-{metric} td .sd"), (e) => e.textContent)"""
        )
        assert shown == [f"{statistics.stdev(seeds):.2f}" for seeds in found.values()]
        bold = chromium.run(f"""Array.from(document.querySelectorAll("#table-averages-{metric} .best")).map(
            (e) => [e.parentElement.cells[0].textContent, e.cellIndex])""")
        for place, point in enumerate(points, 1):
            means = {s: f"{statistics.mean(seeds):.2f}" for (s, at), seeds in found.items() if at == point}
            top = max(means.values(), key=float)
            best = {s for s, mean in means.items() if mean == top} if len(means) > 1 else set()
            assert {s for s, i in bold if i == place} == best
        header, rows_by_condition = table(chromium, f"conditions-{metric}")
        assert header[3:-1] == ["a", "v", "l", "av", "al", "vl", "average", "none", "all"]
        for system, noise, snr, *cells, runs in rows_by_condition:
            assert runs == "2"
            for condition, cell in zip(header[3:-1], cells, strict=True):
                if condition != "average":
                    own = [
                        100 * float(r[metric]) for r in rows
                        if (r["system"], r["noise"], r["condition"]) == (system, noise, condition)
                        and (r["snr_db"] == snr or r["snr_db"] == "")
                    ]  # fmt: skip
                    assert float(cell) == pytest.approx(statistics.mean(own), abs=1e-5)


def test_tables_sort_by_mouse_and_by_keyboard(grid, chromium):
    chromium.open(grid / "report" / "index.html")
    header, before = table(chromium, "scores")
    place = header.index("UA %")
    chromium.run(f"document.querySelectorAll('#table-scores thead button')[{place}].click()")
    values = [float(row[place]) for row in table(chromium, "scores")[1]]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 5
    sorts = "Array.from(document.querySelectorAll('#table-scores [aria-sort]'), (e) => [e.cellIndex, e.ariaSort])"
    assert chromium.run(sorts) == [[place, "descending"]]

    chromium.run(
        f"document.getElementById('table-scores').closest('details').open = true; document.querySelectorAll('#table-scores thead button')[{place}].focus()"
    )
    chromium.press("Enter")
    again = table(chromium, "scores")[1]
    assert [float(row[place]) for row in again] == sorted(values)
    assert chromium.run(sorts) == [[place, "ascending"]]
    assert sorted(again) == sorted(before)  # rows stay whole

    snr = header.index("dB")
    for direction in (-1, 1, -1):
        chromium.run(f"document.querySelectorAll('#table-scores thead button')[{snr}].click()")
        cells = [row[snr] for row in table(chromium, "scores")[1]]
        there = [float(cell) for cell in cells if cell]
        assert there == sorted(there, reverse=direction < 0)
        assert set(cells[len(there) :]) == {""}  # what is missing is last, whichever way

    text = header.index("clean")
    chromium.run(f"document.querySelectorAll('#table-scores thead button')[{text}].click()")
    cells = [row[text] for row in table(chromium, "scores")[1]]
    assert cells == sorted(cells)


def test_of_several_options_one_is_shown(grid, chromium):
    chromium.open(grid / "report" / "index.html")
    choices = chromium.run("document.querySelectorAll('.choice').length")
    assert choices >= 5
    assert visible(chromium, "#what-is-clean .choose span") == [
        "gaussian, \u221210 dB",
        "gaussian, \u221220 dB",
        "missing",
    ]
    assert chromium.run("document.querySelectorAll('#what-is-clean .option:not([hidden])').length") == 1
    first = chromium.run("document.querySelector('#what-is-clean .option:not([hidden])').dataset.option")
    chromium.run("document.querySelector('#what-is-clean input').focus()")
    chromium.press("ArrowRight")
    second = chromium.run("document.querySelector('#what-is-clean .option:not([hidden])').dataset.option")
    assert (first, second) == ("gaussian, \u221210 dB", "gaussian, \u221220 dB")
    assert chromium.run("document.querySelectorAll('#what-is-clean .option:not([hidden])').length") == 1


def test_the_button_turns_the_theme_around(grid, chromium):
    for dark in (False, True):
        chromium.open(grid / "report" / "index.html", dark=dark)
        button, ground = "document.getElementById('theme')", "getComputedStyle(document.body).backgroundColor"
        before = chromium.run(ground)
        assert chromium.run(f"{button}.textContent") == ("Light" if dark else "Dark")
        chromium.run(f"{button}.click()")
        assert (luminance(chromium.run(ground)) > 0.9) is dark
        chromium.run(f"{button}.click()")
        assert chromium.run(ground) == before


def test_without_scripts_everything_is_there(grid, chromium):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(grid / "report" / "index.html")
        assert chromium.complaints == []
        assert chromium.run("document.querySelectorAll('.option').length") > 5
        assert len(visible(chromium, ".option > h3")) > 5
        assert visible(chromium, "#theme") == []
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)


def test_names_are_text_whatever_they_hold(feared, chromium):
    page = feared / "page" / "index.html"
    chromium.open(page)
    assert chromium.run("document.querySelectorAll('script').length") == 1
    assert chromium.run("document.querySelectorAll('img, iframe, object, embed, link[rel=stylesheet]').length") == 0
    assert set(CLASSES) <= set(visible(chromium, ".matrix th"))
    assert [text[1:] for text in visible(chromium, "#joint-representations .legend li")] == CLASSES
    assert SPEECH in table(chromium, "conditions-wa")[0]
    assert any(text.startswith(SPEECH[:20]) for text in visible(chromium, "#features-under-noise svg text"))
    assert any(BAD in text for text in visible(chromium, "#features-under-noise figcaption"))
    assert {path.name for path in (feared / "page").iterdir()} >= {"index.html", "utterance.png"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", path.name) for path in (feared / "page").iterdir())


@pytest.mark.parametrize("which", ["grid", "feared"])
def test_the_page_is_one_file_beside_its_pictures(which, request):
    folder = request.getfixturevalue(which) / ("report" if which == "grid" else "page")
    text = (folder / "index.html").read_text()
    references = set(re.findall(r'(?:src|href)="([^"]*)"', re.sub(r"<svg .*?</svg>", "", text, flags=re.S)))
    pictures = {name for name in references if name.endswith(".png")}
    assert {name for name in references - pictures if not name.startswith(("#", "data:"))} == set()
    assert {path.name for path in folder.iterdir()} == pictures | {"index.html"}
    assert len(pictures) >= 6
    for name in pictures:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 400_000
    inside = " ".join(re.findall(r"<svg .*?</svg>", text, flags=re.S))
    assert set(re.findall(r'(?:href="|url\()([^")]{5})', inside)) <= {"#" + name[:4] for name in ids(inside)} | {
        "data:"
    }
    assert len(ids(inside)) == len(set(ids(inside)))
    assert len(text) < 1_500_000


def ids(text):
    return re.findall(r' id="([^"]+)"', text)


def test_the_same_folder_gives_the_same_page(feared, tmp_path):
    report.run(report.Options(feared / "run", tmp_path), quiet=True)
    before = {path.name: path.read_bytes() for path in (feared / "page").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_with_what_was_evaluated_beside_it(feared, chromium):
    """Its own noise and those of `evaluate --out`; a file about other data is left alone."""
    chromium.open(feared / "page" / "index.html")
    header, rows = table(chromium, "averages-wa")
    assert header[1:-1] == ["gaussian, 0 dB", "gaussian, -10 dB", "gaussian, -30 dB"]
    results = json.loads((feared / "run" / "results.json").read_text())
    assert float(rows[0][2]) == pytest.approx(100 * results["average6"]["wa"], abs=1e-4)
    assert visible(chromium, "#accuracy-against-snr h2") == ["Accuracy against SNR"]


def test_where_the_data_is_gone_it_says_so(feared, tmp_path, chromium):
    shutil.copytree(feared / "run", tmp_path / "run")
    for path in (tmp_path / "run").glob("*.json"):
        path.write_text(path.read_text().replace(str(feared), str(tmp_path / "nowhere")))
    report.run(report.Options(tmp_path / "run"), quiet=True)
    chromium.open(tmp_path / "run" / "report" / "index.html")
    (line,) = [text for text in visible(chromium, ".missing li") if text.startswith("KL, joint representations")]
    assert "checkpoint" in line or "no such file" in line
    titles = visible(chromium, "h2")
    assert {"Scores", "Confusions", "Training"} <= set(titles)
    assert not {"Joint representations", "Features under noise"} & set(titles)
    assert chromium.complaints == []


def test_without_a_checkpoint_classes_are_numbers(grid, tmp_path, chromium):
    run = next((grid / "runs").glob("nmer_gaussian_-10dB_seed0"))
    (tmp_path / "run").mkdir()
    for name in ("config.json", "results.json"):
        shutil.copy(run / name, tmp_path / "run")
    page = report.run(report.Options(tmp_path / "run"), quiet=True)
    chromium.open(page)
    missing = " ".join(visible(chromium, ".missing li"))
    assert "classes" in missing
    assert "expected a checkpoint" in missing
    assert "evaluate" in missing  # how to get a curve
    assert set(visible(chromium, ".matrix th")) == {"0", "1", "2", "3"}


def test_what_a_system_lacks_is_said(grid, chromium):
    chromium.open(grid / "report" / "index.html")
    assert "No VAE, and so no latent to measure: men." in visible(chromium, "#latent p")
    shown = visible(chromium, "#joint-representations .choose span")
    assert shown == [f"{s}, gaussian, \u2212{snr} dB" for s in ("nmer", "men") for snr in (10, 20)]
    titles = chromium.run(
        "Array.from(document.querySelectorAll('#joint-representations .option'), (e) => Array.from(e.querySelectorAll('svg'), (s) => s.ariaLabel.match(/of (.*) joint/)[1]))"
    )
    assert titles[0] == ["clean", "noisy", "reconstructed, from clean", "reconstructed, from noisy"]
    assert titles[2] == ["clean", "noisy"]


def test_a_sweep_that_is_not_over(grid, tmp_path):
    shutil.copytree(grid, tmp_path / "sweep")
    runs = tmp_path / "sweep" / "runs"
    (runs / "nmer_gaussian_-10dB_seed0" / "results.json").unlink()
    (runs / "men_seed0" / "evaluations.json").unlink()
    (runs / "men_seed1" / "results.json").write_text("{")
    (tmp_path / "sweep" / "failed.json").write_text(json.dumps({"men_seed1": {"message": "on fire", "traceback": ""}}))
    collection = read_collection(tmp_path / "sweep")
    assert [run.folder.name for run in collection.runs] == [
        "nmer_gaussian_-10dB_seed1", "nmer_gaussian_-20dB_seed0", "nmer_gaussian_-20dB_seed1",
    ]  # fmt: skip
    assert collection.unfinished == ["men_seed0", "nmer_gaussian_-10dB_seed0"]
    assert collection.failed == {"men_seed1": "on fire"}


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "folder: expected one of a run or of a sweep, got {}, which is not there"),
        ("file", "folder: expected one of a run or of a sweep, got {}, which is a file"),
        (
            "empty",
            "folder: expected one of a run or of a sweep, got {}, which holds neither results.json nor sweep.json",
        ),
        ("begun", "folder: expected one of a run or of a sweep, got {}, which is not finished"),
        ("planned", "folder: expected a run that has finished in the sweep, got none yet: {}"),
    ],
)
def test_another_folder_is_refused_in_one_line(folder, message, tmp_path, refused):
    (tmp_path / "file").touch()
    for name, file in (("empty", "thesis.tex"), ("begun", "config.json"), ("planned", "sweep.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    there = sorted(tmp_path.rglob("*"))
    assert refused(report.main, tmp_path / folder) == message.format(tmp_path / folder)
    assert sorted(tmp_path.rglob("*")) == there


def test_without_the_extra_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^report: expected Jinja2, matplotlib, scikit-learn, not installed: pip install"
    ):
        report.run(report.Options(tmp_path))


# Colour vision without one kind of cone, on linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
BLIND = {
    "nobody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour, blind):
    """CIE L*a*b* of #rrggbb, D65, as somebody sees it."""
    rgb = linear(np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        np.array(blind) @ rgb, 0, 1
    )
    x, y, z = np.where((t := xyz / [0.9505, 1, 1.089]) > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("who", BLIND)
def test_the_colour_blind_can_tell_series_apart(who, theme):
    """Any two of the series differ by 10 or more (a just noticeable difference is 2.3), and from the paper by more."""
    seen = {name: lab(COLOURS[name][theme], BLIND[who]) for name in (*SERIES, "paper")}
    distances = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a in seen for b in seen if a < b}
    assert min(distances.values()) > 10, min(distances, key=distances.get)
    assert min(d for pair, d in distances.items() if "paper" in pair) > 25


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(theme):
    """WCAG AA: 4.5 for text, of links too."""
    paper = luminance(COLOURS["paper"][theme])
    for name in ("ink", "muted", "blue"):
        bright, dim = sorted((paper, luminance(COLOURS[name][theme])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) > 4.5, name


def test_bars_of_systems_that_stand_side_by_side_have_colours_of_their_own():
    """Bars have no marker."""
    compared = [name for name in SYSTEMS if name != "unimodal"]
    assert len({figures.system_key(name).colour for name in compared}) == len(compared)


def test_classifiers_of_one_modality_are_told_apart(tmp_path):
    systems = ("unimodal.a", "unimodal.v", "unimodal.l")
    options = sweep.Options(tmp_path / "sweep", systems, ("gaussian",), (-10.0,), seeds=(0,), epochs=1, settings=TINY)
    assert sweep.run(options, quiet=True).failed == {}
    collection = read_collection(tmp_path / "sweep")
    assert sorted(collection.systems) == sorted(systems)
    assert all(len(collection.evaluations(system, noise)) == 1 for system in systems for noise in collection.noises)
    assert len({(key.colour, key.marker) for key in map(figures.system_key, systems)}) == 3
    page = report.run(report.Options(tmp_path / "sweep"), quiet=True).read_text()
    assert all(system in page for system in systems)


def test_a_run_trained_under_a_range_of_snrs_is_shown(tmp_path):
    options = train.Options(system="men", epochs=1, out=tmp_path / "run", settings=(*TINY, "noise.snr_db=[-30,0]"))
    train.run(options, quiet=True)
    page = report.run(report.Options(tmp_path / "run"), quiet=True).read_text()
    (cells,) = re.findall(r'id="table-runs">.*?<tbody>\s*(<tr>.*?</tr>)', page, flags=re.S)
    assert "<td>-30 to 0</td>" in cells


def test_a_system_of_another_package_needs_no_list(grid, tmp_path, monkeypatch):
    """MEN by its path stands in tables, curves and bars, and comes after this package's systems."""
    path = "nmer_fast.models.men:MEN"
    shutil.copytree(grid, tmp_path / "sweep", ignore=shutil.ignore_patterns("report"))
    for file in (tmp_path / "sweep" / "runs").glob("men*/*.json"):
        file.write_text(file.read_text().replace('"system": "men"', f'"system": "{path}"'))
    monkeypatch.setattr("nmer_fast.reporting.collection.system_class", registry.SYSTEMS.load)
    collection = read_collection(tmp_path / "sweep")
    assert collection.systems == ["nmer", path]
    assert {row["system"] for run in collection.runs for row in run.rows()} == {"nmer", path}
    page = report.run(report.Options(tmp_path / "sweep"), quiet=True).read_text()
    (body,) = re.findall(r'id="table-averages-wa">.*?<tbody>(.*?)</tbody>', page, flags=re.S)
    assert re.findall(r'<th scope="row">(.*?)</th>', body) == ["nmer", path]
    key = figures.system_key(path)
    assert (key.label, key) == (path, figures.system_key(path))
    assert key.colour in {COLOURS[name][0] for name in SERIES}
