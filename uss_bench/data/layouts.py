"""The layouts of public datasets: each is a function from a source folder to the cases found in it.

It yields one `Case` for each image or label it finds, with the path where the other one belongs; splits are
left empty. It neither reads volumes nor checks files. Its docstring says what it looks for, in help and
messages.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..runtime.errors import InputError
from ..runtime.storage import natural_key
from .manifest import Case

IGNORE = "ignore"  # nnU-Net's name for voxels that nobody has annotated
# In names of channels, "either_CT_or_MR" among them.
OTHER_MODALITIES = r"(?i)(?<![a-z])(mri?|pet|t[12]w?|us)(?![a-z])"
LESIONS = r"tumou?rs?|cancers?|lesions?|cysts?|metastas[ei]s|hcc"


def lits(source: Path) -> Iterator[Case]:
    """volume-N.nii[.gz] and segmentation-N.nii[.gz], in any subfolder"""
    images, labels = _numbered(source, "volume"), _numbered(source, "segmentation")
    for number in sorted({*images, *labels}):
        image = images.get(number, source / f"volume-{number}.nii")
        label = labels.get(number, source / f"segmentation-{number}.nii")
        yield Case(f"lits-{number}", "LiTS", "", image, label, _lits_patient(number), (1, 2))


def chaos(source: Path) -> Iterator[Case]:
    """CT/N/DICOM_anon with CT/N/Ground/*.png, or one such folder N"""
    for folder in _folders(source, "DICOM_anon", "Ground"):
        if "MR" not in folder.relative_to(source).parts:
            case_id = f"chaos-{folder.resolve().name}"
            yield Case(case_id, "CHAOS", "", folder / "DICOM_anon", folder / "Ground", case_id)


def msd(source: Path) -> Iterator[Case]:
    """imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz and dataset.json, as in Task03_Liver"""
    for name, image, label, values in _decathlon(source, "", ".nii.gz", _read_description(source)):
        yield Case(name, "MSD", "", image, label, _patient(name), values)


def nnunet(source: Path) -> Iterator[Case]:
    """imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json: the raw data of nnU-Net 1 or 2"""
    description = _read_description(source)
    site = str(description.get("name") or "") or re.sub(r"^(Dataset|Task)\d+_", "", source.resolve().name)
    ignored = _ignored_code(source / "dataset.json", description["labels"])
    for name, image, label, values in _decathlon(
        source, _ct_channel(source, description), description.get("file_ending"), description
    ):
        yield Case(name, site, "", image, label, _patient(name), values, ignore_value=ignored)


def totalsegmentator(source: Path) -> Iterator[Case]:
    """sNNNN/ct.nii.gz and sNNNN/segmentations/liver.nii.gz"""
    for folder in _folders(source, "ct.nii.gz", "segmentations/liver.nii.gz"):
        name = folder.resolve().name
        yield Case(
            name, "TotalSegmentator", "", folder / "ct.nii.gz", folder / "segmentations/liver.nii.gz", name
        )


def ircadb(source: Path) -> Iterator[Case]:
    """3Dircadb1.N/PATIENT_DICOM and 3Dircadb1.N/MASKS_DICOM/liver, both unzipped"""
    for folder in _folders(source, "PATIENT_DICOM", "MASKS_DICOM/liver"):
        name = folder.resolve().name
        number = re.fullmatch(r"3Dircadb1\.(\d+)", name, re.IGNORECASE)
        case_id = f"ircadb-{int(number[1]):02}" if number else f"ircadb-{name}"
        yield Case(case_id, "IRCAD", "", folder / "PATIENT_DICOM", folder / "MASKS_DICOM/liver", case_id)


Layout = Callable[[Path], Iterator[Case]]
LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout for layout in (lits, chaos, msd, totalsegmentator, nnunet, ircadb)
}


def _lits_patient(number: int) -> str:
    """LiTS 28-47 are 3D-IRCADb 1-20, in order."""
    return f"ircadb-{number - 27:02}" if 28 <= number <= 47 else f"lits-{number}"


def _patient(name: str) -> str:
    """Whose case a name is: Task03_Liver holds the training cases of LiTS under the same numbers.

    >>> _patient("liver_30"), _patient("liver_7"), _patient("amos_0001")
    ('ircadb-03', 'lits-7', 'amos_0001')
    """
    number = re.fullmatch(r"(?:liver|lits|volume)[_-](\d+)", name, re.IGNORECASE)
    return _lits_patient(int(number[1])) if number else name


def _find(folder: Path, pattern: str) -> list[Path]:
    """Paths in natural order.

    Unlike pathlib's, this glob follows linked folders and skips the hidden files that macOS leaves.
    """
    return [
        folder / name for name in sorted(glob.glob(pattern, root_dir=folder, recursive=True), key=natural_key)
    ]


def _numbered(source: Path, stem: str) -> dict[int, Path]:
    """Files of a stem by their number."""
    found = {}
    for path in _find(source, f"**/{stem}-*.nii*"):
        number = re.fullmatch(rf"{stem}-(\d+)\.nii(\.gz)?", path.name)
        if number and found.setdefault(int(number[1]), path) != path:
            raise InputError(
                f"{source}: {path} and {found[int(number[1])]} have the same number; keep one of them"
            )
    return found


