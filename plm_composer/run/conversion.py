"""Converts the FASTA that a config names into shards, once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path

from composer.utils import dist

from plm_composer.config.schema import DataConfig
from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing
from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.split import TRAIN, VAL
from plm_composer.shards.inputs.streams import HashedFile, open_input
from plm_composer.shards.output.finishing import NoValidationProteins
from plm_composer.shards.output.manifest import MANIFEST_NAME, read_manifest
from plm_composer.shards.output.staging import SOURCES_NAME

BUNDLED_SAMPLE = "sample"
"""The value of ``data.fasta`` that stands for the bundled proteins."""


def prepare_shards(data: DataConfig, progress: bool = True) -> str | None:
    """Converts ``data.fasta`` if its shards do not exist yet.

    The first process of each node converts, and the others wait for it.

    Args:
        data: The config's ``data``.
        progress: Whether to draw a progress bar.

    Returns:
        The folder of the shards: ``data.local``, or ``data/<name of the FASTA>`` if only the FASTA is given.

    Raises:
        UserError: The conversion failed, or the folder holds the shards of other proteins.
    """
    if data.fasta is None:
        if data.val_fasta is not None:
            raise UserError("data.val_fasta belongs to data.fasta, which is missing; shards have their own val split")
        return data.local
    bundled = data.fasta == BUNDLED_SAMPLE
    train, val = ([TRAIN_FASTA], [VAL_FASTA]) if bundled else ([Path(data.fasta)], [])
    if data.val_fasta is not None:
        val = [Path(data.val_fasta)]
    out = shards_folder(data.fasta, data.local)
    published = out / MANIFEST_NAME
    if dist.get_local_rank() == 0:
        if published.exists():
            _check_sources(out, {TRAIN: train, VAL: val})
        else:
            _convert(train, val, out, data, bundled, progress)
    # A collective would give up after dist_timeout, and UniRef50 takes longer. If the first process fails, the launcher
    # ends the others.
    while not published.exists():
        time.sleep(0.2)
    if data.val_split is not None and data.val_split not in read_manifest(out).splits:
        raise UserError(
            f"{out} has no split {data.val_split!r} to validate on; set data.val_split=null, or name another folder "
            "with data.local"
        )
    return str(out)


def shards_folder(fasta: str, local: str | None) -> Path:
    """The folder of the shards that a FASTA is converted to.

    Args:
        fasta: The config's ``data.fasta``.
        local: The config's ``data.local``.
    """
    return Path(local or f"data/{Path(fasta).name.split('.')[0]}")


def _convert(train: list[Path], val: list[Path], out: Path, data: DataConfig, bundled: bool, progress: bool) -> None:
    before = [_Stamp.of(path) for path in [*train, *val]]
    try:
        convert_fasta(
            train,
            out,
            val_inputs=val,
            val_fraction=None if data.val_split is not None or val else 0.0,
            # The sample takes seconds; starting worker processes would take longer.
            processes=1 if bundled else None,
            progress=progress,
        )
    except NoValidationProteins as error:
        raise UserError(
            f"data.fasta: none of its {error.proteins:,} proteins falls into validation, which takes a share of "
            f"{error.fraction:g}; give a validation set with data.val_fasta, or train without one with "
            "data.val_split=null"
        ) from error
    except UserError as error:
        hint = f"; --options are those of convert/fasta.py: run it with --out {out}, and this run uses the result"
        raise UserError(f"data.fasta: {error}{hint if '--' in str(error) else ''}") from error
    _remember(out, before)


def _check_sources(out: Path, inputs: dict[str, list[Path]]) -> None:
    """Checks that shards were made from the present content of the inputs, by split. Skips inputs that are gone."""
    made_from = {(source.split, source.name): source for source in read_manifest(out).sources}
    others = made_from.keys() - {(split, path.name) for split, paths in inputs.items() for path in paths}
    if others:
        raise UserError(
            f"{out} holds the shards of {min(others)[1]}, too, which the config does not name; name another folder "
            "with data.local, or read these shards as they are: data.local without data.fasta"
        )
    remembered = _remembered(out)
    stamps = []
    for split, path in ((split, path) for split, paths in inputs.items() for path in paths):
        source = made_from.get((split, path.name))
        if source is not None and not path.exists():
            continue
        stamp = _Stamp.of(path)
        stamps.append(stamp)
        if source is None or source.bytes != stamp.bytes or not (stamp in remembered or _hash(path) == source.xxh3_128):
            raise UserError(
                f"{out} holds the shards of other proteins than {path} has now; name another folder with data.local, "
                "or convert it again with convert/fasta.py --overwrite"
            )
    if stamps and stamps != remembered:
        _remember(out, stamps)


@dataclasses.dataclass(frozen=True)
class _Stamp:
    """Path, size and times of a file; if they are unchanged, the file is taken as unchanged without reading it."""

    path: str
    bytes: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        return cls(str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _remember(out: Path, stamps: list[_Stamp]) -> None:
    """Stores the stamps of files that need not be read again; if they cannot be stored, the files are read again."""
    with contextlib.suppress(OSError), replacing(out / SOURCES_NAME) as partial:
        partial.write_text(json.dumps([dataclasses.asdict(stamp) for stamp in stamps]) + "\n")


def _remembered(out: Path) -> list[_Stamp]:
    try:
        return [_Stamp(**fields) for fields in json.loads((out / SOURCES_NAME).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _hash(path: Path) -> str:
    with open_input(str(path)) as file:
        hashed = HashedFile(file, lambda _: None)
        for _ in hashed.chunks():
            pass
        return hashed.hexdigest()
