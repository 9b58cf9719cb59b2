"""Objectives and weights of the loss in whole runs: a resume is the unbroken run, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from tests.algorithms.small_training import resume_from_each_checkpoint
from tests.commands import REPOSITORY, TINY, run_here

CHANGES = {
    "causal": ("objective=causal",),
    "causal, weighted, shorter at first": (
        "objective=causal",
        "loss_weighting=sqrt",
        "model.short_convolution=3",
        "algorithms.sequence_length_warmup={start_length: 16, t_end: 0.7dur, step_size: 4}",
    ),
    "spans, weighted": (
        "data.mask_span_length=3",
        "loss_weighting=sqrt",
        "device_train_microbatch_tokens=150",
        "algorithms.mask_rate_schedule={initial_rate: 0.15, final_rate: 0.1}",
    ),
    "mixed": ("objective=mixed", "causal_share=0.4", "data.batch_format=padded"),
    "mixed, both residuals, shorter at first": (
        "objective=mixed",
        "model={name: esm2_8m, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2, intermediate_size: 64, "
        "value_residual: true, embedding_residual: true}",
        "algorithms.sequence_length_warmup={start_length: 16, t_end: 0.7dur, step_size: 4}",
        "algorithms.mask_rate_schedule={initial_rate: 0.15, final_rate: 0.1}",
    ),
    "diffusion, shorter and fewer at first": (
        "objective=diffusion",
        "data={mask_rate: 1.0, mask_token_fraction: 1.0, random_token_fraction: 0.0}",
        "device_train_microbatch_tokens=150",
        "algorithms.sequence_length_warmup={start_length: 16, t_end: 0.7dur, step_size: 4, truncate: false}",
        "algorithms.batch_size_warmup={initial_share: 0.5, t_end: 0.5dur}",
    ),
    "normuon": ("optimizer={name: normuon, lr: 0.01}",),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_resume_is_the_unbroken_run(small_set: Path, tmp_path: Path, name: str) -> None:
    resume_from_each_checkpoint(small_set / "shards", tmp_path, *CHANGES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_each_of_twenty_resumes_is_the_unbroken_run(small_set: Path, tmp_path: Path, name: str) -> None:
    resume_from_each_checkpoint(small_set / "shards", tmp_path, *CHANGES[name], batches=21, interval=1)


ASSAY = "mutant,mutated_sequence,DMS_score\nM1A,AKTAYIA,1\nK2A,MATAYIA,2\nT3A,MKAAYIA,3\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=causal", "data.mask_span_length=3"], "data.mask_span_length has no effect with objective=causal"),
        (["objective=next"], "objective is 'next'; choose from masked, causal"),
        (["model.causal=true"], "model.causal follows from the objective"),
        (["objective=causal", "algorithms.mask_rate_schedule={initial_rate: 0.15, final_rate: 0.1}"],
         "algorithms.mask_rate_schedule needs masks at one rate, and objective is causal"),
        (["objective=causal", "callbacks.proteingym.folder={folder}"],
         "callbacks.proteingym.method is 'wt-marginals', and the model is causal"),
        (["callbacks.proteingym.folder={folder}", "callbacks.proteingym.method=likelihood"],
         "callbacks.proteingym.method is 'likelihood', and the model has not learnt"),
        (["objective=diffusion", "data.mask_token_fraction=0.8"],
         "objective is diffusion, which hides residues behind <mask> only"),
        (["recipe=fsdp", "algorithms.sequence_length_warmup={truncate: false}"],
         "algorithms.sequence_length_warmup.truncate=false needs device_train_microbatch_tokens under FSDP2"),
        (["recipe=diffusion", "algorithms.mask_rate_schedule={initial_rate: 0.15, final_rate: 0.1}"],
         "algorithms.mask_rate_schedule needs masks at one rate, and objective is diffusion"),
        (["recipe=diffusion", "loss_weighting=sqrt"],
         "loss_weighting is 'sqrt', and objective=diffusion weighs by the mask rate"),
        (["causal_share=0.3"], "causal_share is 0.3, and objective is masked; leave it out"),
        (["objective=mixed", "causal_share=1"], "causal_share is 1.0; it must lie above 0 and below 1"),
        (["objective=mixed", "model.mixed=true"], "model.mixed follows from the objective"),
        (["loss_weighting=square"], "loss_weighting is 'square'"),
        (["precision=amp_fp16", "device=cpu"], "precision is amp_fp16, which needs a GPU"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_data_are_read(tmp_path: Path, overrides: list[str], message: str) -> None:
    (tmp_path / "assay.csv").write_text(ASSAY)
    given = [override.replace("{folder}", str(tmp_path)) for override in overrides]
    with pytest.raises(UserError, match=message):
        make_parts(load_config(REPOSITORY / "yamls" / "esm2_small.yaml", given))


def test_diffusion_rescales_no_embeddings_of_a_pretrained_model(finished_run) -> None:
    """Where nearly all residues are hidden, token dropout would multiply the others by 50."""
    model = f"model={{pretrained: {finished_run.folder / 'export'}}}"
    yaml = REPOSITORY / "yamls" / "esm2_small.yaml"
    assert make_parts(load_config(yaml, [model])).model.token_dropout
    assert not make_parts(load_config(yaml, [model, "recipe=diffusion"])).model.token_dropout


def test_a_causal_model_is_scored_within_its_training(small_set: Path, tmp_path: Path) -> None:
    (tmp_path / "assay.csv").write_text(ASSAY)
    result = run_here(
        tmp_path, "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY, f"data.local={small_set / 'shards'}",
        "objective=causal", f"callbacks.proteingym.folder={tmp_path}", "callbacks.proteingym.method=likelihood",
        "keep_best=metrics/eval/residue_nll",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "AutoModelForCausalLM" in result.stdout
    metrics = (tmp_path / "runs" / "esm2_small" / "metrics.jsonl").read_text()
    assert "metrics/proteingym/spearman" in metrics
    assert "metrics/eval/residue_nll" in metrics
    assert "masked_nll" not in metrics