def _folders(source: Path, image: str, label: str) -> list[Path]:
    """Folders that hold an image, a label or both."""
    inside = [
        path.parents[name.count("/")] for name in (image, label) for path in _find(source, f"**/{name}")
    ]
    return sorted(set(inside), key=natural_key)


def _read_description(source: Path) -> dict:
    """Content of dataset.json, which names the labels."""
    path = source / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); "
            "give as SOURCE the folder that holds it, imagesTr and labelsTr"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); restore the publisher's file") from None
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise InputError(f'{path}: no "labels"; restore the publisher\'s file, which names them')
    return description


def _ct_channel(source: Path, description: dict) -> str:
    """Ending by which nnU-Net marks the files of the CT channel."""
    channels = description.get("channel_names") or description.get("modality") or {"0": "CT"}
    channels = channels if isinstance(channels, dict) else {}
    alone = len(channels) == 1  # it may be called anything, but by another modality
    numbers = [
        number
        for number, name in channels.items()
        if str(name).upper() == "CT" or (alone and not re.search(OTHER_MODALITIES, str(name)))
    ]
    if len(numbers) != 1:
        raise InputError(
            f"{source / 'dataset.json'}: channels {', '.join(map(str, channels.values()))}; "
            "name exactly one of them CT"
        )
    return "_" + str(numbers[0]).zfill(4)


def _decathlon(
    source: Path, channel: str, ending: str | None, description: dict
) -> Iterator[tuple[str, Path, Path, tuple[int, ...]]]:
    """Name, image, label and liver values of the cases in imagesTr and labelsTr.

    The Medical Segmentation Decathlon and nnU-Net share this layout.
    """
    ending = ending or ".nii.gz"
    values = _liver_values(source / "dataset.json", description["labels"])
    images = {
        path.name.removesuffix(channel + ending) for path in _find(source, f"imagesTr/*{channel}{ending}")
    }
    labels = {path.name.removesuffix(ending) for path in _find(source, f"labelsTr/*{ending}")}
    for name in sorted(images | labels, key=natural_key):
        yield name, source / f"imagesTr/{name}{channel}{ending}", source / f"labelsTr/{name}{ending}", values


def _liver_values(path: Path, labels: dict) -> tuple[int, ...]:
    """Values that count as liver: those of the label "liver", and those of lesions inside it.

    A lesion counts if it is named as the liver's, or if it is named without an organ and the dataset names no
    other organ ("cancer" in Task03_Liver, but not "tumor" in FLARE).
    """
    named = _codes_by_name(path, labels)
    named.pop(IGNORE, None)
    organ = {name: re.sub(rf"{LESIONS}|whole|and|[^a-z]", "", name) for name in named}
    if not any(organ[name] == "liver" and not re.search(LESIONS, name) for name in named):
        raise InputError(
            f'{path}: no label named liver among {", ".join(named) or "none"}; name it "liver" there'
        )
    ours = ("liver", "") if {*organ.values()} <= {"liver", ""} else ("liver",)
    return tuple(sorted(set().union(*(named[name] for name in named if organ[name] in ours))))


def _ignored_code(path: Path, labels: dict) -> int | None:
    """Code of the label that nnU-Net calls "ignore", if there is one."""
    codes = _codes_by_name(path, labels).get(IGNORE, ())
    if len(codes) > 1:
        raise InputError(f'{path}: label "ignore" has {len(codes)} values; give it one')
    return next(iter(codes), None)


def _codes_by_name(path: Path, labels: dict) -> dict[str, set[int]]:
    """Codes of each label by its name in small letters, without background.

    nnU-Net 1 and the decathlon write {"1": "liver"}, nnU-Net 2 {"liver": 1} or {"liver": [1, 2]}.

    >>> _codes_by_name(Path("dataset.json"), {"background": 0, "Liver": [1, 2], "tumor": 2})
    {'liver': {1, 2}, 'tumor': {2}}
    """
    named = {}
    for key, value in labels.items():
        name, codes = (value, key) if str(key).isdecimal() else (key, value)
        try:
            codes = {int(code) for code in (codes if isinstance(codes, list) else [codes])} - {0}
        except (TypeError, ValueError):
            raise InputError(f"{path}: label {key!r} has the value {value!r}; give whole numbers") from None
        if codes:
            named.setdefault(str(name).lower(), set()).update(codes)
    return named
