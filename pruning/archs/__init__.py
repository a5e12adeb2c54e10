"""The networks: those of this package by name, others by their function; the only door to `pruning.archs`."""

from pruning.archs.building import Arch, build, code_of, fresh, from_spec, place_of, read, skeleton, spec_of
from pruning.archs.feasible import problem
from pruning.archs.foreign import Foreign, head_of
from pruning.archs.ours import ARCHS, initialise

__all__ = [
    "ARCHS",
    "Arch",
    "Foreign",
    "build",
    "code_of",
    "fresh",
    "from_spec",
    "head_of",
    "initialise",
    "place_of",
    "problem",
    "read",
    "skeleton",
    "spec_of",
]
