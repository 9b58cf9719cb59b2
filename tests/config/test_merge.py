"""YAML, recipes and overrides to one config, and errors of one line."""

import dataclasses
import typing
from pathlib import Path

import pytest
import yaml

from plm_composer.config.argument_types import is_text
from plm_composer.config.bundled import find_yaml
from plm_composer.config.merge import (
    explain_key,
    find_sources,
    flatten,
    parse_config,
    read_layers,
    read_resolved,
    to_yaml,
)
from plm_composer.config.recipe_search import describe_recipes
from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.errors import UserError
from plm_composer.run.automatic import provisional
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts

BASE = """
model: {name: esm2_8m}
data: {fasta: sample}
optimizer: {name: adamw, lr: 1.0e-3, betas: [0.9, 0.98]}
algorithms: {gradient_clipping: {clipping_type: norm, clipping_threshold: 1.0}}
global_train_batch_size: 8
"""


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "fast.yaml").write_text("# Quick.\nprecision: amp_bf16\nseed: 2\n")
    (tmp_path / "recipes" / "padded.yaml").write_text("# Slow.\ndata: {batch_format: padded}\nseed: 3\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(BASE)
    return path


def test_later_layers_win(run_yaml: Path) -> None:
    config = load_config(run_yaml, ["recipe=fast,padded", "max_duration=5ba", "data.crop_length=64"])
    assert (config.precision, config.data.batch_format, config.seed) == ("amp_bf16", "padded", 3)
    assert (config.max_duration, config.data.crop_length) == ("5ba", 64)
    assert load_config(run_yaml, ["recipe=padded,fast"]).seed == 2
    assert load_config(run_yaml, ["recipe=fast", "seed=9"]).seed == 9


def test_a_yaml_wins_over_its_recipe_and_the_command_line_over_all(run_yaml: Path) -> None:
    run_yaml.write_text(f"recipe: fast,padded\nseed: 5\n{BASE}")
    config = load_config(run_yaml)
    assert (config.seed, config.precision, config.data.batch_format) == (5, "amp_bf16", "padded")
    assert (config.recipe, config.run_name) == ("fast,padded", "tiny-fast-padded")
    # A recipe of the command line lies over the YAML, whose own recipe stays below it.
    config = load_config(run_yaml, ["recipe=fast"])
    assert (config.seed, config.data.batch_format, config.recipe) == (2, "padded", "fast,padded,fast")
    assert load_config(run_yaml, ["recipe=fast", "seed=9"]).seed == 9


def test_a_yaml_may_name_the_model_that_its_recipe_changes(run_yaml: Path) -> None:
    recipe = run_yaml.parent / "recipes" / "normed.yaml"
    recipe.write_text("model: {qk_norm: true}\noptimizer: {name: muon, lr: 0.02}\n")
    run_yaml.write_text("recipe: normed\nmodel: {name: esm2_8m}\ndata: {fasta: sample}\n")
    config = load_config(run_yaml)
    assert config.model == {"name": "esm2_8m", "qk_norm": True}
    assert config.optimizer == {"name": "muon", "lr": 0.02}
    # Another optimizer of the YAML's own replaces the recipe's, arguments and all.
    run_yaml.write_text(f"recipe: normed\n{BASE}")
    assert load_config(run_yaml).optimizer == {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.98]}


def test_a_value_is_explained_by_its_layers(run_yaml: Path) -> None:
    run_yaml.write_text(f"recipe: padded\nbudget: 5min\n{BASE}")
    recipes = run_yaml.parent / "recipes"
    overrides = ["recipe=fast", "optimizer={name: sgd, lr: 1}", "max_duration=7ba"]

    def explained(key: str) -> list[tuple[str, object]]:
        return explain_key(run_yaml, overrides, key)

    yaml = str(run_yaml)
    assert explained("seed") == [("default", 17), (str(recipes / "padded.yaml"), 3), (str(recipes / "fast.yaml"), 2)]
    assert explained("optimizer.lr") == [(yaml, 1e-3), ("command line", 1)]
    # What a layer takes away is told as well.
    assert explained("optimizer.betas") == [(yaml, [0.9, 0.98]), ("command line", None)]
    assert explained("budget") == [("default", None), (yaml, "5min"), ("command line", None)]
    assert explained("optimizer")[-1] == ("command line", {"name": "sgd", "lr": 1})
    for key, hint in (
        ("sead", "did you mean 'seed'"),
        ("optimizer.mu", "choose from"),
        ("loggers.wandb.tags", "wandb"),
    ):
        with pytest.raises(UserError, match=f"--explain {key}: nothing sets it|{hint}"):
            explained(key)


