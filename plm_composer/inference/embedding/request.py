"""What is asked of each protein: which vector, of which layers, in which precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.inference.embedding.windows import DEFAULT_WINDOW
from plm_composer.model.predict import layer_numbers

MEAN, CLS, RESIDUES = "mean", "cls", "residues"
KINDS = (MEAN, CLS, RESIDUES)
"""The mean over a protein's residues; the vector of ``<cls>``; a vector for each residue."""
DTYPES = {"float32": np.float32, "float16": np.float16}
SMALLEST_WINDOW = 4
"""Residues; shorter windows would not overlap."""

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of each protein.

    Args:
        kind: One of ``KINDS``.
        layers: Layers as ``predict.layer_numbers`` takes them.
        dtype: Name in ``DTYPES``.
        window: Most residues that the model sees at once; 0 for no limit.

    Raises:
        UserError: One of them is impossible.
    """

    kind: str = MEAN
    layers: tuple[int, ...] = (-1,)
    dtype: str = "float32"
    window: int = DEFAULT_WINDOW

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"the kind of embedding is {self.kind!r}; choose from {', '.join(KINDS)}")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype is {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.window != 0 and self.window < SMALLEST_WINDOW:
            raise UserError(f"--window is {self.window}; give at least {SMALLEST_WINDOW} residues, or 0 for no windows")

    def of_model(self, num_layers: int) -> Request:
        """The same with layers counted from 0.

        Args:
            num_layers: Number of the model's layers.

        Raises:
            UserError: The model has no such layer.
        """
        return dataclasses.replace(self, layers=tuple(layer_numbers(self.layers, num_layers)))

    def rows(self, lengths: Sequence[int] | IntArray) -> int:
        """Number of vectors of proteins of some lengths in residues, for each layer."""
        return int(np.sum(lengths)) if self.kind == RESIDUES else len(lengths)

    def row_bytes(self, width: int) -> int:
        """Bytes of one row: a vector of each layer.

        Args:
            width: Width of the model.
        """
        return np.dtype(DTYPES[self.dtype]).itemsize * len(self.layers) * width


def kind_of(per_residue: bool, cls: bool) -> str:
    """The kind that two flags ask for.

    Raises:
        UserError: Both are set.
    """
    if per_residue and cls:
        raise UserError("--per-residue and --cls exclude each other; give one of them")
    return RESIDUES if per_residue else CLS if cls else MEAN
