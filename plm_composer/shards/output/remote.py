"""Object stores: uploads a finished dataset, its manifest last, and downloads single objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plm_composer.errors import UserError
from plm_composer.files.stores import store_errors
from plm_composer.shards.output.manifest import INDEX_NAME, MANIFEST_NAME

_UPLOADS_AT_ONCE = 8


def is_remote(out: str | Path) -> bool:
    """Whether an output is a URL such as ``s3://bucket/folder``."""
    return "://" in str(out)


def connect(remote: str, folder: Path, *, overwrite: bool) -> Any:
    """Connects to an object store and checks that the output may be written there.

    Args:
        remote: URL of the dataset, of any scheme that ``streaming`` uploads to.
        folder: Local folder that will be uploaded.
        overwrite: Whether to replace a dataset that is already there.

    Returns:
        ``streaming``'s uploader.

    Raises:
        UserError: The store cannot be reached or written, or already has objects there.
    """
    # Slow to import, and only remote outputs need it.
    from streaming.base.storage.upload import CloudUploader

    with store_errors(remote):
        uploader = CloudUploader.get((str(folder), remote.rstrip("/")), keep_local=True, exist_ok=True)
        if overwrite:
            return uploader
        try:
            taken = bool(uploader.list_objects(""))
        except NotImplementedError:
            raise UserError(f"{remote}: cannot tell whether this store holds it already; pass --overwrite") from None
        if taken:
            raise UserError(f"{remote}: exists; choose another --out, or replace it with --overwrite")
        return uploader


def download(url: str, path: Path, *, attempts: int = 2, timeout: float = 60.0) -> None:
    """Downloads one object.

    Args:
        url: Address of the object.
        path: Where to write it; missing folders are made.
        attempts: Number of attempts, with pauses of 1, 2, 4 ... seconds between.
        timeout: Seconds to wait for an answer.

    Raises:
        UserError: The object is missing or cannot be read.
    """
    # Slow to import, and only remote data need it.
    from streaming.base.storage import CloudDownloader
    from streaming.base.util import retry

    with store_errors(url):
        downloader = CloudDownloader.get(url)
        retry(clean_up_fn=downloader.clean_up, num_attempts=attempts)(
            lambda: downloader.download(url, str(path), timeout)
        )()


def upload(uploader: Any, remote: str, folder: Path, on_file: Callable[[str], object] | None = None) -> None:
    """Uploads a dataset: its shards, then each ``index.json``, then the manifest.

    Args:
        uploader: Uploader from ``connect``.
        remote: URL of the dataset.
        folder: The finished dataset.
        on_file: Called with the name of each file that has been uploaded.

    Raises:
        UserError: An upload failed.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    indexes = [name for name in names if Path(name).name == INDEX_NAME]
    shards = [name for name in names if name not in indexes and name != MANIFEST_NAME]
    with store_errors(remote), ThreadPoolExecutor(_UPLOADS_AT_ONCE) as threads:
        for group in (shards, indexes, [MANIFEST_NAME]):
            for name, _ in zip(group, threads.map(uploader.upload_file, group), strict=True):
                if on_file is not None:
                    on_file(name)