def test_every_value_has_the_layer_that_explains_it(run_yaml: Path) -> None:
    for path, arguments in (
        (run_yaml, ["recipe=fast", "optimizer.lr=1", "data.remote=s3://bucket/x", "optimizer.name=lion"]),
        (find_yaml("cramming_small"), ["recipe=bf16", "max_duration=3ba"]),
    ):
        sources = find_sources(path, arguments)
        assert set(sources) == set(flatten(dataclasses.asdict(load_config(path, arguments))))
        layers = {layer.source: layer.label for layer in read_layers(path, arguments)} | {"default": "default"}
        assert sources == {key: layers[explain_key(path, arguments, key)[-1][0]] for key in sources}


def test_layers_are_called_by_names_that_hold_on_other_machines() -> None:
    sources = find_sources(find_yaml("cramming_small"), ["seed=3", "recipe=bf16"])
    keys = ("optimizer.name", "precision", "model.hidden_size", "seed", "dist_timeout")
    assert [sources[key] for key in keys] == [
        "recipe cramming",
        "recipe bf16",
        "yamls/cramming_small.yaml",
        "command line",
        "default",
    ]


def test_a_recipe_may_be_a_path(run_yaml: Path) -> None:
    assert load_config(run_yaml, [f"recipe={run_yaml.parent}/recipes/fast.yaml"]).precision == "amp_bf16"


def test_a_run_is_named_after_its_yaml_and_recipes(run_yaml: Path) -> None:
    assert load_config(run_yaml).run_folder == "runs/tiny"
    assert load_config(run_yaml, ["recipe=fast"]).save_folder == "runs/tiny-fast/checkpoints"
    assert load_config(run_yaml, ["recipe=fast", "run_name=mine"]).run_folder == "runs/mine"


def test_naming_one_source_of_data_resets_the_others(run_yaml: Path) -> None:
    data = load_config(run_yaml, ["data.local=shards"]).data
    assert (data.fasta, data.local) == (None, "shards")
    data = load_config(run_yaml, ["data.remote=s3://bucket/set", "data.local=cache"]).data
    assert (data.fasta, data.local, data.remote) == (None, "cache", "s3://bucket/set")


def test_another_optimizer_does_not_inherit_arguments(run_yaml: Path) -> None:
    assert load_config(run_yaml, ["optimizer.name=sgd", "optimizer.lr=1"]).optimizer == {"name": "sgd", "lr": 1}
    assert load_config(run_yaml, ["optimizer.lr=0.1"]).optimizer["betas"] == [0.9, 0.98]


def test_a_duration_and_a_budget_take_each_others_place(run_yaml: Path) -> None:
    run_yaml.write_text(run_yaml.read_text() + "budget: 5min\n")
    assert load_config(run_yaml, []).budget == "5min"
    assert load_config(run_yaml, ["max_duration=7ba"]).budget is None
    assert load_config(run_yaml, ["budget=1h"]).budget == "1h"
    with pytest.raises(UserError, match="budget takes the place of max_duration"):
        load_config(run_yaml, ["budget=1h", "max_duration=7ba"])
    resolved = load_config(run_yaml, [])
    assert parse_config(dataclasses.asdict(resolved), "a checkpoint") == resolved


def test_a_pretrained_model_replaces_the_preset(run_yaml: Path) -> None:
    assert load_config(run_yaml, ["model.pretrained=folder"]).model == {"pretrained": "folder"}


def test_null_switches_a_component_off(run_yaml: Path) -> None:
    config = load_config(run_yaml, ["algorithms.gradient_clipping=null"])
    assert config.algorithms == {"gradient_clipping": None}
    make_parts(config)


def test_the_resolved_config_reads_back(run_yaml: Path) -> None:
    config = load_config(run_yaml, ["recipe=fast"])
    assert parse_config(yaml.safe_load(to_yaml(config)), "config.yaml") == config


def test_token_dropout_follows_the_masking(run_yaml: Path) -> None:
    assert make_parts(load_config(run_yaml)).model.token_dropout_mask_rate == pytest.approx(0.12)
    overrides = ["data.mask_rate=0.25", "data.mask_token_fraction=1.0", "data.random_token_fraction=0.0"]
    assert make_parts(load_config(run_yaml, overrides)).model.token_dropout_mask_rate == pytest.approx(0.25)


