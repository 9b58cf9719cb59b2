"""Every optimizer resumes to the bit, keeps what is predicted, and steps as its paper says."""

from __future__ import annotations

import io
import types

import pytest
import torch
from composer.core import Time, Timestamp
from composer.optim import LinearWithWarmupScheduler
from composer.optim.scheduler import compile_composer_scheduler
from torch import Tensor, nn

from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only
from plm_composer.optim.optimizers import OPTIMIZERS
from plm_composer.run.parts import make_parts
from tests.optim.tiny_training import ARGUMENTS, tiny_model, tiny_optimizer


def random_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_every_optimizer_is_tested() -> None:
    assert ARGUMENTS.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_is_the_unbroken_one(name: str) -> None:
    unbroken, first, second = tiny_model(), tiny_model(), tiny_model()
    random_steps(unbroken, tiny_optimizer(name, unbroken), range(8))
    optimizer = tiny_optimizer(name, first)
    random_steps(first, optimizer, range(5))
    file = io.BytesIO()
    torch.save((first.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    with plain_values_only("a test"):
        weights, state = torch.load(file, weights_only=True)
    second.load_state_dict(weights)
    optimizer = tiny_optimizer(name, second)
    optimizer.load_state_dict(state)
    random_steps(second, optimizer, range(5, 8))
    for (key, value), expected in zip(second.named_parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(value, expected), key


@pytest.mark.parametrize(
    ("name", "others"),
    [
        *((name, {}) for name in OPTIMIZERS),
        ("adamw", {"amsgrad": True}),
        ("schedule_free_adamw", {"ams_bound": True}),
        ("sgd", {"momentum": 0.0}),
        ("soap", {"precondition_1d": True}),
        ("soap", {"max_precondition_dim": 40}),
    ],
)
def test_it_keeps_as_many_values_as_predicted(name: str, others: dict[str, object]) -> None:
    model = tiny_model()
    optimizer = tiny_optimizer(name, model, **others)
    random_steps(model, optimizer, range(1))

    def count(value: object) -> int:
        if isinstance(value, list):
            return sum(map(count, value))
        return value.numel() if isinstance(value, Tensor) and value.ndim > 0 else 0

    kept = sum(count(value) for state in optimizer.state.values() for value in state.values())
    assert OPTIMIZERS[name].total_states(model, {**ARGUMENTS[name], **others}) == kept


def test_biases_and_norms_do_not_decay() -> None:
    for name in OPTIMIZERS:
        for group in tiny_optimizer(name, tiny_model()).param_groups:
            assert all(parameter.ndim >= 2 for parameter in group["params"]) or group["weight_decay"] == 0, name


def test_the_schedule_scales_the_learning_rates_of_all_groups() -> None:
    optimizer = tiny_optimizer("muon", tiny_model(), lr=0.02, adamw_lr=0.001)
    state = types.SimpleNamespace(
        optimizers=[optimizer], max_duration=Time(100, "ba"), timestamp=Timestamp(), dataloader_len=None
    )
    schedule = compile_composer_scheduler(LinearWithWarmupScheduler("10ba"), state)
    for batch, multiplier in ((5, 0.5), (10, 1.0), (55, 0.5)):
        state.timestamp = Timestamp(batch=batch)
        schedule.step()
        for group in optimizer.param_groups:
            base = 0.02 if group["use_muon"] else 0.001
            assert group["lr"] == pytest.approx(multiplier * base)


def config(**sections: object) -> TrainConfig:
    whole = TrainConfig()
    whole.model, whole.data.fasta, whole.global_train_batch_size = {"name": "esm2_8m"}, "sample", 8
    whole.scheduler = {"name": "constant"}
    for key, value in sections.items():
        setattr(whole, key, value)
    return whole


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arguments_are_checked_although_the_library_takes_any(name: str) -> None:
    make_parts(config(optimizer={"name": name, **ARGUMENTS[name]}))
    with pytest.raises(UserError, match=r"optimizer\.weight_dekay: there is no such argument"):
        make_parts(config(optimizer={"name": name, **ARGUMENTS[name], "weight_dekay": 0.1}))


def test_normuon_is_refused_where_it_cannot_shard() -> None:
    with pytest.raises(UserError, match="'normuon' is refused with fsdp_config: it needs the norms of whole matrices"):
        make_parts(config(optimizer={"name": "normuon", "lr": 1e-2}, fsdp_config={}))


def test_soap_is_refused_where_it_cannot_shard() -> None:
    soap = {"name": "soap", "lr": 1e-3}
    with pytest.raises(UserError, match="'soap' is refused with fsdp_config: it needs whole gradients"):
        make_parts(config(optimizer=soap, fsdp_config={}))
    with pytest.raises(UserError, match="more than two dimensions"):
        make_parts(config(optimizer={**soap, "merge_dims": True}))


def one_parameter(name: str, start: Tensor, gradients: list[Tensor], **arguments: object) -> Tensor:
    parameter = nn.Parameter(start.clone())
    optimizer = OPTIMIZERS[name].target([parameter], **arguments)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.fixture
def start() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_lion_is_algorithm_2_of_its_paper(start: Tensor, gradients: list[Tensor]) -> None:
    weights, momentum = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        sign = torch.sign(0.9 * momentum + 0.1 * gradient)
        weights = weights - 0.01 * (sign + 0.1 * weights)
        momentum = 0.99 * momentum + 0.01 * gradient
    actual = one_parameter("lion", start, gradients, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    torch.testing.assert_close(actual, weights)


def test_stable_adamw_is_algorithm_2_of_its_paper(start: Tensor, gradients: list[Tensor]) -> None:
    gradients[2] *= 30  # a spike, which is what its clipping is for
    weights, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, gradient in enumerate(gradients, start=1):
        beta1, beta2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in (0.9, 0.99))
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        rate = 0.01 / max(1.0, float((gradient**2 / second).mean().sqrt()))
        weights = weights - rate * 0.1 * weights - rate * first / (second.sqrt() + 1e-8)
    assert rate < 0.01
    actual = one_parameter("stable_adamw", start, gradients, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    torch.testing.assert_close(actual, weights)


def test_soap_is_adam_in_the_eigenbasis(start: Tensor, gradients: list[Tensor]) -> None:
    # Square, since eigenvectors of a null space would be arbitrary. The first gradient only makes the bases.
    square = [gradient[:, :4] for gradient in gradients]
    left, right = square[0] @ square[0].T, square[0].T @ square[0]
    rotate_left, rotate_right = torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1]
    moment, second = 0.05 * square[1], 0.05 * (rotate_left.T @ square[1] @ rotate_right) ** 2
    rotated = rotate_left.T @ moment @ rotate_right / (second.sqrt() + 1e-8)
    expected = start[:, :4] - 0.01 * 0.05**0.5 / 0.05 * rotate_left @ rotated @ rotate_right.T
    actual = one_parameter("soap", start[:, :4], square[:2], lr=0.01, betas=(0.95, 0.95), weight_decay=0.0)
    torch.testing.assert_close(actual, expected)
