"""The page ``docs/keys.md``: every key of a run's YAML, with type, default and meaning.

``python -m plm_composer.run.key_reference > docs/keys.md`` writes it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from plm_composer.config.argument_types import describe
from plm_composer.config.registry import Registry
from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.model.config import ESM2Config
from plm_composer.run import named_parts as _parts  # noqa: F401 - fills Registry.of

_HEAD = """# All keys

<!-- Made by `python -m plm_composer.run.key_reference > docs/keys.md`; do not edit. -->

Every key of a run's YAML. Each may also be set on the command line: `data.crop_length=1024`. `plm config RUN` prints
the values that a run would use, and `plm config RUN --explain KEY` the layer that sets one. A key that is a link leads
to the page that says more about it.
"""

_PAGES: Mapping[str, str] = {
    "recipe": "training.md",
    "run_name": "training.md#the-run-folder",
    "run_folder": "training.md#the-run-folder",
    "code_paths": "extending.md",
    "seed": "reliability.md",
    "model": "variants.md",
    "objective": "objectives.md",
    "causal_share": "objectives.md",
    "loss_weighting": "algorithms.md#masks-and-weights-of-the-data",
    "data": "#data",
    "optimizer": "optimizers.md",
    "scheduler": "optimizers.md#schedules",
    "max_duration": "choosing.md#how-long",
    "budget": "choosing.md#a-budget-of-time",
    "global_train_batch_size": "choosing.md#memory",
    "device_train_microbatch_size": "choosing.md#memory",
    "device_train_microbatch_tokens": "choosing.md#memory",
    "activation_checkpointing": "choosing.md#memory",
    "precision": "performance.md#precision",
    "eval_interval": "evaluation.md#within-a-training",
    "algorithms": "algorithms.md",
    "callbacks": "evaluation.md#within-a-training",
    "loggers": "training.md#metrics-and-loggers",
    "save_folder": "resuming.md",
    "save_interval": "resuming.md",
    "save_num_checkpoints_to_keep": "resuming.md#checkpoints",
    "keep_best": "resuming.md",
    "save_overwrite": "training.md#the-run-folder",
    "autoresume": "resuming.md",
    "preemption_grace": "resuming.md#stopped-by-a-signal",
    "load_path": "resuming.md#starting-from-a-checkpoint",
    "load_weights_only": "resuming.md#starting-from-a-checkpoint",
    "load_trust": "resuming.md#starting-from-a-checkpoint",
    "export": "export.md",
    "report": "report.md",
    "fsdp_config": "launch.md#one-machine",
    "compile_config": "performance.md#compiled-blocks",
    "attention_backend": "performance.md#attention",
    "dist_timeout": "launch.md#when-machines-are-taken-away",
    "data.fasta": "conversion.md",
    "data.val_fasta": "conversion.md#validation",
    "data.local": "conversion.md#output",
    "data.remote": "reliability.md#the-cache-of-a-remote-dataset",
    "data.mask_rate": "algorithms.md#mask_rate_schedule",
    "data.mask_token_fraction": "algorithms.md#mask_rate_schedule",
    "data.random_token_fraction": "algorithms.md#mask_rate_schedule",
    "data.mask_span_length": "algorithms.md#masks-and-weights-of-the-data",
    "data.crop_length": "algorithms.md#sequence_length_warmup",
    "data.num_canonical_nodes": "launch.md#when-machines-are-taken-away",
    "data.cache_limit": "reliability.md#the-cache-of-a-remote-dataset",
    "data.download_retry": "reliability.md#how-long-a-run-waits-for-a-store",
    "data.download_timeout": "reliability.md#how-long-a-run-waits-for-a-store",
    "data.validate_hash": "reliability.md#checking-a-dataset",
}
"""Key to the page, and the heading on it, that says more. Fields of a variant have the page on variants."""

_VARIANTS = (
    "attention_head_size", "embedding_residual", "embedding_scale", "feed_forward", "initializer_residual_scaling",
    "intermediate_bias", "layer_drop", "norm_bias", "normalization", "output_bias", "position_embedding_type",
    "qk_norm", "qkv_bias", "residual_scale", "short_convolution", "tie_word_embeddings", "value_residual", "z_loss",
)  # fmt: skip

_NAMED: Mapping[str, tuple[str, str]] = {
    "models": ("model.name", "choosing.md#sizes"),
    "optimizers": ("optimizer.name", "optimizers.md"),
    "schedulers": ("scheduler.name", "optimizers.md#schedules"),
    "algorithms": ("algorithms", "algorithms.md"),
    "callbacks": ("callbacks", "evaluation.md#within-a-training"),
    "loggers": ("loggers", "training.md#metrics-and-loggers"),
}
"""Section of ``Registry.of`` to the key that takes its names, and the page that says more."""


def write_page() -> str:
    """The whole page, as Markdown."""
    sections = [
        ("The run", _rows(TrainConfig, attribute_docs(TrainConfig))),
        ("data", _rows(DataConfig, attribute_docs(DataConfig), "data.")),
        ("model", _rows(ESM2Config, argument_docs(ESM2Config), "model.")),
    ]
    tables = [f"## {title}\n\n{_table(('key', 'type', 'default', 'meaning'), rows)}" for title, rows in sections]
    tables[-1] += (
        "\nThe four without a default come with `model.name`. With `model.pretrained`, the loaded model has them all, "
        "and no other key of `model` is taken but `stack_to`.\n"
    )
    return "\n".join([_HEAD, *tables, _named_parts()])


def attribute_docs(schema: type) -> dict[str, str]:
    """The text under each field of a dataclass, by the field's name.

    Args:
        schema: The dataclass.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def argument_docs(documented: type) -> dict[str, str]:
    """What a Google-style docstring says under ``Args:``, by the argument's name.

    Args:
        documented: The class.
    """
    text = inspect.getdoc(documented) or ""
    arguments = re.split(r"\n(?=\w+:\n)", text.partition("\nArgs:\n")[2])[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", arguments, re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _rows(schema: type, meanings: Mapping[str, str], prefix: str = "") -> list[tuple[str, str, str, str]]:
    hints = typing.get_type_hints(schema)
    return [
        (
            _linked(f"{prefix}{field.name}"),
            _describe_type(hints[field.name]),
            _default_of(field),
            meanings[field.name].replace("``", "`"),
        )
        for field in dataclasses.fields(schema)
    ]


def _linked(key: str) -> str:
    page = "variants.md" if key.removeprefix("model.") in _VARIANTS else _PAGES.get(key)
    return f"[`{key}`]({page})" if page else f"`{key}`"


def _describe_type(hint: Any) -> str:
    if hint is Any:
        return "text, keys and values, or null"
    return "keys and values" if dataclasses.is_dataclass(hint) else describe(hint)


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, dict) and len(value) > 1:  # a line each
        return "<br>".join(f"`{name}: {_yaml(inner)}`" for name, inner in value.items())
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _named_parts() -> str:
    rows = []
    for section, (key, page) in _NAMED.items():
        names = ", ".join(f"`{name}`" for name in sorted(Registry.of[section]))
        rows.append((f"[`{key}`]({page})", names))
    return (
        "## Names\n\nWhat these keys may name. Arguments are those of the class, and unknown ones are refused. "
        "[Parts of your own](extending.md) add to them.\n\n" + _table(("key", "names"), rows)
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |")


if __name__ == "__main__":
    print(write_page(), end="")
