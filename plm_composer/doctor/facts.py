"""Collects facts about this machine and its packages, without judging them."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import os
import platform
import re
import resource
import shutil
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from plm_composer.errors import first_line

PACKAGE = "plm-composer"
_SHOWN_PACKAGES = (
    PACKAGE, "mosaicml", "mosaicml-streaming", "torch", "transformers", "triton", "flash-attn", "flash-attn-3",
)  # fmt: skip
_IMPORTED = ("torch", "composer", "streaming", "transformers")
_SHARED_MEMORY = Path("/dev/shm")
_DRIVER = Path("/proc/driver/nvidia/version")
_QUOTAS = (
    (Path("/sys/fs/cgroup/cpu.max"), None),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)
"""Files of cgroups 2, which hold quota and period in one line, and of cgroups 1, which have a file for each."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Args:
        name: Its name.
        capability: Its compute capability, (major, minor).
        memory: Bytes of memory.
        free: Bytes that no process uses.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    free: int


@dataclasses.dataclass(frozen=True)
class Space:
    """Room for files.

    Args:
        path: A folder.
        total: Bytes of its file system.
        free: Bytes that are free.
        writable: Whether this process may write there.
    """

    path: str
    total: int
    free: int
    writable: bool = True


@dataclasses.dataclass(frozen=True)
class Facts:
    """What ``plm doctor`` knows. None stands for what could not be found out, and for what does not exist.

    Args:
        python: Version of Python.
        python_range: Versions that the package supports, such as ``>=3.10,<3.13``.
        packages: Installed versions of packages by name.
        mismatches: Requirements of the package that the installed versions do not meet, with those versions.
        broken: Packages that cannot be imported, with the error.
        cuda_build: Version of CUDA that torch is built for, such as ``12.6``.
        driver: Version of the NVIDIA driver.
        driver_cuda: Newest CUDA that the driver supports, (major, minor).
        cuda_works: Whether torch can use a CUDA device.
        architectures: Architectures that torch has kernels for, such as ``sm_90``.
        gpus: The CUDA devices.
        cpu: Name of the processor.
        bf16: Whether the device that would be used multiplies bf16.
        attention: Attention kernels that would be used, by data type.
        attention_packages: Which packages of attention kernels are installed.
        has_c_compiler: Whether a C compiler is on the path.
        has_triton: Whether Triton is installed.
        memory: Bytes of the machine's memory.
        memory_free: Bytes of it that are available.
        shared_memory: Room in ``/dev/shm``.
        leftovers: Names of the blocks there that dead runs have left.
        folders: Room in the working folder and in that of temporary files.
        cores: Number of cores that this process may run on.
        quota: Number of cores that its container may use.
        threads: Number of threads that torch computes with.
        omp_num_threads: The variable ``OMP_NUM_THREADS``.
        open_files: Number of files that a process may open, (now, at most).
    """

    python: str
    python_range: str | None = None
    packages: dict[str, str] = dataclasses.field(default_factory=dict)
    mismatches: dict[str, str] = dataclasses.field(default_factory=dict)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    cuda_build: str | None = None
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    cuda_works: bool = False
    architectures: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    cpu: str | None = None
    bf16: bool | None = None
    attention: dict[str, str] = dataclasses.field(default_factory=dict)
    attention_packages: tuple[str, ...] = ()
    has_c_compiler: bool = False
    has_triton: bool = False
    memory: int | None = None
    memory_free: int | None = None
    shared_memory: Space | None = None
    leftovers: tuple[str, ...] = ()
    folders: tuple[Space, ...] = ()
    cores: int = 1
    quota: float | None = None
    threads: int | None = None
    omp_num_threads: str | None = None
    open_files: tuple[int, int] | None = None


def collect_facts() -> Facts:
    """Collects the facts; a package that cannot be imported is a fact too."""
    broken = _broken_packages()
    memory = psutil.virtual_memory()
    known: dict[str, Any] = {}
    if "torch" not in broken:
        known |= _facts_of_torch()
    if "streaming" not in broken:
        from plm_composer.data.streaming.leftovers import find_leftovers

        known["leftovers"] = tuple(sorted(path.name for path in find_leftovers()))
    return Facts(
        python=platform.python_version(),
        python_range=_python_range(),
        packages={name: version for name in _SHOWN_PACKAGES if (version := _version(name)) is not None},
        mismatches=_mismatches(),
        broken=broken,
        driver=_driver_version(),
        driver_cuda=_driver_cuda(),
        memory=memory.total,
        memory_free=memory.available,
        shared_memory=_space(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        folders=(_space(Path.cwd()), _space(Path(tempfile.gettempdir()))),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=_core_quota(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        **known,
    )


def _facts_of_torch() -> dict[str, Any]:
    import torch

    from plm_composer.hardware.machine import cpu_name
    from plm_composer.hardware.precision import multiplies_bf16
    from plm_composer.model.attention import choose_backend, installed_packages
    from plm_composer.model.parallelize import has_c_compiler, has_triton

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is among the findings
        works = torch.cuda.is_available()
        device = torch.device("cuda" if works else "cpu")
        return {
            "cuda_build": torch.version.cuda,
            "cuda_works": works,
            "architectures": tuple(torch.cuda.get_arch_list()) if works else (),
            "gpus": tuple(map(_gpu, range(torch.cuda.device_count()))) if works else (),
            "cpu": cpu_name(),
            "bf16": multiplies_bf16("gpu" if works else "cpu"),
            "attention": {
                name: choose_backend(device, dtype)
                for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
            },
            "attention_packages": installed_packages(),
            "has_c_compiler": has_c_compiler(),
            "has_triton": has_triton(),
            "threads": torch.get_num_threads(),
        }


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Gpu(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index), total, free)


def _broken_packages() -> dict[str, str]:
    broken = {}
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package that does not fit another one fails in any way
            broken[name] = first_line(error)
    return broken


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python_range() -> str | None:
    try:
        return metadata.metadata(PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return None


def _mismatches() -> dict[str, str]:
    try:
        wanted = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        version = _version(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            found[f"{each.name}{each.specifier}"] = version or "not installed"
    return found


def _driver_version() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text())
        return found[1] if found else None
    return None


def _driver_cuda() -> tuple[int, int] | None:
    """Asks the driver itself, which works where torch cannot use it."""
    version = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
            return version.value // 1000, version.value % 1000 // 10
    return None


def _core_quota() -> float | None:
    for path, period in _QUOTAS:
        with contextlib.suppress(OSError, ValueError):
            words = path.read_text().split() + ([] if period is None else period.read_text().split())
            if words[0] not in ("max", "-1"):
                return int(words[0]) / int(words[1])
    return None


def _space(folder: Path) -> Space:
    usage = shutil.disk_usage(folder)
    return Space(str(folder), usage.total, usage.free, os.access(folder, os.W_OK))