def test_model_fields_override_the_preset(run_yaml: Path) -> None:
    config = make_parts(load_config(run_yaml, ["model.num_hidden_layers=2", "model.qkv_bias=false"])).model
    assert (config.num_hidden_layers, config.qkv_bias, config.hidden_size) == (2, False, 320)


WRONG = {
    "sed=3": "command line: sed: there is no such key; did you mean 'seed'",
    "seed=abc": "command line: seed: Value 'abc'",
    "data.crop_lenght=3": "data.crop_lenght: there is no such key; did you mean 'crop_length'",
    "data.crop_length=2": "data.crop_length is 2",
    "data.mask_rate=0": "data.mask_rate is 0",
    "data.batch_format=ragged": "data.batch_format is 'ragged'",
    "data.num_workers=-1": "data.num_workers is -1",
    "preemption_grace=0": "preemption_grace is 0; it must be above 0 seconds",
    "recipe=fsat": "recipe=fsat: did you mean 'fast'",
    "recipe=no/such.yaml": "no/such.yaml: there is no such file",
    "oops": "'oops' is not an override; write key=value",
    "model.name=esm2_8b": "model.name: there is no 'esm2_8b'; did you mean",
    "model.hiden_size=64": "model.hiden_size: there is no such key; did you mean 'hidden_size'",
    "model.hidden_size=100": "model.hidden_size",
    "optimizer.name=adammw": "optimizer.name: there is no 'adammw'; did you mean 'adamw'",
    "optimizer.betaz=1": "optimizer.betaz: there is no such argument; did you mean 'betas'",
    "scheduler.name=linear_with_warmup": "scheduler.t_warmup: the argument is missing",
    "scheduler={name: linear_with_warmup, t_warmup: 5tok}": "'5tok', counted in tok, and the schedule ends in ba",
    "scheduler={name: linear_with_warmup, t_warmup: soon}": "scheduler.t_warmup is 'soon'; write a number and a unit",
    "scheduler={name: warmup_stable_decay, t_warmup: 5ba, t_decay: 9tok}": "scheduler.t_decay is '9tok'",
    "scheduler={name: warmup_stable_decay, t_warmup: 5ba, decay: exp}": "scheduler: decay is 'exp'; choose from linear",
    "algorithms.alibi={}": "algorithms.alibi: 'alibi' is refused: Composer's version finds nothing",
    "algorithms.ema.half_live=3ba": "algorithms.ema.half_live: there is no such argument; did you mean 'half_life'",
    "callbacks.speed_monitr={}": "callbacks.speed_monitr: there is no 'speed_monitr'; did you mean 'speed_monitor'",
    "loggers.wandbb={}": "loggers.wandbb: there is no 'wandbb'; did you mean 'wandb'",
    "max_duration=24h": "max_duration is '24h'",
    "max_duration=60sec": "max_duration is '60sec': Composer counts no seconds here",
    "max_duration=0ba": "max_duration is '0ba'; it must be above 0",
    "eval_interval=often": "eval_interval is 'often'",
    "global_train_batch_size=0": "global_train_batch_size is 0",
    "device_train_microbatch_size=9": "device_train_microbatch_size is 9; it must be a number from 1 to 8",
    "device_train_microbatch_size=many": "device_train_microbatch_size is 'many'",
    "device_train_microbatch_tokens=20": "device_train_microbatch_tokens is 20; it must be at least data.crop_length",
    "precision=fp8": "precision is 'fp8'; choose from auto, fp32, amp_bf16, amp_fp16",
    "device=tpu": "device is 'tpu'",
    "fsdp_config.shard=1": "fsdp_config.shard: there is no such argument",
    "compile_config.modus=max": "compile_config.modus: there is no such argument",
    "compile_config.mode=fast": "compile_config: Unrecognized mode=fast",
    "compile_config.backend=gcc": "compile_config: Invalid backend: 'gcc'",
    "compile_config.options.speed=1": "compile_config: Unexpected optimization option speed",
    "compile_config={mode: max-autotune, options: {debug: true}}": "compile_config: Either mode or options can be",
    "compile_config=off": "compile_config is False; give auto, null, or arguments of torch.compile",
    "compile_config=yes please": "compile_config is 'yes please'; give auto, null, or arguments of torch.compile",
    "attention_backend=flsh": "attention_backend: there is no 'flsh'; did you mean 'flash'",
    "attention_backend=flash": "attention_backend is 'flash', but it works on GPUs only",
    "attention_backend=3": "attention_backend: there is no '3'; choose from cpu, efficient, flash",
    "data.local=null": "data names no dataset",
    "optimizer.lr='1e-3'": "optimizer.lr is '1e-3'; it must be a number",
    "optimizer.lr=1,5": "optimizer.lr is '1,5'; it must be a number",
    "optimizer.lr=true": "optimizer.lr is True; it must be a number",
    "optimizer.lr=-1": "optimizer: Invalid learning rate: -1",
    "optimizer.betas=0.9,0.95": "optimizer.betas is '0.9,0.95'; it must be a list of 2 such as [0.5, 0.5]",
    "optimizer.betas=[0.9]": "optimizer.betas is [0.9]; it must be a list of 2",
    "scheduler={name: linear_with_warmup, t_warmup: 1ba, alpha_f: x}": "scheduler.alpha_f is 'x'; it must be a number",
    "algorithms.gradient_clipping.clipping_threshold=a": "clipping_threshold is 'a'; it must be a number",
    "callbacks.speed_monitor.window_size=1.5": "callbacks.speed_monitor.window_size is 1.5; it must be a whole number",
    "loggers.wandb.log_artifacts=maybe": "loggers.wandb.log_artifacts is 'maybe'; it must be true or false",
    "loggers.wandb.tags=a": "loggers.wandb.tags is 'a'; it must be a list of texts or null",
    "compile_config.dynamic=1": "compile_config.dynamic is 1; it must be true or false or null",
    "fsdp_config.verbose=x": "fsdp_config.verbose is 'x'; it must be true or false",
    "fsdp_config.activation_checkpointing=true": "fsdp_config.activation_checkpointing: leave it out, and set",
    "fsdp_config.activation_cpu_offload=true": "fsdp_config.activation_cpu_offload: leave it out, and set",
    "data.streams.a.proportion=half": "data.streams.a.proportion is 'half'; it must be a number or null",
    "data.streams.a.lokal=x": "data.streams.a.lokal: there is no such argument; did you mean 'local'",
    "run_name='x{rank}'": "run_name is 'x{rank}'; leave out the braces",
    "run_folder='x/{run_name}'": "run_folder is 'x/{run_name}'; leave out the braces",
    "run_name=../x": "run_name is '../x'; name another place with run_folder",
    "run_name=a/./x": "run_name is 'a/./x'; name another place with run_folder",
    "run_name=a/": "run_name is 'a/'; name another place with run_folder",
    "run_name=' '": "run_name is ' '; it must name a folder",
    'data.fasta="a\\0"': "data.fasta is 'a\\x00'; leave out the zero byte",
    'run_name="a\\0"': "run_name is 'a\\x00'; leave out the zero byte",
    'model={pretrained: "a\\0"}': "model.pretrained is 'a\\x00'; leave out the zero byte",
    "run_folder=${nowhere}": "run_folder: Interpolation key 'nowhere' not found",
}


