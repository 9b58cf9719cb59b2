"""Counter-based random numbers: pure functions of (seed, epoch, sample_id, position), vectorised.

The state of a generator depends on earlier draws, so its numbers change with the number of workers and ranks and are
lost at a restart. A hash of the coordinates has no state. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 2.0**-53


class Purpose(enum.IntEnum):
    """What a random number is for; numbers for different purposes are independent."""

    CROP = 1
    SELECT = 2
    REPLACE = 3
    RESIDUE = 4
    MEMBER = 5
    WINDOW = 6
    RATE = 7


def _mix(values: UInt64Array) -> UInt64Array:
    """SplitMix64's finaliser, in place: every input bit changes each output bit with probability one half."""
    values ^= values >> np.uint64(30)
    values *= _MULTIPLIER_1
    values ^= values >> np.uint64(27)
    values *= _MULTIPLIER_2
    values ^= values >> np.uint64(31)
    return values


def _absorb(state: UInt64Array, value: npt.ArrayLike) -> UInt64Array:
    # Adding a multiple of an odd constant is a bijection of `value`, and _mix is one too: no coordinate is lost.
    steps: UInt64Array = np.atleast_1d(np.asarray(value)).astype(np.uint64) + np.uint64(1)
    return _mix(state + steps * _GOLDEN_GAMMA)


def sample_keys(seed: int, epochs: npt.ArrayLike, sample_ids: npt.ArrayLike) -> UInt64Array:
    """Makes one 64-bit key for each sample.

    Args:
        seed: The run's seed, at least 0.
        epochs: Epoch in which each sample is seen, from 0, shape (N,) or scalar.
        sample_ids: Index of each sample in the dataset, shape (N,).

    Returns:
        Keys, shape (N,).
    """
    state = _absorb(np.zeros(1, dtype=np.uint64), seed)
    return _absorb(_absorb(state, epochs), sample_ids)


def uniform(keys: UInt64Array, purpose: Purpose, positions: npt.ArrayLike = 0) -> npt.NDArray[np.float64]:
    """Draws numbers in [0, 1), one for each pair of key and position.

    Args:
        keys: Keys from ``sample_keys``, shape (T,).
        purpose: What the numbers are for.
        positions: Token positions in the whole protein, shape (T,) or scalar.

    Returns:
        Numbers, shape (T,), with 53 random bits.
    """
    mixed = _absorb(_absorb(keys, int(purpose)), positions)
    return (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT
