"""Every command of the README runs, on less data and smaller models than it names."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest

from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from tests.commands import REPOSITORY, TINY, run_in
from tests.test_docs import write_proteins

STUDY = """
yaml: yamls/esm2_small.yaml
evaluation: {data: proteins.fasta}
seeds: [1]
variants: {reference: [], less_masked: [data.mask_rate=0.2]}
"""

ASSAY = "mutant,mutated_sequence,DMS_score\nM1A,AKTAYIA,1\nK2A,MATAYIA,2\nT3A,MKAAYIA,3\nK2W,MWTAYIA,0\n"


def commands() -> Iterator[list[str]]:
    """The commands of the README's blocks without a language, a word each."""
    text = (REPOSITORY / "README.md").read_text()
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for command in line.split(" #")[0].split(";"):
                if words := shlex.split(command):
                    yield words


def shortened(words: list[str]) -> list[str]:
    """The command for a model of seconds; a budget stays one."""
    if words[0] == "make" or not ({"composer", "train"} & set(words[:2])):
        return words
    has_budget = any(word.startswith("budget=") for word in words)
    small = [word for word in TINY if not (has_budget and word.startswith(("max_duration", "scheduler")))]
    given = {word.partition("=")[0] for word in words}
    words = ["budget=60s" if word.startswith("budget=") else word for word in words]
    words = [re.sub(r"max_duration=\w+", "max_duration=3ba", word) for word in words]
    return [*words, *(word for word in small if word.partition("=")[0] not in given), "save_overwrite=true"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with the proteins that the README names."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("train.py", "yamls", "convert"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_proteins(folder / "proteins.fasta")
    for name, fasta in (("uniref50", TRAIN_FASTA), ("train", TRAIN_FASTA), ("val", VAL_FASTA)):
        shutil.copyfile(fasta, folder / f"{name}.fasta.gz")
    shutil.copyfile(VAL_FASTA, folder / "proteins.fasta.gz")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "assays").mkdir()
    (folder / "assays" / "toy.csv").write_text(ASSAY)
    return folder


def test_it_has_commands() -> None:
    assert len(list(commands())) > 8


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_command_works(words: list[str], place: Path) -> None:
    if words[0] == "make":
        if words[1].startswith("install-"):
            assert words[1].removeprefix("install-") in metadata("plm-composer").get_all("Provides-Extra")
            return
        recipe = re.search(rf"^{words[1]}: .*\n\t(.*)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert recipe is not None, words
        words = shlex.split(recipe[1].replace("$(VENV)/bin/", ""))
        if words[0] != "composer":
            return  # the tests
    arguments = shortened(words)
    if words[:2] == ["plm", "ablate"]:
        study = [f"common: [{', '.join(f'{word!r}' for word in TINY)}]"]
        (place / "study.yaml").write_text("\n".join([STUDY, *study]))
    result = run_in(place, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
