"""Loggers by name: Composer's; and the metrics file that every run writes."""

from __future__ import annotations

from typing import Any

from composer import loggers as composer_loggers

from plm_composer.config.registry import Registry

_ENTRIES: dict[str, Any] = {
    "cometml": composer_loggers.CometMLLogger,
    "file_logger": composer_loggers.FileLogger,
    "in_memory_logger": composer_loggers.InMemoryLogger,
    "mlflow": composer_loggers.MLFlowLogger,
    "neptune": composer_loggers.NeptuneLogger,
    "slack": composer_loggers.SlackLogger,
    "tensorboard": composer_loggers.TensorboardLogger,
    "wandb": composer_loggers.WandBLogger,
}

LOGGERS = Registry("loggers", _ENTRIES, base=composer_loggers.LoggerDestination)
