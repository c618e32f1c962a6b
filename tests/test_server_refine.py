"""Refinement by a live server: the infer tasks, as their clients call them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="needs the extra `server`")

from monailabel.client import MONAILabelClient

import rnca
from conftest import filler
from little import broken, load, ring, save
from rnca.registry import Registry
from rnca.zoo import describe
from serving import SHAPE, Server, bits, events, expected, live, make_studies, mask_file, running, slices

RING = ring(SHAPE)
BROKEN = broken(RING)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies")
    with running(studies, conf={"model": "filler", "workers": 2, "waiting": 2}) as server:
        yield server


def received(response: httpx.Response, path: Path) -> sitk.Image:
    """The image part of what /infer answers."""
    assert response.status_code == 200, response.text
    boundary = response.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    part = next(p for p in response.content.split(b"--" + boundary) if b'name="image"' in p)
    path.write_bytes(part.partition(b"\r\n\r\n")[2][:-2])
    return sitk.ReadImage(str(path))


# --- infer tasks ----------------------------------------------------------------------------------------------------


def test_info_offers_both_tasks_as_the_stock_modules_look_for_them(server: Server) -> None:
    info = MONAILabelClient(server.url).info()
    assert {name: task["type"] for name, task in info["models"].items()} == {
        "rnca_refine": "segmentation",
        "rnca_refine_edit": "scribbles",
    }
    assert set(info["trainers"]) == {"rnca_refine"}
    assert "most_broken" in info["strategies"] and "topology" in info["scoring"]
    assert "not a medical device" in info["description"]


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd"])
def test_uploaded_mask_comes_back_as_the_package_repairs_it(server: Server, tmp_path: Path, name: str) -> None:
    mask = mask_file(tmp_path, name)
    result = received(server.infer(mask=mask, image="ring0"), tmp_path / f"result{''.join(mask.suffixes)}")
    given = sitk.ReadImage(str(mask))
    assert (sitk.GetArrayFromImage(result) == expected(server, mask)).all()
    assert (sitk.GetArrayFromImage(result) != sitk.GetArrayFromImage(given)).any()
    assert result.GetSpacing() == given.GetSpacing() and result.GetPixelID() == given.GetPixelID()
    assert np.allclose(result.GetOrigin(), given.GetOrigin()) and np.allclose(
        result.GetDirection(), given.GetDirection()
    )


def test_result_tells_topology_model_and_steps(server: Server, tmp_path: Path) -> None:
    told = server.infer(mask=mask_file(tmp_path), image="ring0", output="json", params={"steps": 24}).json()
    assert (told["model"], told["version"], told["steps"]) == ("filler", "1.0.0", 24)
    assert told["topology"]["before"]["betti"] == [2, 0, 0] and told["topology"]["after"]["betti"] == [1, 1, 0]
    assert "not a medical device" in told["notice"]


@pytest.mark.parametrize(("depth", "model"), [(4, "general-2d"), (16, "general-3d")])
def test_the_general_model_is_that_for_the_masks_size(server: Server, tmp_path: Path, depth: int, model: str) -> None:
    shape = (depth, *SHAPE[1:])
    image = save(tmp_path / "image.nrrd", ring(shape) * np.uint8(200))
    mask = save(tmp_path / "mask.nrrd", broken(ring(shape)))
    told = server.http.post(
        "/infer/rnca_refine",
        params={"output": "json"},
        data={"params": json.dumps({"model": "general", "steps": 2})},
        files={"label": (mask.name, mask.read_bytes()), "file": (image.name, image.read_bytes())},
    )
    assert told.json()["model"] == model


def test_without_an_upload_the_final_label_comes_before_the_original(server: Server, tmp_path: Path) -> None:
    def start() -> int:
        told = server.infer(image="ring1", output="json", params={"steps": 0}).json()
        return int(told["topology"]["before"]["voxels"])

    assert start() == BROKEN.sum()
    final = mask_file(tmp_path, values=RING.astype(np.uint8))
    server.http.put("/datastore/label", params={"image": "ring1"}, files={"label": ("f.nrrd", final.read_bytes())})
    assert start() == RING.sum()


def test_image_without_any_mask_is_a_clear_400(server: Server) -> None:
    save(server.studies / "bare.nii.gz", (RING * 100).astype(np.int16))
    answer = server.infer(image="bare")
    assert answer.status_code == 400 and "no mask to repair" in answer.json()["detail"]


def test_slicer_edit_request_changes_the_selected_segment_only(server: Server, tmp_path: Path) -> None:
    values = BROKEN.astype(np.uint8) * 2
    values[:, 20:22, 11:15] = 1  # lies where the repair of segment 2 would go
    mask = mask_file(tmp_path, values=values)
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "client_id": "slicer",
        "roi": [],
        "label_info": [{"name": "other", "id": 1}, {"name": "vessel", "id": 2}],
        "selected_label_name": "vessel",
    }
    out, told = MONAILabelClient(server.url, tmpdir=str(tmp_path)).infer(
        "rnca_refine_edit", "ring0", params, label_in=str(mask)
    )
    result = load(Path(out))
    assert ((result == 1) == (values == 1)).all()
    assert (result == expected(server, mask, label=2)).all()
    assert told["label_names"] == {"vessel": 2}


def test_ohif_request_gets_an_uncompressed_nrrd(server: Server) -> None:
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    answer = server.infer(image="ring0", output="image", params=params)
    assert answer.status_code == 200 and answer.content.startswith(b"NRRD") and b"encoding: raw" in answer.content


def test_region_keeps_everything_outside_as_it_was(server: Server, tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    answer = server.infer(mask=mask, image="ring0", params={"roi": "0:12,:,0:2"})
    result = sitk.GetArrayFromImage(received(answer, tmp_path / "r.nrrd"))
    before = load(mask)
    assert (result[2:] == before[2:]).all() and (result[:, :, 12:] == before[:, :, 12:]).all()
    assert (result == expected(server, mask, roi="0:12,:,0:2")).all()


def test_session_takes_an_image_once_and_a_dicom_series(server: Server, tmp_path: Path) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    mask = mask_file(tmp_path)
    session = client.create_session(str(server.studies / "ring0.nii.gz"))["session_id"]
    out, _ = client.infer("rnca_refine", "", {}, label_in=str(mask), session_id=session)
    assert (load(Path(out)) == expected(server, mask)).all()
    assert client.remove_session(session) and server.infer(session_id=session, mask=mask).status_code == 404

    upright = sitk.GetImageFromArray(load(server.studies / "ring0.nii.gz"))
    series = dicom_series(tmp_path / "dicom", upright)
    files = [("files", (p.name, p.read_bytes())) for p in series]
    session = server.http.put("/session/", files=files).json()["session_id"]
    sitk.WriteImage(sitk.GetImageFromArray(BROKEN.astype(np.uint8)), str(mask))
    out, _ = client.infer("rnca_refine", "", {}, label_in=str(mask), session_id=session)
    assert (load(Path(out)) == expected(server, mask_file(tmp_path, "same.nrrd"))).all()


def dicom_series(folder: Path, image: sitk.Image) -> list[Path]:
    """A volume as slices."""
    folder.mkdir()
    direction = image.GetDirection()
    for k in range(image.GetSize()[2]):
        part = sitk.Cast(image[:, :, k : k + 1], sitk.sitkInt16)
        tags = {
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{k}",
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0037": "\\".join(f"{direction[i]:.6f}" for i in (0, 3, 6, 1, 4, 7)),
        }
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(part)
    return sorted(folder.glob("*.dcm"))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"steps": -1}, "steps is -1: give a whole number from 0 to 1000."),
        ({"steps": "many"}, 'steps is "many"'),
        ({"label": 9}, "label 9 is not in the mask"),
        ({"roi": [1, 2]}, "roi is [1, 2]"),
        ({"roi": "9:3,:,:"}, "is empty"),
        ({"device": "tpu"}, 'device is "tpu"'),
        ({"model": "no-such"}, "there is no model 'no-such'"),
        ({"model": "../../x"}, 'model is "../../x"'),
        ({"result_extension": ".exe"}, 'result_extension is ".exe"'),
        ({"label_tag": "nothing"}, "no label of that label_tag"),
    ],
    ids=str,
)
def test_wrong_parameter_is_one_clear_sentence(server: Server, tmp_path: Path, params: Any, sentence: str) -> None:
    mask = None if "label_tag" in params else mask_file(tmp_path)
    answer = server.infer(mask=mask, image="ring0", params=params)
    assert answer.status_code == 400, answer.text
    assert sentence in answer.json()["detail"] and answer.json()["detail"].endswith(".")


def test_empty_mask_stays_empty_and_says_why(server: Server, tmp_path: Path) -> None:
    mask = mask_file(tmp_path, values=np.zeros(SHAPE, np.uint8))
    told = server.infer(mask=mask, image="ring0", output="json").json()
    assert "the mask is empty" in told["message"] and told["steps"] == 0


def test_mask_on_another_grid_is_refused(server: Server, tmp_path: Path) -> None:
    mask = save(tmp_path / "m.nrrd", np.ones((4, 9, 9), np.uint8))
    answer = server.infer(mask=mask, image="ring0")
    assert answer.status_code == 400 and "differ in size" in answer.json()["detail"]


def test_refinement_is_audited_and_leaves_no_temporary_file(server: Server, tmp_path: Path) -> None:
    from lib.audit import check

    server.infer(mask=mask_file(tmp_path), image="ring2", output="json")
    server.infer(mask=mask_file(tmp_path), image="ring2", params={"steps": -1})
    line = [line for line in server.audit() if line["what"] == "refine"][-1]
    assert line["image"] == "ring2" and line["model"] == "filler" and line["who"] and line["when"]
    assert all(len(line[key]) == 64 for key in ("image_sha256", "mask_sha256", "result_sha256"))
    assert check(server.state / "audit.jsonl") is None
    server.idle()
    assert list((server.state / "tmp").iterdir()) == []


def test_a_model_that_resamples_gives_what_the_package_gives(server: Server, tmp_path: Path) -> None:
    """The model's grid lies over the whole volume, so the crop must not move it."""
    net = filler()
    meta = describe(net, "coarse", steps=24, spacing=(1.1, 1.1), resample=True)
    Registry(server.state / "models").publish(net, meta, user="tests", gate={"passed": True}, data={})
    shape = (3, 61, 67)
    truth = np.zeros(shape, bool)
    truth[:, 13:44, 17:52] = True
    truth[:, 18:39, 22:47] = False
    noise = np.random.default_rng(0).integers(0, 90, shape)
    save(server.studies / "fine.nii.gz", (truth * 150 + noise).astype(np.int16))
    start = truth.copy()
    start[:, 25:31, 15:30] = False
    mask = save(tmp_path / "fine-mask.nrrd", start.astype(np.uint8))
    wanted = expected(server, mask, "fine", name="coarse", steps=7)
    result = received(
        server.infer(mask=mask, image="fine", params={"model": "coarse", "steps": 7}), tmp_path / "r.nrrd"
    )
    assert (wanted != start).any() and (sitk.GetArrayFromImage(result) == wanted).all()
    begin, *_, done = events(live(server, mask, "fine", model="coarse", steps=7))
    assert (bits(done["mask"], begin["bbox"]) == wanted[slices(begin["bbox"])]).all()


