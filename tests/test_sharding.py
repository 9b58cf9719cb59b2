"""How a model is divided over processes."""

from typing import Any

import pytest

from plm_composer.errors import UserError
from plm_composer.sharding import make_sharding


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
