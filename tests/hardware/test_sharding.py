"""How a model is divided, and what each process of a sharded run holds when it starts."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.distributed.prepare_distributed import parallelize_composer_model

from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.errors import UserError
from plm_composer.hardware.sharding import make_sharding
from plm_composer.run.parts import make_parts
from plm_composer.run.trainer import make_model
from tests.gloo import spawn_on_cpus

SHAPE = {"name": "esm2_3b", "num_hidden_layers": 2, "hidden_size": 1280, "intermediate_size": 5120}
"""ESM2-3B's, shortened and of half its width: 164 MB of weights."""


def sharded_model(model: dict[str, Any], fsdp_config: dict[str, Any] | None = None) -> torch.nn.Module:
    """A run's model, in fp32 on the CPU."""
    config = TrainConfig(
        model=model,
        data=DataConfig(local="shards"),
        optimizer={"name": "adamw", "lr": 1e-3},
        precision="fp32",
        device="cpu",
        fsdp_config=fsdp_config,
    )
    return make_model(make_parts(config))


def test_without_degrees_all_processes_share_one_copy() -> None:
    sharding = make_sharding({}, 8)
    assert sharding is not None
    assert sharding.data_parallel_replicate_degree is None
    assert sharding.shard_degree(8) == 8
    assert make_sharding(None, 8) is None


@pytest.mark.parametrize("section", [{"replicate": 2}, {"replicate": 2, "shard": 4}, {"replicate": -1, "shard": 4}])
def test_degrees_fill_the_processes(section: dict[str, int]) -> None:
    sharding = make_sharding({f"data_parallel_{name}_degree": degree for name, degree in section.items()}, 8)
    assert sharding is not None
    assert sharding.shard_degree(8) == 4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data_parallel_replicate_degree": 3}, "3 copies over -1 processes each do not make the 8 processes"),
        ({"data_parallel_shard_degree": 4}, "1 copies over 4 processes each"),
        ({"data_parallel_replicate_degree": 0}, "replicate_degree is 0; it must be at least 1, or -1"),
        ({"data_parallel_replicate_degree": -1}, "cannot both be -1"),
        ({"state_dict_type": "local"}, "state_dict_type is 'local'; choose full or sharded"),
        ({"device_mesh": 2}, "fsdp_config.device_mesh: there is no such argument"),
        ({"shard": 2}, "fsdp_config.shard: there is no such argument"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_sharding(section, 8)
    assert message in str(refused.value)


def peak() -> int:
    """Most bytes that this process has held."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def work(rank: int, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
            patch.setenv(name, str(value))
        warnings.simplefilter("ignore")
        # What is imported at the first use is not the model's.
        small = {**SHAPE, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
        parallelize_composer_model(sharded_model(small, {}), None, make_sharding({}, 2))
        before = peak()
        torch.manual_seed(1)
        model = sharded_model(SHAPE, {})
        parallelize_composer_model(model, None, make_sharding({}, 2))
        held = peak() - before
        weights = {name: value.full_tensor() for name, value in model.state_dict().items()}
        torch.save({"held": held, "weights": weights}, folder / f"{rank}.pt")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_no_process_holds_the_model_twice_and_only_one_holds_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Has the C library return what is freed: by default that depends on what was freed before.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    spawn_on_cpus(work, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(1)
    plain = sharded_model(SHAPE).state_dict()
    for result in (first, second):
        assert result["weights"].keys() == plain.keys()
        assert all(torch.equal(result["weights"][name], value) for name, value in plain.items())
    size = sum(value.nbytes for value in plain.values())
    # Its half and the weight that is just being sent; on rank 0 the whole as well.
    assert 0.4 * size < second["held"] < 0.9 * size
    assert first["held"] < 1.8 * size
