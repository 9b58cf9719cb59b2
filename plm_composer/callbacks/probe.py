"""A probe of frozen embeddings within a training."""

from __future__ import annotations

from pathlib import Path

from composer import Logger, State
from composer.utils import dist

from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.evaluation.probes.evaluate import run_probe
from plm_composer.evaluation.probes.tables import read_probe_table
from plm_composer.evaluation.results import Result
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, layer_numbers


class Probe(ScheduledEvaluation):
    """Predicts a property of proteins from the model's embeddings, and logs what ``plm probe`` prints.

    The first process fits and scores, and the others wait for it.

    Args:
        table: Table of sequences, targets and splits, as for ``plm probe``.
        target: Column of the targets.
        kind: Kind of the targets: ``regression``, ``classes`` or ``residues``; None to tell from them.
        layer: Layer of the hidden states; -1 is the last.
        train_limit: Largest number of training proteins; they are drawn, the same in every evaluation and every run.
        test_limit: Largest number of test proteins, drawn likewise.
        train_residues: Largest number of training residues, for targets a residue.
        interval: Time between two evaluations; there is always one at the end of training.
        batch_tokens: Maximum number of tokens in a batch.

    Raises:
        UserError: The table cannot be read, or has no such column.
    """

    name = "probe"

    def __init__(
        self,
        table: str,
        target: str,
        kind: str | None = None,
        layer: int = -1,
        train_limit: int = 1000,
        test_limit: int = 1000,
        train_residues: int = 20_000,
        interval: str | int = "1ep",
        batch_tokens: int = 16384,
    ) -> None:
        super().__init__(interval, batch_tokens)
        self.data = read_probe_table(Path(table), target, kind=kind, train_limit=train_limit, test_limit=test_limit)
        self.title = f"{Path(table).name.split('.')[0]} {target}"
        self.layer, self.train_residues = layer, train_residues

    def init(self, state: State, logger: Logger) -> None:
        """Checks the layer, before anything is trained.

        Raises:
            UserError: The model has no such layer.
        """
        layer_numbers((self.layer,), getattr(state.model, "module", state.model).model.config.num_hidden_layers)

    def tokens(self) -> int:
        """Number of tokens that one evaluation sends through the model on the first process."""
        return sum(len(sequence) + 2 for sequence in self.data.sequences)

    def evaluate(self, model: ESM2, place: Place) -> list[Result]:
        """Fits and scores the probe on the first process, and sends the result to all."""
        found: list[Result | None] = [None]
        if dist.get_global_rank() == 0:
            outcome = run_probe(
                model, self.data, name=self.title, layer=self.layer, train_residues=self.train_residues, place=place
            )
            found = [outcome.result]
        dist.broadcast_object_list(found)
        return [result for result in found if result is not None]
