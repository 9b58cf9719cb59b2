"""Maps of one layer at a time, against fair-esm's correction."""

from __future__ import annotations

import weakref

import torch
from esm.modules import apc, symmetrize

from plm_composer.model.contact_maps import ContactMaps, correct_average_product
from tests.model.small_models import close, make_batch, make_model


def test_the_correction_is_that_of_fair_esm() -> None:
    attention = torch.rand(2, 3, 9, 9)
    keep = torch.ones(2, 9, dtype=torch.bool)
    close(ContactMaps(attention, keep).corrected(), apc(symmetrize(attention[..., 1:-1, 1:-1])), 1e-6)
    matrix = torch.outer(torch.arange(1.0, 5), torch.arange(2.0, 6))
    close(correct_average_product(matrix), torch.zeros(4, 4), 1e-5)  # a product, and nothing else


def test_special_tokens_count_for_nothing() -> None:
    attention = torch.rand(1, 1, 6, 6)
    keep = torch.tensor([[True, True, True, True, False, False]])
    shorter = ContactMaps(attention[..., :5, :5], keep[:, :5]).corrected()
    close(ContactMaps(attention, keep).corrected()[..., :3, :3], shorter, 1e-6)


def test_sums_and_pairs_are_those_of_the_corrected_maps() -> None:
    attention, weights = torch.rand(2, 3, 9, 9), torch.randn(3)
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1, 6:] = False
    maps = ContactMaps(attention, keep)
    close(maps.weighted(weights), torch.einsum("phij,h->pij", maps.corrected(), weights), 1e-5)
    rows, columns = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 1])
    close(maps.at(1, rows, columns), maps.corrected()[1][:, rows, columns], 1e-6)


@torch.no_grad()
def test_one_layers_maps_are_held_at_a_time() -> None:
    earlier: list[weakref.ref[ContactMaps]] = []
    for maps in make_model().contact_maps(make_batch()["padded"]["input_ids"]):
        assert all(each() is None for each in earlier)
        earlier.append(weakref.ref(maps))
        del maps
    assert len(earlier) == 3