def test_halves_of_a_volume_in_parallel_give_what_the_whole_gives(tmp_path: Path, monkeypatch: Any) -> None:
    from conftest import random_net
    from lib import repair
    from lib.images import Picture
    from lib.params import Params
    from rnca.geometry import Grid
    from rnca.zoo import Model

    net = random_net(3)
    model = Model(describe(net, "noisy", speck_size=5, nibble_size=3, look_size=4, bay_width=4), rnca.compile(net), "")
    shape = (7, 30, 30)
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    mask = np.zeros(shape, np.uint8)
    mask[1:6, 8:20, 8:20] = 1
    mask[3] = 0
    picture = Picture(image, Grid.of(image))

    def rollout(cores: int) -> tuple[list[np.ndarray], np.ndarray]:
        monkeypatch.setattr(repair, "CORES", cores)
        ready = repair.prepare(Grid.of(image), mask, 1, picture, model, Params(steps=6))
        masks = [ready.now.copy() for _ in ready.run()]
        return masks, ready.write(masks[-1])

    one, _ = rollout(1)
    two, result = rollout(2)
    assert len(one) == len(two) == 6
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (sitk.GetArrayFromImage(rnca.refine(image, sitk.GetImageFromArray(mask), model, 6).mask) == result).all()


@pytest.mark.parametrize("axis", [0, 1, 2, None])
@pytest.mark.parametrize(
    "spec", [{"kind": "local", "sigma": 6, "scales": [0, 2]}, {"kind": "percentile"}], ids=["local", "percentile"]
)
def test_slabs_of_an_image_have_the_bits_of_the_whole(spec: dict[str, Any], axis: int | None, monkeypatch: Any) -> None:
    from lib import slabs
    from rnca.intensity import NetworkInput

    monkeypatch.setattr(slabs, "SLAB", 1500)  # a few slices
    image = np.random.default_rng(0).normal(100, 20, (1, 23, 41, 30)).astype(np.int16)
    channels = len(spec.get("scales", [0]))
    box = (slice(2, 23), slice(5, 36), slice(0, 28))
    whole = NetworkInput(image, channels, spec, slice_axis=axis).part(box)
    slabbed = slabs.SlabbedInput(image, channels, spec, slice_axis=axis).part(box)
    assert slabbed.dtype == whole.dtype and (slabbed == whole).all()


