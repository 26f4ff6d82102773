"""Numbers -> numbers that look random, one to one: for samples and parts that are the same on any machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt = npt.NDArray[np.uint64]


def scrambled(values: UInt) -> UInt:
    """Every bit of a number spread over all, shape (n,): the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
