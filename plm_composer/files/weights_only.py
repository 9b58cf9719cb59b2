"""Loads checkpoints without running code: torch's files are pickles, and a pickle can run any code.

Everything that the project loads therefore goes through ``plain_values_only``, which admits only tensors and plain
values, whether we, Composer or torch do the loading.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from plm_composer.errors import UserError

# Types in the files other than tensors: fair-esm's config, and in Composer's checkpoints times and the states of random
# generators. torch refuses to unpickle any type that is not listed, since it could run code.
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    datetime.timedelta,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    np.array(0).__reduce__()[0],  # numpy's own `_reconstruct`, which moved between its versions
    torch.torch_version.TorchVersion,
]
_METADATA_TYPES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}
"""The types in the ``.metadata`` of a sharded checkpoint, by module."""
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""torch's own switches, which overrule the argument of ``torch.load``, also in calls by Composer and torch."""


@contextlib.contextmanager
def plain_values_only(source: object, trust: bool = False) -> Iterator[None]:
    """In its body, torch loads tensors and plain values only, also from sharded checkpoints: nothing can run code.

    It applies to the whole process, and so to what Composer and torch load on our behalf.

    Args:
        source: The file or folder, for the message.
        trust: Whether to load anything; for files from people whose programs you would run as well.

    Raises:
        UserError: The files hold something else. None of it was run.
    """
    if trust:
        yield
        return
    variables = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    read_metadata = FileSystemReader.read_metadata
    refused: list[pickle.UnpicklingError] = []

    # Without ``**kwargs``: torch would call it again, for the metadata of one rank.
    def read_or_refuse(self: FileSystemReader) -> Metadata:
        try:
            return _read_metadata(self)
        except pickle.UnpicklingError as error:
            refused.append(error)  # torch 2.8 and later continue, and report missing metadata instead
            raise

    os.environ[_FORCE] = "1"
    FileSystemReader.read_metadata = read_or_refuse  # type: ignore[method-assign]
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            yield
    except (pickle.UnpicklingError, CheckpointException) as error:
        found = refused_name(refused[0] if refused else error)
        if found is None:
            raise
        raise UserError(
            f"{source}: holds {found}, which could run code when it is loaded; only if you trust whoever wrote it, "
            "allow it with --trust (plm) or load_trust=true (train.py)"
        ) from error
    finally:
        FileSystemReader.read_metadata = read_metadata  # type: ignore[method-assign]
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in variables.items() if value is not None})


def refused_name(error: BaseException) -> str | None:
    """Name of the class or function that an unpickler refused to load; None if the error has another cause."""
    causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    for cause in causes:
        found = re.search(r"GLOBAL (\S+)", str(cause)) if isinstance(cause, pickle.UnpicklingError) else None
        if found:
            return found.group(1)
    return None


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in _METADATA_TYPES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not a type of a checkpoint")


def _read_metadata(self: FileSystemReader) -> Metadata:
    """Replaces ``FileSystemReader.read_metadata``, which unpickles anything."""
    with self.fs.create_stream(self.fs.concat_path(self.path, ".metadata"), "rb") as file:
        metadata = _MetadataUnpickler(file).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"GLOBAL {type(metadata).__name__} is not the metadata of a checkpoint")
    for part in metadata.storage_data.values():
        # Parts are downloaded to the checkpoint's own folder, and read from there.
        if PurePosixPath(part.relative_path).name != part.relative_path:
            raise pickle.UnpicklingError(f"GLOBAL {part.relative_path!r} lies outside the checkpoint")
    metadata.storage_meta = metadata.storage_meta or StorageMeta()
    metadata.storage_meta.load_id = self.load_id
    return metadata
