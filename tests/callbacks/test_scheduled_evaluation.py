"""Evaluations within a training: the scores are those of the trained model, however many processes hold it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from composer import Logger, State, Time, Timestamp
from composer.core import TimeUnit
from composer.devices import DeviceCPU

from plm_composer.callbacks.proteingym import ProteinGym
from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.config.registry import Component
from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.evaluate import evaluate_contacts
from plm_composer.evaluation.contacts.structures import read_structure
from plm_composer.evaluation.probes.evaluate import run_probe
from plm_composer.evaluation.probes.tables import read_probe_table
from plm_composer.evaluation.results import Result, read_results
from plm_composer.evaluation.variants.assays import read_assay
from plm_composer.evaluation.variants.evaluate import draw_mutants
from plm_composer.evaluation.variants.methods import Scorer, score_variants
from plm_composer.evaluation.variants.metrics import spearman
from plm_composer.inference.load import load_trained
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place
from plm_composer.sample import VAL_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from tests.commands import REPOSITORY, TINY, run_here, run_in

STRUCTURES = Path(__file__).parent.parent / "evaluation" / "contacts" / "data"
ASSAYS = ("A", "B")
MUTANTS = 40


@pytest.fixture(scope="module")
def assays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two assays of real proteins, with made-up measurements."""
    folder = tmp_path_factory.mktemp("assays")
    generator = np.random.default_rng(0)
    for name, (_, residues) in zip(ASSAYS, read_fasta(VAL_FASTA), strict=False):
        protein = residues.decode()
        rows = []
        for _ in range(2 * MUTANTS):
            index, mutant = generator.integers(len(protein)), generator.choice(list("ACDEFGHIKLMNPQRSTVWY"))
            sequence = protein[:index] + mutant + protein[index + 1 :]
            rows.append(f"{protein[index]}{index + 1}{mutant},{sequence},{generator.normal():.4f}\n")
        (folder / f"{name}.csv").write_text("mutant,mutated_sequence,DMS_score\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real proteins, with the share of alanine as their target."""
    path = tmp_path_factory.mktemp("table") / "alanine.csv"
    rows = ["sequence,target,set\n"]
    for number, (_, residues) in enumerate(itertools.islice(read_fasta(VAL_FASTA), 30)):
        protein = residues.decode()
        rows.append(f"{protein},{protein.count('A') / len(protein)},{'test' if number % 3 == 0 else 'train'}\n")
    path.write_text("".join(rows))
    return path


def train(scratch: Path, shards: Path, assays: Path, name: str, *overrides: str, processes: int = 1) -> Path:
    run, launcher = (run_here, []) if processes == 1 else (run_in, ["composer", "-n", str(processes)])
    result = run(
        scratch, *launcher, REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY,
        f"data.local={shards}", f"run_name={name}", f"callbacks.proteingym.folder={assays}",
        f"callbacks.proteingym.max_mutants={MUTANTS}", "callbacks.proteingym.interval=4ba", *overrides,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return scratch / "runs" / name


def logged(folder: Path, metric: str) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["batch"]: line[metric] for line in lines if metric in line}


def expected(folder: Path, assays: Path, method: str, name: str) -> float:
    assay = draw_mutants(read_assay(assays / f"{name}.csv"), MUTANTS, 17)
    scores = score_variants(Scorer(load_trained(folder).model), method, assay.target, assay.variants)
    assert assay.measured is not None
    return spearman(assay.measured, scores)


def test_scores_are_those_of_the_saved_model_and_training_does_not_notice(
    tmp_path: Path, small_set: Path, assays: Path
) -> None:
    shards = small_set / "shards"
    with_it = train(tmp_path, shards, assays, "with", "algorithms.ema.half_life=2ba")
    without = train(tmp_path, shards, assays, "without", "algorithms.ema.half_life=2ba", "callbacks.proteingym=null")
    assert logged(with_it, "loss/train/total") == logged(without, "loss/train/total")
    found = logged(with_it, "metrics/proteingym/spearman of A")
    assert list(found) == [4, 6]
    assert found[6] == pytest.approx(expected(with_it, assays, "wt-marginals", "A"), abs=1e-6)
    kept = {result.name: result for result in read_results(with_it)}
    assert kept.keys() == {f"{name} (wt-marginals, in training)" for name in ("average of 2 assays", *ASSAYS)}
    mean = np.mean([expected(with_it, assays, "wt-marginals", name) for name in ASSAYS])
    assert kept["average of 2 assays (wt-marginals, in training)"].scores["spearman"].value == pytest.approx(
        mean, abs=1e-6
    )
    assert logged(with_it, "metrics/proteingym/ndcg").keys() == {4, 6}


def test_a_sharded_model_on_two_processes_is_scored_whole(
    tmp_path: Path, small_set: Path, assays: Path, table: Path
) -> None:
    scored, fitted = [STRUCTURES / "4CUP.cif.gz", STRUCTURES / "1A8O.cif.gz"], [STRUCTURES / "1A7G.cif.gz"]
    folder = train(
        tmp_path, small_set / "shards", assays, "sharded", "recipe=fsdp",
        "callbacks.proteingym.method=masked-marginals",
        f"callbacks.contacts.structures=[{','.join(map(str, scored))}]",
        f"callbacks.contacts.train_structures=[{fitted[0]}]", "callbacks.contacts.interval=1dur",
        f"callbacks.probe.table={table}", "callbacks.probe.target=target", "callbacks.probe.interval=1dur",
        processes=2,
    )  # fmt: skip
    found = logged(folder, "metrics/proteingym/spearman of B")
    assert list(found) == [4, 6]
    assert found[6] == pytest.approx(expected(folder, assays, "masked-marginals", "B"), abs=1e-6)

    model = load_trained(folder).model
    chains, others = ([read_structure(path) for path in paths] for paths in (scored, fitted))
    contacts = evaluate_contacts(model, chains, "attention", train=others)
    probe = run_probe(model, read_probe_table(table, "target")).result
    kept = {result.kind: result for result in read_results(folder)}
    assert kept.keys() == {"contacts", "probe", "variants"}
    for result in (contacts, probe):
        assert len(result.scores) > 2
        for name, score in result.scores.items():
            assert kept[result.kind].scores[name].value == pytest.approx(score.value, abs=1e-3), name
            [value] = logged(folder, f"metrics/{result.kind}/{name}").values()
            assert value == pytest.approx(score.value, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": "often"}, r"callbacks\.proteingym\.interval is 'often'; write a number and a unit"),
        ({"interval": "0ba"}, r"callbacks\.proteingym\.interval is '0ba'; it must be above 0, in ep, ba"),
        ({"assays": []}, r"callbacks\.proteingym\.assays: name at least one assay, and each once"),
        ({"method": "best"}, r"callbacks\.proteingym\.method is 'best'; choose from masked-marginals"),
        ({"max_mutants": 0}, r"callbacks\.proteingym\.max_mutants is 0; it must be at least 1"),
        ({"assays": ["C"]}, r"callbacks\.proteingym\.assays: there is no C\.csv in"),
        ({"folder": "nowhere"}, "nowhere: there is no such assay"),
        ({"batch_tokens": 0}, r"callbacks\.proteingym\.batch_tokens is 0"),
    ],
)
def test_what_is_wrong_is_one_line(assays: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Component("callbacks.proteingym", ProteinGym, {"folder": str(assays), **arguments}).make()


@pytest.mark.parametrize(("interval", "expected"), [("0.1dur", 10), ("300ba", 4), ("1ep", 2)])
def test_evaluations_are_spread_evenly_though_a_budget_changes_the_duration(interval: str, expected: int) -> None:
    class Counting(ScheduledEvaluation):
        name = "counting"

        def tokens(self) -> int:
            return 1

        def evaluate(self, model: ESM2, place: Place) -> list[Result]:
            batches.append(int(state.timestamp.batch))
            return []

    batches: list[int] = []
    evaluation = Counting(interval)
    model = ESM2ComposerModel(ESM2(ESM2Config(1, 8, 2, 8)))
    optimizer = torch.optim.AdamW(model.parameters())
    state = State(model, 0, "run", DeviceCPU(), optimizers=optimizer, callbacks=[evaluation])
    logger = Logger(state)
    state.max_duration = Time(1000, TimeUnit.BATCH)
    evaluation.fit_start(state, logger)
    for batch in range(1, 1001):
        state.max_duration = Time(1000 if batch > 994 else 995 + batch % 11, TimeUnit.BATCH)
        state.timestamp = Timestamp(epoch=batch // 500, batch=batch)
        evaluation.batch_end(state, logger)
        if batch % 500 == 0:
            evaluation.epoch_end(state, logger)
    assert batches[-1] == 1000 and len(batches) == expected
    assert len(set(batches)) == len(batches)


def test_assays_and_mutants_are_drawn_the_same_each_time(assays: Path) -> None:
    first, second = (ProteinGym(str(assays), max_assays=1, max_mutants=10) for _ in range(2))
    assert [each.name for each in first.assays] == [each.name for each in second.assays]
    assert len(first.assays) == 1 and len(first.assays[0].variants) == 10
    assert first.assays[0].table.equals(second.assays[0].table)
    assert [each.name for each in ProteinGym(str(assays), assays=["B.csv"]).assays] == ["B"]
