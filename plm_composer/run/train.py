"""From a config to Composer's Trainer and a trained, exported model: the one place where all parts meet."""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from composer import Callback, Trainer
from composer.loggers import LoggerDestination
from composer.utils import dist, get_device, reproducibility
from composer.utils.parallelism import ParallelismConfig
from torch._dynamo.exc import TorchDynamoException

from plm_composer import run_folder
from plm_composer.algorithms import ALGORITHMS
from plm_composer.algorithms.batch_curriculum import bind_curricula
from plm_composer.algorithms.ema import use_averages
from plm_composer.budget.duration import parse_duration
from plm_composer.budget.ledger import Ledger, open_ledger, process_start
from plm_composer.callbacks import CALLBACKS, preemption
from plm_composer.callbacks.batch_seed import BatchSeed
from plm_composer.callbacks.budget import Budget
from plm_composer.callbacks.ema import AveragedCheckpoints
from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.callbacks.schedule_free import AveragedWeights
from plm_composer.checkpoints.record import RunRecord
from plm_composer.checkpoints.resume import forget_downloaded, prepare_checkpoints
from plm_composer.checkpoints.saver import WholeCheckpointSaver
from plm_composer.checkpoints.start import check_progress, loading_checkpoint
from plm_composer.config.merge import to_yaml
from plm_composer.config.registry import build
from plm_composer.config.schema import TrainConfig
from plm_composer.data.streaming.loader import make_data_spec
from plm_composer.data.streaming.workers import explain_killed_workers
from plm_composer.errors import UserError
from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from plm_composer.hardware.machine import matmul_peak, prepare_cpu
from plm_composer.hardware.precision import autocast_dtype, trainer_precision
from plm_composer.hardware.sharding import make_sharding
from plm_composer.inference.export import check_export, export_run
from plm_composer.loggers import LOGGERS
from plm_composer.loggers.metrics_file import MetricsFile
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import AUTO, compile_arguments, parallelize
from plm_composer.model.weights.huggingface import loader, read_config
from plm_composer.model.weights.pretrained import load_pretrained, pretrained_config
from plm_composer.optim import OPTIMIZERS
from plm_composer.optim.schedule_free import averaged_weights, has_averaged_weights
from plm_composer.optim.schedulers import check_scheduler
from plm_composer.run.checks import check_config, make_scheduler, model_config, planned_duration
from plm_composer.run.conversion import prepare_shards
from plm_composer.run.datasets import Places, find_places, make_dataset, make_evaluation
from plm_composer.run_folder import RunFolder

T = TypeVar("T")


def train(config: TrainConfig) -> int:
    """Trains as the config says, evaluates, exports the model, and prints where everything lies.

    Args:
        config: From ``plm_composer.config.merge.load_config``.

    Returns:
        The exit code: 0, or ``preemption.EXIT_CODE`` where SIGTERM ended the training early, its state saved.

    Raises:
        UserError: Something in the config or the data is wrong.
    """
    check_config(config)
    dist.initialize_dist(get_device(config.device), timeout=config.dist_timeout)
    if config.export:  # first: what is refused must not have cost an earlier run its checkpoints
        _on_rank_zero(lambda: check_export(RunFolder(Path(config.run_folder)).export))
    folder = _on_rank_zero(lambda: run_folder.prepare(config))
    ledger = _on_rank_zero(lambda: _open_ledger(config, folder))
    if dist.get_global_rank() != 0:
        ledger.path = None  # one keeps it for all
    _on_rank_zero(lambda: prepare_checkpoints(config, folder))
    if dist.get_local_rank() == 0:
        forget_downloaded(config)
    ledger.charge("conversion")
    local = prepare_shards(config.data, config.progress_bar)
    ledger.charge("start-up")
    places = _on_rank_zero(lambda: find_places(config, local))
    with loading_checkpoint(config, _saves_shards(config)):
        trainer = make_trainer(config, places, folder, ledger)
    check_progress(config, trainer.state)
    _on_rank_zero(lambda: folder.write_config(config))
    assert trainer.state.max_duration is not None
    with folder.explain_full_disk(), explain_killed_workers():
        if trainer.state.timestamp < trainer.state.max_duration:
            try:
                trainer.fit()
            except TorchDynamoException as error:
                cause = getattr(error, "inner_exception", error)
                reason = " ".join(str(cause).split("\n\n")[0].split())
                raise UserError(
                    f"compile_config: torch cannot compile here; set compile_config=null ({reason})"
                ) from error
            if (batch := preemption.stopped_at(trainer.state.callbacks)) is not None:
                trainer.close()
                ledger.write()
                preemption.ignore_signals()
                if dist.get_global_rank() == 0:
                    print(f"stopped by SIGTERM, saved at batch {batch}; continue with autoresume=true", file=sys.stderr)
                return preemption.EXIT_CODE
        elif trainer.state.evaluators:
            trainer.eval()  # A finished run that is started again: nothing is left to train.
        scores = _validation_scores(trainer)
        ledger.charge("export")
        if config.export:
            use_averages(trainer.state.algorithms, trainer.state)
            model = getattr(trainer.state.model, "module", trainer.state.model)  # inside DDP
            with averaged_weights(model, trainer.state.optimizers[0]):
                export_run(model.model, config, folder.export, scores)
    ledger.charge("exit")
    trainer.close()
    if dist.get_global_rank() == 0:
        print(describe_result(folder, scores))
        if config.budget is not None:
            print(f"\n{ledger.summary()}")
    ledger.finish()
    return 0


