"""The record in every checkpoint: the config of its run and of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer import Callback

from plm_composer.callbacks.order import Position
from plm_composer.errors import UserError


class RunRecord(Callback):
    """Carries the run's config and the model's in a checkpoint's ``callbacks`` state, as plain values.

    Args:
        config: The run's ``config.yaml``.
        model: Every field of the model's config, which a run that continues another's weights does not name.
    """

    position = Position.RECORD

    def __init__(self, config: str, model: dict[str, Any]) -> None:
        self.config = config
        self.model = model
        self.loaded: str | None = None
        """The config in the checkpoint that was loaded."""

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"config": self.config, "model": self.model}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers what the checkpoint says; the run keeps the config that it was started with."""
        self.loaded = state["config"]


def find_record(state: Mapping[str, Any], source: object) -> Mapping[str, Any]:
    """Finds what ``RunRecord`` left in a checkpoint.

    Args:
        state: The checkpoint's ``state``.
        source: The checkpoint, for the message.

    Returns:
        ``config``, the run's ``config.yaml``, and ``model``, the fields of ``ESM2Config``.

    Raises:
        UserError: There is no record.
    """
    callbacks = state.get("callbacks") or {}
    for name, content in callbacks.items() if isinstance(callbacks, Mapping) else callbacks:
        if name.rsplit(".", 1)[-1] == RunRecord.__name__:
            record: Mapping[str, Any] = content
            return record
    raise UserError(f"{source}: the checkpoint does not say how its model was built; it is not one of train.py's")
