"""Names of systems, of this package and of others, with and without a modality."""

import pytest

from nmer_fast.registry import SYSTEMS
from nmer_fast.system_names import place_of, split_system, title_of


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nmer", ("nmer", "")),
        ("unimodal.a", ("unimodal", "a")),
        ("unimodal.a.b:c", ("unimodal", "a.b:c")),
        ("package.module:Class", ("package.module:Class", "")),
        ("package.module:Class.a", ("package.module:Class", "a")),
        ("gone.a", ("gone", "a")),
    ],
)
def test_a_name_is_split_into_system_and_modality(name, parts):
    assert split_system(name) == parts


def test_titles():
    assert [title_of(name) for name in ("nmer_no_inv", "late_fusion", "unimodal.v")] == [
        "NMER w/o L_inv",
        "late fusion",
        "v alone",
    ]
    assert title_of("package.module:Class") == "package.module:Class"
    assert all(title_of(name) != name for name in SYSTEMS.own)


def test_systems_of_other_packages_come_last():
    assert [place_of(name) for name in SYSTEMS.own] == list(range(len(SYSTEMS.own)))
    assert place_of("package.module:Class") == len(SYSTEMS.own)
