"""The model of a running training, as an evaluation should see it: whole, and with averaged weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from composer import State
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from plm_composer.algorithms.ema import use_averages
from plm_composer.hardware.precision import AUTOCAST_DTYPES
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place
from plm_composer.optim.schedule_free import averaged_weights


@contextlib.contextmanager
def evaluated_model(state: State) -> Iterator[ESM2]:
    """Gives the model in evaluation mode, with the weights that the pinned evaluation sees.

    Every process calls this. A sharded model is gathered into a whole copy on each process, because its parts run only
    in step with those of the others; that takes the memory of one more copy of the weights.

    Args:
        state: State of the Trainer.

    Yields:
        The model, which must not be changed.
    """
    use_averages(state.algorithms, state)
    training = state.model.training
    model = getattr(state.model, "module", state.model)  # inside DDP
    with averaged_weights(model, state.optimizers[0]):
        state.model.eval()
        try:
            yield _gather(model.model) if _is_sharded(model) else model.model
        finally:
            state.model.train(training)


def evaluation_place(state: State, batch_tokens: int) -> Place:
    """The device and the precision of the run, for an evaluation within it.

    Args:
        state: State of the Trainer.
        batch_tokens: Maximum number of tokens in a batch.
    """
    model = getattr(state.model, "module", state.model)
    dtype = AUTOCAST_DTYPES.get(state.precision.value, model.autocast_dtype)
    return Place("cuda" if state.device.name == "gpu" else "cpu", dtype, batch_tokens)


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


def _gather(sharded: ESM2) -> ESM2:
    weights = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    with torch.device("meta"):
        whole = type(sharded)(sharded.config)
    whole.load_state_dict(weights, assign=True)
    whole.attention_backend = sharded.attention_backend
    return whole.requires_grad_(False).eval()
