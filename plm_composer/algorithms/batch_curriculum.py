"""The base of batch curricula, which make training batches easier or smaller as a function of the run's time."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from plm_composer.data.batches import Batch, count_proteins, count_rows
from plm_composer.data.collate import Collator

_DRAWS = ("selection", "window")


class BatchCurriculum(Algorithm, abc.ABC):
    """Changes each training batch before Composer counts its proteins and tokens.

    The change depends on the timestamp and ``max_duration`` alone and is made in the process that trains, so that
    workers that read ahead, the number of processes and a resume do not affect it. The current value is logged as
    ``curriculum/<quantity>``.

    Attributes:
        quantity: Name of the quantity that changes, for the log.
        draws: Random draws that batches must carry (``Collator.draws``).
        position: Rank in the order in which curricula are applied, whatever their order in the YAML.
    """

    quantity: ClassVar[str]
    draws: ClassVar[frozenset[str]] = frozenset()
    position: ClassVar[int]

    def __init__(self) -> None:
        self._state: State | None = None
        self._current: float | None = None
        self.collator = Collator()

    def bind(self, collator: Collator) -> None:
        """Stores the collator.

        Args:
            collator: The run's collator.

        Raises:
            UserError: The curriculum does not fit it.
        """
        self.collator = collator

    @abc.abstractmethod
    def value(self, state: State) -> float:
        """The current value of the quantity.

        Args:
            state: State of the Trainer, of which ``timestamp``, ``max_duration`` and ``dataloader_len`` are used.
        """

    @abc.abstractmethod
    def change(self, batch: Batch, value: float) -> Batch:
        """Makes the batch for a value of the quantity.

        Args:
            batch: Batch of the collator, or of an earlier curriculum; it is not changed.
            value: Result of ``value``.
        """

    def transform(self, batch: Batch) -> Batch:
        """Makes the batch for the current value."""
        assert self._state is not None, "the Trainer has not started"
        self._current = self.value(self._state)
        return self.change(batch, self._current)

    def match(self, event: Event, state: State) -> bool:
        """Runs at the start of the training and of each batch."""
        return event in (Event.FIT_START, Event.BATCH_START)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Stores the Trainer's state at the start; then logs the value of each batch."""
        if event == Event.FIT_START:
            self._state = state
        elif self._current is not None:
            logger.log_metrics({f"curriculum/{self.quantity}": self._current})


def bind_curricula(algorithms: Iterable[Algorithm], collator: Collator) -> Callable[[Batch], Batch] | None:
    """Makes the ``batch_transforms`` of a ``DataSpec``, which are applied before a training batch is counted.

    Args:
        algorithms: The run's algorithms.
        collator: The run's collator.

    Returns:
        Function: the loader's batch -> the batch to train on; None without curricula.

    Raises:
        UserError: A curriculum does not fit the collator.
    """
    curricula = sorted((a for a in algorithms if isinstance(a, BatchCurriculum)), key=lambda a: a.position)
    for curriculum in curricula:
        curriculum.bind(collator)
    return _Chain(curricula) if curricula else None


class _Chain:
    def __init__(self, curricula: Sequence[BatchCurriculum]) -> None:
        self.curricula = curricula

    def __call__(self, batch: Batch) -> Batch:
        read = count_proteins(batch)
        for curriculum in self.curricula:
            batch = curriculum.transform(batch)
        batch = {key: value for key, value in batch.items() if key not in _DRAWS}
        # On a resume Composer finds its place in an epoch by the proteins read, not by those trained on.
        return batch if count_rows(batch) == read else {**batch, "proteins_read": read}
