"""Schedule-free AdamW: what it computes, what is evaluated, saved and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer import DataSpec, Trainer
from composer.core import Evaluator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plm_composer.callbacks.schedule_free import AveragedWeights
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only
from plm_composer.inference.load import load_trained
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.optim.optimizers import OPTIMIZERS
from plm_composer.optim.schedule_free import average_checkpoint, averaged_weights
from plm_composer.run.parts import make_parts
from tests.commands import run_here
from tests.optim.tiny_training import tiny_batch, tiny_model, tiny_optimizer, train

NAME = "schedule_free_adamw"


def test_it_is_the_iteration_of_its_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(6))
    x, z, second = start.clone(), start.clone(), torch.zeros_like(start)
    parameter = nn.Parameter(start.clone())
    optimizer = OPTIMIZERS[NAME].target([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.05)
    for step, gradient in enumerate(gradients, start=1):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(parameter.detach(), y)
        second = 0.99 * second + 0.01 * gradient**2
        z = z - 0.1 * (gradient / ((second / (1 - 0.99**step)).sqrt() + 1e-8) + 0.05 * y)
        x = (1 - 1 / step) * x + z / step
        parameter.grad = gradient.clone()
        optimizer.step()
    with averaged_weights(nn.Module(), optimizer):
        torch.testing.assert_close(parameter.detach(), x)
    torch.testing.assert_close(parameter.detach(), 0.1 * z + 0.9 * x)


def trainer(model: ESM2ComposerModel, folder: Path | None, eval_interval: str, **others: object) -> Trainer:
    def spec(batches: range) -> DataSpec:
        loader = DataLoader([tiny_batch(step) for step in batches], batch_size=None)
        return DataSpec(
            loader,
            split_batch=lambda batch, _: [batch],
            get_num_samples_in_batch=lambda _: 2,
            get_num_tokens_in_batch=lambda _: 30,
        )

    return Trainer(
        model=model,
        optimizers=tiny_optimizer(NAME, model),
        train_dataloader=spec(range(6)),
        eval_dataloader=Evaluator(label="eval", dataloader=spec(range(50, 52))),
        eval_interval=eval_interval,
        max_duration="6ba",
        callbacks=[AveragedWeights()],
        save_folder=None if folder is None else str(folder),
        save_interval="3ba",
        device_train_microbatch_size=2,
        progress_bar=False,
        device="cpu",
        seed=0,
        **others,
    )


def test_evaluation_sees_the_average_and_training_does_not_feel_it(tmp_path: Path) -> None:
    plain, evaluated, resumed = tiny_model(), tiny_model(), tiny_model()
    trainer(plain, None, "0ba").fit()
    run = trainer(evaluated, tmp_path, "1ba")
    run.fit()
    with plain_values_only(tmp_path):
        trainer(resumed, None, "2ba", load_path=str(tmp_path / "ep0-ba3-rank0.pt")).fit()
        saved = torch.load(tmp_path / "latest-rank0.pt", weights_only=True)["state"]
    for (key, value), other, again in zip(
        plain.named_parameters(), evaluated.parameters(), resumed.parameters(), strict=True
    ):
        assert torch.equal(value, other), key
        assert torch.equal(value, again), key
    reported = {name: float(metric.compute()) for name, metric in run.state.eval_metrics["eval"].items()}
    averaged = tiny_model()
    averaged.load_state_dict(average_checkpoint(saved["model"], saved["optimizers"]))
    assert reported["masked_nll"] == pytest.approx(nll(averaged), abs=1e-5)
    assert abs(reported["masked_nll"] - nll(plain)) > 1e-3
    with averaged_weights(evaluated, run.state.optimizers[0]):
        for value, other in zip(averaged.parameters(), evaluated.parameters(), strict=True):
            torch.testing.assert_close(value, other)
    run.eval()  # A finished run that is started again.
    again = {name: float(metric.compute()) for name, metric in run.state.eval_metrics["eval"].items()}
    assert again == pytest.approx(reported)


def nll(model: ESM2ComposerModel) -> float:
    batches = [tiny_batch(step) for step in (50, 51)]
    with torch.no_grad():
        return sum(float(model.loss(model(batch), batch)) for batch in batches) / 2


def test_where_nothing_is_averaged_nothing_changes() -> None:
    model = tiny_model()
    for name in (NAME, "adamw"):
        optimizer = tiny_optimizer(name, model)
        before = [parameter.clone() for parameter in model.parameters()]
        with averaged_weights(model, optimizer):
            assert all(map(torch.equal, before, model.parameters()))
        assert not optimizer.state
    optimizer = tiny_optimizer("adamw", model)
    train(model, optimizer, range(1))
    weights: dict[str, Tensor] = dict(model.state_dict())
    average = average_checkpoint(weights, {"AdamW": optimizer.state_dict()})
    assert all(average[key] is value for key, value in weights.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scheduler": {"name": "linear_with_warmup", "t_warmup": "1ba"}},
            "'linear_with_warmup' is refused with schedule",
        ),
        ({"algorithms": {"ema": {"half_life": "10ba"}}}, "algorithms.ema is refused with schedule_free_adamw"),
        ({"algorithms": {"sam": {}}}, "algorithms.sam is refused with schedule_free_adamw: it hides the optimizer"),
    ],
)
def test_what_would_undo_the_averaging_is_refused(changes: dict[str, object], message: str) -> None:
    config = TrainConfig()
    config.model, config.data.fasta, config.global_train_batch_size = {"name": "esm2_8m"}, "sample", 8
    config.optimizer, config.scheduler = {"name": NAME, "lr": 1e-3}, {"name": "constant_with_warmup", "t_warmup": "1ba"}
    make_parts(config)
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(UserError, match=message):
        make_parts(config)


def test_the_export_and_plm_take_the_average(small_set, repository, tiny, tmp_path) -> None:
    result = run_here(
        tmp_path, "train.py", repository / "yamls" / "esm2_small.yaml", *tiny,
        f"data.local={small_set / 'shards'}", "run_name=averaged",
        f"optimizer={{name: {NAME}, lr: 0.05}}", "scheduler={name: constant_with_warmup, t_warmup: 1ba}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "runs" / "averaged"
    exported, loaded = load_trained(folder / "export").model.state_dict(), load_trained(folder).model.state_dict()
    with plain_values_only(folder):
        saved = torch.load(folder / "checkpoints" / "latest-rank0.pt", weights_only=True)["state"]["model"]
    for key, value in loaded.items():
        torch.testing.assert_close(exported[key], value, rtol=0, atol=1e-6)
    assert not torch.allclose(exported["embedding.weight"], saved["model.embedding.weight"], rtol=0, atol=1e-3)
