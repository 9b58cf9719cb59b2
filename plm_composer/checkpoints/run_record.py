"""The record in every checkpoint: the configs of its run and of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer import Callback

from plm_composer.callbacks.order import Position
from plm_composer.errors import UserError


class RunRecord(Callback):
    """Stores the configs of the run and of the model in a checkpoint's ``callbacks`` state, as plain values.

    Args:
        config: Text of the run's ``config.yaml``.
        model: All fields of the model's config; the YAML of a run that starts from other weights does not name them.
        own_class: Whether the model is a class of the user's, which is defined in ``code_paths``.
    """

    position = Position.RECORD

    def __init__(self, config: str, model: dict[str, Any], own_class: bool = False) -> None:
        self.config = config
        self.model = model
        self.own_class = own_class
        self.loaded: str | None = None
        """The run config in the loaded checkpoint; None if none was loaded."""

    def state_dict(self) -> dict[str, Any]:
        """The record."""
        return {"config": self.config, "model": self.model, "own_class": self.own_class}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers the checkpoint's config; the run keeps the config that it was started with."""
        self.loaded = state["config"]


def find_record(state: Mapping[str, Any], source: object) -> Mapping[str, Any]:
    """Finds the record of ``RunRecord`` in a checkpoint.

    Args:
        state: The checkpoint's ``state``.
        source: The checkpoint's path, for messages.

    Returns:
        ``config``, the text of the run's ``config.yaml``, and ``model``, the fields of ``ESM2Config``.

    Raises:
        UserError: The checkpoint has no record.
    """
    callbacks = state.get("callbacks") or {}
    for name, content in callbacks.items() if isinstance(callbacks, Mapping) else callbacks:
        if name.rsplit(".", 1)[-1] == RunRecord.__name__:
            return content
    raise UserError(f"{source}: the checkpoint does not say how its model was built; plm-composer did not write it")
