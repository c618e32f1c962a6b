"""How sure the model is, asked of a live server."""

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")

import rnca
from rnca.registry import Registry
from rnca.rollout import confidence
from serving import SHAPE, Server, make_studies, mask_file, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("confidence") / "studies"
    studies.mkdir()
    with running(make_studies(studies, 1), plain=False) as found:
        yield found


def test_confidence_is_that_of_the_package(server: Server, tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    params = {"model": "filler", "steps": 5}
    files = {"label": (mask.name, mask.read_bytes())}
    answer = server.http.post(
        "/rnca/confidence", params={"image": "ring0"}, data={"params": json.dumps(params)}, files=files
    )
    assert answer.status_code == 200, answer.text
    said = answer.json()
    box = tuple(slice(*pair) for pair in said["bbox"])
    found = np.ones(SHAPE)
    values = np.frombuffer(zlib.decompress(base64.b64decode(said["confidence"])), np.uint8)
    found[box] = values.reshape(found[box].shape) / 255
    import SimpleITK as sitk

    image = sitk.ReadImage(str(server.studies / "ring0.nii.gz"))
    registry = Registry(server.state / "models")
    model = registry.load(registry.active("filler"))
    expected = confidence(image, sitk.ReadImage(str(mask)), model, 5, label=1)
    assert expected.min() < 1
    np.testing.assert_allclose(found, expected, atol=1 / 255)
    assert (said["model"], said["rollouts"]) == ("filler", 8)


def test_nothing_to_be_unsure_of_has_no_box(server: Server, tmp_path: Path) -> None:
    empty = mask_file(tmp_path, values=np.zeros(SHAPE, np.uint8))
    files = {"label": (empty.name, empty.read_bytes())}
    params = {"data": {"params": json.dumps({"model": "filler", "label": 1})}, "files": files}
    said = server.http.post("/rnca/confidence", params={"image": "ring0"}, **params)
    assert said.status_code == 200 and said.json()["bbox"] is None


def test_models_say_what_they_are_for(server: Server) -> None:
    models = server.http.get("/rnca/models").json()
    for name in ("ring-2d", "vessel-2d"):
        (found,) = models[name]
        about = rnca.load_model(name).metadata
        assert (found["description"], found["licence"], found["steps"]) == (
            about.description,
            about.licence,
            about.steps,
        )
        assert found["figures"].startswith("Dice 0.")
    assert models["filler"][0]["figures"] == ""
