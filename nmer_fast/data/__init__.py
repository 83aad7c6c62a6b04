"""Feature sets: how they are held in memory, made up, read from files of any format, and packed into a store.

`load` reads any source. A reader's file is named like its format: multibench_pkl.py reads multibench-pkl, and
iemocap_msp_h5.py reads iemocap-h5 and msp-h5.
"""

from .featureset import FeatureSet, Ragged, tolerant
from .formats import Findings, Format, Loaded, Source
from .loading import load, load_folds
from .npz import load_npz, load_npz_folds
from .standardise import Standardiser
from .store import read_store, verify_store, write_store
from .synthetic import synthetic

__all__ = [
    "FeatureSet",
    "Findings",
    "Format",
    "Loaded",
    "Ragged",
    "Source",
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
