"""Commands that the documentation shows: found on its pages, compared with what they name, and run on little data."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from plm_composer.errors import UserError
from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from tests.commands import REPOSITORY, TINY, run_in, write_proteins

OTHER_PROGRAMS = ("docker", "mmseqs", "pip", "sbatch", "sky", "source", "spark-submit", "tail", "uv", "zstdcat")
"""Programs of others, whose arguments are not looked at."""

STUDY = """
yaml: yamls/esm2_small.yaml
evaluation: {data: proteins.fasta}
seeds: [1]
variants: {reference: [], less_masked: [data.mask_rate=0.2]}
"""

ASSAY = "mutant,mutated_sequence,DMS_score\nM1A,AKTAYIA,1\nK2A,MATAYIA,2\nT3A,MKAAYIA,3\nK2W,MWTAYIA,0\n"

Words = tuple[str, ...]


class Command(NamedTuple):
    """One command of a page."""

    page: str
    words: Words

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks_of(page: str) -> tuple[list[Block], str]:
    """The fenced blocks of a page, and its text without them."""
    blocks, prose, inside = [], [], None
    for line in (REPOSITORY / page).read_text().splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = (line.removeprefix("```").strip(), [])
            else:
                blocks.append(Block(inside[0], "".join(f"{each}\n" for each in inside[1])))
                inside = None
        else:
            (prose if inside is None else inside[1]).append(line)
    return blocks, "\n".join(prose)


def fenced_commands(page: str) -> list[Command]:
    """The commands in a page's blocks of bash, and in those without a language that begin with a known program.

    Where a block has prompts, only its lines with one are commands.
    """
    found: list[Command] = []
    for block in blocks_of(page)[0]:
        lines = block.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        commands = [Command(page, words) for line in lines for words in _split(line)]
        if block.language == "bash" or (block.language == "" and commands and commands[0].words[0] in _PROGRAMS):
            found += commands
    return found


def inline_commands(page: str) -> list[Command]:
    """The commands between backticks in a page's sentences; a name such as ``plm config`` alone is not one."""
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", blocks_of(page)[1])
    commands = [Command(page, words) for text in found for words in _split(" ".join(text.split()))]
    return [command for command in commands if command.words[0] in _CHECKS and len(command.words) > 2]


def _split(line: str) -> Iterator[Words]:
    """The commands of a line, without its comment and the variables that are set for them."""
    line = re.sub(r"(^|\s)#.*", "", line)
    for part in re.split(r"(?:;|&&|\|)(?=\s|$)", line):
        try:
            words = shlex.split(part)
        except ValueError:  # an apostrophe: not a command
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words[:1] == ["/usr/bin/time"]:
            words = words[2:]
        if words:
            yield tuple(words)


def problem_of(command: Command) -> str | None:
    """What is wrong with a command: an unknown program, option, key, recipe, script, module, folder or target."""
    program, *words = _without_placeholders(command.words)
    if program in OTHER_PROGRAMS:
        return None
    if program not in _CHECKS:
        return f"what is {program}? If others made it, add it to OTHER_PROGRAMS"
    return _CHECKS[program](words)


def _without_placeholders(words: Words) -> list[str]:
    """The words of a command, without brackets around optional ones, ``...``, ``key=value`` and ``recipe=NAME``."""
    kept = []
    for word in words:
        bare = word if "=" in word else word.strip("[]")
        if bare in ("...", "") or re.match(r"\[?(key=value|recipe=NAME)", bare):
            continue
        kept.append(bare)
    return kept


def _check_plm(words: list[str]) -> str | None:
    import typer

    from plm_composer.cli import app

    group: Any = typer.main.get_command(app)
    name, *rest = words
    if name not in group.commands:
        return f"there is no command {name!r}"
    command = group.commands[name]
    if hasattr(command, "commands"):
        kind, *rest = rest
        if kind not in command.commands:
            return f"there is no command {name} {kind}"
        return _check_options(rest, [REPOSITORY / "plm_composer" / "shards" / "command.py"])
    try:
        command.make_context(name, list(rest))
    except Exception as error:  # of click, which typer has a copy of
        return str(getattr(error, "message", error))
    return _check_run(rest) if name in ("train", "config") else None


def _check_run(words: list[str]) -> str | None:
    """Checks a YAML and the overrides of a training."""
    from plm_composer.config.bundled import find_yaml
    from plm_composer.run.automatic import provisional
    from plm_composer.run.load import load_config
    from plm_composer.run.parts import make_parts

    run, *overrides = words
    overrides = [word for word in overrides if "=" in word]
    of_a_reader = run.isupper() or (run.endswith(".yaml") and not run.startswith("yamls/"))
    try:
        yaml = find_yaml("esm2_small" if of_a_reader else run)
        config = load_config(REPOSITORY / yaml, overrides)
        if "pretrained" not in config.model:  # a folder of the reader's
            make_parts(provisional(config))
    except UserError as error:
        return str(error)
    return None


