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
    devices = [machine.choose_device("auto", rank) for rank in range(3)]
    assert [device.index for device in devices] == [0, 1, 0] and chosen == devices
    assert machine.choose_device("cpu") == CPU
    assert machine.default_workers(devices[0]) == 2


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (64, 4)])
def test_a_worker_for_each_core_up_to_four(monkeypatch, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert machine.default_workers(CPU) == workers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert machine.default_workers(CPU) == workers
