"""Memory: a whole-body CT within 6 GiB, and a pool of any size within the memory of a small one.

Each is measured in a process of its own.
"""

import gzip
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from uss_bench.config import Config
from uss_bench.data.manifest import Case
from uss_bench.data.volumes import load_volume
from uss_bench.network.aunet import AUNet
from uss_bench.network.inference import predict, predict_mc
from uss_bench.network.patches import PatchSampler, network_input
from uss_bench.network.training import train
from uss_bench.study.annotation import Annotations
from uss_bench.study.evaluation import evaluate_case

PAPER = Config()
POOL_SHAPE, POOL_SPACING = (64, 256, 256), PAPER.data.spacing  # 8 MiB of HU per case
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLEAR.exists(), reason="needs the memory counters of Linux"),
]


def in_own_process(work, *arguments):
    """Result of a function in a fresh process with one thread."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(work, *arguments).result()


def memory(counter):
    """One of the kernel's counters of this process, in MiB."""
    [line] = [
        line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{counter}:")
    ]
    return int(line.split()[1]) / 1024


def write_case(folder, number, shape, spacing):
    """Case with a smooth CT, a little brighter for each number, and an ellipsoid liver.

    Shape and spacing are `(z, y, x)`.
    """
    z, y, x = np.ogrid[tuple(slice(-1, 1, complex(0, length)) for length in shape)]
    case_id = f"case {number}"
    header = nib.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_data_offset(352)
    header.set_sform(np.diag([*spacing[::-1], 1.0]), code=1)
    paths = {}
    for name, dtype in (("ct", np.int16), ("liver", np.uint8)):
        paths[name] = folder / f"{case_id}_{name}.nii.gz"
        header.set_data_dtype(dtype)
        with gzip.open(paths[name], "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for height in z.ravel():
                liver = (height / 0.2) ** 2 + ((y[0] - 0.1) / 0.5) ** 2 + ((x[0] + 0.3) / 0.5) ** 2 < 1
                plane = (
                    liver if name == "liver" else 300 * height + 100 * x[0] + 50 * y[0] + number + 100 * liver
                )
                file.write(plane.astype(dtype).tobytes())
    return Case(case_id, "site", "pool", paths["ct"], paths["liver"], case_id)


def small_network():
    net = AUNet((2, 4), flat_levels=1)
    net.draw_weights(torch.Generator().manual_seed(0))
    return net.eval()


def whole_body_stages(case, cache):
    """Largest resident memory in MiB of each stage that a case goes through.

    The liver is predicted everywhere, as a model may do early in its training; no prediction costs more to
    evaluate.
    """
    peaks = {}

    def measured(stage, work, *arguments):
        CLEAR.write_text("5", encoding="utf-8")  # resets the peak
        result = work(*arguments)
        peaks[stage] = memory("VmHWM")
        return result

    net = small_network()
    volume = measured("read and cached", load_volume, case, PAPER.data.spacing, cache)
    inputs = measured("scaled", network_input, volume.image, PAPER.data.window, PAPER.data.scale)
    probability = measured("predicted", predict, net, inputs, PAPER.inference.tile)
    del inputs
    metrics = measured("evaluated", evaluate_case, np.ones_like(probability), volume)
    return peaks, metrics


def test_a_whole_body_ct_takes_less_than_6_gib(tmp_path):
    case = write_case(tmp_path, 0, (1000, 512, 512), (1.0, 0.7, 0.7))
    peaks, metrics = in_own_process(whole_body_stages, case, tmp_path / "cache")
    print(", ".join(f"{stage}: {peak:.0f} MiB" for stage, peak in peaks.items()), metrics)
    assert max(peaks.values()) < 6 * 1024
    share = np.pi / 6 * 0.2 * 0.5 * 0.5  # of the ellipsoid in the volume
    assert metrics["DICE"] == pytest.approx(2 * share / (1 + share), rel=0.01)


def pool_peak(cases, cache):
    """Largest anonymous memory in MiB of loading, training on and scoring all `cases`, as the workflow does.

    Cached arrays are mapped. Pages of a file that were touched count as resident, and in the peak that the
    kernel keeps, though it can take them back at any time. What a process needs is its anonymous memory
    (RssAnon), which a thread reads every few ms.
    """
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        volumes = {case.case_id: load_volume(case, POOL_SPACING, cache) for case in cases}
        annotations = Annotations({case_id: range(30, 34) for case_id in volumes})
        net = small_network()
        sampler = PatchSampler(
            volumes,
            annotations,
            net.output_size((4, 64, 64)),
            net.halo,
            2,
            PAPER.data.window,
            PAPER.data.scale,
        )
        train(
            net,
            sampler,
            lambda _: 0.0,
            replace(PAPER.training, max_epochs=1),
            {"seed": 0, "strategy": "", "iteration": 0},
        )
        for volume in volumes.values():
            predict_mc(
                net,
                network_input(volume.image, PAPER.data.window, PAPER.data.scale),
                samples=1,
                tile=(16, 128, 128),
            )
    finally:
        done.set()
        watcher.join()
    return peak


def test_memory_does_not_depend_on_the_size_of_the_pool(tmp_path):
    cases = [write_case(tmp_path, number, POOL_SHAPE, POOL_SPACING) for number in range(40)]
    few, many = (
        in_own_process(pool_peak, some, tmp_path / f"cache of {len(some)}") for some in (cases[:10], cases)
    )
    print(f"10 cases: {few:.0f} MiB, 40 cases: {many:.0f} MiB")
    assert many == pytest.approx(few, rel=0.1)
