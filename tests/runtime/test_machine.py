"""What a run asks of its machine."""

import os

import pytest
import torch

from uss_bench.runtime import machine
from uss_bench.runtime.errors import InputError

CPU = torch.device("cpu")


def test_cuda_where_there_is_none_is_bad_input(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.choose_device("auto") == machine.choose_device("cpu") == CPU
    with pytest.raises(InputError, match="--device cuda: PyTorch finds no CUDA device"):
        machine.choose_device("cuda")


def test_processes_of_a_machine_share_its_gpus(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "get_device_name", ["Big", "Big", "Small", "Big"].__getitem__)
    devices = [machine.choose_device("auto", rank) for rank in range(3)]
    assert [device.index for device in devices] == [0, 1, 0] and chosen == devices
    assert machine.choose_device("cpu") == CPU
    assert machine.default_workers(devices[0]) == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert machine.default_workers(devices[0]) == 2  # the third is of another kind


def test_a_gpu_that_cannot_be_used_is_bad_input(monkeypatch):
    def no_kernels(*_, device):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "ones", no_kernels)
    with pytest.raises(
        InputError, match=r"^cuda:0: .*\(CUDA error: no kernel image is available\); .*--device cpu$"
    ):
        machine.choose_device("auto")


@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":4096:8")])
def test_a_workspace_that_cublas_may_have_stays(monkeypatch, before, after):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if before:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(2)
    machine.make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bfloat16_where_the_gpu_has_none_is_bad_input(monkeypatch, capability, refused):
    """GPUs before Ampere only emulate it, and cuDNN has no convolutions of it there."""
    monkeypatch.setattr(machine, "choose_device", lambda name, rank: torch.device("cuda", rank))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert machine.prepared_device("auto").type == "cuda"
    if refused:
        with pytest.raises(InputError, match=r"network\.bfloat16=True: Some GPU has no bfloat16"):
            machine.prepared_device("auto", bfloat16=True)
    else:
        assert machine.prepared_device("auto", bfloat16=True, local_rank=1).index == 1


def test_a_gpu_is_named_with_the_versions_that_decide_its_bits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert machine.device_name(torch.device("cuda", 0)) == "Some GPU (CUDA 12.8, cuDNN 91002)"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert machine.device_name(torch.device("cuda", 0)) == "Some GPU (CUDA 12.8, cuDNN 91002, no TF32)"
    assert machine.device_name(CPU) == "CPU"


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (64, 4)])
def test_a_worker_for_each_core_up_to_four(monkeypatch, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert machine.default_workers(CPU) == workers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert machine.default_workers(CPU) == workers


def test_as_many_files_may_be_open_as_the_system_lets():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        machine.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