AS_WRITTEN = ["61e7890", "2024_11_03", "007", "1e5", "12:30:00", "off", "Yes", "0x1F", "0b11", "1.50", ".5", "1_000"]
"""What YAML reads as a number, a time of day in seconds, or a truth."""
TEXT_KEYS = [
    "run_name", "run_folder", "data.fasta", "data.local", "data.remote", "data.val_fasta", "data.train_split",
    "data.val_split", "data.batch_format", "data.shuffle_algo", "data.cache_limit", "data.validate_hash", "budget",
    "precision", "objective", "loss_weighting", "keep_best", "save_folder", "load_path", "device", "model.name",
    "model.pretrained", "model.feed_forward",
    "optimizer.name", "scheduler.name", "scheduler.t_max", "algorithms.ema.half_life", "loggers.wandb.name",
    "loggers.wandb.group", "loggers.tensorboard.log_dir", "callbacks.early_stopper.monitor",
    "callbacks.memory_monitor.memory_keys.x", "fsdp_config.mixed_precision", "compile_config.mode", "attention_backend",
    "data.streams.a.local", "data.streams.a.remote",
]  # fmt: skip


def _at(config: TrainConfig, key: str) -> object:
    node: object = dataclasses.asdict(config)
    for part in key.split("."):
        assert isinstance(node, dict)
        node = node[part]
    return node