def _check_composer(words: list[str]) -> str | None:
    from composer.cli.launcher import _get_parser

    try:
        with contextlib.redirect_stderr(io.StringIO()) as complaint:
            parsed = _get_parser().parse_args(words if len(words) > 2 else [*words, "train.py", "esm2_small"])
    except SystemExit:
        return complaint.getvalue()
    given = list(parsed.training_script_args)
    if parsed.module_mode:
        return _MODULES[parsed.training_script](given)
    return _check_python([parsed.training_script, *given])


def _check_python(words: list[str]) -> str | None:
    script, *rest = words
    if script == "-c":
        return None
    if script == "-m":
        return None if importlib.util.find_spec(rest[0]) else f"there is no module {rest[0]}"
    path = REPOSITORY / script
    if not path.is_file():
        return f"there is no {script}"
    if script == "train.py":
        return _check_run(rest) if rest else None
    sources = [path, REPOSITORY / "plm_composer" / "shards" / "command.py"] if script.startswith("convert/") else [path]
    return _check_options(rest, sources)


def _check_options(words: list[str], sources: list[Path]) -> str | None:
    text = "".join(source.read_text() for source in sources)
    known = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', text))
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"there is no option {unknown[0]}" if unknown else None


def _check_make(words: list[str]) -> str | None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in words:
        name = word.partition("=")[0]
        if "=" in word:
            if not re.search(rf"^{name} \?=", makefile, re.MULTILINE):
                return f"the Makefile has no variable {name}"
        elif name.startswith("install-"):
            if name.removeprefix("install-") not in (metadata("plm-composer").get_all("Provides-Extra") or []):
                return f"there is no extra {name.removeprefix('install-')}"
        elif not re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE):
            return f"there is no target {name}"
    return None


def _check_pytest(words: list[str]) -> str | None:
    missing = [word for word in words if word.startswith("tests/") and not (REPOSITORY / word).exists()]
    return f"there is no {missing[0]}" if missing else None


_CHECKS = {
    "plm": _check_plm,
    "composer": _check_composer,
    "python": _check_python,
    "make": _check_make,
    "pytest": _check_pytest,
}
_MODULES = {"plm_composer.run": _check_run, "plm_composer.cli": _check_plm}
_PROGRAMS = (*_CHECKS, *OTHER_PROGRAMS)


def shortened(words: Words) -> list[str]:
    """The command for a model of seconds and for few proteins; a budget stays one. What is there is replaced."""
    if words[0] in ("plm", "python") and "convert" in "".join(words[1:2]):
        return _on_few_proteins(words)
    if words[0] == "make" or not ({"composer", "train"} & set(words[:2])) or "plm_composer.cli" in words:
        return list(words)
    has_budget = any(word.startswith("budget=") for word in words)
    small = [word for word in TINY if not (has_budget and word.startswith(("max_duration", "scheduler")))]
    given = {word.partition("=")[0] for word in words}
    words = tuple("budget=40s" if word.startswith("budget=") else word for word in words)
    continues = "autoresume=true" in words
    duration = "max_duration=9ba" if continues else "max_duration=3ba"
    words = tuple(re.sub(r"max_duration=\w+", duration, word) for word in words)
    again = () if continues else ("save_overwrite=true",)
    return [*words, *(word for word in small if word.partition("=")[0] not in given), *again]


def _on_few_proteins(words: Words) -> list[str]:
    """A conversion of which enough proteins fall into validation."""
    words = (*words, "--overwrite")
    if "--val-fraction" in words:
        at = words.index("--val-fraction") + 1
        return [*words[:at], "0.2", *words[at + 1 :]]
    return [*words, *(() if "--val" in words else ("--val-fraction", "0.2"))]


def make_place(folder: Path) -> Path:
    """Makes a folder look like a checkout, with the proteins that the pages name."""
    for name in ("train.py", "yamls", "convert"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_proteins(folder / "proteins.fasta")
    write_proteins(folder / "held_out.fasta", 20)
    for name, fasta in (("uniref50", TRAIN_FASTA), ("train", TRAIN_FASTA), ("val", VAL_FASTA)):
        shutil.copyfile(fasta, folder / f"{name}.fasta.gz")
    shutil.copyfile(VAL_FASTA, folder / "proteins.fasta.gz")
    study = f"common: [{', '.join(f'{word!r}' for word in TINY)}]"
    (folder / "study.yaml").write_text(f"{STUDY}{study}\n")
    (folder / "assays").mkdir()
    (folder / "assays" / "toy.csv").write_text(ASSAY)
    return folder


def run_documented(words: Words, place: Path) -> CompletedProcess[str] | None:
    """Runs a command, made small, in a folder of ``make_place``; None for one that only installs or tests.

    Args:
        words: The command.
        place: The folder.
    """
    if words[0] == "make":
        assert _check_make(list(words[1:])) is None
        recipe = re.search(rf"^{words[1]}: .*\n\t(.*)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        words = tuple(shlex.split(recipe[1].replace("$(VENV)/bin/", ""))) if recipe else words
        if words[0] != "composer":
            return None
    return None if words[0] in OTHER_PROGRAMS else run_in(place, *shortened(words))
