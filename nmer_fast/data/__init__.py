"""Feature sets: the ragged container, the synthetic default, the project's own files; one file per source."""

from .featureset import FeatureSet, Ragged, tolerant
from .npz import load_npz, load_npz_folds
from .sources import load, load_folds
from .standardise import Standardiser
from .store import read_store, verify_store, write_store
from .synthetic import synthetic

__all__ = [
    "FeatureSet",
    "Ragged",
    "Standardiser",
    "load",
    "load_folds",
    "load_npz",
    "load_npz_folds",
    "read_store",
    "synthetic",
    "tolerant",
    "verify_store",
    "write_store",
]
