"""``plm embed``: embeds a FASTA of any size in constant memory, in one process or several."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from plm_composer.errors import UserError
from plm_composer.hardware.machine import return_freed_memory
from plm_composer.hardware.processes import ALONE, Team
from plm_composer.inference.embedding.compute import embed_proteins
from plm_composer.inference.embedding.formats import check_name, check_output, write_embeddings
from plm_composer.inference.embedding.parts import PartFolder, Parts, digest_of
from plm_composer.inference.embedding.portions import DEFAULT_BOUNDS, Bounds, Portion, portions_of
from plm_composer.inference.embedding.request import RESIDUES, Request
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, prepared
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.shards.inputs.streams import STDIN
from plm_composer.terminal.progress import ProgressBar

_FILE_OVERHEAD = 1 << 20
"""Upper bound on the bytes of a file of embeddings in addition to its arrays."""
_COPIES = 2
"""Parts and file are on the disk together."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What was written.

    Args:
        proteins: Number of proteins.
        rows: Number of vectors of each layer.
        hidden_size: Width of each.
        continued: Number of parts that an earlier command had finished.
    """

    proteins: int
    rows: int
    hidden_size: int
    continued: int


@dataclasses.dataclass(frozen=True)
class _Job:
    """One command, as one of its processes sees it."""

    model: ESM2
    fasta: str
    out: Path
    request: Request
    place: Place
    team: Team
    bounds: Bounds

    def portions(self) -> Iterator[Portion]:
        for portion in portions_of(read_fasta(self.fasta), self.request, self.model.config.hidden_size, self.bounds):
            for name in portion.names:
                check_name(self.out, name)
            yield portion

    def is_mine(self, portion: Portion) -> bool:
        return portion.index % self.team.size == self.team.rank


def embed_fasta(
    model: ESM2,
    fasta: str,
    out: Path,
    request: Request,
    place: Place,
    team: Team = ALONE,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Embedded | None:
    """Embeds the proteins of a FASTA, in the order of the file.

    Finished parts are kept beside the file until it is whole: the same call continues after an interruption. Each
    process of a team makes every so-many-th part, and the first one puts them together.

    Args:
        model: The model; it is moved to ``place.device``.
        fasta: A FASTA, perhaps compressed; ``-`` reads stdin.
        out: The file to write; its ending chooses the format.
        request: What is asked of each protein.
        place: Where to compute.
        team: The processes that work together; each calls this function.
        bounds: Most of a part.

    Returns:
        What was written; None on processes other than the first.

    Raises:
        UserError: Input or arguments are bad, or a file cannot be written.
    """
    check_output(out)
    request = request.of_model(model.config.num_hidden_layers)
    if fasta == STDIN and team.size > 1:
        raise UserError("one process alone can read stdin; name a file, or start one process")
    job = _Job(model, fasta, out, request, place, team, bounds)
    folder = PartFolder(out)
    with folder.held() if team.rank == 0 else nullcontext():
        residues = None
        if team.rank == 0:
            folder.begin(_settings(job))
            # A fault in the file is better told now than after hours; a stream can be read only once.
            residues = None if fasta == STDIN else _look_ahead(job, folder)
        continued = len(folder.finished())
        if continued and team.rank == 0:
            print(f"{out}: continues after {continued} finished parts in {folder.path}", file=sys.stderr)
        team.wait()
        count = _make_parts(job, folder, residues)
        team.wait()
        if team.rank != 0:
            return None
        folder.check_end(count)
        parts = Parts(folder, request.layers, request.kind == RESIDUES)
        write_embeddings(out, parts)
        folder.remove()
    return Embedded(parts.shape.proteins, parts.shape.rows, parts.shape.width, continued)


def _settings(job: _Job) -> dict[str, object]:
    """What the values and the portions depend on; not the size of batches, the device or the number of processes."""
    request, autocast = job.request, job.place.autocast_dtype
    return {
        "model": digest_of(job.model),
        "kind (mean, --cls, --per-residue)": request.kind,
        "--layers": list(request.layers),
        "--dtype": request.dtype,
        "--window": request.window,
        "--precision": "fp32" if autocast is None else str(autocast).removeprefix("torch."),
        "size of parts": dataclasses.asdict(job.bounds),
    }


def _look_ahead(job: _Job, folder: PartFolder) -> int:
    """Checks the whole FASTA against finished parts and the disk; returns the residues left to this process."""
    proteins, rows, name_bytes, left, count = 0, 0, 0, 0, 0
    for portion in job.portions():
        count += 1
        proteins += len(portion.names)
        rows += job.request.rows([len(protein) for protein in portion.proteins])
        name_bytes += sum(len(name.encode("utf-8")) + 1 for name in portion.names)
        if not folder.has(portion) and job.is_mine(portion):
            left += portion.residues
    folder.check_end(count)
    each = rows * job.request.row_bytes(job.model.config.hidden_size) + 8 * proteins + name_bytes + _FILE_OVERHEAD
    there = sum(path.stat().st_size for path in folder.path.iterdir())
    needed, free = _COPIES * each - there, shutil.disk_usage(folder.path).free
    if needed > free:
        raise UserError(
            f"{job.out}: needs {needed / 1e9:.2f} GB, for the file and its parts, and the disk has {free / 1e9:.2f} GB "
            "free"
        )
    return left


def _make_parts(job: _Job, folder: PartFolder, residues: int | None) -> int:
    """Makes this process's parts, writing each while the next is computed; returns the number of portions of all."""
    count = 0
    hidden = not job.place.progress or job.team.rank != 0
    place = dataclasses.replace(job.place, progress=False)
    with (
        prepared(job.model, place),
        ThreadPoolExecutor(1) as writer,
        ProgressBar(total=residues, desc="embed", unit=" residues", unit_scale=True, disable=hidden) as bar,
    ):
        pending: Future[None] | None = None
        for portion in job.portions():
            count += 1
            if not job.is_mine(portion) or folder.has(portion):
                continue
            values = embed_proteins(job.model, portion.proteins, job.request, place, bar.update)
            if pending is not None:
                pending.result()
            pending = writer.submit(folder.write, portion, values)
            return_freed_memory()
        if pending is not None:
            pending.result()
    return count
