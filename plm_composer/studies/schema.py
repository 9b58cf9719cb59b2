"""The schema of a study file, and the checks that need only the file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from omegaconf import MISSING

from plm_composer.config.merge import read_schema
from plm_composer.config.registry import suggestion
from plm_composer.errors import UserError

SET_BY_THE_STUDY = ("run_name", "run_folder", "seed", "autoresume", "save_overwrite")
"""Keys of a run that the study sets."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass
class EvaluationFile:
    """The evaluation section: scores each run's final model as ``plm evaluate`` does."""

    data: str = MISSING
    """FASTA file or shards, relative to the study file, or a remote folder."""
    limit: Optional[int] = None  # noqa: UP045
    """Number of proteins to use, from the first; default: all."""


@dataclasses.dataclass
class StudyFile:
    """The keys of a study file."""

    yaml: str = MISSING
    """The YAML of all runs, relative to the study file."""
    variants: dict[str, list[str]] = MISSING
    """Overrides of each variant, as on the command line of training."""
    seeds: list[int] = MISSING
    common: list[str] = dataclasses.field(default_factory=list)
    """Overrides of all variants; a variant's own take precedence."""
    reference: Optional[str] = None  # noqa: UP045
    """The variant that the others are compared with; default: the first."""
    evaluation: Optional[EvaluationFile] = None  # noqa: UP045
    """Evaluation of the final models; default: each run's own last validation."""
    out: Optional[str] = None  # noqa: UP045
    """Folder of the results, relative to the study file; default: the study file's name without its ending."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The proteins that each run's final model is scored on.

    Args:
        data: A path or URL for ``plm_composer.evaluation.evaluate.read_proteins``.
        limit: Number of proteins to use, from the first, at least 1; None for all.
    """

    data: str
    limit: int | None


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study, its paths relative to the working folder.

    Args:
        path: The study file.
        purpose: The comment at the start of the file.
        yaml: The YAML of all runs.
        variants: Overrides of each variant, in the file's order.
        seeds: The seeds, in the order of the runs.
        common: Overrides of all variants.
        reference: Name of the variant that the others are compared with.
        evaluation: The evaluation set; None to take each run's own last validation.
        out: Folder of the results.
    """

    path: Path
    purpose: str
    yaml: Path
    variants: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    common: tuple[str, ...]
    reference: str
    evaluation: Evaluation | None
    out: Path

    @property
    def runs(self) -> Path:
        """Folder of the runs' folders."""
        return self.out / "runs"

    def choose(self, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[int, str]]:
        """Lists seeds and variants in the order of the runs: all variants of the first seed, then of the next.

        A machine that slows down over hours then slows down all variants alike.

        Args:
            variants: Names of variants; empty for all.
            seeds: Seeds; empty for all.

        Raises:
            UserError: The study has no such variant or seed.
        """
        self.check_variants(variants, "--only")
        for seed in seeds:
            if seed not in self.seeds:
                raise UserError(f"--seeds: {self.path} has no seed {seed}; choose from {_join(self.seeds)}")
        return [
            (seed, variant)
            for seed in self.seeds
            if not seeds or seed in seeds
            for variant in self.variants
            if not variants or variant in variants
        ]

    def check_variants(self, variants: Iterable[str], option: str) -> None:
        """Refuses names that are not variants of the study.

        Raises:
            UserError: The study has no such variant; the message names the option.
        """
        for variant in variants:
            if variant not in self.variants:
                raise UserError(
                    f"{option}: {self.path} has no variant {variant!r}; {suggestion(variant, self.variants)}"
                )


def load_study(path: Path) -> Study:
    """Reads a study file and checks everything that does not need the YAML of the runs.

    Raises:
        UserError: The file cannot be read or a value is invalid; the message names the key.
    """
    content = read_schema(path, StudyFile)
    variants = {str(name): tuple(overrides) for name, overrides in content["variants"].items()}
    seeds = tuple(content["seeds"])
    if not variants:
        raise UserError(f"{path}: variants: name at least one, such as baseline: [recipe=baseline]")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds are {list(seeds)}; give at least one, and each once")
    for name in variants:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{path}: variants.{name}: a name may hold letters, digits, '-', '_' and '.', since it names a folder"
            )
    _check_overrides(f"{path}: common", content["common"])
    for name, overrides in variants.items():
        _check_overrides(f"{path}: variants.{name}", overrides)
    reference = content["reference"] or next(iter(variants))
    if reference not in variants:
        raise UserError(f"{path}: reference: there is no variant {reference!r}; {suggestion(reference, variants)}")
    evaluation = content["evaluation"]
    if evaluation is not None:
        data = evaluation["data"] if "://" in evaluation["data"] else str(path.parent / evaluation["data"])
        evaluation = Evaluation(data, evaluation["limit"])
        if evaluation.limit is not None and evaluation.limit < 1:
            raise UserError(f"{path}: evaluation.limit is {evaluation.limit}; it must be at least 1")
    return Study(
        path=path,
        purpose=_opening_comment(path),
        yaml=path.parent / content["yaml"],
        variants=variants,
        seeds=seeds,
        common=tuple(content["common"]),
        reference=reference,
        evaluation=evaluation,
        out=path.parent / (content["out"] or path.stem),
    )


def _check_overrides(place: str, overrides: Iterable[str]) -> None:
    for override in overrides:
        key = override.split("=", 1)[0].strip()
        if key in SET_BY_THE_STUDY:
            raise UserError(f"{place}: {key} is set by the study; leave it out")


def _opening_comment(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
