"""Checkpoints in an object store: finding the one to resume from, and downloading one."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from composer.utils import ObjectStore, parse_uri
from composer.utils.file_helpers import maybe_create_object_store_from_uri, validate_credentials

from plm_composer.checkpoints.names import CHECKPOINT_NAME, LATEST
from plm_composer.checkpoints.wholeness import damage
from plm_composer.errors import UserError
from plm_composer.files.stores import store_errors

_LINK = f"{LATEST}.symlink"
"""Composer's replacement for a link: an object with the name of the latest checkpoint's object."""
_MARKS_OF_FOLDERS = (".metadata", "config.json")
"""Files that identify a sharded checkpoint and a Hugging Face folder."""


class StoredFolder:
    """A folder of checkpoints in an object store that Composer supports.

    Args:
        url: Address of the folder, such as ``s3://bucket/run``.

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
        """Writes Composer's test object; Composer itself writes it only after the model has been made."""
        with store_errors(self.url):
            validate_credentials(self._store, self._within(".credentials_validated_successfully"))

    def is_empty(self) -> bool:
        """Whether the folder has neither a checkpoint nor a link to one."""
        return not self.checkpoints() and self._within(_LINK) not in self.names

    def checkpoints(self) -> list[str]:
        """Object names of the checkpoints directly in the folder, newest first: files, and folders of sharded ones."""
        found = []
        for name in {*self.names, *(str(PurePosixPath(name).parent) for name in self.names)}:
            path = PurePosixPath(name)
            if (match := CHECKPOINT_NAME.fullmatch(path.name)) and str(path.parent) == (self._prefix or "."):
                found.append((int(match[2]), int(match[1]), name))
        return [name for _, _, name in sorted(found, reverse=True)]

    def latest(self) -> str | None:
        """Object name in the link to the latest checkpoint; None if there is no link."""
        link = self._within(_LINK)
        if link not in self.names:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return self.fetch(link, Path(scratch, _LINK)).read_text().strip()

    def link_to(self, name: str) -> None:
        """Points the link to the latest checkpoint to another object."""
        with tempfile.TemporaryDirectory() as scratch, store_errors(self.url):
            path = Path(scratch, _LINK)
            path.write_text(name)
            self._store.upload_object(self._within(_LINK), str(path))

    def fetch(self, name: str, path: Path) -> Path:
        """Downloads an object, or all objects of a folder.

        Args:
            name: Object name.
            path: Where to write it; missing folders are created.

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
    """Path of an object relative to its folder.

    Args:
        folder: Object name of the folder.
        name: Object name of an object in it.

    Raises:
        UserError: The name would leave the folder, which stores do not prevent.
    """
    path = PurePosixPath(name).relative_to(folder)
    if ".." in path.parts:
        raise UserError(f"{name}: such an object could be written anywhere; remove it from the store")
    return path


def repair_stored_latest(folder: StoredFolder) -> str | None:
    """Points the link of a stored folder to the newest intact checkpoint if its target is damaged or missing.

    Checkpoints are downloaded to be checked, because stores check the transfer, but not the content.

    Args:
        folder: The run's ``save_folder``.

    Returns:
        One line that says what was wrong and from where the run continues; None if nothing was wrong.

    Raises:
        UserError: The store cannot be read, or there are checkpoints, but none is intact.
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
    """Downloads a checkpoint or export from which a model can be loaded.

    Args:
        url: Address of a checkpoint file, of a sharded checkpoint's folder, of a run's ``save_folder``, or of a Hugging
            Face folder.
        scratch: An empty folder for the download.

    Returns:
        The file or folder in ``scratch``.

    Raises:
        UserError: The store cannot be read, or has none of these at the address.
    """
    folder = StoredFolder(url)
    name = parse_uri(folder.url)[2]
    if name in folder.names or any(f"{name}/{mark}" in folder.names for mark in _MARKS_OF_FOLDERS):
        return folder.fetch(name, scratch / "model")
    if (latest := folder.latest() or next(iter(folder.checkpoints()), None)) is not None:
        return folder.fetch(latest, scratch / "model")
    raise UserError(f"{url}: there is no checkpoint, run or Hugging Face folder")
