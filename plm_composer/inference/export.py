"""Exports a trained model for ``transformers`` or ``fair-esm``, with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from composer.utils import dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from plm_composer.config.merge import to_yaml
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.files.owned import check_replaceable, replacing_files
from plm_composer.inference.export_formats import CARD, HUGGINGFACE, Format
from plm_composer.model.cost import parameter_count
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_config import CODE_FILES
from plm_composer.model.weights.naming import inexpressible

_ADVICE = "move it away, or choose another folder"
_PINNED = {
    False: "15 % of each protein's residues hidden, all as `<mask>`, windows of 1,022 residues",
    True: "each residue given those before it, in windows of 1,022 residues, `<eos>` not counted",
}
"""What the pinned evaluation does, by whether the model is causal."""


def check_export(folder: Path, form: Format = HUGGINGFACE) -> None:
    """Checks that a model can be exported to a folder, before the training or loading that precedes the export.

    Args:
        folder: Folder of the export. Other files in it stay; an earlier export is replaced unless it was changed.
        form: The format.

    Raises:
        UserError: A file that does not belong to an export is in the way.
    """
    check_replaceable(folder.resolve(), form.files, _ADVICE)


def export_model(
    model: ESM2,
    folder: Path,
    run: TrainConfig | None,
    scores: Mapping[str, float],
    form: Format = HUGGINGFACE,
) -> None:
    """Writes a folder that ``transformers``, or ``fair-esm``, loads, and a model card, ``README.md``.

    The Hugging Face folder of a model that ``EsmForMaskedLM`` cannot compute brings its own code, as the card says. The
    export appears complete or not at all.

    Args:
        model: The model, unsharded, on the CPU.
        folder: Folder of the export, as for ``check_export``.
        run: Config of the run that trained the model; None if unknown.
        scores: Metrics of the pinned evaluation, by name; empty if unknown.
        form: The format.

    Raises:
        UserError: A file that does not belong to an export is in the way, the folder cannot be written, or the format
            cannot represent the model.
    """
    form.check(model.config)
    try:
        with replacing_files(folder, form.key_file, _ADVICE) as staging:
            form.save(model, staging)
            (staging / CARD).write_text(model_card(model, run, scores, form))
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error


def export_run(model: ESM2, config: TrainConfig, folder: Path, scores: Mapping[str, float]) -> None:
    """Exports the model of a running Trainer. All ranks call it, because each may hold a shard; rank 0 writes.

    Args:
        model: The ESM2 inside the Trainer's model, sharded or not.
        config: The run's config.
        folder: Folder of the export.
        scores: Metrics of the pinned evaluation, by name; empty if unknown.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if dist.get_global_rank() == 0:
        whole = ESM2(model.config)
        whole.load_state_dict(weights)
        export_model(whole.eval(), folder, config, scores)


def model_card(model: ESM2, run: TrainConfig | None, scores: Mapping[str, float], form: Format = HUGGINGFACE) -> str:
    """Formats the model card: the model, its use, its scores and its training.

    Args:
        model: The model.
        run: Config of the run that trained the model; None if unknown.
        scores: Metrics of the pinned evaluation, by name; empty if unknown.
        form: The format.
    """
    config = model.config
    name = run.run_name if run and run.run_name else "protein language model"
    variant = inexpressible(config)
    lines = [
        "---",
        f"library_name: {form.library}",
        f"pipeline_tag: {'text-generation' if config.causal else 'fill-mask'}",
        f"tags: [protein, esm, {'causal' if config.causal else 'masked'}-lm{', custom_code' if variant else ''}]",
        "---",
        f"# {name}",
        "",
        f"An ESM2-style protein language model: {parameter_count(config):,} parameters, "
        f"{config.num_hidden_layers} layers, {config.hidden_size} wide, {config.num_attention_heads} heads. "
        f"Trained with plm-composer {version('plm-composer')}.",
        "",
        form.usage(config),
    ]
    if variant:
        fields = ", ".join(f"`{name}: {getattr(config, name)}`" for name in variant)
        lines += [
            "",
            f"`transformers` has no class for the fields in which it differs from ESM2: {fields}. This folder holds "
            f"the code that computes them, `{CODE_FILES[-1]}`; `trust_remote_code=True` allows it to run. "
            "`plm_composer.load_model(FOLDER)` needs none of it.",
        ]
    if scores:
        lines += [
            "",
            "## Scores",
            f"Pinned evaluation on the run's validation set: {_PINNED[config.causal]}, weighted by token. "
            "Perplexities of other protocols are not comparable.",
            "",
            "| metric | value |",
            "|---|---|",
            *(
                f"| {metric} | {f'{value:.4f}' if isinstance(value, float) else value} |"
                for metric, value in scores.items()
            ),
        ]
    if run is not None:
        lines += ["", "## Training", "```yaml", to_yaml(run).rstrip(), "```"]
    return "\n".join(lines) + "\n"
