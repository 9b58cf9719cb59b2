"""Makes Composer's Trainer from the parts of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence

import torch
from composer import Callback, Trainer
from composer.core import Precision
from composer.loggers import LoggerDestination
from composer.utils import dist, get_device, reproducibility
from composer.utils.parallelism import ParallelismConfig

from plm_composer.budget.ledger import Ledger
from plm_composer.callbacks.batch_seed import BatchSeed
from plm_composer.callbacks.budget import Budget
from plm_composer.callbacks.ema import AveragedCheckpoints
from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.callbacks.order import in_order
from plm_composer.callbacks.preemption import Preemption
from plm_composer.callbacks.schedule_free import AveragedWeights
from plm_composer.checkpoints.best import BestCheckpointSaver
from plm_composer.checkpoints.run_record import RunRecord
from plm_composer.checkpoints.saver import WholeCheckpointSaver
from plm_composer.checkpoints.uploads import watch_uploads
from plm_composer.config.merge import to_yaml
from plm_composer.data.streaming.loader import make_data_spec
from plm_composer.errors import UserError
from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from plm_composer.hardware.machine import matmul_peak, prepare_cpu
from plm_composer.hardware.peaks import datasheet_peak
from plm_composer.hardware.precision import autocast_dtype, trainer_precision
from plm_composer.loggers.metrics_file import MetricsFile
from plm_composer.loggers.training_progress import TrainingProgress
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import AUTO, parallelize
from plm_composer.model.weights.pretrained import load_pretrained
from plm_composer.optim.schedule_free import has_averaged_weights
from plm_composer.optim.schedulers import check_scheduler
from plm_composer.run.datasets import Places, make_dataset, make_evaluation
from plm_composer.run.parts import Parts
from plm_composer.run_folder import RunFolder


def make_trainer(parts: Parts, places: Places, folder: RunFolder, ledger: Ledger) -> Trainer:
    """Makes the model, the datasets and the Trainer, which loads the checkpoint that the run starts from.

    Args:
        parts: The run's parts.
        places: From ``find_places``.
        folder: The run folder, which exists.
        ledger: The time that the run has spent.

    Raises:
        UserError: The datasets cannot be read, or the checkpoint does not exist.
    """
    config = parts.config
    if parts.device == "cpu":
        prepare_cpu()
        correct_fsdp_on_cpus()
    # Before weights are drawn: the Trainer sets its seed only after the model is made.
    reproducibility.seed_all(config.seed)
    train_set = make_dataset(parts, places)
    train_spec = make_data_spec(
        train_set,
        num_workers=config.data.num_workers,
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=parts.device == "gpu",
        microbatch_tokens=config.device_train_microbatch_tokens,
        batch_transforms=parts.curriculum,
        weighting=parts.weighting,
    )
    check_scheduler(parts.scheduler, parts.duration, len(train_spec.dataloader))
    model = make_model(parts)
    optimizer = parts.optimizer.make(model)
    try:
        trainer = Trainer(
            model=model,
            train_dataloader=train_spec,
            eval_dataloader=make_evaluation(config, places, model),
            max_duration=parts.duration,
            algorithms=parts.algorithms,
            optimizers=optimizer,
            schedulers=parts.scheduler,
            eval_interval=config.eval_interval,
            eval_subset_num_batches=config.eval_subset_num_batches,
            callbacks=_make_callbacks(parts, folder, model, optimizer, ledger),
            loggers=_make_loggers(parts, folder),
            run_name=config.run_name,
            progress_bar=False,  # ours is among the loggers
            load_path=config.load_path,
            load_weights_only=config.load_weights_only,
            save_folder=config.save_folder,
            save_overwrite=config.save_overwrite or config.autoresume,
            save_interval=config.save_interval,
            save_num_checkpoints_to_keep=config.save_num_checkpoints_to_keep,
            autoresume=config.autoresume,
            parallelism_config=None if parts.sharding is None else ParallelismConfig(fsdp2=parts.sharding),
            device=get_device(config.device),
            precision=trainer_precision(config.precision, parts.device),
            device_train_microbatch_size=config.device_train_microbatch_size or parts.proteins,
            accumulate_train_batch_on_tokens=True,
            seed=config.seed,
            dist_timeout=config.dist_timeout,
        )
    except FileNotFoundError as error:
        raise UserError(f"load_path: cannot load {config.load_path}: {error}") from error
    watch_uploads(trainer.state.callbacks)
    return trainer


def make_model(parts: Parts) -> ESM2ComposerModel:
    """Makes the model, from scratch or with the weights of ``model.pretrained``.

    The config says whether its blocks are compiled, and whether they are recomputed in the backward pass.

    Args:
        parts: The run's parts.
    """
    config = parts.config
    # For a sharded model, Composer sends the first process's weights to the others, which need only the shapes.
    shapes_only = parts.sharding is not None and dist.get_global_rank() > 0
    with torch.device("meta") if shapes_only else contextlib.nullcontext():
        model = parts.model_class(parts.model)
    if "pretrained" in config.model and not shapes_only:
        _, weights = load_pretrained(config.model, config.load_trust)
        model.load_state_dict(weights)
    model.attention_backend = config.attention_backend
    if config.compile_config == AUTO and parts.device == "gpu" and parts.compile_arguments is None:
        warnings.warn("blocks are not compiled: that needs triton and a C compiler such as gcc", stacklevel=2)
    parallelize(
        model,
        activation_checkpointing=config.activation_checkpointing,
        compile_arguments=parts.compile_arguments,
    )
    return ESM2ComposerModel(model, autocast_dtype(config.precision, parts.device), parts.weighting)


def _make_callbacks(
    parts: Parts, folder: RunFolder, model: ESM2ComposerModel, optimizer: torch.optim.Optimizer, ledger: Ledger
) -> list[Callback]:
    """Makes the callbacks of every run and those that the YAML names, in the order of ``callbacks/order.py``."""
    config = parts.config
    callbacks = [
        LossGuard(),
        BatchSeed(config.seed),
        RunRecord(to_yaml(config), model.model.config.to_mapping(), own_class=parts.model_class is not ESM2),
        AveragedCheckpoints(),
    ]
    if config.budget is not None:
        callbacks.append(Budget(ledger, str(config.run_name), config.report))
    if has_averaged_weights(optimizer):
        callbacks.append(AveragedWeights())
    if config.save_folder is not None:  # Without checkpoints, there is nothing to save after SIGTERM.
        callbacks.append(Preemption(config.preemption_grace))
        if "://" not in config.save_folder:  # For an object store the Trainer makes its own saver.
            callbacks.append(_make_saver(parts, config.save_folder))
    if config.keep_best is not None:
        callbacks.append(BestCheckpointSaver(str(folder.best), config.keep_best, config.autoresume))
    for component in parts.callbacks:
        if component.key == "callbacks.speed_monitor" and "gpu_flops_available" not in component.arguments:
            peak = {"gpu_flops_available": _peak_flops(parts)}
            component = dataclasses.replace(component, arguments={**component.arguments, **peak})
        callbacks.append(component.make())
    return in_order([*callbacks, *parts.evaluations])


def _peak_flops(parts: Parts) -> float | None:
    """FLOP/s of the device in the run's precision: a GPU's by its datasheet, a CPU's as measured; None if not known."""
    if parts.device == "gpu":
        return datasheet_peak(Precision(parts.precision))
    return matmul_peak(torch.device("cpu"), autocast_dtype(parts.precision, parts.device) or torch.float32)


