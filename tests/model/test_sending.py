"""What the host computes goes to a GPU from page-locked memory, so that the host does not wait for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plm_composer.model import alibi, rotary
from plm_composer.model.alibi import alibi_slopes
from plm_composer.model.rotary import inverse_frequencies, rotary_frequencies
from plm_composer.model.sending import send
from tests.model.small_models import SMALL

GIVEN = dataclasses.replace(SMALL, rotary_frequencies=tuple(inverse_frequencies(SMALL.head_size).tolist()))


class Watched:
    """In place of a tensor, on a machine without a GPU."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def pin_memory(self) -> Watched:
        self.calls.append("pinned")
        return self

    def to(self, device: str, non_blocking: bool = False) -> Watched:
        self.calls.append((device, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "calls"), [("cuda", ["pinned", ("cuda", True)]), ("cpu", [("cpu", False)])], ids=["cuda", "cpu"]
)
def test_a_copy_to_a_gpu_is_pinned(device: str, calls: list[object]) -> None:
    watched = Watched()
    send(watched, device)
    assert watched.calls == calls


@pytest.mark.parametrize(
    "make",
    [lambda device: alibi_slopes(12, device), lambda device: rotary_frequencies(GIVEN, device)],
    ids=["alibi", "rotary"],
)
def test_tables_are_made_on_the_host_and_sent(
    make: Callable[[torch.device | None], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def note(x: Tensor, device: torch.device) -> Tensor:
        devices.append((x.device.type, device.type))
        return x

    for module in (alibi, rotary):
        monkeypatch.setattr(module, "send", note)
    assert torch.equal(make(torch.device("cuda")), make(None))
    assert devices == [("cpu", "cuda")]
