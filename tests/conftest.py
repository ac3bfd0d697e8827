"""Builders that several test files share."""

import os

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from uss_bench.data.manifest import Case
from uss_bench.network.aunet import AUNet

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests expect a CPU's numbers; `performance/gpu.py` is for GPUs
torch.set_num_threads(1)  # as the program has; on a busy machine two wait for each other ten times longer


@pytest.fixture
def random_net():
    """Builds an au-net in evaluation mode whose output depends visibly on all of its input.

    A net as initialised does not: in evaluation mode its activations fade with depth, and faults in the
    geometry with them.
    """

    def build(widths=(3, 4), flat_levels=1, dropout=0.25, seed=0):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            net = AUNet(widths, flat_levels, dropout)
            for module in net.modules():
                if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                    fan_in = module.in_channels * (
                        1 if isinstance(module, nn.ConvTranspose3d) else module.weight[0, 0].numel()
                    )
                    module.weight.normal_(0, (2 / fan_in) ** 0.5)
                elif isinstance(module, nn.BatchNorm3d):
                    module.weight.uniform_(0.8, 1.2)
                    module.bias.normal_(0, 0.2)
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.8, 1.2)
        return net.eval()

    return build


@pytest.fixture
def nifti_case(tmp_path):
    """Writes `(z, y, x)` arrays as RAS image and label files and returns their `Case`; spacing in mm."""

    def write(image, label, spacing=(2.0, 1.0, 1.0), case_id="case", label_affine=None, **fields):
        affine = np.diag([*spacing[::-1], 1.0])
        paths = [tmp_path / f"{case_id}_{name}.nii.gz" for name in ("ct", "liver")]
        nib.save(nib.Nifti1Image(np.asarray(image).transpose(2, 1, 0), affine), paths[0])
        nib.save(
            nib.Nifti1Image(
                np.asarray(label).astype(np.uint8).transpose(2, 1, 0),
                label_affine if label_affine is not None else affine,
            ),
            paths[1],
        )
        return Case(case_id, "site", "pool", *paths, patient_id=case_id, **fields)

    return write
