"""Findings of ``plm doctor``, from made-up facts."""

import dataclasses

import pytest

from plm_composer.doctor.facts import Facts, Gpu, Space
from plm_composer.doctor.findings import find_all

GB = 1 << 30
CPU = Facts(
    python="3.11.2",
    python_range="<3.13,>=3.10",
    packages={"plm-composer": "0.1.0", "mosaicml": "0.32.1", "torch": "2.7.0+cpu"},
    cpu="EPYC",
    bf16=False,
    attention={"bf16": "cpu", "fp32": "cpu"},
    memory=16 * GB,
    memory_free=12 * GB,
    shared_memory=Space("/dev/shm", 8 * GB, 8 * GB),
    folders=(Space("/work", 100 * GB, 50 * GB), Space("/tmp", 100 * GB, 50 * GB)),
    cores=8,
    threads=8,
    open_files=(1024, 1 << 20),
)
H100 = Gpu("H100", (9, 0), 80 * GB, 79 * GB)
GPU = dataclasses.replace(
    CPU,
    packages={**CPU.packages, "torch": "2.7.0+cu126"},
    cuda_build="12.6",
    driver="550.54.15",
    driver_cuda=(12, 6),
    cuda_works=True,
    architectures=("sm_80", "sm_86", "sm_90"),
    gpus=(H100,),
    bf16=True,
    attention={"bf16": "flash", "fp32": "efficient"},
    has_c_compiler=True,
    has_triton=True,
)


