"""A real PACS: a DICOM series in Orthanc is refined and goes back as DICOM SEG."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="needs the extra `server`")

from little import broken, ring, save
from serving import SHAPE, add_filler, bits, events, free_port, running
from test_server_refine import dicom_series

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SERIES = "1.2.826.0.1.3680043.2.1125.1"


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """Orthanc with its DICOMweb plugin, from Debian's packages orthanc and orthanc-dicomweb."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        pytest.skip("needs the Debian packages orthanc and orthanc-dicomweb")
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{port}/system").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_series_is_refined_and_goes_back_as_dicom_seg(orthanc: str, tmp_path: Path) -> None:
    if shutil.which("itkimage2segimage") is None and not list(Path(shutil.sys.executable).parent.glob("itkimage2seg*")):  # type: ignore[attr-defined]
        pytest.skip("needs the extra `pacs` (dcmqi)")
    import pydicom
    import pydicom_seg

    truth = ring(SHAPE)
    image = sitk.GetImageFromArray((truth * 200 + 20).astype(np.int16))
    image.SetSpacing((0.5, 0.5, 2.0))
    for path in dicom_series(tmp_path / "dicom", image):
        httpx.post(f"{orthanc}/instances", content=path.read_bytes()).raise_for_status()
    mask_image = sitk.GetImageFromArray(broken(truth).astype(np.uint8))
    mask_image.CopyInformation(image)
    mask = tmp_path / "mask.nii.gz"
    sitk.WriteImage(mask_image, str(mask))

    studies = tmp_path / "studies"
    studies.mkdir()
    add_filler(studies)
    with running(studies, archive=f"{orthanc}/dicom-web", conf={"model": "filler"}) as server:
        assert server.http.get("/info/").json()["datastore"]["total"] == 1
        upload = {"label": (mask.name, mask.read_bytes())}
        answer = server.http.post("/rnca/refine", params={"image": SERIES}, files=upload)
        start, *_, done = events(answer)
        assert done["event"] == "done", done
        refined = np.zeros(SHAPE, bool)
        refined[tuple(slice(a, b) for a, b in start["bbox"])] = bits(done["mask"], start["bbox"])
        assert (refined == truth).all()
        final = save(tmp_path / "final.nii.gz", refined.astype(np.uint8))
        result = sitk.GetImageFromArray(refined.astype(np.uint8))
        result.CopyInformation(image)
        sitk.WriteImage(result, str(final))
        params = {"label_info": [{"name": "vessel", "idx": 1}]}
        saved = server.http.put(
            "/datastore/label",
            params={"image": SERIES},
            data={"params": json.dumps(params)},
            files={"label": (final.name, final.read_bytes())},
        )
        assert saved.status_code == 200, saved.text

    found = httpx.post(f"{orthanc}/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}}).json()
    assert len(found) == 1
    seg = pydicom.dcmread(BytesIO(httpx.get(f"{orthanc}/instances/{found[0]}/file").content))
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    assert seg.SegmentSequence[0].SegmentLabel == "vessel"
    read = pydicom_seg.MultiClassReader().read(seg)
    assert (read.data.astype(bool) == truth).all()
    assert np.allclose(read.image.GetSpacing(), image.GetSpacing())
