"""FSDP2 as ``fsdp_config`` sets it: over all processes, or over groups of them (HSDP)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from composer.utils.parallelism import FSDP2Config

from plm_composer.config.registry import check_arguments
from plm_composer.errors import UserError


@dataclasses.dataclass
class ShardingConfig(FSDP2Config):
    """Composer's ``FSDP2Config``, with the degrees of its ``FSDPConfig``, from which Composer makes the mesh.

    In ``FSDP2Config`` the degrees are properties that mean "all processes". Composer's ``State`` only reads their
    values, and its checkpoints support the mesh's two dimensions: the first replica writes.

    Args:
        data_parallel_shard_degree: Number of processes that share one copy of the weights; -1 for the remaining factor.
        data_parallel_replicate_degree: Number of copies of the weights; None for one, -1 for the remaining factor.
    """

    data_parallel_shard_degree: int = -1
    data_parallel_replicate_degree: int | None = None

    def shard_degree(self, processes: int) -> int:
        """Number of processes that share one copy of the weights.

        Args:
            processes: Number of processes of the run.
        """
        if self.data_parallel_shard_degree > 0:
            return self.data_parallel_shard_degree
        return processes // (self.data_parallel_replicate_degree or 1)


def make_sharding(section: Mapping[str, Any] | None, processes: int) -> ShardingConfig | None:
    """Makes Composer's config from ``fsdp_config``; Composer would silently ignore a dict.

    Args:
        section: Fields of ``ShardingConfig``; None for DDP.
        processes: Number of processes of the run.

    Raises:
        UserError: A field is unknown, or the degrees do not fit the number of processes.
    """
    if section is None:
        return None
    for name in ("activation_checkpointing", "activation_cpu_offload"):
        if name in section:
            raise UserError(f"fsdp_config.{name}: leave it out, and set activation_checkpointing beside fsdp_config")
    # A YAML cannot hold a mesh; Composer makes it from the degrees.
    check_arguments("fsdp_config", ShardingConfig, section, given=("device_mesh",))
    config = ShardingConfig(**section)
    if config.state_dict_type not in ("full", "sharded"):
        raise UserError(f"fsdp_config.state_dict_type is {config.state_dict_type!r}; choose full or sharded")
    degrees = (config.data_parallel_shard_degree, config.data_parallel_replicate_degree)
    for name, degree in zip(("shard", "replicate"), degrees, strict=True):
        if degree is not None and degree != -1 and degree < 1:
            raise UserError(f"fsdp_config.data_parallel_{name}_degree is {degree}; it must be at least 1, or -1")
    if degrees == (-1, -1):
        raise UserError("fsdp_config: data_parallel_shard_degree and data_parallel_replicate_degree cannot both be -1")
    shard, replicate = degrees[0], degrees[1] or 1
    given = abs(shard * replicate)  # -1 stands for the remaining factor
    if processes % given or (-1 not in (shard, replicate) and given != processes):
        raise UserError(
            f"fsdp_config: {replicate} copies over {shard} processes each do not make the {processes} processes of "
            "this run; their product must be that, and -1 stands for what is left"
        )
    return config
