"""The pinned evaluation against a direct computation with transformers."""

import gzip

import pytest
import torch
from transformers import EsmForMaskedLM

from plm_composer.errors import UserError
from plm_composer.evaluation.evaluate import evaluate, read_proteins
from plm_composer.evaluation.pinned import collate_windows, windows
from plm_composer.inference.load import load_trained
from plm_composer.sample import VAL_FASTA
from plm_composer.tokenizer import IGNORE_INDEX


@pytest.fixture(scope="module")
def proteins() -> list[bytes]:
    some = read_proteins(str(VAL_FASTA), limit=12)
    return [*some, b"".join(some)]  # one that is longer than a window


def test_scores_are_those_of_transformers(finished_run, proteins) -> None:
    reference = EsmForMaskedLM.from_pretrained(finished_run.folder / "export")
    losses, right = [], []
    for protein in proteins:
        for window in windows(protein):
            batch = collate_windows([window])
            labels = batch["labels"]
            with torch.no_grad():
                ids = batch["input_ids"][None]
                logits = reference(ids, attention_mask=torch.ones_like(ids)).logits[0]
            scored = labels != IGNORE_INDEX
            losses += torch.nn.functional.cross_entropy(logits[scored], labels[scored], reduction="none").tolist()
            right += (logits[scored].argmax(-1) == labels[scored]).tolist()
    result = evaluate(load_trained(finished_run.folder).model, proteins)
    assert result.scored_tokens == len(losses)
    assert result.proteins == len(proteins)
    assert result.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert result.accuracy == pytest.approx(sum(right) / len(right), abs=1e-6)
    assert result.perplexity == pytest.approx(2.718281828**result.loss, rel=1e-4)


def test_batch_size_and_order_change_nothing(finished_run, proteins) -> None:
    model = load_trained(finished_run.folder).model
    one, other = evaluate(model, proteins), evaluate(model, proteins[::-1], batch_tokens=300)
    assert one.loss == pytest.approx(other.loss, abs=1e-5)
    assert one.set_digest == other.set_digest


def test_training_evaluates_by_the_same_protocol(finished_run) -> None:
    import json

    lines = [json.loads(line) for line in (finished_run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line["metrics/eval/masked_nll"] for line in lines if "metrics/eval/masked_nll" in line][-1]
    # The run looked at the first batch of the validation set only.
    shards = read_proteins(str(finished_run.scratch / "data" / "sample"))
    model = load_trained(finished_run.folder).model
    counts = range(40, 90)
    assert any(evaluate(model, shards[:count]).loss == pytest.approx(logged, abs=1e-4) for count in counts)


def test_fasta_and_shards_give_the_same_set(finished_run, tmp_path) -> None:
    shards = read_proteins(str(finished_run.scratch / "data" / "sample"))
    assert shards == read_proteins(str(VAL_FASTA))
    assert shards == read_proteins(str(finished_run.scratch / "data" / "sample" / "val"))
    (tmp_path / "plain.fasta").write_bytes(gzip.decompress(VAL_FASTA.read_bytes()))
    assert shards[:3] == read_proteins(str(tmp_path / "plain.fasta"), limit=3)


def test_nothing_to_score_is_one_line(finished_run, tmp_path) -> None:
    model = load_trained(finished_run.folder).model
    with pytest.raises(UserError, match="no proteins"):
        evaluate(model, [])
    with pytest.raises(UserError, match="no standard residue"):
        evaluate(model, [b"XXX"])
    with pytest.raises(UserError, match="no such FASTA"):
        read_proteins(str(tmp_path / "none.fasta"))
