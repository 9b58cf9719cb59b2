"""Draws proteins from a causal model, residue by residue."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2
from plm_composer.model.growing_layout import GrowingLayout
from plm_composer.model.predict import Place, tokenize
from plm_composer.tokenizer import EOS_ID, STANDARD_IDS, VOCABULARY


@dataclasses.dataclass(frozen=True)
class Sample:
    """A protein that a model drew.

    Args:
        residues: Its residues, those of the prompt first.
        log_likelihood: Log-probability of the drawn tokens, ``<eos>`` included, under the model as it is: without
            temperature and without ``top_p``.
        ended: Whether the model ended it; otherwise it reached the largest number of residues.
    """

    residues: str
    log_likelihood: float
    ended: bool


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How proteins are drawn.

    Args:
        prompt: The first residues, in upper case.
        temperature: Divides the logits; below 1 likely residues become likelier. 0 always takes the likeliest.
        top_p: Draws from the likeliest tokens that together have at least this probability (Holtzman et al. 2020).
        max_residues: Largest number of residues, the prompt's included.
        seed: Seed of the draws.
        batch_size: Number of proteins that are drawn at a time.

    Raises:
        UserError: A value is out of its range.
    """

    prompt: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    max_residues: int = 512
    seed: int = 17
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"the temperature is {self.temperature:g}; it must be at least 0, and finite")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p:g}; it must lie above 0 and at most at 1")
        wrong = set(self.prompt) - {VOCABULARY[index] for index in STANDARD_IDS}
        if wrong:
            raise UserError(f"the prompt holds {min(wrong)!r}; it must be standard residues, in upper case")
        if self.max_residues <= len(self.prompt):
            raise UserError(f"at most {self.max_residues} residues leave none to draw after those of the prompt")
        if self.batch_size < 1:
            raise UserError(f"the batch size is {self.batch_size}; it must be at least 1")


def sample_proteins(
    model: ESM2, count: int, sampling: Sampling = Sampling(), place: Place = Place()
) -> Iterator[Sample]:
    """Draws proteins of at least one residue. The same seed draws the same proteins on the same machine.

    Args:
        model: A causal or mixed model; it is moved to ``place.device`` and set to evaluation mode.
        count: Number of proteins.
        sampling: How to draw them.
        place: Where to compute.

    Yields:
        The proteins.

    Raises:
        UserError: The model has not learnt to predict the next residue.
    """
    model = model.as_causal()
    model.to(place.device).eval()
    generator = torch.Generator(place.device).manual_seed(sampling.seed)
    for start in range(0, count, sampling.batch_size):
        with torch.inference_mode(), place.autocast():
            drawn = _draw(model, min(sampling.batch_size, count - start), sampling, generator)
        yield from drawn


def _draw(model: ESM2, rows: int, sampling: Sampling, generator: torch.Generator) -> list[Sample]:
    device = generator.device
    layout = GrowingLayout(rows, model.config, model.embedding.weight.dtype, device)
    tokens = torch.from_numpy(tokenize(sampling.prompt)[:-1]).to(device).expand(rows, -1)
    allowed = torch.full((len(VOCABULARY),), float("-inf"), device=device)
    allowed[list(STANDARD_IDS)] = 0
    running = torch.ones(rows, dtype=torch.bool, device=device)
    likelihoods = torch.zeros(rows, dtype=torch.float64, device=device)
    drawn = tokens
    while bool(running.any()) and drawn.shape[1] - 1 < sampling.max_residues:
        logits = model.grow(tokens, layout)[:, -1]
        allowed[EOS_ID] = 0 if drawn.shape[1] > 1 else -math.inf
        tokens = _choose(logits + allowed, sampling, generator)
        found = logits.double().log_softmax(-1).gather(1, tokens)[:, 0]
        likelihoods += torch.where(running, found, 0.0)
        tokens = torch.where(running[:, None], tokens, EOS_ID)
        running &= tokens[:, 0] != EOS_ID
        drawn = torch.cat([drawn, tokens], dim=1)
    samples = []
    for ids, likelihood in zip(drawn[:, 1:].tolist(), likelihoods.tolist(), strict=True):
        ended = EOS_ID in ids
        residues = ids[: ids.index(EOS_ID)] if ended else ids
        samples.append(Sample("".join(VOCABULARY[index] for index in residues), likelihood, ended))
    return samples


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draws a token for each row of logits, (rows, 33); returns (rows, 1)."""
    if sampling.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    # The largest becomes 0, which no temperature makes infinite.
    shifted = (logits - logits.amax(-1, keepdim=True)).double()
    probabilities = (shifted / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        # Those after which enough are there already.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)