def make_trainer(config: TrainConfig, places: Places, folder: RunFolder, ledger: Ledger) -> Trainer:
    """Builds every part and puts them together.

    Args:
        config: A checked config.
        places: From ``find_places``.
        folder: The run folder, which exists.
        ledger: What the run has spent.
    """
    device = get_device(config.device)
    if device.name == "cpu":
        prepare_cpu()
        correct_fsdp_on_cpus()
    # Before anything draws a weight; the Trainer's own seed comes too late for the model.
    reproducibility.seed_all(config.seed)
    train_set = make_dataset(config, places)
    algorithms = _build_all("algorithms", config.algorithms, ALGORITHMS)
    train_spec = make_data_spec(
        train_set,
        num_workers=config.data.num_workers,
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=device.name == "gpu",
        microbatch_tokens=config.device_train_microbatch_tokens,
        batch_transforms=bind_curricula(algorithms, train_set.collator),
    )
    scheduler = make_scheduler(config)
    check_scheduler(scheduler, planned_duration(config), len(train_spec.dataloader))
    model = make_model(config, device.name)
    per_device = config.global_train_batch_size // dist.get_world_size()
    fsdp = make_sharding(config.fsdp_config, dist.get_world_size())
    optimizer = make_optimizer(config, model)
    try:
        return Trainer(
            model=model,
            train_dataloader=train_spec,
            eval_dataloader=make_evaluation(config, places, model),
            max_duration=planned_duration(config),
            algorithms=algorithms,
            optimizers=optimizer,
            schedulers=scheduler,
            eval_interval=config.eval_interval,
            eval_subset_num_batches=config.eval_subset_num_batches,
            callbacks=[
                LossGuard(),  # before whatever saves or evaluates
                *([Budget(ledger, str(config.run_name))] if config.budget is not None else []),
                BatchSeed(config.seed),
                *([AveragedWeights()] if has_averaged_weights(optimizer) else []),
                # Without a checkpoint there would be nothing to wait for.
                *([preemption.Preemption(config.preemption_grace)] if config.save_folder else []),
                *_make_callbacks(config, device.name),
                RunRecord(to_yaml(config), model.model.config.to_mapping()),
                AveragedCheckpoints(),
                *_make_saver(config),
            ],
            loggers=[*_make_loggers(config, folder), MetricsFile(folder.metrics)],
            run_name=config.run_name,
            progress_bar=config.progress_bar,
            log_to_console=config.log_to_console,
            console_log_interval=config.console_log_interval,
            load_path=config.load_path,
            load_weights_only=config.load_weights_only,
            save_folder=config.save_folder,
            save_overwrite=config.save_overwrite or config.autoresume,
            save_interval=config.save_interval,
            save_num_checkpoints_to_keep=config.save_num_checkpoints_to_keep,
            autoresume=config.autoresume,
            parallelism_config=ParallelismConfig(fsdp2=fsdp) if fsdp else None,
            device=device,
            precision=trainer_precision(config.precision, device.name),
            device_train_microbatch_size=config.device_train_microbatch_size or per_device,
            accumulate_train_batch_on_tokens=True,
            seed=config.seed,
            dist_timeout=config.dist_timeout,
        )
    except FileNotFoundError as error:
        raise UserError(f"load_path: cannot load {config.load_path}: {error}") from error


def make_model(config: TrainConfig, device: str) -> ESM2ComposerModel:
    """Makes the model, from scratch or from ``model.pretrained``, perhaps stacked.

    Args:
        config: A checked config.
        device: ``cpu`` or ``gpu``.
    """
    pretrained = "pretrained" in config.model
    sharding = make_sharding(config.fsdp_config, dist.get_world_size())
    elsewhere = sharding is not None and dist.get_global_rank() > 0
    if elsewhere or not pretrained:
        # Composer sends the other ranks of a sharded model their parts of rank 0's: shapes are all that they need.
        with torch.device("meta") if elsewhere else contextlib.nullcontext():
            model = ESM2(pretrained_config(config.model, config.load_trust) if pretrained else model_config(config))
    else:
        its_config, state_dict = load_pretrained(config.model, config.load_trust)
        model = ESM2(its_config)
        model.load_state_dict(state_dict)
    model.attention_backend = config.attention_backend
    arguments = compile_arguments(config.compile_config, device)
    if config.compile_config == AUTO and device == "gpu" and arguments is None:
        warnings.warn("blocks are not compiled: that needs triton and a C compiler such as gcc", stacklevel=2)
    parallelize(model, activation_checkpointing=config.activation_checkpointing, compile_arguments=arguments)
    return ESM2ComposerModel(model, autocast_dtype=autocast_dtype(config.precision, device))