def test_every_text_key_of_the_schema_is_among_those_tested() -> None:
    for prefix, schema in (("", TrainConfig), ("data.", DataConfig)):
        for name, hint in typing.get_type_hints(schema).items():
            if is_text(hint) and name != "recipe":
                assert f"{prefix}{name}" in TEXT_KEYS


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_text_is_read_as_written(run_yaml: Path, key: str) -> None:
    for text in AS_WRITTEN:
        assert _at(load_config(run_yaml, [f"{key}={text}"]), key) == text
    *parents, last = key.split(".")
    for text in AS_WRITTEN:
        content = yaml.safe_load(BASE)
        node = content
        for part in parents:
            node = node.setdefault(part, {})
        node.pop(last, None)
        node[last] = "REPLACED"
        run_yaml.write_text(yaml.safe_dump(content).replace("REPLACED", text))
        assert _at(load_config(run_yaml), key) == text
        # What a run keeps of it reads back.
        config = load_config(run_yaml)
        (run_yaml.parent / "config.yaml").write_text(to_yaml(config))
        assert _at(parse_config(read_resolved(run_yaml.parent / "config.yaml"), "x"), key) == text


def test_text_in_lists_and_over_layers_is_read_as_written(run_yaml: Path) -> None:
    config = load_config(run_yaml, ["loggers.wandb.tags=[007, a, 1e5]"])
    assert config.loggers["wandb"] == {"tags": ["007", "a", "1e5"]}
    (run_yaml.parent / "recipes" / "named.yaml").write_text(
        "# x\nrun_name: 007\nloggers: {wandb: {name: 1e5, tags: [1]}}\n"
    )
    config = load_config(run_yaml, ["recipe=named", "loggers.wandb.tags=[x]"])
    assert (config.run_name, config.run_folder) == ("007", "runs/007")
    assert config.loggers["wandb"] == {"name": "1e5", "tags": ["x"]}
    assert load_config(run_yaml, ["recipe=named", "run_name='08'"]).run_name == "08"
    assert load_config(run_yaml, ['run_name="007"']).run_name == "007"
    assert load_config(run_yaml, ["run_name=7", "run_name=a"]).run_name == "a"
    run_yaml.write_text(BASE + "save_folder: &x 007\nload_path: *x\n")
    assert load_config(run_yaml).load_path == "007"


def test_a_recipe_may_look_like_a_number(run_yaml: Path) -> None:
    (run_yaml.parent / "recipes" / "2024_11.yaml").write_text("# x\nseed: 5\n")
    config = load_config(run_yaml, ["recipe=2024_11"])
    assert (config.seed, config.recipe, config.run_name) == (5, "2024_11", "tiny-2024_11")


def test_null_and_numbers_stay_what_they_are(run_yaml: Path) -> None:
    config = load_config(run_yaml, ["data.val_split=null", "max_duration=3", "optimizer.lr=1e-4", "save_interval=1_0"])
    assert (config.data.val_split, config.max_duration, config.optimizer["lr"]) == (None, 3, 1e-4)
    assert config.save_interval == 10
    with pytest.raises(UserError, match="eval_interval is '12:30'"):
        make_parts(load_config(run_yaml, ["eval_interval=12:30"]))


