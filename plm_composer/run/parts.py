"""Makes the parts of a run from its config, once: the parts that are checked are the parts that train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from composer import Algorithm
from composer.optim import ComposerScheduler
from composer.utils import dist, get_device

from plm_composer.algorithms import ALGORITHMS, REFUSED_ALGORITHMS, check_combinations, needed_draws
from plm_composer.algorithms.batch_curriculum import bind_curricula
from plm_composer.algorithms.mixed_objective import MixedObjective
from plm_composer.budget.duration import parse_duration
from plm_composer.budget.plan import PROVISIONAL_BATCHES
from plm_composer.callbacks import CALLBACKS
from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.checkpoints.best import check_keep_best
from plm_composer.config.own_code import load_code
from plm_composer.config.registry import Component, build, look_up, parse_section, split_name, suggestion
from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator
from plm_composer.data.masking import Masking
from plm_composer.data.weighting import Weighting, find_weighting
from plm_composer.errors import UserError
from plm_composer.hardware.precision import resolve_precision, working_dtype
from plm_composer.hardware.sharding import ShardingConfig, make_sharding
from plm_composer.loggers import LOGGERS
from plm_composer.model.attention import BACKENDS, choose_backend
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import AUTO, compile_arguments
from plm_composer.model.registry import MODELS, class_of, preset_of
from plm_composer.model.weights.pretrained import check_pretrained, pretrained_config
from plm_composer.optim.optimizers import OptimizerFactory, parse_optimizer
from plm_composer.optim.schedulers import check_scheduler, make_scheduler
from plm_composer.run.checks import check_schedule_units, check_values


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts that a checked config describes. Training, ``plm config`` and the memory prediction use them.

    Attributes:
        config: The config.
        device: ``cpu`` or ``gpu``.
        processes: Number of processes of the run.
        precision: ``fp32``, ``amp_bf16`` or ``amp_fp16``.
        model_class: ``ESM2``, or a user's subclass.
        model: The model's config.
        collator: Makes batches: crops and masks proteins, and packs or pads them.
        algorithms: The speed-up algorithms.
        weighting: How much each protein's labels count in the loss; None for each the same.
        curriculum: Function that changes each training batch before its tokens are counted; None if no algorithm does.
        optimizer: Makes the optimizer of a model.
        scheduler: The learning-rate schedule.
        callbacks: Other callbacks that the YAML names; ``run/trainer.py`` adds those that every run has.
        evaluations: Evaluations within the training that the YAML names; they have read their files.
        loggers: Loggers that the YAML names.
        sharding: Composer's FSDP2 config; None for DDP.
        compile_arguments: Arguments of ``torch.compile``; None if blocks are not compiled.
        duration: Duration of the training, as ``max_duration``; with a budget, provisional until the speed is known.
        budget: Seconds of wall-clock time; infinite without a budget.
    """

    config: TrainConfig
    device: str
    processes: int
    precision: str
    model_class: type[ESM2]
    model: ESM2Config
    collator: Collator
    weighting: Weighting | None
    algorithms: Sequence[Algorithm]
    curriculum: Callable[[Batch], Batch] | None
    optimizer: OptimizerFactory
    scheduler: ComposerScheduler
    callbacks: Sequence[Component]
    evaluations: Sequence[ScheduledEvaluation]
    loggers: Sequence[Component]
    sharding: ShardingConfig | None
    compile_arguments: Mapping[str, Any] | None
    duration: int | str
    budget: float

    @property
    def proteins(self) -> int:
        """Number of proteins of a batch on one device."""
        return int(self.config.global_train_batch_size) // self.processes

    @property
    def saves_shards(self) -> bool:
        """Whether each process writes its own part of a checkpoint."""
        return self.sharding is not None and self.sharding.state_dict_type == "sharded"


def make_parts(config: TrainConfig) -> Parts:
    """Makes the parts of a run, and checks everything that can be checked before data are read.

    Args:
        config: From ``plm_composer.run.load.load_config``.

    Raises:
        UserError: Something in the config is wrong; the message names the first such key.
    """
    load_code(config.code_paths)
    model = _pretrained_model(config) if "pretrained" in config.model else make_model_config(config)
    check_values(config)
    processes, device = dist.get_world_size(), get_device(config.device).name
    named_algorithms = parse_section("algorithms", config.algorithms, ALGORITHMS, REFUSED_ALGORITHMS)
    check_combinations(named_algorithms, config)
    algorithms = [*(component.make() for component in named_algorithms), *_mixing(config)]
    callbacks = parse_section("callbacks", config.callbacks, CALLBACKS)
    collator = Collator(
        seed=config.seed,
        crop_length=config.data.crop_length,
        crop_keeps_ends=config.data.crop_keeps_ends,
        batch_format=config.data.batch_format,
        objective=config.objective,
        masking=make_masking(config.data),
        draws=needed_draws(algorithms),
    )
    model_class = class_of(config.model.get("name"))
    if model_class is not ESM2 and config.export:
        raise UserError(
            f"export: nothing else can load the model {config.model['name']!r}, a class of your own; set export=false, "
            "and load its checkpoints with plm_composer.load_model(FOLDER, trust=True)"
        )
    duration = config.max_duration if config.budget is None else f"{PROVISIONAL_BATCHES}ba"
    _check_attention(config, model, device)
    if config.keep_best is not None:
        check_keep_best(config.keep_best, model.loss_name, config.data.val_split is not None)
    _check_compilation(config)
    return Parts(
        config=config,
        device=device,
        processes=processes,
        precision=resolve_precision(config.precision, device),
        model_class=model_class,
        model=model,
        collator=collator,
        weighting=find_weighting(config.loss_weighting, config.objective),
        algorithms=algorithms,
        curriculum=bind_curricula(algorithms, collator),
        optimizer=_make_optimizer_factory(config),
        scheduler=_make_scheduler(config, duration),
        callbacks=[component for component in callbacks if not _is_evaluation(component)],
        evaluations=_make_evaluations(callbacks, model),
        loggers=parse_section("loggers", config.loggers, LOGGERS),
        sharding=make_sharding(config.fsdp_config, processes),
        compile_arguments=compile_arguments(config.compile_config, device),
        duration=duration,
        budget=math.inf if config.budget is None else parse_duration("budget", config.budget),
    )


