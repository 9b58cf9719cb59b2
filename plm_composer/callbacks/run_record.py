"""Puts the run's config into every checkpoint, so that a checkpoint says what it is."""

from __future__ import annotations

from typing import Any

from composer import Callback


class RunRecord(Callback):
    """Carries the run's config and the model's in a checkpoint's ``callbacks`` state, as plain values.

    Args:
        config: The run's ``config.yaml``.
        model: Every field of the model's config, which a run that continues another's weights does not name.
    """

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
