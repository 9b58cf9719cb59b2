"""Every command of the documentation is one that exists, and those that this machine can run do run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from tests.commands import REPOSITORY, write_proteins
from tests.documented_commands import (
    OTHER_PROGRAMS,
    Command,
    Words,
    fenced_commands,
    inline_commands,
    make_place,
    problem_of,
    run_documented,
)

PAGES = sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))
START = fenced_commands("docs/get_started.md")

NOT_RUN = {
    r"-n 8 ": "eight processes, meant for eight GPUs",
    r"--world_size": "several machines",
    r"s3://": "a bucket",
    r"taylor-joren/": "a download of a data set",
    r"esm2_t33_650M_UR50D": "a download of a published model, 2.6 GB",
    r" - --out": "what the program before it in a pipe writes",
    r"DMS_substitutions": "ProteinGym's list of assays",
    r"contacts \S+ (--structures pdb/|proteins\.fasta --out contacts\.npz)$": "a model with a trained contact head",
    r"plm init$": "an empty folder, which tests/test_package.py has",
    r"make (install|gpu-check)": "a GPU, or packages to install",
    r"benchmarks/": "minutes, and a machine that does nothing else",
}
"""What is in commands that are checked but not run, and what they would need."""

NAMES = {
    "MODEL": "runs/esm2_small",
    "RUN": "esm2_small",
    "STUDY.yaml": "study.yaml",
    "COLUMN": "target",
    "...": "",
}
"""What stands for the placeholders of the pages."""


def reason_not_to_run(words: Words) -> str | None:
    """Why a command is not run here."""
    if words[0] in OTHER_PROGRAMS:
        return "a program of others"
    return next((reason for sign, reason in NOT_RUN.items() if re.search(sign, " ".join(words))), None)


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_exist(page: str) -> None:
    problems = {str(command): problem_of(command) for command in [*fenced_commands(page), *inline_commands(page)]}
    assert {command: problem for command, problem in problems.items() if problem} == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("plm trian esm2_small", "there is no command"),
        ("plm evaluate runs/a --dat x", "--dat"),
        ("plm convert fasta a.fasta --ot x", "there is no option --ot"),
        ("plm train esm2_smal", "there is no such YAML"),
        ("plm train esm2_small data.crop_lenght=2", "crop_lenght"),
        ("plm config RUN recipe=fats", "fats"),
        ("composer -n 2 -m plm_composer.run esm2_small optimizer.name=adamm", "adamm"),
        ("composer --procs 2 train.py yamls/esm2_small.yaml", "--procs"),
        ("python convert/fsta.py a.fasta", "there is no convert/fsta.py"),
        ("python benchmarks/score.py --bf8", "there is no option --bf8"),
        ("make tset", "there is no target tset"),
        ("make install-wndb", "there is no extra wndb"),
        ("nvidia-smi -L", "what is nvidia-smi?"),
    ],
)
def test_a_mistake_is_noticed(line: str, problem: str) -> None:
    assert problem in str(problem_of(Command("a page", tuple(line.split()))))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("command", START, ids=str)
def test_a_command_to_start_with_works(command: Command, start: Path) -> None:
    if reason_not_to_run(command.words):
        return
    result = run_documented(command.words, start)
    assert result is None or result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def place(finished_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages' commands name."""
    folder = make_place(tmp_path_factory.mktemp("place"))
    for name in ("esm2_small", "other", "a", "b", "c"):
        shutil.copytree(finished_run.folder, folder / "runs" / name)
    records = [next(read_fasta(TRAIN_FASTA))]
    name, residues = records[0]
    (folder / "protein.fasta").write_text(f">{name}\n{residues[:40].decode()}\n")
    for fasta in ("train1", "train2"):
        shutil.copyfile(folder / "train.fasta.gz", folder / f"{fasta}.fasta.gz")
    for fasta in ("held_out", "uniref100", "val600", "family"):
        shutil.copyfile(folder / "val.fasta.gz", folder / f"{fasta}.fasta.gz")
    write_proteins(folder / "family.fasta")
    write_proteins(folder / "val.fasta", 20)
    for clusters, fasta in (("clusters_cluster", "proteins.fasta"), ("clusters", "uniref100.fasta.gz")):
        names = [header.split()[0] for header, _ in read_fasta(folder / fasta)]
        (folder / f"{clusters}.tsv").write_text("".join(f"{each}\t{each}\n" for each in names))
    rows = [residues.decode() for _, residues in read_fasta(folder / "proteins.fasta")]
    pd.DataFrame({"Sequence": rows}).to_parquet(folder / "proteins.parquet")
    splits = [("train", "valid", "test")[index % 3] for index in range(len(rows))]
    table = {"sequence": rows, "target": [len(row) + 0.5 for row in rows], "set": splits}
    pd.DataFrame(table).to_csv(folder / "table.csv", index=False)
    for target, structure in (("pdb", "1A8O"), ("test", "1A8O"), ("train", "4CUP")):
        (folder / target).mkdir()
        data = REPOSITORY / "tests" / "evaluation" / "contacts" / "data" / f"{structure}.cif.gz"
        shutil.copyfile(data, folder / target / data.name)
    return folder


def named(words: Words) -> Words:
    """The command with names in place of its placeholders, and without what is optional."""
    given = [NAMES.get(word, word) for word in words]
    kept = [word for word in given if word and not word.startswith("[")]
    return tuple(word for index, word in enumerate(kept) if not (word.endswith("]") and "[" not in word and index))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/get_started.md"])
def test_its_commands_run(page: str, place: Path) -> None:
    failures = {}
    for command in fenced_commands(page):
        words = named(command.words)
        if reason_not_to_run(words) is None:
            result = run_documented(words, place)
            if result is not None and result.returncode != 0:
                failures[str(command)] = result.stderr[-2000:]
    assert failures == {}