def _make_evaluations(callbacks: Sequence[Component], model: ESM2Config) -> list[ScheduledEvaluation]:
    made: list[ScheduledEvaluation] = [component.make() for component in callbacks if _is_evaluation(component)]
    for evaluation in made:
        evaluation.check(model)
    return made


def _is_evaluation(component: Component) -> bool:
    return isinstance(component.target, type) and issubclass(component.target, ScheduledEvaluation)


def make_masking(data: DataConfig) -> Masking:
    """Makes the masking that the config's ``data`` sets.

    Raises:
        UserError: A share is impossible.
    """
    return Masking(data.mask_rate, data.mask_token_fraction, data.random_token_fraction, data.mask_span_length)


def make_model_config(config: TrainConfig) -> ESM2Config:
    """Makes the config of a model that is trained from scratch: a preset, changed by the fields that ``model`` sets.

    The mask rate that token dropout assumes follows from the run's masking. In ESM2 it is a constant, 0.12: 15 % of the
    residues are masked, and 80 % of those become ``<mask>``.

    Args:
        config: The run's config.

    Raises:
        UserError: The preset or a field is unknown, or a value is impossible.
    """
    _, fields = split_name("model", config.model, MODELS)
    known = {field.name for field in dataclasses.fields(ESM2Config)}
    if "stack_to" in fields:
        raise UserError("model.stack_to needs model.pretrained, a trained model to stack")
    for field in fields:
        if field not in known:
            raise UserError(f"model.{field}: there is no such key; {suggestion(field, known)}")
    for field in _seen_ways(config.objective):
        if field in fields:
            raise UserError(f"model.{field} follows from the objective; leave it out")
    # A causal model sees no masks; diffusion may hide nearly all of a protein, and the rest would be scaled up.
    dropout: dict[str, Any] = {"token_dropout": False}
    if config.objective not in ("causal", "diffusion"):
        dropout = {"token_dropout_mask_rate": make_masking(config.data).mask_token_rate}
    fields = {**dropout, **fields, **_seen_ways(config.objective)}
    try:
        return dataclasses.replace(preset_of(config.model["name"]), **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"model: {error}") from error


def _pretrained_model(config: TrainConfig) -> ESM2Config:
    check_pretrained(config.model, config.load_trust)
    model = pretrained_config(config.model, config.load_trust)
    # Training an ESM2 on to predict the next residue is possible; a causal model fills no masks.
    if model.causal and config.objective != "causal":
        raise UserError(
            f"model.pretrained is a causal model, and objective is {config.objective}; set objective=causal"
        )
    # Diffusion may hide nearly all of a protein, and token dropout would scale up the rest.
    dropout: dict[str, Any] = {"token_dropout": False} if config.objective == "diffusion" else {}
    return dataclasses.replace(model, **dropout, **_seen_ways(config.objective))


def _seen_ways(objective: str) -> dict[str, Any]:
    """The fields of a model's config that say in which direction it looks."""
    return {"causal": objective == "causal", "mixed": objective == "mixed"}


def _mixing(config: TrainConfig) -> list[Algorithm]:
    """The algorithm of ``objective: mixed``, in a list; an empty one for other objectives."""
    share = config.causal_share
    if config.objective != "mixed":
        if share is not None:
            raise UserError(
                f"causal_share is {share}, and objective is {config.objective}; leave it out, or set objective=mixed"
            )
        return []
    share = 0.5 if share is None else share
    if not 0 < share < 1:
        raise UserError(f"causal_share is {share}; it must lie above 0 and below 1, or set objective=masked or causal")
    return [MixedObjective(share)]


def _make_optimizer_factory(config: TrainConfig) -> OptimizerFactory:
    factory = parse_optimizer(config.optimizer)
    factory.kind.check(config)
    factory.check(ESM2(ESM2Config(1, 2, 1, 1)))
    return factory


def _make_scheduler(config: TrainConfig, duration: int | str) -> ComposerScheduler:
    check_schedule_units(config.scheduler, duration)
    scheduler = make_scheduler(config.scheduler)
    check_scheduler(scheduler, duration)
    return scheduler


def _check_compilation(config: TrainConfig) -> None:
    if config.compile_config in (AUTO, None):
        return
    if not isinstance(config.compile_config, dict):
        raise UserError(
            f"compile_config is {config.compile_config!r}; give auto, null, or arguments of torch.compile such as "
            "compile_config.mode=max-autotune"
        )
    # This call checks mode, options and backend; torch compiles nothing until the function that it returns is called.
    build("compile_config", torch.compile, config.compile_config, model=len)


def _check_attention(config: TrainConfig, model: ESM2Config, device: str) -> None:
    if config.attention_backend is None:
        return
    look_up("attention_backend", config.attention_backend, BACKENDS)
    if config.data.batch_format != "unpadded":
        raise UserError(
            f"attention_backend has no effect with data.batch_format={config.data.batch_format}, which uses torch's "
            "own attention; leave it out"
        )
    choose_backend(
        torch.device("cuda" if device == "gpu" else "cpu"),
        working_dtype(config.precision, device),
        model.position_embedding_type == "alibi",
        config.attention_backend,
        model.head_size,
    )