def _make_saver(parts: Parts, folder: str) -> WholeCheckpointSaver:
    config = parts.config
    return WholeCheckpointSaver(
        folder,
        takes_over=config.autoresume,
        # A killed run may leave a checkpoint after the one it resumes from; Composer would refuse to overwrite it.
        overwrite=config.save_overwrite or config.autoresume,
        save_interval=config.save_interval,
        num_checkpoints_to_keep=config.save_num_checkpoints_to_keep,
    )


def _make_loggers(parts: Parts, folder: RunFolder) -> Sequence[LoggerDestination | Callback]:
    """Makes the loggers that the YAML names, that of ``metrics.jsonl``, and the one that shows progress on stderr.

    By default they write to the run folder.
    """
    in_the_folder = {
        "loggers.tensorboard": {"log_dir": str(folder.path / "tensorboard")},
        "loggers.file_logger": {"filename": str(folder.path / "log-rank{rank}.txt")},
    }
    loggers = []
    for component in parts.loggers:
        arguments = {**in_the_folder.get(component.key, {}), **component.arguments}
        loggers.append(dataclasses.replace(component, arguments=arguments).make())
    config = parts.config
    if config.progress_bar or config.log_to_console:
        interval = config.console_log_interval if config.log_to_console else None
        loggers.append(TrainingProgress(config.progress_bar, interval))
    return [*loggers, MetricsFile(folder.metrics)]