@pytest.mark.parametrize(("override", "message"), WRONG.items())
def test_a_wrong_override_is_one_clear_line(run_yaml: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_parts(load_config(run_yaml, [override]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [\n", "tiny.yaml:2: not valid YAML"),
        ("seed: 1\nseed: 2\n", "tiny.yaml:2: not valid YAML: found duplicate key seed"),
        ("- 1\n", "tiny.yaml: must hold keys and values"),
        ("\x00", "tiny.yaml: not valid YAML"),
        ("sedd: 1\n", "tiny.yaml: sedd: there is no such key"),
        ("", "model.name is missing"),
    ],
)
def test_a_wrong_file_is_one_clear_line(run_yaml: Path, content: str, message: str) -> None:
    run_yaml.write_text(content)
    with pytest.raises(UserError) as error:
        make_parts(load_config(run_yaml))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schedule_that_ends_before_the_run_is_refused(run_yaml: Path) -> None:
    schedule = "scheduler={name: linear_with_warmup, t_warmup: 1ba, t_max: 0.9dur}"
    with pytest.raises(UserError, match="scheduler: t_max 90ba must be"):
        make_parts(load_config(run_yaml, [schedule, "max_duration=100ba"]))


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load_config(tmp_path / "none.yaml")


def test_every_yaml_and_recipe_of_the_project_is_valid(repository: Path) -> None:
    yamls = sorted((repository / "yamls").glob("*.yaml"))
    recipes = sorted((repository / "yamls" / "recipes").glob("*.yaml"))
    assert {path.stem for path in yamls} >= {
        "esm2_small", "esm2_35m", "esm2_150m", "esm2_650m", "esm2_3b", "cramming",
    }  # fmt: skip
    assert {path.stem for path in recipes} >= {
        "baseline", "bf16", "unpadded", "fast", "fsdp", "cramming_2024", "cramming", "long", "finetune",
    }  # fmt: skip
    for path in yamls:
        assert path.read_text().startswith("# ")
        # A recipe's duration takes away the budget, which auto needs.
        budget = ["budget=1h"] if path.stem == "auto" else []
        for recipe in [None, *recipes]:
            make_parts(provisional(load_config(path, [*([f"recipe={recipe.stem}"] if recipe else []), *budget])))


def test_a_recipe_that_masks_masks_alike_over_any_other(repository: Path) -> None:
    path = repository / "yamls" / "cramming_small.yaml"

    def masking(recipe: str) -> tuple[float, float, float]:
        data = load_config(path, [f"recipe={recipe}"]).data
        return data.mask_rate, data.mask_token_fraction, data.random_token_fraction

    recipes = ["cramming", "cramming_2024", "finetune", "long"]
    for last in recipes:
        assert {masking(f"{first},{last}") for first in recipes if first != last} == {masking(last)}


def test_recipes_are_described(run_yaml: Path) -> None:
    assert describe_recipes([run_yaml.parent / "recipes"]) == {"fast": "Quick.", "padded": "Slow."}


def test_defaults_are_what_the_schema_says() -> None:
    assert TrainConfig().data.mask_rate == 0.15


def test_a_recipe_is_found_for_a_yaml_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the YAML first, then in the working folder, then among the project's own."""
    own, work = tmp_path / "own", tmp_path / "work"
    for folder, seed in ((own / "recipes", 1), (work / "recipes", 2), (work / "yamls" / "recipes", 3)):
        folder.mkdir(parents=True)
        (folder / f"recipe{seed}.yaml").write_text(f"seed: {seed}\n")
        (folder / "shared.yaml").write_text(f"seed: {seed}\n")
    yaml = own / "run.yaml"
    yaml.write_text("model: {name: esm2_8m}\n")
    monkeypatch.chdir(work)
    for name, seed in (("recipe1", 1), ("recipe2", 2), ("recipe3", 3), ("shared", 1)):
        assert load_config(yaml, [f"recipe={name}"]).seed == seed
    assert load_config(yaml, ["recipe=fast"]).data.batch_format == "unpadded"
    with pytest.raises(UserError, match="recipe=recipe4: did you mean 'recipe"):
        load_config(yaml, ["recipe=recipe4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: ${run_name}\n", "recipe: names or paths are needed, and no reference"),
        ("model: ${nothing}\n", "Interpolation key 'nothing' not found"),
        (f"recipe: {'a' * 300}\n", "recipe=aaa"),
    ],
)
def test_a_name_or_reference_that_leads_nowhere_is_one_line(run_yaml: Path, text: str, message: str) -> None:
    run_yaml.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(run_yaml)
    assert len(str(error.value).splitlines()) == 1


def test_a_model_alone_is_its_name(run_yaml: Path) -> None:
    run_yaml.write_text("recipe: fast\nmodel: esm2_8m\ndata: {fasta: sample}\n")
    assert load_config(run_yaml).model == {"name": "esm2_8m"}
    config = load_config(run_yaml, ["model=esm2_35m", "model.qk_norm=true"])
    assert config.model == {"name": "esm2_35m", "qk_norm": True}


def test_another_size_keeps_the_variant_of_the_recipe(run_yaml: Path) -> None:
    recipe = run_yaml.parent / "recipes" / "normed.yaml"
    recipe.write_text("model: {qk_norm: true}\n")
    run_yaml.write_text(
        "recipe: normed\nmodel: {name: esm2_8m, num_hidden_layers: 2, hidden_size: 64}\ndata: {fasta: sample}\n"
    )
    for size in ("esm2_35m", "auto"):
        assert load_config(run_yaml, [f"model={size}"]).model == {"name": size, "qk_norm": True}
    assert load_config(run_yaml, ["model={pretrained: folder}"]).model == {"pretrained": "folder"}
