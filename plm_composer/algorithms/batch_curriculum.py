"""What batch curricula share: a training batch is made easier or smaller, as a function of the run's time."""

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

    What it does to a batch follows from the timestamp and ``max_duration`` alone, in the process that trains: neither
    workers that read ahead, nor the number of processes, nor a resume can bend it. Its value of the moment is logged
    as ``curriculum/<quantity>``.

    Attributes:
        quantity: What changes, for the log.
        draws: What batches must carry for it (``plm_composer.data.collate.Collator``).
        position: Curricula are applied in this order, whatever the YAML's.
    """

    quantity: ClassVar[str]
    draws: ClassVar[frozenset[str]] = frozenset()
    position: ClassVar[int]

    def __init__(self) -> None:
        self._state: State | None = None
        self._current: float | None = None
        self.collator = Collator()

    def bind(self, collator: Collator) -> None:
        """Takes notice of how batches are made.

        Args:
            collator: The run's.

        Raises:
            UserError: The curriculum does not fit it.
        """
        self.collator = collator

    @abc.abstractmethod
    def value(self, state: State) -> float:
        """The quantity at a moment.

        Args:
            state: The Trainer's; ``timestamp``, ``max_duration`` and ``dataloader_len`` are looked at.
        """

    @abc.abstractmethod
    def change(self, batch: Batch, value: float) -> Batch:
        """Makes the batch that has this value of the quantity.

        Args:
            batch: As the collator made it, or another curriculum after it; it is not changed.
            value: Of ``value``.
        """

    def transform(self, batch: Batch) -> Batch:
        """Makes the batch of this moment."""
        assert self._state is not None, "the Trainer has not started"
        self._current = self.value(self._state)
        return self.change(batch, self._current)

    def match(self, event: Event, state: State) -> bool:
        """Takes notice of the Trainer, and logs."""
        del state
        return event in (Event.FIT_START, Event.BATCH_START)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """At the start remembers whose time counts; then logs the value of each batch."""
        if event == Event.FIT_START:
            self._state = state
        elif self._current is not None:
            logger.log_metrics({f"curriculum/{self.quantity}": self._current})


def bind_curricula(algorithms: Iterable[Algorithm], collator: Collator) -> Callable[[Batch], Batch] | None:
    """Makes what a ``DataSpec`` calls on each training batch before it is counted, its ``batch_transforms``.

    Args:
        algorithms: The run's.
        collator: The run's.

    Returns:
        A function from the loader's batch to the one that is trained on; None where there is no curriculum.

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
        # Composer finds its place in an epoch again by what was read, not by what was trained on.
        return batch if count_rows(batch) == read else {**batch, "proteins_read": read}
