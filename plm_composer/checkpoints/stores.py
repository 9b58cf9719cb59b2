"""Checkpoints in an object store: which one a run continues from, and having one here to look at."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from composer.utils import ObjectStore, parse_uri
from composer.utils.file_helpers import maybe_create_object_store_from_uri, validate_credentials

from plm_composer.checkpoints.local import damage
from plm_composer.checkpoints.names import CHECKPOINT_NAME, LATEST
from plm_composer.errors import UserError
from plm_composer.files.stores import store_errors

_LINK = f"{LATEST}.symlink"
"""A text with the name of the latest checkpoint's object: Composer's link, as stores have none."""
_MARKS_OF_FOLDERS = (".metadata", "config.json")
"""What a sharded checkpoint and a Hugging Face folder are known by."""


class StoredFolder:
    """A folder of checkpoints in an object store that Composer knows.

    Args:
        url: Such as ``s3://bucket/run``.

    Raises:
        UserError: The store cannot be read.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        backend, bucket, self._prefix = parse_uri(self.url)
        self._bucket = f"{backend}://{bucket}/"
        with store_errors(self.url):
            store = maybe_create_object_store_from_uri(self.url)
            assert store is not None, url
            self._store: ObjectStore = store
            self.names = frozenset(self._store.list_objects(self._prefix))

    def check_writable(self) -> None:
        """Writes what Composer writes to try a store out, which it does itself when the model is made already."""
        with store_errors(self.url):
            validate_credentials(self._store, self._within(".credentials_validated_successfully"))

    def is_empty(self) -> bool:
        """Whether there is neither a checkpoint nor a link to one."""
        return not self.checkpoints() and self._within(_LINK) not in self.names

    def checkpoints(self) -> list[str]:
        """Object names of the checkpoints directly in it, files or folders of sharded ones; the newest first."""
        found = []
        for name in {*self.names, *(str(PurePosixPath(name).parent) for name in self.names)}:
            path = PurePosixPath(name)
            if (match := CHECKPOINT_NAME.fullmatch(path.name)) and str(path.parent) == (self._prefix or "."):
                found.append((int(match[2]), int(match[1]), name))
        return [name for _, _, name in sorted(found, reverse=True)]

    def latest(self) -> str | None:
        """Object name that the link to the latest checkpoint has; None where there is no link."""
        link = self._within(_LINK)
        if link not in self.names:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return self.fetch(link, Path(scratch, _LINK)).read_text().strip()

    def link_to(self, name: str) -> None:
        """Has the link to the latest checkpoint name another object."""
        with tempfile.TemporaryDirectory() as scratch, store_errors(self.url):
            path = Path(scratch, _LINK)
            path.write_text(name)
            self._store.upload_object(self._within(_LINK), str(path))

    def fetch(self, name: str, path: Path) -> Path:
        """Downloads an object, or all objects of a folder.

        Args:
            name: Object name.
            path: Where to put it; folders are made.

        Returns:
            The path.

        Raises:
            UserError: The store cannot be read, or a name would leave the folder.
        """
        with store_errors(self.url):
            if name in self.names:
                self._store.download_object(name, str(path), overwrite=True)
                return path
            for part in self.names:
                if not part.startswith(f"{name}/"):
                    continue
                self._store.download_object(part, str(path / path_within(name, part)), overwrite=True)
        return path

    def url_of(self, name: str) -> str:
        """An object's address."""
        return f"{self._bucket}{name}"

    def _within(self, name: str) -> str:
        return str(PurePosixPath(self._prefix, name))


def path_within(folder: str, name: str) -> PurePosixPath:
    """Where an object of a folder belongs in a copy of the folder.

    Args:
        folder: Object name of the folder.
        name: Object name of what is in it.

    Raises:
        UserError: The name would leave the folder: stores may take any.
    """
    path = PurePosixPath(name).relative_to(folder)
    if ".." in path.parts:
        raise UserError(f"{name}: such an object could be written anywhere; remove it from the store")
    return path


def mend_stored_latest(folder: StoredFolder) -> str | None:
    """Points the link of a stored folder to the newest whole checkpoint where what it names is damaged or gone.

    A checkpoint is downloaded to be looked at: stores check what they are sent, not what it is.

    Args:
        folder: The run's ``save_folder``.

    Returns:
        What was wrong and what the run continues from, in one line; None where nothing was wrong.

    Raises:
        UserError: The store cannot be read, or there are checkpoints, and none is whole.
    """
    if folder.is_empty():
        return None
    first, others = folder.latest(), folder.checkpoints()
    wrong = [f"{folder.url}/{_LINK} is missing"] if first is None else []
    for candidate in ([] if first is None else [first]) + [name for name in others if name != first]:
        with tempfile.TemporaryDirectory() as scratch:
            reason = damage(folder.fetch(candidate, Path(scratch, "checkpoint")))
        if reason is None:
            if candidate == first:
                return None
            folder.link_to(candidate)
            return f"{'; '.join(wrong)}; continuing from {PurePosixPath(candidate).name}"
        wrong.append(f"{folder.url_of(candidate)} {reason}")
    raise UserError(
        f"autoresume: {'; '.join(wrong)}; no whole checkpoint is left: put one back, or start over with another "
        "save_folder"
    )


def fetch_model(url: str, scratch: Path) -> Path:
    """Downloads what a model can be loaded from.

    Args:
        url: Of a checkpoint, of the folder of a sharded one, of a run's ``save_folder``, or of a Hugging Face folder.
        scratch: An empty folder for it.

    Returns:
        The file or folder in ``scratch``.

    Raises:
        UserError: The store cannot be read, or there is no such thing.
    """
    folder = StoredFolder(url)
    name = parse_uri(folder.url)[2]
    if name in folder.names or any(f"{name}/{mark}" in folder.names for mark in _MARKS_OF_FOLDERS):
        return folder.fetch(name, scratch / "model")
    if (latest := folder.latest() or next(iter(folder.checkpoints()), None)) is not None:
        return folder.fetch(latest, scratch / "model")
    raise UserError(f"{url}: there is no checkpoint, run or Hugging Face folder")
