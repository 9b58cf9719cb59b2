"""Names of objects; what stores do is in ``test_object_store.py``."""

from pathlib import PurePosixPath

import pytest

from plm_composer.checkpoints.stored_folder import path_within
from plm_composer.errors import UserError


def test_a_copy_has_the_folders_of_the_store() -> None:
    assert path_within("run/export", "run/export/parts/model") == PurePosixPath("parts/model")


@pytest.mark.parametrize("name", ["run/export/../../escaped", "run/export/a/../../escaped"])
def test_no_name_leaves_the_copy(name: str) -> None:
    with pytest.raises(UserError, match="could be written anywhere"):
        path_within("run/export", name)
