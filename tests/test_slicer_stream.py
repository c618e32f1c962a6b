"""What the Slicer extension makes of a stream, without Slicer: events, history, topology, uploads."""

import base64
import io
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rnca
from RNCARefineLib import boxes
from RNCARefineLib.errors import RefineError
from RNCARefineLib.events import Finished, Reader, Started, Stepped, pack, unpack
from RNCARefineLib.history import KEY, History
from RNCARefineLib.local import itk_image
from RNCARefineLib.nrrd import encode
from RNCARefineLib.parameters import Consent, Parameters
from RNCARefineLib.request import Image
from RNCARefineLib.signals import Signal
from RNCARefineLib.topology import betti

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
VOLUMES = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


# --- boxes, packing -------------------------------------------------------------------------------------------------


@given(VOLUMES)
def test_packed_mask_comes_back_whatever_its_size(mask: np.ndarray) -> None:
    back, digest = unpack(pack(mask), boxes.whole(mask.shape))
    assert np.array_equal(back, mask) and len(digest) == 64


@given(VOLUMES)
def test_box_around_a_mask_holds_it_and_no_smaller_one_does(mask: np.ndarray) -> None:
    box = boxes.around(mask)
    if box is None:
        assert not mask.any()
        return
    assert mask[boxes.slices(box)].sum() == mask.sum()
    for axis in range(mask.ndim):
        part = np.moveaxis(mask[boxes.slices(box)], axis, 0)
        assert part[0].any() and part[-1].any()


@given(VOLUMES, st.lists(st.tuples(st.integers(-4, 9), st.integers(1, 9)), min_size=3, max_size=3))
def test_mask_on_another_box_is_cut_and_filled_up(mask: np.ndarray, corners: list[tuple[int, int]]) -> None:
    box = tuple((start, start + count) for start, count in corners)
    found = boxes.on_box(mask, boxes.whole(mask.shape), box)
    for place in np.ndindex(found.shape):
        where = tuple(p + start for p, (start, _) in zip(place, box, strict=True))
        inside = all(0 <= w < n for w, n in zip(where, mask.shape, strict=True))
        assert found[place] == (inside and mask[where])


def test_region_is_told_x_first() -> None:
    assert boxes.text(((1, 2), (3, 4), (5, 6))) == "5:6,3:4,1:2"


# --- topology -------------------------------------------------------------------------------------------------------


@given(MASKS)
def test_topology_is_that_of_the_package(mask: np.ndarray) -> None:
    assert betti(mask) == tuple(rnca.betti_numbers(mask))


@pytest.mark.parametrize(
    ("mask", "numbers"),
    [
        (np.pad(np.zeros((1, 1, 1), bool), 1, constant_values=True), (1, 0, 1)),  # a shell
        (np.pad(np.zeros((3, 1), bool), 1, constant_values=True), (1, 1)),
        (np.eye(5, dtype=bool), (1, 0)),  # diagonal neighbours belong together
        (np.zeros((4, 4, 4), bool), (0, 0, 0)),
    ],
)
def test_known_topologies(mask: np.ndarray, numbers: tuple[int, ...]) -> None:
    assert betti(mask) == numbers


# --- history --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 3 * KEY), st.booleans())
def test_every_step_that_was_seen_comes_back(seed: int, count: int, gaps: bool) -> None:
    rng = np.random.default_rng(seed)
    masks = [rng.random((3, 6, 7)) > 0.5]
    box = ((2, 5), (1, 7), (0, 7))
    history, step, seen = History(masks[0], box), 0, {0: masks[0]}
    for _ in range(count):
        step += int(rng.integers(1, 4)) if gaps else 1
        now = masks[-1] ^ (rng.random((3, 6, 7)) > 0.9)
        tight = boxes.around(now ^ masks[-1])
        if tight is None:
            history.add(Stepped(step, None, None))
        else:
            place = tuple((a + c, b + c) for (a, b), (c, _) in zip(tight, box, strict=True))
            history.add(Stepped(step, place, (now ^ masks[-1])[boxes.slices(tight)]))
        masks.append(now)
        seen[step] = now
    for number in range(step + 2):
        newest = max(s for s in seen if s <= number)
        assert np.array_equal(history.at(number), seen[newest])
    within = ((3, 4), (0, 4), (2, 9))
    assert np.array_equal(history.at(step, within), masks[-1][1:2, 0:3, 2:7])


def test_result_ends_a_history_from_which_steps_were_left_out() -> None:
    start, end = np.zeros((2, 4, 4), bool), np.ones((2, 4, 4), bool)
    history = History(start, boxes.whole(start.shape))
    history.add(Stepped(1, ((0, 1), (0, 1), (0, 1)), np.ones((1, 1, 1), bool)))
    history.finish(9, end)
    assert history.steps == [0, 1, 9] and history.touched == boxes.whole(start.shape)
    assert np.array_equal(history.at(9), end) and history.at(8).sum() == 1
    history.finish(9, start)  # the mask that came last is right
    assert not history.at(9).any()


# --- events ---------------------------------------------------------------------------------------------------------


def line(**values: object) -> bytes:
    return json.dumps(values).encode()


def start(**more: object) -> bytes:
    values = {"event": "start", "id": "a", "model": "m", "version": "1.0.0", "shape": [2, 4, 4], "steps": 3}
    return line(**{**values, "bbox": [[0, 2], [1, 4], [0, 4]], **more})


