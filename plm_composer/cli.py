"""``plm``, the command. Results go to stdout, progress and warnings to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_composer.errors import UserError, run_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, evaluate and use protein language models.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str | None, typer.Option(help="cpu or gpu; default: a GPU if there is one.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or amp_bf16.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a batch.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load the checkpoint whole, and run whatever code it carries.")]
Model = Annotated[
    str, typer.Argument(help="A run folder, a checkpoint, or a Hugging Face folder; of an object store, too.")
]

# Each command imports what it needs itself: torch and Composer take seconds, and `plm --help` needs neither.

_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
convert = typer.Typer(no_args_is_help=True, help="Convert proteins to MDS shards.")
app.add_typer(convert, name="convert")


@app.command()
def train(
    run: Annotated[str, typer.Argument(help="A YAML, or the name of a bundled one, such as esm2_small.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, and recipe=NAME.")] = None,
) -> None:
    """Train a model; `composer -n 8 -m plm_composer.run RUN ...` does it on several processes."""
    from plm_composer.run.command import main as run_training

    raise typer.Exit(run_training([run, *(overrides or [])]))


@convert.command("fasta", context_settings=_PASSED_ON)
def convert_fasta(context: typer.Context) -> None:
    """FASTA files, plain or compressed."""
    from plm_composer.shards.command import convert_fasta_command

    convert_fasta_command(context.args, "plm convert fasta")


@convert.command("hf", context_settings=_PASSED_ON)
def convert_huggingface(context: typer.Context) -> None:
    """A Hugging Face dataset, or parquet, JSON, CSV or TSV files."""
    from plm_composer.shards.command import convert_huggingface_command

    convert_huggingface_command(context.args, "plm convert hf")


@convert.command("spark", context_settings=_PASSED_ON)
def convert_spark(context: typer.Context) -> None:
    """FASTA files, on a Spark cluster."""
    from plm_composer.shards.command import convert_spark_command

    convert_spark_command(context.args, "plm convert spark")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where `yamls/` is made.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Copy the bundled YAMLs and recipes, to be changed."""
    from plm_composer.config.bundled import copy_yamls

    written = copy_yamls(folder)
    if as_json:
        print(json.dumps({"files": [str(path) for path in written]}))
    else:
        print(f"{len(written)} files written to {folder / 'yamls'}; plm train {folder / 'yamls'}/esm2_small.yaml")


