"""Reading and writing: what comes back, what is refused, and what is left on disk when something goes wrong."""

import gzip
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from rnca import files
from rnca.errors import InputError

VOLUMES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def volume(dtype: str = "uint8", shape: tuple[int, ...] = (4, 5, 6), place: bool = True) -> sitk.Image:
    """Noise, so that files do not compress to next to nothing, on an oblique anisotropic grid."""
    values = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    if values.dtype.kind == "f":
        values /= 8
    image = sitk.GetImageFromArray(values)
    if place:
        image.SetSpacing((0.5, 0.75, 3.0)[: len(shape)])
        if len(shape) == 3:
            image.SetOrigin((-12.5, 3.25, 100.0))
            image.SetDirection(OBLIQUE)
    return image


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def assert_same_image(a: sitk.Image, b: sitk.Image) -> None:
    x, y = sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b)
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(a, what)(), getattr(b, what)(), atol=1e-6)


def refusal(call: Callable, *arguments: object) -> str:
    """The one sentence with which `call` refuses its arguments."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "ITK" not in message
    return message


# Names


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("case.nii.gz", "case", ".nii.gz"),
        ("CASE.NII.GZ", "CASE", ".nii.gz"),
        ("a.b.c.png", "a.b.c", ".png"),
        ("liver.seg.nrrd", "liver", ".seg.nrrd"),
        ("1.2.840.10008", "1.2.840", ".10008"),
        ("folder", "folder", ""),
    ],
)
def test_double_suffixes_are_one_suffix(name: str, stem: str, suffix: str) -> None:
    assert (files.stem_of(f"x/{name}"), files.suffix_of(f"x/{name}")) == (stem, suffix)


def test_images_of_a_folder_are_listed_by_case_name(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.png", "c.seg.nrrd", "notes.txt", "._a.png", ".rnca-0.png"):
        (tmp_path / name).touch()
    write_series(tmp_path / "d.1")
    (tmp_path / "empty").mkdir()
    listed = files.list_images(tmp_path)
    assert {name: path.name for name, path in listed.items()} == {
        "a": "a.png",
        "b": "b.nii.gz",
        "c": "c.seg.nrrd",
        "d.1": "d.1",
    }
    assert list(listed) == sorted(listed)


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.nrrd"):
        (tmp_path / name).touch()
    assert "a.nrrd and a.png" in refusal(files.list_images, tmp_path)
    assert "not a folder" in refusal(files.list_images, tmp_path / "a.png")


# Round trips


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "float32", "float64"])
@pytest.mark.parametrize("suffix", VOLUMES)
def test_volumes_come_back_bit_for_bit(tmp_path: Path, suffix: str, dtype: str) -> None:
    image = volume(dtype)
    files.write_image(image, tmp_path / f"out{suffix}")
    assert_same_image(files.read_image(tmp_path / f"out{suffix}"), image)
    assert_same_image(files.read_mask(tmp_path / f"out{suffix}"), image)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(s, d) for s in (".png", ".tif", ".tiff") for d in ("uint8", "uint16")] + [(".tif", "int16"), (".tif", "float32")],
)
def test_pictures_come_back_bit_for_bit(tmp_path: Path, suffix: str, dtype: str) -> None:
    image = volume(dtype, (7, 9), place=False)
    files.write_image(image, tmp_path / f"out{suffix}")
    assert_same_image(files.read_mask(tmp_path / f"out{suffix}"), image)


@pytest.mark.parametrize("suffix", VOLUMES)
def test_two_dimensional_medical_images_keep_their_spacing(tmp_path: Path, suffix: str) -> None:
    image = volume(shape=(5, 6))
    files.write_image(image, tmp_path / f"out{suffix}")
    assert_same_image(files.read_mask(tmp_path / f"out{suffix}"), image)


def test_tiff_keeps_its_resolution(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "in.tif", dpi=(300, 300))
    mask = files.read_mask(tmp_path / "in.tif")
    files.write_image(mask, tmp_path / "out.tif")
    np.testing.assert_allclose(files.read_mask(tmp_path / "out.tif").GetSpacing(), (25.4 / 300,) * 2, rtol=1e-6)


def test_metaimage_with_a_data_file_is_read(tmp_path: Path) -> None:
    image = volume("int16")
    sitk.WriteImage(image, str(tmp_path / "in.mhd"))
    assert_same_image(files.read_image(tmp_path / "in.mhd"), image)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_upper_case_suffixes_work(tmp_path: Path, suffix: str) -> None:
    image = volume(shape=(5, 6), place=False)
    path = tmp_path / f"OUT{suffix.upper()}"
    files.write_image(image, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert_same_image(files.read_mask(path), image)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".mha"])
def test_header_fields_are_kept(tmp_path: Path, suffix: str) -> None:
    image = volume()
    image.SetMetaData("Segment0_Name", "portal vein")
    files.write_image(image, tmp_path / f"a{suffix}")
    files.write_image(files.read_mask(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}")
    assert files.read_mask(tmp_path / f"b{suffix}").GetMetaData("Segment0_Name") == "portal vein"


def test_nifti_fields_stay_out_of_other_formats(tmp_path: Path) -> None:
    files.write_image(volume(), tmp_path / "a.nii.gz")
    image = files.read_mask(tmp_path / "a.nii.gz")
    files.write_image(image, tmp_path / "a.nrrd")
    assert b"pixdim" not in (tmp_path / "a.nrrd").read_bytes()
    assert image.HasMetaDataKey("pixdim[1]"), "the caller's image is left alone"


def test_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in files.WRITABLE:
        image = volume(shape=(5, 6), place=False)
        for name in "ab":
            files.write_image(image, tmp_path / f"{name}{suffix}")
        assert files.sha256(tmp_path / f"a{suffix}") == files.sha256(tmp_path / f"b{suffix}")


# Pictures


def picture(path: Path, mode: str) -> np.ndarray:
    """A black and white picture stored in another mode; what it shows."""
    grey = np.random.default_rng(1).integers(0, 2, (6, 7)).astype(np.uint8) * 255
    PIL.Image.fromarray(grey).convert(mode).save(path)
    return grey


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_grey_pictures_of_any_mode_are_masks(tmp_path: Path, mode: str) -> None:
    grey = picture(tmp_path / "mask.png", mode)
    mask = files.read_mask(tmp_path / "mask.png")
    assert mask.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), grey)


def test_colours_are_no_mask(tmp_path: Path) -> None:
    colours = np.zeros((6, 7, 3), np.uint8)
    colours[2, 3, 1] = 255
    PIL.Image.fromarray(colours).save(tmp_path / "mask.png")
    PIL.Image.fromarray(colours).convert("P").save(tmp_path / "palette.png")
    for name in ("mask.png", "palette.png"):
        message = refusal(files.read_mask, tmp_path / name)
        assert name in message and "colour" in message


def test_several_values_a_voxel_are_no_mask(tmp_path: Path) -> None:
    layers = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    sitk.WriteImage(layers, str(tmp_path / "layers.seg.nrrd"))
    assert files.read_image(tmp_path / "layers.seg.nrrd").GetNumberOfComponentsPerPixel() == 2
    assert "2 values a voxel" in refusal(files.read_mask, tmp_path / "layers.seg.nrrd")


def test_alpha_is_dropped_and_colours_are_kept(tmp_path: Path) -> None:
    colours = np.random.default_rng(2).integers(0, 256, (6, 7, 4)).astype(np.uint8)
    for suffix in (".png", ".tif"):
        PIL.Image.fromarray(colours).save(tmp_path / f"image{suffix}")
        image = files.read_image(tmp_path / f"image{suffix}")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), colours[..., :3])


# Bad input


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.98])
@pytest.mark.parametrize("suffix", (*VOLUMES, ".png", ".mhd"))
def test_files_cut_off_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".png":
        files.write_image(volume(shape=(50, 60), place=False), path)
    else:
        sitk.WriteImage(volume(shape=(10, 20, 30)), str(path), useCompression=suffix != ".mhd")
    cut(path.with_suffix(".raw") if suffix == ".mhd" else path, share)
    assert str(path) in refusal(files.read_image, path)


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.98])
def test_tiffs_cut_off_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.tif"
    PIL.Image.fromarray(sitk.GetArrayFromImage(volume(shape=(50, 60), place=False))).save(path)
    cut(path, share)
    assert str(path) in refusal(files.read_image, path)


def test_nifti_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.nii.gz"
    files.write_image(volume(shape=(10, 20, 30)), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    assert "damaged" in refusal(files.read_image, path)


def test_uncompressed_nifti_under_a_compressed_name_is_read(tmp_path: Path) -> None:
    image = volume()
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    (tmp_path / "a.nii").rename(tmp_path / "b.nii.gz")
    assert_same_image(files.read_image(tmp_path / "b.nii.gz"), image)


def test_nifti_2_and_big_endian_headers_are_understood() -> None:
    header = np.zeros(540, np.uint8)
    for order in "<>":
        header[:4] = np.array([540], order + "i4").view(np.uint8)
        header[14:16] = np.array([16], order + "i2").view(np.uint8)
        header[16:80] = np.array([3, 10, 20, 30, 1, 1, 1, 1], order + "i8").view(np.uint8)
        header[168:176] = np.array([544], order + "i8").view(np.uint8)
        assert files._nifti_size(header.tobytes()) == 544 + 10 * 20 * 30 * 2


def test_nifti_beside_its_uncompressed_twin_is_refused(tmp_path: Path) -> None:
    """The NIfTI library would return the voxels of the other file."""
    files.write_image(volume(), tmp_path / "a.nii.gz")
    files.write_image(volume() * 0, tmp_path / "a.nii")
    assert "lies beside a.nii" in refusal(files.read_image, tmp_path / "a.nii.gz")
    assert not sitk.GetArrayFromImage(files.read_image(tmp_path / "a.nii")).any()


def test_libraries_keep_quiet_about_bad_files(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    for suffix in (".mha", ".png"):
        path = tmp_path / f"cut{suffix}"
        files.write_image(volume(shape=(50, 60), place=False), path)
        cut(path, 0.5)
        refusal(files.read_image, path)
    refusal(files.read_image, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_other_threads_keep_their_stderr(capfd: pytest.CaptureFixture) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with files._quiet():
        os.write(2, b"a server's line\n")
    stop.set()
    thread.join()
    assert capfd.readouterr().err == "a server's line\n"


def test_missing_and_unknown_files_are_named(tmp_path: Path) -> None:
    assert "no.png does not exist" in refusal(files.read_image, tmp_path / "no.png")
    assert "no.png cannot be read" in refusal(files.sha256, tmp_path / "no.png")
    (tmp_path / "notes.txt").write_text("mask")
    assert ".nii.gz" in refusal(files.read_mask, tmp_path / "notes.txt")
    (tmp_path / "text.png").write_text("mask")
    assert "text.png cannot be read" in refusal(files.read_mask, tmp_path / "text.png")


def test_four_dimensions_and_complex_pixels_are_refused(tmp_path: Path) -> None:
    frames = sitk.JoinSeries([volume(), volume()])
    for suffix in (".nii.gz", ".mha"):
        sitk.WriteImage(frames, str(tmp_path / f"frames{suffix}"))
        assert "4 dimensions (6×5×4×2)" in refusal(files.read_image, tmp_path / f"frames{suffix}")
    spectrum = sitk.RealAndImaginaryToComplex(volume("float32"), volume("float32"))
    sitk.WriteImage(spectrum, str(tmp_path / "spectrum.nii"))
    assert "complex" in refusal(files.read_image, tmp_path / "spectrum.nii")


def test_sheared_orientation_is_refused(tmp_path: Path) -> None:
    files.write_image(volume(), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[252:254] = bytes(2)  # no quaternion
    data[280:296] = np.array([1, 0.5, 0, 0], "<f4").tobytes()  # first row of the affine matrix
    (tmp_path / "a.nii").write_bytes(data)
    assert "sheared" in refusal(files.read_image, tmp_path / "a.nii")


# DICOM


def write_series(
    folder: Path, positions: tuple[float, ...] = (5.0, 2.5, 0.0, 7.5), uid: str | None = None, first: int = 0
) -> None:
    """A CT series whose slice at z mm holds z + 10, stored in an order that is not that of the positions."""
    folder.mkdir(exist_ok=True)
    uid = uid or generate_uid()
    for number, z in enumerate(positions, first):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = pydicom.Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.StudyInstanceUID = slice_.FrameOfReferenceUID = "1.2.3"
        slice_.SeriesInstanceUID = uid
        slice_.Modality, slice_.PatientID, slice_.InstanceNumber = "CT", "phantom", number
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [-10, 20, z], [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [0.5, 0.75], 1
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = 3, 4, 1
        slice_.PhotometricInterpretation = "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1000
        slice_.PixelData = np.full((3, 4), z + 1010, "<u2").tobytes()
        path = folder / f"{number:03d}.dcm"
        if pydicom.__version__ < "3":  # what the server's extra asks for
            slice_.is_little_endian, slice_.is_implicit_VR = True, False
            slice_.save_as(path, write_like_original=False)
        else:
            slice_.save_as(path, enforce_file_format=True)


def test_dicom_series_is_read_in_order_of_position(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "notes.txt").write_text("not a slice")
    image = files.read_image(tmp_path / "ct")
    assert image.GetSize() == (4, 3, 4)
    assert image.GetSpacing() == (0.75, 0.5, 2.5)  # the standard gives rows first: row spacing is along j
    assert image.GetOrigin() == (-10, 20, 0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[:, 1, 2], [10, 12, 15, 17])


def test_dicom_file_of_several_frames_is_a_volume(tmp_path: Path) -> None:
    frames = volume("uint16", place=False)
    sitk.WriteImage(frames, str(tmp_path / "frames.dcm"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(files.read_image(tmp_path)), sitk.GetArrayFromImage(frames))


def test_folder_with_several_series_is_refused_and_lists_them(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", uid="1.2.826.1")
    write_series(tmp_path / "ct", uid="1.2.826.2", positions=(0.0, 1.0), first=10)
    message = refusal(files.read_image, tmp_path / "ct")
    assert "1.2.826.1 (4 files)" in message and "1.2.826.2 (2 files)" in message and "own folder" in message


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_unreadable_slice_is_refused_though_it_is_the_last(tmp_path: Path, share: float) -> None:
    """GDCM leaves such a slice out; without the last one the others are still evenly spaced."""
    write_series(tmp_path / "ct")
    cut(tmp_path / "ct" / "003.dcm", share)
    assert "003.dcm" in refusal(files.read_image, tmp_path / "ct")


@pytest.mark.parametrize("positions", [(0.0, 2.5, 7.5, 10.0), (0.0, 0.0, 2.5, 5.0)], ids=["missing", "doubled"])
def test_uneven_slices_are_refused(tmp_path: Path, positions: tuple[float, ...]) -> None:
    write_series(tmp_path / "ct", positions)
    assert "mm apart" in refusal(files.read_image, tmp_path / "ct")


def test_slices_uneven_by_rounding_are_read(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", (0.0, 2.5, 5.01, 7.5))
    assert files.read_image(tmp_path / "ct").GetSize() == (4, 3, 4)


def test_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    assert "no DICOM" in refusal(files.read_image, tmp_path)


def test_single_dicom_file_points_to_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    assert "folder" in refusal(files.read_image, tmp_path / "ct" / "000.dcm")


def test_dicom_is_not_written(tmp_path: Path) -> None:
    for name in ("out", "."):
        assert "end the name in .nii.gz" in refusal(files.write_image, volume(), tmp_path / name)
    assert ".nrrd" in refusal(files.write_image, volume(), tmp_path / "out.dcm")


# Writing whole or not at all


@pytest.fixture(params=[False, True], ids=["new", "existing"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param:
        (tmp_path / "out.nii.gz").write_bytes(b"an earlier result")
    return tmp_path / "out.nii.gz"


def assert_untouched(target: Path) -> None:
    left = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert left in ({}, {target.name: b"an earlier result"})


@pytest.mark.parametrize("error", [RuntimeError("ITK ERROR: disk"), OSError(28, "No space left on device")])
def test_write_that_fails_half_way_leaves_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(image: sitk.Image, name: str, useCompression: bool) -> None:
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(sitk, "WriteImage", half)
    message = refusal(files.write_image, volume(), target)
    assert str(target) in message and "no space left" in message
    assert_untouched(target)


def test_interrupt_while_writing_an_image_leaves_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(image: sitk.Image, name: str, useCompression: bool) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sitk, "WriteImage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_image(volume(), target)
    assert_untouched(target)


def test_interrupt_leaves_nothing(target: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert_untouched(target)


def test_failure_to_take_the_place_leaves_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, other: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    assert "permission denied" in refusal(files.write_bytes, target, b"data")
    assert_untouched(target)


@pytest.mark.parametrize("suffix", files.WRITABLE)
def test_full_disk_is_noticed_in_every_format(tmp_path: Path, suffix: str) -> None:
    """The NIfTI library ignores failed writes. A limit on the size of files stands in for the full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    image = volume("uint16", (120, 130), place=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(InputError, match="no space left"):
            files.write_image(image, tmp_path / f"out{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_temporary_file_lies_beside_the_result_and_has_its_suffix(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "out.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.name.endswith(".nii.gz")
        assert not (tmp_path / "out.nii.gz").exists()
        temporary.write_bytes(b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["out.nii.gz"]


def test_bytes_are_on_disk_before_they_take_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((tmp_path / "out").exists()))
    files.write_text(tmp_path / "out", "text")
    assert synced == [False]


def test_result_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_bad_places_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    for check in (files.check_output, lambda path: files.write_image(volume(), path)):
        assert "no does not exist" in refusal(check, tmp_path / "no" / "out.nrrd")
        message = refusal(check, tmp_path / "out.jpg")
        assert all(suffix in message for suffix in files.WRITABLE)
        assert ".mha" in refusal(check, tmp_path / "out.mhd")
    files.check_output(tmp_path / "out.nrrd")
    assert not list(tmp_path.iterdir())


def test_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert "no permission" in refusal(files.check_output, tmp_path / "out.nrrd")


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    for path in (os.devnull, tmp_path):
        assert "folder or a device" in refusal(files.write_text, path, "text")
    assert not Path(os.devnull).is_file()


def test_formats_that_cannot_hold_an_image_name_one_that_can(tmp_path: Path) -> None:
    flat = {dtype: volume(dtype, (5, 6), place=False) for dtype in ("float32", "float64", "int16")}
    assert ".png holds no float32 pixels, use .tif" in refusal(files.write_image, flat["float32"], tmp_path / "a.png")
    assert "use .tif" in refusal(files.write_image, flat["int16"], tmp_path / "a.png")
    assert "use .nrrd" in refusal(files.write_image, flat["float64"], tmp_path / "a.tif")
    assert "volumes" in refusal(files.write_image, volume(), tmp_path / "a.png")
    assert "position" in refusal(files.write_image, volume(), tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())


# Text, JSON, digests


def test_json_takes_numpy_and_says_null_for_what_json_lacks(tmp_path: Path) -> None:
    record = {"dice": np.float32(0.5), "hd": math.inf, "betti": np.array([1, 0]), "path": Path("é"), 3: (None, np.nan)}
    files.write_json(tmp_path / "report.json", record)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"dice": 0.5, "hd": None, "betti": [1, 0], "path": "é", "3": [None, None]}
    assert "é" in text


def test_text_is_written_as_utf_8_byte_for_byte(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.csv", "α\n")
    assert (tmp_path / "a.csv").read_bytes() == "α\n".encode()


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"data").hexdigest()


def test_digest_of_a_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    shutil.copytree(tmp_path / "ct", tmp_path / "copy")
    digest = files.sha256(tmp_path / "ct")
    assert files.sha256(tmp_path / "copy") == digest
    (tmp_path / "copy" / "000.dcm").rename(tmp_path / "copy" / "009.dcm")
    assert files.sha256(tmp_path / "copy") != digest
    (tmp_path / "copy" / "009.dcm").rename(tmp_path / "copy" / "000.dcm")
    with (tmp_path / "copy" / "002.dcm").open("ab") as file:
        file.write(b"\0")
    assert files.sha256(tmp_path / "copy") != digest


def test_digest_of_a_header_covers_its_data_file(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "a.mhd"))
    digest = files.sha256(tmp_path / "a.mhd")
    (tmp_path / "a.raw").write_bytes(b"other voxels")
    assert files.sha256(tmp_path / "a.mhd") != digest


def test_nifti_header_alone_is_not_an_image(tmp_path: Path) -> None:
    files.write_image(volume(), tmp_path / "a.nii")
    for data in ((tmp_path / "a.nii").read_bytes()[:352], b""):
        with gzip.open(tmp_path / "b.nii.gz", "wb") as file:
            file.write(data)
        assert "cut off" in refusal(files.read_image, tmp_path / "b.nii.gz")
