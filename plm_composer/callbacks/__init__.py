"""Callbacks by name: those of Composer that are useful here, and ours."""

from __future__ import annotations

from typing import Any

from composer import Callback
from composer import callbacks as composer_callbacks

from plm_composer.callbacks.contacts import Contacts
from plm_composer.callbacks.efficiency_monitor import EfficiencyMonitor
from plm_composer.callbacks.probe import Probe
from plm_composer.callbacks.proteingym import ProteinGym
from plm_composer.config.registry import Registry

_ENTRIES: dict[str, Any] = {
    "activation_monitor": composer_callbacks.ActivationMonitor,
    "contacts": Contacts,
    "early_stopper": composer_callbacks.EarlyStopper,
    "efficiency_monitor": EfficiencyMonitor,
    "lr_monitor": composer_callbacks.LRMonitor,
    "memory_monitor": composer_callbacks.MemoryMonitor,
    "memory_snapshot": composer_callbacks.MemorySnapshot,
    "oom_observer": composer_callbacks.OOMObserver,
    "optimizer_monitor": composer_callbacks.OptimizerMonitor,
    "probe": Probe,
    "proteingym": ProteinGym,
    "runtime_estimator": composer_callbacks.RuntimeEstimator,
    "speed_monitor": composer_callbacks.SpeedMonitor,
    "system_metrics_monitor": composer_callbacks.SystemMetricsMonitor,
    "threshold_stopper": composer_callbacks.ThresholdStopper,
}

CALLBACKS = Registry("callbacks", _ENTRIES, base=Callback)
