"""``contacts`` from Python: the maps of each method, in the order of the proteins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plm_composer import contacts
from plm_composer.errors import UserError
from tests.model.small_models import make_model

DATA = Path(__file__).parent / "data"
PROTEINS = ["MKTAYIAKQR", b"MKVLAAGIVGLLLAQWERTY", "MKT"]


def test_the_head_is_that_of_the_model() -> None:
    model = make_model()
    found = contacts(model, PROTEINS)
    assert [each.shape for each in found] == [(len(protein),) * 2 for protein in PROTEINS]
    (alone,) = contacts(model, PROTEINS[:1])
    np.testing.assert_allclose(found[0], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], found[1].T, rtol=0, atol=1e-6)
    assert 0 <= found[1].min() < found[1].max() <= 1


def test_a_regression_is_fitted_on_structures() -> None:
    files = [DATA / "1A8O.pdb.gz", str(DATA / "4CUP.cif.gz")]
    (fitted,) = contacts(make_model(), PROTEINS[:1], train_structures=files)
    (own,) = contacts(make_model(), PROTEINS[:1], method="head")
    assert fitted.shape == own.shape
    assert not np.allclose(fitted, own)


def test_the_jacobian_needs_nothing() -> None:
    model = make_model()
    with torch.no_grad():
        model.contact_head.regression.weight.zero_()
    with pytest.raises(UserError, match="no fitted contact head"):
        contacts(model, PROTEINS)
    found = contacts(model, PROTEINS, method="jacobian", batch_tokens=500)
    assert [each.shape for each in found] == [(len(protein),) * 2 for protein in PROTEINS]
    assert not found[1].diagonal().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "attention"}, "needs training structures"),
        ({"method": "guess"}, "method 'guess': must be attention, head, jacobian"),
        ({"train_structures": ["missing.pdb"]}, "missing.pdb: there is no such structure file or folder"),
    ],
)
def test_what_is_missing_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        contacts(make_model(), PROTEINS, **options)
    assert "\n" not in str(caught.value)