@app.command()
def config(
    yaml: Annotated[str, typer.Argument(help="The run's YAML, or the name of a bundled one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, and recipe=NAME.")] = None,
    explain: Annotated[str | None, typer.Option(metavar="KEY", help="Only say which layer sets this key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a YAML with its recipes and overrides, print the resolved config, and predict the memory it takes."""
    from plm_composer.config.bundled import find_yaml
    from plm_composer.config.merge import explain_key, to_yaml
    from plm_composer.run.load import load_config

    path = find_yaml(yaml)
    resolved = load_config(path, overrides or [])
    if explain is not None:
        _print_layers(explain, explain_key(path, overrides or [], explain), as_json)
        return
    from plm_composer.model.cost import describe_model
    from plm_composer.run.memory import predict_memory
    from plm_composer.run.parts import make_parts

    parts = make_parts(resolved)
    predicted = predict_memory(parts)
    if as_json:
        model, memory = parts.model.to_mapping(), predicted.to_mapping()
        print(json.dumps({**dataclasses.asdict(resolved), "resolved_model": model, "memory": memory}))
    else:
        # Comments, so that the output stays a YAML file.
        print(f"{to_yaml(resolved)}# {describe_model(parts.model)}\n# {predicted.describe()}")


def _print_layers(key: str, layers: list[tuple[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"key": key, "layers": [{"source": source, "value": value} for source, value in layers]}))
        return
    print(f"{key} is {json.dumps(layers[-1][1])}")
    width = max(len(source) for source, _ in layers)
    for source, value in layers:
        print(f"  {source:<{width}}  {json.dumps(value)}")


@app.command()
def recipes(
    folder: Annotated[Path | None, typer.Option(help="Default: recipes, yamls/recipes, and the bundled ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the speed-up recipes, one line each."""
    from plm_composer.config.recipe_search import describe_recipes, recipe_folders

    found = describe_recipes(recipe_folders() if folder is None else [folder])
    _print(found, as_json)


@app.command()
def verify(
    data: Annotated[str, typer.Argument(help="A folder that convert/ wrote, or a remote one.")],
    as_json: AsJson = False,
) -> None:
    """Check every shard of a dataset against its manifest."""
    from tqdm import tqdm

    from plm_composer.shards.verification import verify

    with tqdm(unit=" shards", desc="verifying", disable=None) as bar:
        found = verify(data, lambda _: bar.update())
    if as_json:
        print(json.dumps(found.to_mapping()))
    for damage in found.damaged:
        print(f"{data.rstrip('/')}/{damage.file}: {damage.problem}", file=sys.stderr)
    if found.damaged:
        raise UserError(f"{data}: {len(found.damaged)} files are not what was written; copy or convert them again")
    if not as_json:
        print(f"{data}: {found.shards:,} shards, {found.proteins:,} proteins, as written; digest {found.digest}")


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="A FASTA file, a folder of shards, or a remote one.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Score only this many proteins, the first ones.")] = None,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Score a model by the pinned evaluation: 15 % of residues hidden, loss in nats."""
    from plm_composer.evaluation.evaluate import evaluate as run_evaluation
    from plm_composer.evaluation.evaluate import read_proteins
    from plm_composer.inference.load import load_trained

    place = _place(device, precision)
    loaded = load_trained(model, trust)
    result = run_evaluation(loaded.model, read_proteins(data, limit), batch_tokens=batch_tokens, progress=True, **place)
    _print({"model": str(loaded.source), "data": data, **dataclasses.asdict(result)}, as_json)


@app.command()
def export(
    checkpoint: Model,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    data: Annotated[str | None, typer.Option(help="Score the model on these proteins for its card.")] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write a Hugging Face folder that `transformers` loads, with a model card."""
    from plm_composer.evaluation.evaluate import evaluate as run_evaluation
    from plm_composer.evaluation.evaluate import read_proteins
    from plm_composer.inference.export import check_export, export_model
    from plm_composer.inference.load import load_trained

    check_export(out)
    loaded = load_trained(checkpoint, trust)
    scores: dict[str, Any] = {}
    if data is not None:
        evaluation = dataclasses.asdict(run_evaluation(loaded.model, read_proteins(data), progress=True))
        scores = {key: value for key, value in evaluation.items() if isinstance(value, int | float)}
    export_model(loaded.model, out, loaded.run, scores)
    _print({"model": str(loaded.source), "export": str(out), **scores}, as_json)


@app.command()
def embed(
    checkpoint: Model,
    fasta: Annotated[str, typer.Argument(help="Proteins, perhaps compressed; - reads stdin.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .safetensors.")],
    per_residue: Annotated[
        bool, typer.Option("--per-residue", help="A vector for each residue, not the mean.")
    ] = False,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write the last layer's embeddings of proteins, in the order of the FASTA."""
    from plm_composer.inference.embed import check_output, check_space, save_embeddings
    from plm_composer.inference.embed import embed as run_embedding
    from plm_composer.inference.load import load_trained
    from plm_composer.shards.inputs.fasta import read_fasta

    check_output(out)
    place = _place(device, precision)
    records = list(read_fasta(fasta))
    if not records:
        raise UserError(f"{fasta}: holds no proteins")
    names, proteins = zip(*records, strict=True)
    loaded = load_trained(checkpoint, trust, head_required=False)
    check_space(out, names, list(map(len, proteins)), loaded.model.config.hidden_size, per_residue)
    embeddings = run_embedding(
        loaded.model,
        proteins,
        per_residue=per_residue,
        batch_tokens=batch_tokens,
        progress=True,
        **place,
    )
    save_embeddings(out, names, embeddings)
    width = loaded.model.config.hidden_size
    _print({"model": str(loaded.source), "out": str(out), "proteins": len(records), "hidden_size": width}, as_json)


@app.command()
def ablate(
    study: Annotated[Path, typer.Argument(help="A study file: variants, seeds, what is common to them.")],
    only: Annotated[list[str] | None, typer.Option(help="Run only this variant; can be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Run only these seeds, such as 1,2.")] = None,
    rerun: Annotated[list[str] | None, typer.Option(help="Run this variant again; can be repeated.")] = None,
    target: Annotated[float | None, typer.Option(help="Also tell when this validation loss was reached.")] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Run nothing, summarise what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run variants of a recipe over several seeds, one after another; write a table and a plot."""
    from plm_composer.studies.extras import require_extras

    require_extras()
    if summarize and (only or seeds or rerun):
        raise UserError("--summarize runs nothing; leave out --only, --seeds and --rerun")
    from plm_composer.studies.ablation import run_study, summarise_study

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    try:
        report = (
            summarise_study(study, say, target)
            if summarize
            else run_study(
                study, say, only=only or (), seeds=_numbers(seeds, "--seeds"), rerun=rerun or (), target=target
            )
        )
    except KeyboardInterrupt:
        say("interrupted; the same command continues the study")
        raise typer.Exit(130) from None
    print(json.dumps(report.to_mapping()) if as_json else report.text)
    say(f"written: {', '.join(map(str, report.files))}")
    for failure in report.failures if not summarize else ():
        say(f"error: {failure.variant}, seed {failure.seed} failed: {failure.reason}; see {failure.log}")
    if report.failures and not summarize:
        raise typer.Exit(1)


def _numbers(text: str | None, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise UserError(f"{option} is {text!r}; write numbers joined by commas") from error


def _place(device: str | None, precision: str) -> dict[str, Any]:
    """The torch device and autocast dtype of ``--device`` and ``--precision``."""
    import torch

    from plm_composer.hardware.machine import check_device, prepare_cpu
    from plm_composer.hardware.precision import check_precision, resolve_precision

    check_precision("--precision", precision)
    check_device("--device", device)
    name = device or ("gpu" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        prepare_cpu()
    dtype = torch.bfloat16 if resolve_precision(precision, name) == "amp_bf16" else None
    return {"device": "cuda" if name == "gpu" else "cpu", "autocast_dtype": dtype}


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        print(f"{key:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def main() -> None:
    """Runs ``plm``."""
    run_command(lambda: app(standalone_mode=True))
