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
from RNCARefineLib.drawn import Drawn
from RNCARefineLib.errors import RefineError
from RNCARefineLib.events import Finished, Reader, Started, Stepped, pack, unpack
from RNCARefineLib.history import KEY, History, Kept
from RNCARefineLib.local import itk_image
from RNCARefineLib.nrrd import encode
from RNCARefineLib.parameters import Consent, Parameters
from RNCARefineLib.request import Image, Request
from RNCARefineLib.runs import Run
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


def test_few_and_many_places_come_back_alike() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.001, 0.2):
        mask = rng.random((21, 50, 43)) < share
        kept = Kept.of(mask, boxes.whole(mask.shape))
        assert (kept.few is None) == (share == 0.2)
        assert np.array_equal(kept.places(), np.flatnonzero(mask))
        other = rng.random(mask.shape) < 0.5
        flipped = other.copy()
        kept.flip(flipped)
        assert np.array_equal(flipped, other ^ mask)


@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_what_is_drawn_follows_every_way_through_the_steps(seed: int, count: int, limited: bool) -> None:
    """Forwards, back, jumps, boxes that grow, results that no step told: the same as drawn from nothing."""
    rng = np.random.default_rng(seed)
    image = Image(np.zeros((6, 30, 40), np.uint8), np.eye(4), "")
    everywhere = boxes.whole(image.shape)
    runs = []
    for _ in range(count):
        corner = [int(n) for n in rng.integers(0, 4, 3)]
        mask = rng.random((2, 5, 6)) > 0.5
        box = tuple((c, c + n) for c, n in zip(corner, mask.shape, strict=True))
        within = (rng.random((6, 20, 40)) > 0.3, ((0, 6), (2, 22), (0, 40))) if limited else None
        runs.append(Run(Request(image, mask, box, within=within)))
    canvas: dict[str, tuple[np.ndarray, boxes.Box]] = {}

    def blank(name: str, box: boxes.Box) -> np.ndarray:
        canvas[name] = np.zeros(boxes.size(box), np.uint8), box
        return canvas[name][0]

    drawn = Drawn([f"run {n}" for n in range(count)], "added", "removed", blank)
    assert drawn.draw(runs, None) == [] and drawn.counts(0) == (0, 0, 0)
    for run in runs:
        run.began = 1.0
        run.take(Started("", "m", "1.0.0", image.shape, everywhere, 9))
        step = 0
        for _ in range(int(rng.integers(1, 8))):
            for _ in range(int(rng.integers(1, 3))):
                step += int(rng.integers(1, 4))
                far = 26 if rng.random() < 0.1 else 8
                place = tuple((int(a), int(a) + 3) for a in rng.integers(0, (4, far, far)))
                run.take(Stepped(step, place, rng.random((3, 3, 3)) > 0.6))
            wanted = None if rng.random() < 0.6 else int(rng.integers(0, step + 2))
            check_drawn(drawn, runs, wanted, canvas)
        if rng.random() < 0.5:
            result = run.mask_at(step, everywhere) ^ (rng.random(image.shape) > 0.99)
            run.take(Finished("steps", step + int(rng.integers(0, 2)), 1.0, result))
            check_drawn(drawn, runs, None, canvas)
            check_drawn(drawn, runs, int(rng.integers(0, step + 1)), canvas)


def check_drawn(
    drawn: Drawn, runs: list[Run], wanted: int | None, canvas: dict[str, tuple[np.ndarray, boxes.Box]]
) -> None:
    """Draw, and compare with the masks of the runs."""
    drawn.draw(runs, wanted)
    everywhere = boxes.whole(runs[0].request.image.shape)
    seen = {name: boxes.on_box(mask != 0, box, everywhere) for name, (mask, box) in canvas.items()}
    more = less = np.zeros(boxes.size(everywhere), bool)
    for number, run in enumerate(runs):
        if not run.began and wanted is None:
            continue
        step = run.last if wanted is None else min(wanted, run.last)
        before, now = run.before(everywhere), run.mask_at(step, everywhere)
        assert np.array_equal(seen[f"run {number}"], now)
        assert drawn.counts(number) == (step, np.count_nonzero(now & ~before), np.count_nonzero(before & ~now))
        more, less = more | (now & ~before), less | (before & ~now)
    assert np.array_equal(seen["added"], more) and np.array_equal(seen["removed"], less)


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


@pytest.mark.parametrize("inside", [True, False], ids=["all of the mask is in the box", "a region cuts it"])
@pytest.mark.parametrize("limited", [True, False], ids=["used within a mask", "used everywhere"])
def test_figures_are_the_servers_where_it_counted_what_is_shown(inside: bool, limited: bool) -> None:
    image, mask = Image(np.zeros((2, 4, 4), np.uint8), np.eye(4), ""), np.ones((2, 3, 4), bool)
    within = (np.zeros((2, 4, 4), bool), boxes.whole((2, 4, 4))) if limited else None
    run, reader = Run(Request(image, mask, ((0, 2), (1, 4), (0, 4)), within=within)), Reader()
    box = [[0, 2], [1, 4], [0, 4]] if inside else [[0, 2], [2, 4], [0, 4]]
    topology = {"voxels": 3, "betti": [7, 8, 9]}
    run.take(reader.read(start(bbox=box, topology=topology)))
    end = pack(np.ones((2, 3 if inside else 2, 4), bool))
    run.take(reader.read(line(event="done", reason="steps", step=3, seconds=0.1, mask=end, topology=topology)))
    assert run.count(0) == ((7, 8, 9) if inside else (1, 0, 0))
    assert run.count(3) == ((7, 8, 9) if inside and not limited else (1, 0, 0))


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
