"""Rollout: what comes out is the definition's result where it may be written, and the input everywhere else."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import MARGIN, discs, filler, random_net, trajectory
from rnca import compile
from rnca.automaton import RNCA
from rnca.errors import InputError
from rnca.geometry import bounding_box
from rnca.metrics import dice
from rnca.rollout import EARLIEST, Step, confidence, refine, stream
from rnca.tidy import Tidying, tidy, without_specks
from rollouts import Array, itk, model_of, noise, sleeper, spots, voxels

both_dims = pytest.mark.parametrize("dims", [2, 3])
SHAPES = {2: (31, 27), 3: (14, 13, 15)}


def by_definition(net: RNCA, image: Array, start: Array, steps: int) -> tuple[Array, float]:
    """The definition on the whole image, (*S) or (C, *S): the mask after all steps, and the nearest close call."""
    channels = image if image.ndim > net.dims else image[None]
    whole, nearest = trajectory(
        net, torch.from_numpy(channels)[None], torch.from_numpy(start.astype(np.float32))[None, None], steps
    )
    return whole[-1][0, 0].numpy() > 0.5, nearest


def broken_ring(dims: int = 2) -> tuple[Array, Array, Array]:
    """Image, broken mask and right mask of a ring (in 3-D a shell) with a gap, and an island that should go."""
    shape = SHAPES[dims]
    centre = tuple(n // 2 for n in shape)
    ring = discs(shape, (centre, min(shape) * 0.4)) & ~discs(shape, (centre, min(shape) * 0.4 - 3))
    mask = ring.copy()
    mask[(..., slice(0, centre[-1]), slice(centre[-1] - 2, centre[-1] + 2))] = False
    mask[(0,) * dims] = True
    return ring.astype(np.float32), mask, ring


# The definition's result


@st.composite
def problems(draw: st.DrawFn) -> tuple[RNCA, Array, Array, int]:
    """A random network, an image, and a mask that fills a small part of it, anywhere."""
    dims, channels, seed = draw(st.sampled_from([2, 3])), draw(st.integers(1, 2)), draw(st.integers(0, 10_000))
    shape = draw(st.tuples(*[st.integers(1, 40 if dims == 2 else 16)] * dims))
    mask = np.zeros(shape, bool)
    box = tuple(slice(low := draw(st.integers(0, n - 1)), low + draw(st.integers(1, 6))) for n in shape)
    mask[box] = spots(mask[box].shape, seed, share=0.5)
    image = 2 * noise(channels, *shape, seed=seed) - 0.5
    return random_net(seed, dims, channels), image, mask, draw(st.integers(1, 6))


@given(problems())
@settings(max_examples=50)
def test_equals_the_definition_on_the_whole_image(problem: tuple[RNCA, Array, Array, int]) -> None:
    net, image, mask, steps = problem
    expected, nearest = by_definition(net, image, mask, steps)
    assume(nearest > MARGIN)
    np.testing.assert_array_equal(refine(image, mask, model_of(net), steps).mask, expected)


@given(problems(), st.data())
@settings(max_examples=50)
def test_a_region_gets_what_it_would_get_without_it_and_without_tolerance_and_nothing_else_changes(
    problem: tuple[RNCA, Array, Array, int], data: st.DataObject
) -> None:
    net, image, mask, steps = problem
    region = tuple(
        slice(low := data.draw(st.integers(0, n - 1)), data.draw(st.integers(low + 1, n))) for n in mask.shape
    )
    entries = {
        "speck_size": data.draw(st.sampled_from([0, 1, 4])),
        "nibble_size": data.draw(st.sampled_from([0, 1, 4])),
        "object_betti": data.draw(st.sampled_from([None, [1, 0, 0][: mask.ndim], [1, 1, 0][: mask.ndim]])),
        "tolerance": 0.0,
        "bulge_ratio": 0.0,
        "look_size": 0,
        "bay_width": data.draw(st.sampled_from([0, 3])),
    }
    whole, nearest = by_definition(net, image, mask, steps)
    assume(nearest > MARGIN)
    expected = mask.copy()
    expected[region] = tidy(mask > 0, whole > 0, Tidying(**entries), image=image)[region]
    found = refine(image, mask, model_of(net, **entries), steps, roi=region).mask
    np.testing.assert_array_equal(found, expected)
    tolerant = model_of(net, **entries | {"tolerance": 0.5, "bulge_ratio": 1.0, "look_size": 2})
    np.testing.assert_array_equal(refine(image, mask, tolerant, steps, roi=region).mask, expected)
    joining = model_of(net, **entries | {"gap_size": 2, "bite_size": 1, "keep_holes": True, "bay_width": 4})
    for model in (tolerant, joining):
        expected = tidy(mask > 0, whole > 0, model.metadata.tidying, image=image)
        np.testing.assert_array_equal(refine(image, mask, model, steps).mask, expected)


@both_dims
@pytest.mark.parametrize("options", [{}, {"roi": "3:12,2:9"}, {"soft": True}, {"label": "all"}], ids=str)
def test_the_last_step_tidies_and_tells_so(dims: int, options: dict[str, Any]) -> None:
    shape = SHAPES[dims]
    mask: Array = spots(shape, share=0.2).astype(np.float32 if "soft" in options else np.uint8)
    if options.get("label"):
        mask[spots(shape, seed=1, share=0.2)] = 2
    if "roi" in options and dims == 3:
        options = {"roi": options["roi"] + ",1:9"}
    model = model_of(random_net(5, dims), speck_size=5, nibble_size=3)
    steps = list(stream(noise(*shape), mask, model, 4, **options))
    raw = list(stream(noise(*shape), mask, model_of(random_net(5, dims)), 4, **options))
    last = np.asarray(steps[-1].mask) > 0
    if options in ({}, {"soft": True}):
        np.testing.assert_array_equal(last, tidy(mask > 0, np.asarray(raw[-1].mask) > 0, Tidying(5, 3)))
    assert (last != (np.asarray(raw[-1].mask) > 0)).any()
    masks = [mask, *[np.asarray(step.mask) for step in steps]]
    for step, (before, after) in zip(steps, pairwise(masks), strict=True):
        changed = before != after
        assert step.changed == changed.sum() and step.bbox == bounding_box(changed)
        if step.index < 4 and step.label == 1:
            np.testing.assert_array_equal(step.mask, raw[step.index - 1].mask)


def test_slices_are_tidied_one_by_one() -> None:
    image, mask = noise(5, 31, 27), spots((5, 31, 27), share=0.2)
    raw, tidied = (refine(image, mask, model_of(random_net(5), speck_size=n, nibble_size=n), 4).mask for n in (0, 3))
    np.testing.assert_array_equal(tidied, without_specks(mask, np.asarray(raw), Tidying(3, 3), axis=0))


@both_dims
def test_a_tip_of_an_organ_grows_where_a_region_asks_for_it(dims: int) -> None:
    mask = np.zeros((24,) * dims, np.uint8)
    mask[(slice(4, 14),) * dims] = 1
    whole = mask.copy()
    whole[(slice(14, 19), *[slice(8, 10)] * (dims - 1))] = 1
    image, model = whole.astype(np.float32), model_of(filler(dims), bulge_ratio=1.0)
    np.testing.assert_array_equal(refine(image, mask, model_of(filler(dims)), 40).mask, whole)
    np.testing.assert_array_equal(refine(image, mask, model, 40).mask, mask)
    region = (slice(12, 22), *[slice(5, 14)] * (dims - 1))
    np.testing.assert_array_equal(refine(image, mask, model, 40, roi=region).mask, whole)


def test_growth_into_background_is_made_where_a_region_asks_for_it() -> None:
    """A column grows that is nearer to the background: of that, 20 pixels are further away than the step looks."""
    mask = np.zeros((5, 30), np.uint8)
    mask[:, :20] = 1
    image = 9 * mask.astype(np.float32)
    image[:, 20] = 2.4
    grown = (image > 0).astype(np.uint8)
    model = model_of(filler(), look_size=5)
    np.testing.assert_array_equal(refine(image, mask, model_of(filler()), 1).mask, grown)
    np.testing.assert_array_equal(refine(image, mask, model, 1).mask, mask)
    np.testing.assert_array_equal(refine(image, mask, model, 1, roi="10:30,0:5").mask, grown)


def test_a_rollout_that_came_to_rest_tidies_too() -> None:
    """A pixel beside the ring is as bright as the ring: the filler takes it in, which mends nothing."""
    image, mask, ring = broken_ring()
    row = int(np.flatnonzero(ring[:, 20])[-1]) + 1
    image[row, 20] = 1
    for size in (0, 1):
        last = refine(image, mask, model_of(filler(), nibble_size=size), 100, patience=9)
        assert last.reason == "converged" and last.mask[row, 20] == (size == 0)
        assert (last.mask != ring).sum() == 1 - size


def test_a_region_is_computed_with_all_that_can_reach_it_within_the_steps() -> None:
    """What a cell does in two steps can depend on the image three cells away.

    The network sets a visible value to the image's value on its right, plus twice the latent value on its right; the
    latent value of all that lives rises by a half. In the first step the image at column 9 decides whether column 8
    exceeds the threshold, and so whether column 7 lives and has a latent value; in the second, column 6 sees it.
    """
    net = RNCA(state_channels=2, filters=2, hidden=3).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.perceive_state.weight[0::2, 0, 1, 1] = 1  # itself
        net.perceive_state.weight[1::2, 0, 1, 2] = 1  # on its right
        net.perceive_image.weight[0, 0, 1, 2] = 1
        for unit, (feature, factor) in enumerate([(0, -1.0), (4, 1.0), (3, 2.0)]):  # visible, image, latent
            net.hidden.weight[unit, feature] = 1
            net.delta.weight[0, unit] = factor
        net.delta.bias[1] = 0.5
    mask, image = np.zeros((1, 20), bool), np.zeros((1, 20), np.float32)
    mask[0, 4:10], image[0, 6] = True, 1  # the latter keeps column 6 alive
    for value in (0, 1):
        image[0, 9] = value
        expected, _ = by_definition(net, image, mask, 2)
        assert expected[0, 6] == value
        assert refine(image, mask, model_of(net), 2, roi="6:7,:").mask[0, 6] == value


def test_only_the_mask_and_the_reach_of_the_steps_around_it_are_computed() -> None:
    class Recorder:
        """Remembers the shapes that reach the engine."""

        shapes: list[torch.Size] = []  # noqa: RUF012

        def __init__(self, module: Any) -> None:
            self.module, self.step = module, module.step

        def buffers(self) -> Any:
            return self.module.buffers()

        def start(self, image: torch.Tensor, mask: torch.Tensor) -> Any:
            self.shapes += [image.shape, mask.shape]
            return self.module.start(image, mask)

    mask = np.zeros((200, 300), bool)
    mask[100:110, 50:70] = True
    model = model_of(random_net(0))
    model.module = Recorder(model.module)
    refine(noise(*mask.shape), mask, model, 4)
    refine(noise(*mask.shape), mask, model, 4, roi="60:64,100:102")
    full, region = Recorder.shapes[1], Recorder.shapes[3]
    assert full[2] <= 10 + 2 * 8
    assert full[3] <= 20 + 2 * 8
    assert region[2] * region[3] < full[2] * full[3]


@pytest.mark.parametrize("start_text", ["2:20,:", "2:20,0:31"])
def test_a_region_is_typed_in_index_order_and_may_leave_ends_open(start_text: str) -> None:
    net, mask, image = random_net(1), spots((31, 27)), noise(31, 27)
    typed = refine(image, mask, model_of(net), roi=start_text).mask
    np.testing.assert_array_equal(typed, refine(image, mask, model_of(net), roi=(slice(0, 31), slice(2, 20))).mask)


@both_dims
def test_a_ring_with_a_gap_is_repaired(dims: int) -> None:
    """End to end with a network that fills the mask up to what the image shows."""
    image, mask, ring = broken_ring(dims)
    assert dice(mask, ring) < 0.98
    np.testing.assert_array_equal(refine(image, mask, model_of(filler(dims)), 25).mask, ring)


@pytest.mark.parametrize("rule", ["largest_spacing", "k", "i"])
def test_a_2d_model_works_on_a_volume_slice_by_slice_along_the_rules_axis(rule: str) -> None:
    shape, spacing = (9, 10, 11), (0.5, 2.0, 0.6)  # x, y, z
    net, image, mask = random_net(4), noise(9, 10, 11), spots((9, 10, 11), share=0.1)
    axis = {"largest_spacing": 1, "k": 0, "i": 2}[rule]
    expected = np.zeros(shape, bool)
    for index in range(shape[axis]):
        where = (*[slice(None)] * axis, index)
        expected[where], nearest = by_definition(net, np.ascontiguousarray(image[where]), mask[where], 6)
        assert nearest > MARGIN, "choose another example"
    model = model_of(net, slice_axis=rule)
    result = refine(itk(image, spacing), itk(mask.astype(np.uint8), spacing), model, 6).mask
    np.testing.assert_array_equal(voxels(result), expected)
    assert not np.array_equal(expected, mask)


def test_a_2d_model_keeps_to_a_region_of_a_volume() -> None:
    net, image, mask = random_net(4), noise(6, 20, 21), spots((6, 20, 21), share=0.1)
    region = (slice(2, 4), slice(5, 12), slice(3, 21))
    whole = refine(image, mask, model_of(net), 4).mask
    expected = mask.copy()
    expected[region] = whole[region]
    found = refine(image, mask, model_of(net), 4, roi=region).mask
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, mask)


@both_dims
def test_colour_images_reach_the_network_channel_by_channel(dims: int) -> None:
    net, image, mask = random_net(2, dims, 3), noise(3, *SHAPES[dims]), spots(SHAPES[dims], 1, 0.1)
    expected, nearest = by_definition(net, image, mask, 5)
    assert nearest > MARGIN
    vector = sitk.GetImageFromArray(np.moveaxis(image, 0, -1), isVector=True)
    np.testing.assert_array_equal(refine(image, mask, model_of(net)).mask, expected)
    np.testing.assert_array_equal(refine(np.moveaxis(image, 0, -1), mask, model_of(net)).mask, expected)
    found = refine(vector, sitk.GetImageFromArray(mask.astype(np.uint8)), model_of(net)).mask
    np.testing.assert_array_equal(voxels(found), expected)


def test_the_image_is_normalised_as_the_metadata_says_over_the_whole_image() -> None:
    net, image, mask = random_net(3), noise(31, 27), spots((31, 27))
    scaled = image * 500 - 100
    window = model_of(net, intensity={"kind": "window", "low": -100, "high": 400})
    np.testing.assert_array_equal(refine(scaled, mask, window).mask, refine(image, mask, model_of(net)).mask)
    image[0, 0], image[-1, -1] = 0, 1  # far from the region below
    image *= np.linspace(0.1, 1, 27)
    extremes = model_of(net, intensity={"kind": "percentile", "low": 0, "high": 100})
    scaled = image * 500 - 100
    expected = refine(image, mask, model_of(net), roi="10:20,10:20").mask
    np.testing.assert_array_equal(refine(scaled, mask, extremes, roi="10:20,10:20").mask, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_an_image_without_any_information_counts_as_black(value: float) -> None:
    net, mask = random_net(3), spots((31, 27))
    model = model_of(net, intensity={"kind": "percentile"})
    found = refine(np.full(mask.shape, value, np.float32), mask, model).mask
    np.testing.assert_array_equal(found, by_definition(net, np.zeros(mask.shape, np.float32), mask, 5)[0])


def test_number_of_steps_is_the_models_unless_given() -> None:
    model = model_of(random_net(0), steps=3)
    image, mask = noise(9, 9), spots((9, 9), share=0.3)
    assert refine(image, mask, model).index == 3
    assert refine(image, mask, model, 2).index == 2


# Labels


def test_only_the_label_asked_for_changes() -> None:
    mask = np.zeros(SHAPES[2], np.int16)
    mask[5:15, 5:12], mask[5:15, 12:20], mask[20:, :] = 3, 40, -7
    net, image = random_net(3), noise(*mask.shape)
    expected, nearest = by_definition(net, image, mask == 3, 8)
    assert nearest > MARGIN
    assert (expected & (mask != 0) & (mask != 3)).any(), "the example should press against the others"
    found = refine(image, mask, model_of(net), 8, label=3).mask
    others = (mask != 0) & (mask != 3)
    np.testing.assert_array_equal(found[others], mask[others])
    np.testing.assert_array_equal(found[~others], np.where(expected, 3, 0)[~others])


def test_all_labels_are_repaired_in_turn_and_none_overwrites_another() -> None:
    mask = np.zeros(SHAPES[2], np.uint8)
    mask[5:15, 5:12], mask[5:15, 14:20], mask[22:25, :] = 2, 5, 9
    net, image = random_net(3), noise(*mask.shape)
    model = model_of(net)
    one_by_one = mask
    for label in (2, 5, 9):
        before, one_by_one = one_by_one, refine(image, one_by_one, model, 8, label=label).mask
        others = (before != 0) & (before != label)
        np.testing.assert_array_equal(one_by_one[others], before[others])
    steps = list(stream(image, mask, model, 8, label="all"))
    np.testing.assert_array_equal(steps[-1].mask, one_by_one)
    assert [step.label for step in steps] == [2] * 8 + [5] * 8 + [9] * 8
    assert [step.reason for step in steps] == ([None] * 7 + ["steps"]) * 3
    alone = refine(image, np.where(mask == 5, mask, 0), model, 8).mask
    assert ((alone == 5) & (one_by_one == 2)).any(), "the example should make two labels meet"


def test_the_only_label_of_a_mask_is_taken_whatever_its_value() -> None:
    net, image, mask = random_net(2), noise(*SHAPES[2]), spots(SHAPES[2])
    expected = refine(image, mask, model_of(net)).mask
    for value in (1, 7, 255):
        found = refine(image, mask * np.uint8(value), model_of(net)).mask
        np.testing.assert_array_equal(found, expected * np.uint8(value))


INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


@pytest.mark.parametrize("dtype", [*INTEGERS, ">i2", "float32", "float64", "bool"])
def test_masks_of_every_pixel_type_come_back_in_it(dtype: str) -> None:
    kind = np.dtype(dtype)
    net, image, mask = random_net(2), noise(*SHAPES[2]), spots(SHAPES[2])
    expected = refine(image, mask, model_of(net)).mask
    if kind.kind in "iu":
        extremes = np.iinfo(kind)
        values = [extremes.max, extremes.min or 1]
    else:
        values = [1, 2.7] if kind.kind == "f" else [True]
    for value in values:
        given = np.where(mask, kind.type(value), kind.type(0)).astype(kind)
        found = refine(image, given, model_of(net)).mask
        assert found.dtype == kind
        np.testing.assert_array_equal(found, np.where(expected, kind.type(value), kind.type(0)))


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
@both_dims
def test_simpleitk_comes_back_on_its_grid_with_its_type_and_header(dims: int, dtype: str) -> None:
    net, image, mask = random_net(2, dims), noise(*SHAPES[dims]), spots(SHAPES[dims])
    expected = refine(image, mask, model_of(net)).mask
    given = itk(mask.astype(dtype) * 3)
    found = refine(itk(image), given, model_of(net)).mask
    assert found.GetPixelID() == given.GetPixelID()
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, what)() == getattr(given, what)()
    assert found.GetMetaData("Segment0_Name") == "vessel"
    np.testing.assert_array_equal(voxels(found), expected.astype(dtype) * 3)


# Soft masks


@both_dims
@pytest.mark.parametrize(("dtype", "one"), [("uint8", 255), ("float32", 1), ("float64", 1)])
def test_soft_masks_start_between_0_and_1_and_end_as_0_or_1(dims: int, dtype: str, one: int) -> None:
    net, image = random_net(5, dims), noise(*SHAPES[dims])
    grey = np.rint(255 * noise(*SHAPES[dims], seed=1) ** 8).astype(np.uint8)
    start = grey.astype(np.float32) / 255
    expected, nearest = by_definition(net, image, start, 5)
    assert nearest > MARGIN
    given = grey if dtype == "uint8" else start.astype(dtype)
    found = refine(image, given, model_of(net), soft=True).mask
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found, expected * one)
    assert not np.array_equal(expected, start > 0.5)


def test_a_soft_mask_stays_grey_outside_the_region_only() -> None:
    net, image, grey = random_net(5), noise(31, 27), (noise(31, 27, seed=1) * 255).astype(np.uint8)
    whole = refine(image, grey, model_of(net), soft=True).mask
    expected = grey.copy()
    expected[3:12, 5:20] = whole[3:12, 5:20]
    np.testing.assert_array_equal(refine(image, grey, model_of(net), soft=True, roi="5:20,3:12").mask, expected)


@pytest.mark.parametrize("roi", [None, "5:20,3:12"])
def test_a_soft_mask_that_no_step_is_made_on_is_cut_at_a_half(roi: str | None) -> None:
    grey = (noise(31, 27, seed=1) * 255).astype(np.uint8)
    region = (slice(3, 12), slice(5, 20)) if roi else (slice(None),)
    for values, steps, reason in ((grey, 0, "steps"), (grey // 11, 4, "empty")):
        expected = values.copy()
        expected[region] = np.where(values[region] > 127, 255, 0)
        last = refine(noise(31, 27), values, model_of(random_net(5)), steps, soft=True, roi=roi)
        assert last.reason == reason
        np.testing.assert_array_equal(last.mask, expected)


# The stream


def box_of(changed: Array) -> tuple[slice, ...] | None:
    places = np.argwhere(changed)
    if not len(places):
        return None
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(places.min(0), places.max(0), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"roi": "3:20,2:25"},
        {"label": "all"},
        {"resampled": True},
        {"resampled": True, "roi": "3:20,2:25"},
        {"resampled": True, "label": "all"},
        {"large": True},
        {"volume": True},
    ],
    ids=["plain", "region", "labels", "resampled", "resampled region", "resampled labels", "large", "slices"],
)
def test_each_step_tells_how_many_voxels_it_changed_and_where(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnca.coarse.KEPT", 0.0)  # noise does not survive a coarser grid
    options = dict(options)
    shape = (5, 31, 27) if options.pop("volume", False) else (31, 27)
    mask = spots(shape, share=0.1).astype(np.uint8)
    if "label" in options:
        mask[..., 14:] *= 2
    known = {"spacing": [1.5, 2.0], "resample": True} if options.pop("resampled", False) else {}
    if options.pop("large", False):
        mask, known = np.kron(mask[:10, :9], np.ones((3, 3), np.uint8)), {"object_size": 2, "speck_size": 2}
        shape = mask.shape
    before, total = mask, 0
    for step in stream(noise(*shape), mask, model_of(random_net(3), **known), 9, **options):
        changed = step.mask != before
        assert step.changed == np.count_nonzero(changed)
        assert step.bbox == box_of(changed)
        before, total = step.mask, total + step.changed
    assert total > 20


def test_steps_are_numbered_and_only_the_last_has_a_reason() -> None:
    steps = list(stream(noise(31, 27), spots((31, 27)), model_of(random_net(3)), 6))
    assert [step.index for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.steps for step in steps} == {6}
    assert [step.reason for step in steps] == [None] * 5 + ["steps"]
    assert all(a.seconds <= b.seconds for a, b in pairwise(steps))


@pytest.mark.parametrize("as_itk", [False, True], ids=["array", "SimpleITK"])
@pytest.mark.parametrize("options", [{"label": "all"}, {"label": "all", "roi": "14:27,:"}, {"label": 1}], ids=str)
def test_the_mask_of_an_earlier_step_stays_what_it_was(as_itk: bool, options: dict[str, Any]) -> None:
    mask = np.zeros((31, 27), np.uint8)
    mask[5:9, 2:9], mask[5:25, 15:20], mask[27:, 15:] = 1, 2, 3

    def run() -> Any:
        images = (itk(noise(31, 27)), itk(mask)) if as_itk else (noise(31, 27), mask)
        return stream(*images, model_of(random_net(3)), 7, **options)

    def content(step: Step) -> Array:
        return voxels(step.mask) if as_itk else step.mask.copy()

    at_once, steps = [content(step) for step in run()], list(run())
    assert len(steps) == len(at_once) > 1
    for step, expected in zip(steps, at_once, strict=True):
        np.testing.assert_array_equal(content(step), expected)


def test_writing_into_a_steps_mask_disturbs_nothing() -> None:
    mask = spots((31, 27), share=0.1).astype(np.uint8)
    mask[:, 14:] *= 2
    copy, expected = mask.copy(), refine(noise(31, 27), mask, model_of(random_net(3)), label="all").mask
    for step in stream(noise(31, 27), mask, model_of(random_net(3)), label="all"):
        last = step.mask.copy()
        step.mask[:] = 77
    np.testing.assert_array_equal(last, expected)
    np.testing.assert_array_equal(mask, copy)
    for steps, unchanged in ((0, mask > 0), (3, np.zeros((31, 27), np.uint8))):
        refine(noise(31, 27), unchanged, model_of(random_net(3)), steps).mask[:] = 1
        assert not unchanged.all()


def test_refine_is_the_last_step_of_the_stream() -> None:
    arguments = (noise(31, 27), spots((31, 27)), model_of(random_net(3)), 6)
    last, expected = refine(*arguments), list(stream(*arguments))[-1]
    assert (last.index, last.changed, last.bbox, last.reason) == (6, expected.changed, expected.bbox, "steps")
    np.testing.assert_array_equal(last.mask, expected.mask)


def test_a_mask_that_no_longer_changes_ends_the_run_early_if_asked_to() -> None:
    image, mask, ring = broken_ring()
    everything = list(stream(image, mask, model_of(filler()), 40))
    settled = max(step.index for step in everything if step.changed)
    assert [step.reason for step in everything] == [None] * 39 + ["steps"]
    for patience in (4, 14):  # a voxel takes three steps to come or go, seen from outside as two quiet ones
        steps = list(stream(image, mask, model_of(filler()), 40, patience=patience))
        assert (steps[-1].index, steps[-1].reason) == (max(settled + patience, EARLIEST), "converged")
        np.testing.assert_array_equal(steps[-1].mask, ring)


def slow_starter() -> RNCA:
    """A network that shows nothing for ten steps: a latent number counts up, and only then the visible one falls."""
    net = RNCA(state_channels=2, filters=1, hidden=1).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.perceive_state.weight[1, 0, 1, 1] = 1
        net.hidden.weight[0, 1] = 1
        net.hidden.bias[0] = -1.0  # relu(latent - 1)
        net.delta.weight[0, 0] = -1
        net.delta.bias[1] = 0.1
    return net


@pytest.mark.parametrize("patience", [1, 3])
def test_a_mask_that_has_not_changed_yet_is_not_taken_for_converged(patience: int) -> None:
    mask = np.zeros((20, 20), bool)
    mask[8:12, 8:12] = True
    steps = list(stream(noise(20, 20), mask, model_of(slow_starter()), 30, patience=patience))
    assert next(step.index for step in steps if step.changed) > 10
    assert steps[-1].reason == "converged"
    assert not steps[-1].mask.any()
    quiet = list(stream(noise(20, 20), mask, model_of(sleeper(2)), 30, patience=patience))
    assert quiet[-1].index == EARLIEST


def test_a_stream_can_be_left_after_any_step_and_begun_again() -> None:
    arguments = (noise(31, 27), spots((31, 27)), model_of(random_net(3)), 6)
    masks = [step.mask for step in stream(*arguments)]
    for step in stream(*arguments):
        if step.index == 3:
            break
    np.testing.assert_array_equal(step.mask, masks[2])
    np.testing.assert_array_equal(refine(*arguments).mask, masks[-1])


def test_streams_that_share_a_model_do_not_disturb_each_other() -> None:
    image, mask = noise(31, 27), spots((31, 27), share=0.05)
    model = model_of(random_net(3))
    kinds: list[dict[str, Any]] = [{"bfloat16": False}, {"bfloat16": True}, {"bfloat16": False, "roi": "0:20,0:20"}]
    alone = [[step.mask for step in stream(image, mask, model, 12, **kind)] for kind in kinds]
    assert not np.array_equal(alone[0][-1], alone[1][-1]), "the example should tell the precisions apart"
    together = zip(*(stream(image, mask, model, 12, **kind) for kind in kinds), strict=True)
    for number, steps in enumerate(together):
        for step, expected in zip(steps, alone, strict=True):
            np.testing.assert_array_equal(step.mask, expected[number])


def test_bfloat16_repairs_too() -> None:
    image, mask, ring = broken_ring()
    np.testing.assert_array_equal(refine(image, mask, model_of(filler()), 25, bfloat16=True).mask, ring)


def test_a_model_compiled_for_bfloat16_runs_in_it_unless_told_otherwise() -> None:
    image, mask, net = noise(31, 27), spots((31, 27), share=0.05), random_net(3)
    exact, low = (refine(image, mask, compile(net, bfloat16=b), 12).mask for b in (False, True))
    assert not np.array_equal(exact, low), "the example should tell the precisions apart"
    np.testing.assert_array_equal(refine(image, mask, compile(net, bfloat16=True), 12, bfloat16=False).mask, exact)
    np.testing.assert_array_equal(refine(image, mask, compile(net), 12, bfloat16=True).mask, low)


def test_bad_input_is_refused_at_the_call_and_not_at_the_first_step() -> None:
    with pytest.raises(InputError):
        stream(noise(9, 8), np.ones((9, 7), np.uint8), model_of(random_net(0)))


# Nothing to do


@pytest.mark.parametrize("options", [{}, {"label": 3}, {"label": "all"}, {"soft": True}, {"roi": "2:9,3:8"}], ids=str)
@pytest.mark.parametrize("as_itk", [False, True], ids=["array", "SimpleITK"])
def test_an_empty_mask_stays_empty_and_says_so(options: dict[str, Any], as_itk: bool) -> None:
    mask = np.zeros((31, 27), np.uint8)
    images = (itk(noise(31, 27)), itk(mask)) if as_itk else (noise(31, 27), mask)
    steps = list(stream(*images, model_of(random_net(3)), 6, **options))
    assert [(step.index, step.changed, step.bbox, step.reason) for step in steps] == [(0, 0, None, "empty")]
    found = voxels(steps[0].mask) if as_itk else steps[0].mask
    assert found.dtype == mask.dtype
    assert not found.any()


def test_a_region_far_from_the_label_is_left_as_it_is_and_says_so() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[2:6, 2:6] = 1
    mask[50:, 50:] = 2
    last = refine(noise(60, 60), mask, model_of(random_net(3)), 3, label=1, roi="40:60,40:60")
    assert last.reason == "empty"
    np.testing.assert_array_equal(last.mask, mask)


def test_no_steps_give_the_mask_back() -> None:
    mask = spots((31, 27)).astype(np.int32) * 9
    steps = list(stream(noise(31, 27), mask, model_of(random_net(3)), 0))
    assert [(step.index, step.steps, step.changed, step.reason) for step in steps] == [(0, 0, 0, "steps")]
    assert steps[0].mask.dtype == mask.dtype
    np.testing.assert_array_equal(steps[0].mask, mask)


@pytest.mark.parametrize("run", [refine, confidence], ids=["refine", "confidence"])
@pytest.mark.parametrize("options", [{}, {"roi": "2:20,3:20"}, {"label": "all"}, {"soft": True}], ids=str)
def test_inputs_are_not_written_to(run: Callable, options: dict[str, Any]) -> None:
    mask = spots((31, 27), share=0.1).astype(np.uint8)
    image = noise(31, 27)
    image[3, 4] = np.nan
    image_itk, mask_itk = itk(image), itk(mask)
    copies = image.copy(), mask.copy()
    run(image, mask, model_of(random_net(3), intensity={"kind": "percentile"}), **options)
    run(image_itk, mask_itk, model_of(random_net(3), spacing=[2.0, 2.0], resample=True), **options)
    for found, expected in zip((image, mask, voxels(image_itk), voxels(mask_itk)), (*copies, *copies), strict=True):
        np.testing.assert_array_equal(found, expected)
    image.flags.writeable = mask.flags.writeable = False
    run(image, mask, model_of(random_net(3)), **options)


# Refused


def flat(dtype: str = "uint8") -> Array:
    mask = np.zeros((9, 8), dtype)
    mask[2:4, 2:4], mask[5:7, 5:7] = 1, 6
    return mask


def with_value(value: float) -> Array:
    mask = np.zeros((9, 8), np.float32)
    mask[2, 2] = value
    return mask


ONE = (flat() == 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "options", "told"),
    [
        (ONE, {"steps": -3}, ["-3", "0 or more"]),
        (flat(), {}, ["2 labels", "1, 6", "all"]),
        (flat("float32"), {}, ["2 labels", "1, 6"]),
        (flat(), {"label": 4}, ["4", "1, 6"]),
        (ONE, {"label": 0}, ["0", "background"]),
        (np.zeros((9, 8), np.uint8), {"label": 0}, ["0", "background"]),
        (ONE, {"roi": "0:5"}, ["'0:5'", "i0:i1,j0:j1"]),
        (ONE, {"roi": "0:5,0:5,0:5"}, ["3 axes", "2"]),
        (ONE, {"roi": "0:9,0:5"}, ["0:9 along i", "0:8"]),
        (ONE, {"roi": "0:5,4:4"}, ["4:4 along j", "empty"]),
        (ONE, {"roi": "a:b,0:3"}, ["'a:b,0:3'"]),
        (with_value(np.nan), {}, ["NaN"]),
        (with_value(np.inf), {}, ["infinite"]),
        (with_value(1.5), {"soft": True}, ["0..1", "1.5"]),
        (with_value(-0.5), {"soft": True}, ["0..1", "-0.5"]),
        (ONE, {"soft": True, "label": 1}, ["soft", "label"]),
        (ONE.astype(complex), {}, ["complex128"]),
        (np.ones((9, 7), np.uint8), {}, ["8×9", "7×9"]),
        (np.ones((3, 9, 8), np.uint8), {}, ["8×9", "8×9×3"]),
        (np.ones((2, 2, 9, 8), np.uint8), {}, ["4 axes", "2-D or 3-D"]),
        (np.ones(8, np.uint8), {}, ["1 axes", "2-D or 3-D"]),
        (ONE, {"device": "tpu"}, ["'tpu'", "auto, cpu or cuda"]),
    ],
)
def test_bad_input_is_refused_with_what_was_given_and_what_is_expected(
    mask: Array, options: dict[str, Any], told: list[str]
) -> None:
    for run in (refine, confidence):
        with pytest.raises(InputError) as caught:
            run(noise(9, 8), mask, model_of(random_net(0)), **options)
        message = str(caught.value)
        assert "\n" not in message
        for text in told:
            assert text in message


def test_negative_patience_is_refused() -> None:
    with pytest.raises(InputError, match=r"patience is -1.*0"):
        refine(noise(9, 8), ONE, model_of(random_net(0)), patience=-1)


def test_a_model_for_volumes_is_refused_for_an_image() -> None:
    with pytest.raises(InputError, match=r"test is for volumes.*2-D"):
        refine(noise(9, 8), ONE, model_of(random_net(0, 3)))


def test_an_image_with_other_channels_than_the_models_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 channels.*takes 3"):
        refine(noise(2, 9, 8), ONE, model_of(random_net(0, image_channels=3)))


@pytest.mark.parametrize("what", ["spacing", "origin", "direction"])
def test_image_and_mask_in_different_places_are_refused(what: str) -> None:
    image, mask = itk(noise(5, 9, 8)), itk(np.ones((5, 9, 8), np.uint8))
    if what == "direction":
        mask.SetDirection(np.eye(3).ravel().tolist())
    else:
        getattr(mask, f"Set{what.title()}")((1.0, 2.0, 3.0))
    with pytest.raises(InputError, match=what):
        refine(image, mask, model_of(random_net(0)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(InputError, match=r"cuda.*use cpu or auto"):
        refine(noise(9, 8), ONE, model_of(random_net(0)), device="cuda")


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="'no-such-model'"):
        refine(noise(9, 8), ONE, "no-such-model")


# Confidence


def test_confidence_is_a_share_of_the_rollouts_and_certain_away_from_the_mask() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[20:30, 20:30] = 1
    found = confidence(noise(60, 60), mask, model_of(random_net(3)), 6, rollouts=4)
    assert found.shape == mask.shape
    assert found.dtype == np.float32
    assert set(np.unique(found)) <= {0, 0.25, 0.5, 0.75, 1}
    assert found.min() < 1
    away = np.ones(mask.shape, bool)
    away[13:37, 13:37] = False
    assert (found[away] == 1).all()


def test_confidence_is_how_often_skipped_updates_lead_to_the_same_mask() -> None:
    """A step takes 0.4 from each cell, or with half the probability 0.8: below a half if it fires, which it always
    does without skips; above if not."""
    net = RNCA(state_channels=2, hidden=4).eval()
    with torch.no_grad():
        net.delta.bias[0] = -0.6
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    found = confidence(noise(40, 40), mask, model_of(net), 1, rollouts=16)
    assert abs(found[mask].mean() - 0.5) < 4 * (0.25 / (16 * mask.sum())) ** 0.5
    assert (found[~mask] == 1).all()


@both_dims
def test_confidence_is_1_where_nothing_is_left_to_chance(dims: int) -> None:
    image, mask = noise(*SHAPES[dims]), spots(SHAPES[dims])
    assert (confidence(image, mask, model_of(sleeper(dims)), 5) == 1).all()
    assert (confidence(image, mask, model_of(random_net(0, dims, skip=0.0)), 5) == 1).all()
    assert (confidence(image, mask, model_of(random_net(0, dims)), 0) == 1).all()
    assert (confidence(image, np.zeros_like(mask), model_of(random_net(0, dims)), 5) == 1).all()


@pytest.mark.parametrize("options", [{"roi": "5:20,5:20"}, {"label": 1}], ids=str)
def test_confidence_is_1_where_nothing_may_change(options: dict[str, Any]) -> None:
    mask = np.zeros((31, 27), np.uint8)
    mask[8:16, 8:12], mask[8:16, 12:18] = 1, 2
    options = {"label": 1, **options}
    found = confidence(noise(31, 27), mask, model_of(random_net(3)), 6, **options)
    fixed = mask == 2
    if "roi" in options:
        fixed[:5], fixed[20:], fixed[:, :5], fixed[:, 20:] = True, True, True, True
    assert (found[fixed] == 1).all()
    assert found.min() < 1


def test_confidence_for_all_labels_is_the_least_of_theirs() -> None:
    """The labels grow by up to six voxels and so do not meet: each has what it has alone."""
    net = RNCA(state_channels=2, hidden=4).eval()
    with torch.no_grad():
        net.delta.bias[0] = 0.6
    mask = np.zeros((30, 42), np.uint8)
    mask[10:16, 8:14], mask[10:16, 26:32] = 1, 2
    one, two, every = (confidence(noise(30, 42), mask, model_of(net), 6, label=label) for label in (1, 2, "all"))
    assert one[:, 18:20].min() < 1, "uncertain where the other label's computation comes by"
    assert (one[:, 20:] == 1).all()
    assert (two[:, :20] == 1).all()
    np.testing.assert_array_equal(every, np.minimum(one, two))


def test_confidence_depends_on_the_seed_only_and_leaves_torchs_random_state_alone() -> None:
    arguments = (noise(31, 27), spots((31, 27)), model_of(random_net(3)), 6)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = confidence(*arguments, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    np.testing.assert_array_equal(confidence(*arguments, seed=3), first)
    assert not np.array_equal(confidence(*arguments, seed=4), first)


def test_refine_leaves_torchs_random_state_alone() -> None:
    state = torch.get_rng_state()
    refine(noise(31, 27), spots((31, 27)), model_of(random_net(3)))
    assert torch.equal(torch.get_rng_state(), state)


def test_confidence_needs_a_rollout() -> None:
    with pytest.raises(InputError, match=r"rollouts is 0.*1 or more"):
        confidence(noise(9, 8), ONE, model_of(random_net(0)), rollouts=0)
