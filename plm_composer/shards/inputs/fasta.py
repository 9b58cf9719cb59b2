"""Reads FASTA from files, ``.gz`` and standard input, in blocks of whole records or record by record."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.shards.inputs.cleaning import KEPT, OUTCOMES, Lengths, Rules, first_invalid
from plm_composer.shards.inputs.records import judge_block
from plm_composer.shards.inputs.sources import SourceSummary
from plm_composer.shards.inputs.split import TRAIN
from plm_composer.shards.inputs.streams import (
    STDIN,
    CorruptStream,
    HashedFile,
    decompress,
    input_size,
    open_input,
    unify_line_ends,
)

BLOCK_BYTES = 1 << 20
"""Bytes of text in a block: it fits a core's cache, which makes each pass three times as fast as over a larger one."""
MAX_RECORD_BYTES = 256 << 20
"""A longer record is not a protein (the longest known has 45,000 residues); the bound keeps memory constant."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEEP_ALL_LENGTHS = Rules(max_unknown=1.0)
_Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FastaBlock:
    r"""Whole records of a FASTA file, with ``\n`` line ends, from a ``>`` to the end of a record.

    Attributes:
        name: Name of the file, for messages.
        split: ``train`` or ``val``.
        first_line: Number of its first line in the file, from 1.
        text: Text of the records.
    """

    name: str
    split: str
    first_line: int
    text: bytes

    def _bounds(self) -> tuple[_Positions, _Positions, _Positions]:
        """Positions, shape (records,) each: start of a record's header, end of the header, end of the record."""
        text = np.frombuffer(self.text, dtype=np.uint8)
        line_ends = np.flatnonzero(text == ord("\n"))
        before_headers = np.flatnonzero(text.take(line_ends + 1, mode="clip") == ord(">"))
        starts = np.concatenate([[0], line_ends[before_headers] + 1])
        header_ends = np.append(line_ends, len(text))[np.concatenate([[0], before_headers + 1])]
        return starts, header_ends, np.append(starts[1:], len(text))

    def sequences(self) -> tuple[bytes, Lengths]:
        """The raw text of all records, headers excluded, and the bytes of each, shape (records,)."""
        _, header_ends, ends = self._bounds()
        starts = np.minimum(header_ends + 1, ends)  # the last header may lack a line end
        pieces = [self.text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return b"".join(pieces), ends - starts

    def headers(self) -> list[str]:
        """The header of each record without its ``>``, as UTF-8 or, since any bytes are valid there, as Latin-1."""
        starts, ends, _ = self._bounds()
        return [_decode(self.text[start + 1 : end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def names(self) -> list[bytes]:
        """The first word of each header; empty if there is none."""
        starts, ends, _ = self._bounds()
        headers = (self.text[start + 1 : end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True))
        return [next(iter(header.split(None, 1)), b"") for header in headers]

    def locate(self, record: int) -> str:
        """File and line of a record's header, such as ``x.fasta, line 3``."""
        return f"{self.name}, line {self.first_line + _count_lines(self.text, int(self._bounds()[0][record]))}"

    def locate_invalid(self) -> tuple[str, bytes]:
        """File and line of the first character that no rule accepts, and the character."""
        for number, line in enumerate(self.text.split(b"\n"), self.first_line):
            if not line.startswith(b">") and (character := first_invalid(line)):
                return f"{self.name}, line {number}", character
        raise ValueError("every character of the block is valid")


def _count_lines(text: bytes, end: int) -> int:
    # bytes.count stops at each hit; with short lines that takes longer than a scan by NumPy.
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8, count=end) == ord("\n")))


def _decode(header: bytes) -> str:
    try:
        return header.decode("utf-8").strip()
    except UnicodeDecodeError:
        return header.decode("latin-1").strip()


def _last_line(first_line: int, text: bytes) -> str:
    if not text:
        return ""
    last = max(first_line, 1) + text.count(b"\n") - text.endswith(b"\n")
    return f" (the last line that could be read is {last})"


class FastaSource:
    """One FASTA input.

    Args:
        path: A file, plain or compressed with gzip, or ``-`` for standard input.
        split: The split it is read for, ``train`` or ``val``. Part of a training source may go to validation.
        block_bytes: Bytes of text in a block.

    Raises:
        UserError: The input is missing or unreadable.
    """

    def __init__(self, path: str | Path, split: str = TRAIN, block_bytes: int = BLOCK_BYTES) -> None:
        self.path = str(path)
        self.name = "<stdin>" if self.path == STDIN else self.path
        self.split = split
        self.block_bytes = block_bytes
        self._raw_file = open_input(self.path)
        self.size = input_size(self._raw_file)
        self._file = HashedFile(self._raw_file)

    @property
    def identity(self) -> list[Any]:
        """Path, split, size and modification time of the file; for a stream its path and split alone."""
        if self.size is None:
            return [self.path, self.split]
        status = os.fstat(self._raw_file.fileno())
        return [str(Path(self.path).resolve()), self.split, status.st_size, status.st_mtime_ns]

    def blocks(self, on_bytes: Callable[[int], object] | None = None) -> Iterator[FastaBlock]:
        """Reads the input, once.

        Args:
            on_bytes: Called with the number of raw bytes of each read.

        Raises:
            UserError: The input is empty, is not FASTA, or its compressed stream is cut short or corrupt.
        """
        self._file = HashedFile(self._raw_file, on_bytes)
        must_be_gzip = self.path.lower().endswith((".gz", ".bgz"))
        line, pieces, pieces_bytes, wanted = 0, [b""], 0, self.block_bytes
        try:
            for chunk in unify_line_ends(decompress(self._file.chunks(), must_be_gzip=must_be_gzip)):
                pieces.append(chunk)
                pieces_bytes += len(chunk)
                if pieces_bytes < wanted:
                    continue
                text = b"".join(pieces)
                if not line:
                    text, line = self._start(text)
                cut = text.rfind(b"\n>") + 1
                if cut:
                    yield FastaBlock(self.name, self.split, line, text[:cut])
                    line += _count_lines(text, cut)
                elif len(text) > MAX_RECORD_BYTES:
                    raise UserError(f"{self.name}, line {line}: a record of over {MAX_RECORD_BYTES >> 20} MiB")
                pieces, pieces_bytes = [text[cut:]], len(text) - cut
                wanted = max(self.block_bytes, 2 * pieces_bytes)
        except CorruptStream as error:
            raise UserError(f"{self.name}: {error}{_last_line(line, b''.join(pieces))}") from None
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror}") from None
        finally:
            if self.path != STDIN:
                self._raw_file.close()
        text = b"".join(pieces)
        if not line:
            text, line = self._start(text)
        if not line:
            raise UserError(f"{self.name}: empty, without a single FASTA record")
        yield FastaBlock(self.name, self.split, line, text)

    def _start(self, text: bytes) -> tuple[bytes, int]:
        """Skips a byte order mark and blank lines; returns the rest and the number of its first line, or 0."""
        text = text.removeprefix(_BYTE_ORDER_MARK)
        rest = text.lstrip()
        if not rest:
            return text, 0
        start = text.rfind(b"\n", 0, len(text) - len(rest)) + 1
        line = 1 + text.count(b"\n", 0, start)
        if not text.startswith(b">", start):
            found = ascii(text[start : start + 20].split(b"\n", 1)[0])[1:]
            raise UserError(f"{self.name}, line {line}: not FASTA: expected a header starting with '>', found {found}")
        return rest, line

    def summary(self) -> SourceSummary:
        """Name, size and hash of the input. The name has no folders, so that two machines write the same manifest."""
        name = self.path if self.path == STDIN else Path(self.path).name
        return SourceSummary(name, self.split, self._file.bytes_read, self._file.hexdigest())


def read_fasta(
    path: str | Path, *, rules: Rules = _KEEP_ALL_LENGTHS, dropped: Counter[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Reads the records of a FASTA file one by one, under the same rules as the conversion.

    Args:
        path: A file, plain or compressed with gzip, or ``-`` for standard input.
        rules: The rules; by default every record with at least one residue is kept.
        dropped: Counts dropped records by reason. If None, such a record is an error, since nobody would notice it.

    Yields:
        Header without its ``>``, and upper-case residues.

    Raises:
        UserError: The file is unreadable or not FASTA, a character is not a letter, or a record is dropped while
            ``dropped`` is None.
    """
    for block in FastaSource(path).blocks():
        proteins, outcomes = judge_block(block, rules)
        for header, protein, index in zip(block.headers(), proteins, outcomes.tolist(), strict=True):
            outcome = OUTCOMES[index]
            if outcome == KEPT:
                yield header, protein
            elif dropped is None:
                raise UserError(f"{block.name}: record '{header[:60]}': {outcome.replace('_', ' ')}; fix or remove it")
            else:
                dropped[outcome] += 1
