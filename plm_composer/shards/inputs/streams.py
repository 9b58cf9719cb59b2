"""Reads the bytes of a FASTA input: hashes and decompresses them, and unifies line ends."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import xxhash
from isal import isal_zlib

from plm_composer.errors import UserError

STDIN = "-"
GZIP_ERROR = cast("type[Exception]", isal_zlib.error)  # its stub declares an instance
"""What decompressing raises on damaged bytes."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31
"""zlib's ``wbits`` for a stream with a gzip header and a checksum."""
_CHUNK_BYTES = 1 << 18


class CorruptStream(Exception):
    """A compressed stream that ends early or does not decompress. The message says which."""


class HashedFile:
    """Counts and hashes the bytes that are read from a binary file.

    Args:
        file: The open file.
        on_bytes: Called with the number of bytes of each read.
    """

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], object] | None = None) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._hash = xxhash.xxh3_128()
        self.bytes_read = 0

    def chunks(self) -> Iterator[bytes]:
        """Yields the file up to its end."""
        while chunk := self._file.read(_CHUNK_BYTES):
            self._hash.update(chunk)
            self.bytes_read += len(chunk)
            if self._on_bytes is not None:
                self._on_bytes(len(chunk))
            yield chunk

    def hexdigest(self) -> str:
        """xxh3 128-bit hash of the bytes read so far."""
        return self._hash.hexdigest()


def open_input(name: str) -> BinaryIO:
    """Opens a file, or standard input for ``-``.

    Raises:
        UserError: The file is missing, a directory or unreadable.
    """
    if name == STDIN:
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a directory; name the FASTA files in it") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def input_size(file: BinaryIO) -> int | None:
    """Bytes in an open file; None for a pipe, whose length is unknown."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def decompress(chunks: Iterator[bytes], *, must_be_gzip: bool) -> Iterator[bytes]:
    """Decompresses a gzip stream of one or many members (as ``bgzip`` writes them); passes other bytes through.

    Unlike ``isal.igzip``, it yields everything before a fault before it raises, so that the error can name the line.

    Raises:
        CorruptStream: The stream ends early or is corrupt, or is not gzip although ``must_be_gzip``.
    """
    first = b""
    while len(first) < len(_GZIP_MAGIC) and (chunk := next(chunks, b"")):
        first += chunk
    if first.startswith(_GZIP_MAGIC):
        yield from _gunzip(first, chunks)
    elif must_be_gzip and first:
        raise CorruptStream("is named .gz but is not compressed with gzip; rename it or compress it")
    else:
        if first:
            yield first
        yield from chunks


def _gunzip(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    member = isal_zlib.decompressobj(_GZIP_WINDOW)
    data: bytes | None = first
    while data is not None:
        try:
            text = member.decompress(data)
        except GZIP_ERROR as error:
            raise CorruptStream(f"is a corrupt gzip file ({error}); fetch it again") from None
        if text:
            yield text
        if not member.eof:
            data = next(chunks, None)
            continue
        # Padding with zeros after a member is legal (gzip's own tool skips it); the next member may follow.
        data = member.unused_data.lstrip(b"\0")
        while data is not None and not data:
            data = next(chunks, None)
            data = data and data.lstrip(b"\0")
        if data is not None:
            if data[: len(_GZIP_MAGIC)] != _GZIP_MAGIC[: len(data)]:
                raise CorruptStream("is a corrupt gzip file (other bytes follow its end); fetch it again")
            member = isal_zlib.decompressobj(_GZIP_WINDOW)
    if not member.eof:
        raise CorruptStream("is cut short: the gzip stream has no end; fetch it again")


def unify_line_ends(chunks: Iterator[bytes]) -> Iterator[bytes]:
    r"""Turns ``\r\n`` and ``\r`` into ``\n``, also where a ``\r\n`` spans two chunks."""
    held = b""
    for chunk in chunks:
        text = held + chunk
        held = b"\r" if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)]
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text:
            yield text
    if held:
        yield b"\n"
