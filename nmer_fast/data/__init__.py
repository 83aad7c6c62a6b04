"""Feature sets: the ragged container, the synthetic default, the project's own file; one file per source."""

from .featureset import FeatureSet, Ragged
from .npz import load_npz
from .standardise import Standardiser
from .synthetic import synthetic

__all__ = ["FeatureSet", "Ragged", "Standardiser", "load_npz", "synthetic"]