def make_optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer, torch's fused one where there is one, with the parameter groups that it needs."""
    arguments = dict(config.optimizer)
    kind = OPTIMIZERS[arguments.pop("name")]
    if "fused" in inspect.signature(kind.target).parameters:
        arguments.setdefault("fused", True)
    groups = kind.groups(model, arguments)
    optimizer: torch.optim.Optimizer = build("optimizer", kind.target, arguments, params=groups)
    return optimizer


def _open_ledger(config: TrainConfig, folder: RunFolder) -> Ledger:
    budget = math.inf if config.budget is None else parse_duration("budget", config.budget)
    return open_ledger(folder.path, budget, config.autoresume, process_start())


def _saves_shards(config: TrainConfig) -> bool:
    fsdp = make_sharding(config.fsdp_config, dist.get_world_size())
    return fsdp is not None and fsdp.state_dict_type == "sharded"


def _build_all(kind: str, entries: dict[str, dict[str, Any] | None], registry: dict[str, Any]) -> list[Any]:
    return [
        build(f"{kind}.{name}", registry[name], arguments)
        for name, arguments in entries.items()
        if arguments is not None
    ]


def _make_callbacks(config: TrainConfig, device: str) -> list[Callback]:
    entries = dict(config.callbacks)
    speed = entries.get("speed_monitor")
    if device == "cpu" and speed is not None and "gpu_flops_available" not in speed:
        # Composer knows the peaks of GPUs; a CPU's is measured, in the precision of the run.
        dtype = autocast_dtype(config.precision, device) or torch.float32
        entries["speed_monitor"] = {**speed, "gpu_flops_available": matmul_peak(torch.device("cpu"), dtype)}
    return _build_all("callbacks", entries, CALLBACKS)


def _make_saver(config: TrainConfig) -> list[Callback]:
    """Ours for a local folder; for an object store the Trainer makes its own."""
    if config.save_folder is None or "://" in config.save_folder:
        return []
    saver = WholeCheckpointSaver(
        config.save_folder,
        takes_over=config.autoresume,
        # Composer refuses to write a checkpoint again that a killed run left beyond the one it resumes from.
        overwrite=config.save_overwrite or config.autoresume,
        save_interval=config.save_interval,
        num_checkpoints_to_keep=config.save_num_checkpoints_to_keep,
    )
    return [saver]


def _make_loggers(config: TrainConfig, folder: RunFolder) -> Sequence[LoggerDestination | Callback]:
    # What a logger writes locally belongs into the run folder, unless the YAML says otherwise.
    defaults = {
        "tensorboard": {"log_dir": str(folder.path / "tensorboard")},
        "file_logger": {"filename": str(folder.path / "log-rank{rank}.txt")},
    }
    entries = {
        name: None if arguments is None else {**defaults.get(name, {}), **arguments}
        for name, arguments in config.loggers.items()
    }
    return _build_all("loggers", entries, LOGGERS)


def _validation_scores(trainer: Trainer) -> dict[str, float]:
    return {
        name: float(metric.compute())
        for metrics in trainer.state.eval_metrics.values()
        for name, metric in metrics.items()
    }


def describe_result(folder: RunFolder, scores: Mapping[str, float]) -> str:
    """Says what a run leaves: its validation scores, where its files lie, and commands that use them.

    Args:
        folder: The run's.
        scores: Metrics of the pinned evaluation by name; empty where nothing was evaluated.
    """
    lines = []
    if "masked_nll" in scores:
        loss, perplexity, accuracy = (scores[name] for name in ("masked_nll", "perplexity", "accuracy"))
        lines += [f"validation loss {loss:.4f} nats, perplexity {perplexity:.2f}, accuracy {accuracy:.1%}", ""]
    lines += [f"{'metrics':<12}{folder.metrics}"]
    lines += [f"{'checkpoint':<12}{folder.latest}"] if folder.latest.exists() else []
    if folder.export.is_dir():
        lines += [
            f"{'model':<12}{folder.export}  (loads with {loader(read_config(folder.export))})",
            "",
            "next:",
            f"  plm evaluate {folder.export} --data PROTEINS.fasta",
            f"  plm embed {folder.export} PROTEINS.fasta --out embeddings.npz",
        ]
    return "\n".join(lines)


def _on_rank_zero(work: Callable[[], T]) -> T:
    """Runs on rank 0, and raises its error on every rank."""
    outcome: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    result: T = outcome[0]
    return result