def test_rollout_that_is_left_begins_no_further_step() -> None:
    from conftest import random_net
    from lib.ahead import AHEAD, rollouts
    from rnca.window import Window
    from rnca.zoo import as_model

    made: list[int] = []

    class Counted(Window):
        def unroll(self, *given: Any, **more: Any) -> Any:
            for found in super().unroll(*given, **more):
                made.append(1)
                yield found

    start = np.zeros((1, 20, 20), bool)
    start[:, 5:15, 5:15] = True
    pixels = np.random.default_rng(0).random((1, 1, 20, 20)).astype(np.float32)
    box = tuple(slice(0, n) for n in start.shape)
    window = Counted(box, pixels, start, np.ones_like(start), None, 0, None, "cpu")
    with rollouts([window], as_model(random_net(3)).module, 1000) as (rollout,):
        for _ in range(3):
            rollout.next()
    assert 3 <= len(made) <= 3 + AHEAD


def test_delta_tells_what_changed_since_the_last_one_that_was_sent() -> None:
    from lib.stream import delta
    from rnca.geometry import box_around

    rng = np.random.default_rng(0)
    box = (slice(3, 9), slice(0, 11), slice(5, 17))
    now = rng.random((6, 11, 12)) > 0.5
    sent, client, unsent = now.copy(), now.copy(), None
    for step in range(12):
        part = tuple(slice(int(a), int(a) + 3) for a in rng.integers(0, 4, 3))
        if step % 4 != 3:
            now[part] ^= rng.random((3, 3, 3)) > 0.7
            unsent = box_around(unsent, part)
        if step % 3 == 2:
            continue  # as when the client reads slowly
        told, unsent = delta(sent, now, unsent, box), None
        if told["bbox"] is not None:
            where = tuple(slice(a - b.start, e - b.start) for (a, e), b in zip(told["bbox"], box, strict=True))
            flips = bits(told["delta"], told["bbox"])
            assert np.count_nonzero(flips) == told["changed"] > 0
            client[where] ^= flips
        else:
            assert told["changed"] == 0
        assert (client == now).all() and (sent == now).all()