def test_lines_become_events() -> None:
    reader, box = Reader(), ((0, 2), (1, 4), (0, 4))
    mask = np.arange(24).reshape(2, 3, 4) % 3 == 0
    begun = reader.read(start())
    assert isinstance(begun, Started) and begun.box == box and begun.shape == (2, 4, 4)
    step = reader.read(line(event="step", step=1, changed=8, bbox=box, delta=pack(mask)))
    assert isinstance(step, Stepped) and step.flips is not None and np.array_equal(step.flips, mask)
    quiet = reader.read(line(event="step", step=2, changed=0, bbox=None, delta=""))
    assert quiet == Stepped(2, None, None)
    _, digest = unpack(pack(mask), box)
    end = reader.read(line(event="done", reason="steps", step=3, seconds=0.1, mask=pack(mask), sha256=digest))
    assert isinstance(end, Finished) and end.mask is not None and np.array_equal(end.mask, mask)


BAD_LINES = {
    "no JSON": b"<html>",
    "no object": b"3",
    "unknown": line(event="dance"),
    "no box": line(event="step", step=1),
    "box outside": line(event="step", step=1, bbox=[[0, 2], [1, 5], [0, 4]], delta=""),
    "box of the wrong number of axes": line(event="step", step=1, bbox=[[0, 1]], delta=""),
    "box reversed": line(event="step", step=1, bbox=[[1, 0], [1, 4], [0, 4]], delta=""),
    "no base64": line(event="step", step=1, bbox=[[0, 1], [1, 2], [0, 1]], delta="%%%"),
    "no zlib": line(event="step", step=1, bbox=[[0, 1], [1, 2], [0, 1]], delta=base64.b64encode(b"xyz").decode()),
    "too few bits": line(event="done", reason="steps", step=1, seconds=0, mask=pack(np.ones(3, bool))),
    "damaged": line(
        event="done", reason="steps", step=1, seconds=0, mask=pack(np.ones((2, 3, 4), bool)), sha256="0" * 64
    ),
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_malformed_line_is_refused_with_a_sentence(bad: bytes) -> None:
    reader = Reader()
    reader.read(start())
    with pytest.raises(RefineError, match=r"^The server sent .*Check the server's version\.$"):
        reader.read(bad)


def test_bomb_is_not_unpacked() -> None:
    huge = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    with pytest.raises(RefineError):
        unpack(huge, ((0, 2), (0, 2), (0, 2)))
    with pytest.raises(RefineError, match="does not fit"):
        Reader().read(start(shape=[100_000, 100_000, 100_000], bbox=[[0, 100_000]] * 3))


def test_error_of_the_server_is_its_sentence() -> None:
    with pytest.raises(RefineError, match="the model is gone"):
        Reader().read(line(event="error", status=500, message="the model is gone"))


# --- uploads --------------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.bool_, np.dtype(">i2")]),
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5),
        elements=st.integers(0, 1),
    ),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_uploaded_volume_is_read_with_its_geometry(voxels: np.ndarray, compress: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = turned @ np.diag(rng.uniform(0.3, 4, 3))
    matrix[:3, 3] = rng.uniform(-200, 200, 3)
    image = read(encode(voxels, matrix, compress))
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    expected = itk_image(voxels.astype(voxels.dtype.newbyteorder("=")).astype(np.uint8), Image(voxels, matrix, ""))
    np.testing.assert_allclose(image.GetSpacing(), expected.GetSpacing(), atol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), expected.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(image.GetDirection(), expected.GetDirection(), atol=1e-9)
    corner = image.TransformContinuousIndexToPhysicalPoint([2.0, 1.0, 3.0])
    np.testing.assert_allclose(corner, (np.diag([-1, -1, 1, 1]) @ matrix @ [2, 1, 3, 1])[:3], atol=1e-6)


def read(content: bytes) -> sitk.Image:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nrrd"
        path.write_bytes(content)
        return sitk.ReadImage(str(path))


def test_colour_is_uploaded_as_colour() -> None:
    voxels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    image = read(encode(voxels, np.eye(4)))
    assert image.GetNumberOfComponentsPerPixel() == 3 and np.array_equal(sitk.GetArrayFromImage(image), voxels)


# --- small things ---------------------------------------------------------------------------------------------------


class Memory(dict[str, object]):
    """Settings in a dictionary, all text as some platforms keep it."""

    def value(self, key: str, default: object = None) -> object:
        return self.get(key, default)

    def setValue(self, key: str, value: object) -> None:
        self[key] = str(value)


def test_choices_come_back_with_their_types() -> None:
    memory, chosen = Memory(), Parameters(server="https://x", steps=12, cursor_mm=2.5, show_changes=False)
    chosen.save(memory)
    assert Parameters.load(memory) == chosen
    memory["rNCARefine/steps"] = "many"
    assert Parameters.load(memory).steps == 0


def test_consent_is_for_one_server_and_one_purpose() -> None:
    memory = Memory()
    consent = Consent(memory)
    assert not consent.given("https://a", "send")
    consent.give("https://a", "send")
    assert Consent(memory).given("https://a", "send")
    assert not consent.given("https://a", "store") and not consent.given("https://b", "send")
    consent.give("https://a", "send", False)
    assert not consent.given("https://a", "send")


def test_signal_calls_what_is_connected_once() -> None:
    signal, out = Signal(), io.StringIO()
    signal.connect(out.write)
    signal.connect(out.write)
    signal.emit("a")
    signal.disconnect(out.write)
    signal.disconnect(out.write)
    signal.emit("b")
    assert out.getvalue() == "a"
