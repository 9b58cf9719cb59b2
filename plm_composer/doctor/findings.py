"""Judges the facts of ``facts.py``: what is as it should be, what costs speed or may fail, and what does not work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from plm_composer.doctor.facts import Facts, Space
from plm_composer.terminal.progress_line import describe_amount

Level = Literal["ok", "warning", "problem"]

_NEWEST_TESTED_TORCH = "2.11"
_TORCH = "torch"
"""The requirement that may be overridden: Composer pins a torch that is too old for some GPUs."""
_BLACKWELL = (10, 0)
_GIB = 1 << 30
_LEAST_SHARED_MEMORY, _SHARED_MEMORY = 256 << 20, _GIB
_LEAST_DISK, _DISK = _GIB, 10 * _GIB
_MEMORY = 4 * _GIB
_BUSY_GPU = 0.5
"""Share of a GPU's memory that others may use before they are mentioned."""
_OPEN_FILES = 1024


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of ``plm doctor``.

    Args:
        level: ``ok``; ``warning`` for what costs speed or may fail; ``problem`` for what does not work.
        subject: What it is about, a word or two.
        message: What was found and, unless it is ok, what to do.
    """

    level: Level
    subject: str
    message: str


def find_all(facts: Facts) -> list[Finding]:
    """Judges everything, in the order in which it is shown.

    Args:
        facts: The facts.
    """
    return [finding for check in CHECKS for finding in check(facts)]


def check_python(facts: Facts) -> Iterator[Finding]:
    """The version of Python."""
    if facts.python_range is None or SpecifierSet(facts.python_range).contains(facts.python):
        yield Finding("ok", "python", facts.python)
    else:
        yield Finding("problem", "python", f"{facts.python} is not {facts.python_range}: use a Python that is")


def check_packages(facts: Facts) -> Iterator[Finding]:
    """Installed packages: whether they can be imported, and have the versions that they should have."""
    listed = ", ".join(f"{name} {version}" for name, version in facts.packages.items() if name != _TORCH)
    yield Finding("ok", "packages", listed or "none of ours is installed: this is a checkout")
    for name, error in facts.broken.items():
        yield Finding(
            "problem", name, f"cannot be imported ({error}): install plm-composer again, in a new environment"
        )
    for wanted, version in facts.mismatches.items():
        if not wanted.startswith(_TORCH):
            level: Level = "problem" if "==" in wanted else "warning"
            yield Finding(level, "packages", f"{wanted} is wanted, and here is {version}: pip install '{wanted}'")


def check_torch(facts: Facts) -> Iterator[Finding]:
    """The version of torch, and whether its CUDA fits the driver."""
    version = facts.packages.get(_TORCH)
    if version is None or _TORCH in facts.broken:
        return
    build = "a build for CPUs" if facts.cuda_build is None else f"built for CUDA {facts.cuda_build}"
    yield Finding("ok", _TORCH, f"{version.partition('+')[0]}, {build}")
    release = Version(version).release[:2]
    unmet = next((wanted for wanted in facts.mismatches if wanted.startswith(_TORCH)), None)
    if release > Version(_NEWEST_TESTED_TORCH).release:
        yield Finding("warning", _TORCH, f"newer than {_NEWEST_TESTED_TORCH}, the newest that is tested")
    elif unmet is not None and release < min(Version(each.version).release for each in SpecifierSet(unmet[5:])):
        yield Finding("problem", _TORCH, f"{unmet} is wanted: pip install '{unmet}'")


def check_driver(facts: Facts) -> Iterator[Finding]:
    """The NVIDIA driver, and whether torch can use it."""
    if facts.driver is None and facts.driver_cuda is None:
        if facts.cuda_build is not None:
            yield Finding("ok", "driver", "no NVIDIA driver here; models train on the CPU")
        return
    newest = "" if facts.driver_cuda is None else f", for CUDA up to {'.'.join(map(str, facts.driver_cuda))}"
    name = f"NVIDIA {facts.driver or 'driver'}{newest}"
    if facts.cuda_build is None:
        yield Finding("problem", "driver", f"{name}, but torch is a build for CPUs: {_install_torch(facts)}")
        return
    build = Version(facts.cuda_build).release[:2]
    if facts.driver_cuda is not None and build[0] > facts.driver_cuda[0]:
        advice = f"update the driver, or install a torch for CUDA {facts.driver_cuda[0]}"
        yield Finding("problem", "driver", f"{name}, and torch is built for CUDA {facts.cuda_build}: {advice}")
    elif not facts.cuda_works:
        advice = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all"
        yield Finding("problem", "driver", f"{name}, but torch finds no GPU: {advice}")
    elif facts.driver_cuda is not None and build > facts.driver_cuda:
        yield Finding(
            "warning", "driver", f"{name}, older than torch's CUDA {facts.cuda_build}: update it if kernels fail"
        )
    else:
        yield Finding("ok", "driver", name)


def check_devices(facts: Facts) -> Iterator[Finding]:
    """The GPUs, or the processor."""
    for number, gpu in enumerate(facts.gpus):
        subject = f"gpu {number}" if len(facts.gpus) > 1 else "gpu"
        text = f"{gpu.name}, {_size(gpu.memory)}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        used = 1 - gpu.free / gpu.memory
        if not _has_kernels(gpu.capability, facts.architectures):
            advice = "install torch 2.11 for CUDA 13" if gpu.capability >= _BLACKWELL else "install an older torch"
            yield Finding("problem", subject, f"{text}, which this torch has no kernels for: {advice}")
        elif used > _BUSY_GPU:
            yield Finding("warning", subject, f"{text}; {used:.0%} of it is in use: see nvidia-smi")
        else:
            yield Finding("ok", subject, text)
    memory = "" if facts.memory is None else f", {_size(facts.memory)} memory"
    text = f"{facts.cpu or 'processor unknown'}, {facts.cores} cores{memory}"
    if facts.memory_free is not None and facts.memory_free < _MEMORY:
        yield Finding("warning", "cpu", f"{text}, of which {_size(facts.memory_free)} are free: close other programs")
    else:
        yield Finding("ok", "cpu", text)


def check_precision(facts: Facts) -> Iterator[Finding]:
    """Whether training uses bf16."""
    if facts.bf16 is None:
        return
    where = "GPU" if facts.gpus else "CPU"
    if facts.bf16:
        yield Finding("ok", "precision", f"auto is amp_bf16: this {where} multiplies bf16")
    elif facts.gpus:
        yield Finding(
            "warning",
            "precision",
            "auto is fp32, at a fraction of the speed: bf16 needs an Ampere GPU or later; try precision=amp_fp16",
        )
    else:
        yield Finding("ok", "precision", f"auto is fp32: this {where} has no instructions for bf16")


def check_attention(facts: Facts) -> Iterator[Finding]:
    """Which attention kernels are used."""
    if not facts.attention:
        return
    kernels = ", ".join(f"{kernel} for {dtype}" for dtype, kernel in facts.attention.items())
    installed = f"; installed: {', '.join(facts.attention_packages)}" if facts.attention_packages else ""
    slow = facts.gpus and facts.attention.get("bf16" if facts.bf16 else "fp32") == "reference"
    if slow:
        yield Finding("warning", "attention", f"{kernels}; reference is slow: use another GPU, or install flash-attn")
    else:
        yield Finding("ok", "attention", f"{kernels}{installed}")


def check_compilation(facts: Facts) -> Iterator[Finding]:
    """Whether ``torch.compile`` works."""
    if _TORCH in facts.broken:
        return
    if not facts.gpus:
        yield Finding("ok", "compile", "not used on CPUs")
    elif not facts.has_c_compiler:
        yield Finding("warning", "compile", "no C compiler, so training is slower: apt-get install gcc, or set CC")
    elif not facts.has_triton:
        yield Finding("warning", "compile", "no Triton, so training is slower: pip install triton")
    else:
        yield Finding("ok", "compile", "Triton and a C compiler are there")


def check_shared_memory(facts: Facts) -> Iterator[Finding]:
    """Room in ``/dev/shm``, through which workers hand over batches."""
    space = facts.shared_memory
    if space is None:
        return
    text = f"{_size(space.free)} of {_size(space.total)} free in {space.path}"
    advice = "docker run --shm-size=8g or --ipc=host, or data.num_workers=0"
    if not space.writable:
        yield Finding("problem", "shared memory", f"{space.path} cannot be written to: mount it as tmpfs")
    elif space.free < _LEAST_SHARED_MEMORY:
        yield Finding("problem", "shared memory", f"{text}, and workers die of less than 256 MB: {advice}")
    elif space.free < _SHARED_MEMORY:
        yield Finding("warning", "shared memory", f"{text}; long proteins may need 1 GB: {advice}")
    else:
        yield Finding("ok", "shared memory", text)
    if facts.leftovers:
        yield Finding(
            "ok", "leftovers", f"{len(facts.leftovers)} blocks there are of dead runs; the next training removes them"
        )


def check_folders(facts: Facts) -> Iterator[Finding]:
    """Room on disks."""
    for subject, space in zip(("disk", "temp"), facts.folders, strict=False):
        yield _judge_folder(subject, space)


def _judge_folder(subject: str, space: Space) -> Finding:
    text = f"{_size(space.free)} of {_size(space.total)} free in {space.path}"
    where = "another run_folder" if subject == "disk" else "another TMPDIR"
    if not space.writable:
        return Finding("problem", subject, f"{space.path} cannot be written to: choose {where}")
    if space.free < _LEAST_DISK:
        return Finding("problem", subject, f"{text}: make room, or choose {where}")
    if space.free < _DISK:
        return Finding("warning", subject, f"{text}; checkpoints may fill it: make room, or choose {where}")
    return Finding("ok", subject, text)


def check_threads(facts: Facts) -> Iterator[Finding]:
    """Whether torch uses as many threads as there are cores."""
    if facts.threads is None:
        return
    cores = facts.cores if facts.quota is None else min(facts.cores, max(1, round(facts.quota)))
    given = f", OMP_NUM_THREADS={facts.omp_num_threads}" if facts.omp_num_threads else ""
    text = f"{facts.threads} for {cores} cores{given}"
    if facts.threads > cores:
        yield Finding("warning", "threads", f"{text}, which slow each other down: set OMP_NUM_THREADS={cores}")
    elif facts.threads < cores / 2 and not facts.gpus:
        yield Finding("warning", "threads", f"{text}: set OMP_NUM_THREADS={cores} to use the others")
    else:
        yield Finding("ok", "threads", text)


def check_open_files(facts: Facts) -> Iterator[Finding]:
    """How many files a process may open."""
    if facts.open_files is None:
        return
    soft, hard = facts.open_files
    if 0 <= soft < _OPEN_FILES:
        more = f"ulimit -n {hard if 0 < hard < 65536 else 65536}"
        yield Finding("warning", "open files", f"at most {soft}, few for workers and many shards: {more}")
    else:
        yield Finding("ok", "open files", f"at most {soft}" if soft >= 0 else "no limit")


CHECKS = (
    check_python,
    check_packages,
    check_torch,
    check_driver,
    check_devices,
    check_precision,
    check_attention,
    check_compilation,
    check_shared_memory,
    check_folders,
    check_threads,
    check_open_files,
)
"""The checks, in the order in which their findings are shown."""


def _has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether torch's kernels run on a GPU: machine code of its generation, or code that its driver can compile."""
    major, minor = capability
    for name in architectures:
        kind, _, digits = name.rstrip("af").partition("_")
        built_major, built_minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= capability:
            return True
    return not architectures


def _install_torch(facts: Facts) -> str:
    cuda = "12" if facts.driver_cuda is None else str(facts.driver_cuda[0])
    return f"install one for CUDA {cuda} (pytorch.org/get-started)"


def _size(number: int) -> str:
    text = describe_amount(number)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"