@pytest.mark.parametrize("facts", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_good_machine_is_ok(facts: Facts) -> None:
    assert [finding for finding in find_all(facts) if finding.level != "ok"] == []


@pytest.mark.parametrize("facts", [CPU, GPU], ids=["cpu", "gpu"])
def test_each_finding_is_one_line(facts: Facts) -> None:
    for finding in find_all(facts):
        assert "\n" not in finding.message
        assert len(finding.subject) <= 13
        assert len(finding.message) <= 56, finding  # fits 80 columns


def test_what_a_gpu_shows() -> None:
    shown = {finding.subject: finding.message for finding in find_all(GPU)}
    assert shown["torch"] == "2.7.0, built for CUDA 12.6"
    assert shown["driver"] == "NVIDIA 550.54.15, for CUDA up to 12.6"
    assert shown["gpu"] == "H100, 85.9 GB, compute capability 9.0"
    assert shown["attention"] == "flash for bf16, efficient for fp32"
    assert shown["precision"] == "auto is amp_bf16: this GPU multiplies bf16"


BLACKWELL = dataclasses.replace(H100, name="B200", capability=(10, 0))
TURING = dataclasses.replace(H100, name="T4", capability=(7, 5))
WRONG = {
    "old python": (CPU, {"python": "3.9.1"}, "problem", "python", "3.9.1 is not <3.13,>=3.10"),
    "broken composer": (CPU, {"broken": {"composer": "no module x"}}, "problem", "composer", "(no module x)"),
    "other composer": (
        CPU, {"mismatches": {"mosaicml==0.32.1": "0.33.0"}}, "problem", "packages",
        "mosaicml==0.32.1 is wanted, and here is 0.33.0: pip install 'mosaicml==0.32.1'",
    ),
    "old package": (CPU, {"mismatches": {"h5py>=3.10": "3.1"}}, "warning", "packages", "h5py>=3.10 is wanted"),
    "newest torch": (
        CPU, {"packages": {"torch": "2.12.0"}, "mismatches": {"torch<2.7.1,>=2.6": "2.12.0"}}, "warning", "torch",
        "newer than 2.11",
    ),
    "old torch": (
        CPU, {"packages": {"torch": "2.4.1"}, "mismatches": {"torch<2.7.1,>=2.6": "2.4.1"}}, "problem", "torch",
        "pip install 'torch<2.7.1,>=2.6'",
    ),
    "old driver": (
        GPU, {"driver_cuda": (11, 8), "cuda_works": False, "gpus": ()}, "problem", "driver", "CUDA 12.6: update"
    ),
    "driver of an older minor": (GPU, {"driver_cuda": (12, 2)}, "warning", "driver", "older than torch's CUDA 12.6"),
    "torch for cpus": (
        GPU, {"cuda_build": None, "cuda_works": False, "gpus": ()}, "problem", "driver", "a build for CPUs: install one"
    ),
    "hidden gpu": (GPU, {"cuda_works": False, "gpus": ()}, "problem", "driver", "finds no GPU"),
    "blackwell": (GPU, {"gpus": (BLACKWELL,)}, "problem", "gpu", "no kernels for: install torch 2.11"),
    "busy gpu": (
        GPU, {"gpus": (dataclasses.replace(H100, free=8 * GB),)}, "warning", "gpu", "90% of it is in use"
    ),
    "turing": (
        GPU, {"gpus": (TURING,), "bf16": False, "architectures": ("sm_75",)}, "warning", "precision", "Ampere"
    ),
    "slow attention": (
        GPU, {"attention": {"bf16": "reference", "fp32": "reference"}}, "warning", "attention", "reference is slow"
    ),
    "no compiler": (GPU, {"has_c_compiler": False}, "warning", "compile", "apt-get install gcc"),
    "no triton": (GPU, {"has_triton": False}, "warning", "compile", "pip install triton"),
    "docker": (
        CPU, {"shared_memory": Space("/dev/shm", 64 << 20, 64 << 20)}, "problem", "shared memory", "--shm-size=8g"
    ),
    "little shared memory": (
        CPU, {"shared_memory": Space("/dev/shm", GB, GB // 2)}, "warning", "shared memory", "537 MB of 1.07 GB free"
    ),
    "locked shared memory": (
        CPU, {"shared_memory": Space("/dev/shm", GB, GB, False)}, "problem", "shared memory", "cannot be written to"
    ),
    "full disk": (CPU, {"folders": (Space("/w", GB, 9), CPU.folders[1])}, "problem", "disk", "9 B of 1.07 GB"),
    "nearly full disk": (CPU, {"folders": (CPU.folders[0], Space("/t", GB, 2 * GB))}, "warning", "temp", "TMPDIR"),
    "folder of another": (
        CPU, {"folders": (Space("/w", GB, GB, False), CPU.folders[1])}, "problem", "disk", "/w cannot be written to"
    ),
    "many threads": (CPU, {"threads": 64}, "warning", "threads", "64 for 8 cores, which slow each other down"),
    "container": (CPU, {"quota": 2.0}, "warning", "threads", "set OMP_NUM_THREADS=2"),
    "one thread": (
        CPU, {"threads": 1, "omp_num_threads": "1"}, "warning", "threads", "1 for 8 cores, OMP_NUM_THREADS=1"
    ),
    "few files": (CPU, {"open_files": (256, 4096)}, "warning", "open files", "ulimit -n 4096"),
    "little memory": (CPU, {"memory_free": GB}, "warning", "cpu", "1.07 GB are free"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(case: str) -> None:
    good, changes, level, subject, message = WRONG[case]
    bad = [finding for finding in find_all(dataclasses.replace(good, **changes)) if finding.level != "ok"]
    assert [(finding.level, finding.subject) for finding in bad] == [(level, subject)]
    assert message in bad[0].message


def test_a_machine_without_torch_is_still_described() -> None:
    facts = Facts(python="3.11.2", broken={"torch": "libcudart.so.12: cannot open shared object file"})
    bad = [finding for finding in find_all(facts) if finding.level != "ok"]
    assert [(finding.level, finding.subject) for finding in bad] == [("problem", "torch")]


def test_leftovers_are_mentioned() -> None:
    (found,) = (
        each for each in find_all(dataclasses.replace(CPU, leftovers=("a", "b"))) if each.subject == "leftovers"
    )
    assert found.message == "2 blocks there are of dead runs; the next training removes them"


@pytest.mark.parametrize(
    ("architectures", "works"),
    [(("sm_80",), True), (("sm_90", "compute_90"), False), (("compute_80",), True), (("sm_87",), False), ((), True)],
)
def test_kernels_run_on_their_generation_or_are_compiled(architectures: tuple[str, ...], works: bool) -> None:
    a100 = dataclasses.replace(H100, capability=(8, 0))
    found = find_all(dataclasses.replace(GPU, gpus=(a100,), architectures=architectures))
    assert all(finding.level == "ok" for finding in found) == works
