"""Normalisation: the values it gives, and that no input makes it give anything else than finite numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnca import intensity
from rnca.errors import InputError
from rnca.geometry import resample
from rnca.intensity import NetworkInput, match_channels, network_input, normalise, parse_intensity

KINDS: list[dict[str, Any]] = [
    {"kind": "percentile"},
    {"kind": "zscore"},
    {"kind": "window", "low": -100, "high": 240},
    {"kind": "unit"},
    {"kind": "none"},
]
RANGED = [spec for spec in KINDS if spec["kind"] in ("percentile", "window", "unit")]

every_kind = pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec["kind"])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 30, shape).astype(np.float32)


def test_percentiles_become_zero_and_one() -> None:
    image = noise(2, 40, 50)
    image[1] *= 10  # each channel has its own
    out = normalise(image, {"kind": "percentile", "low": 10, "high": 80})
    for values, result in zip(image, out, strict=True):
        low, high = np.percentile(values, (10, 80))
        np.testing.assert_allclose(result, np.clip((values - low) / (high - low), 0, 1), atol=1e-6)


def test_percentiles_are_half_a_percent_from_the_ends_unless_given() -> None:
    np.testing.assert_array_equal(
        normalise(noise(1, 40, 50), {"kind": "percentile"}),
        normalise(noise(1, 40, 50), {"kind": "percentile", "low": 0.5, "high": 99.5}),
    )


def test_zscore_has_mean_zero_and_deviation_one_in_each_channel() -> None:
    image = noise(3, 40, 50) * np.array([1, 100, 0.01], np.float32)[:, None, None]
    out = normalise(image, {"kind": "zscore"}).reshape(3, -1)
    np.testing.assert_allclose(out.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(1), 1, atol=1e-5)


def test_window_is_absolute() -> None:
    hounsfield = np.array([[-1000, -100, 70, 240, 3000]], np.int16)
    np.testing.assert_allclose(
        normalise(hounsfield, {"kind": "window", "low": -100, "high": 240}), [[0, 0, 0.5, 1, 1]], atol=1e-7
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [[0, 0.2, 1]]),
        (np.array([[0, 13107, 65535]], np.uint16), [[0, 0.2, 1]]),
        (np.array([[-0.5, 0.2, 7]], np.float64), [[0, 0.2, 1]]),
        (np.array([[False, True]]), [[0, 1]]),
    ],
    ids=["uint8", "uint16", "float", "bool"],
)
def test_unit_goes_by_the_pixel_type(values: np.ndarray, expected: list) -> None:
    np.testing.assert_allclose(normalise(values, {"kind": "unit"}), expected, atol=1e-7)


def test_unit_refuses_types_without_a_full_scale() -> None:
    with pytest.raises(InputError, match="int16"):
        normalise(np.zeros((1, 4, 4), np.int16), {"kind": "unit"})


def test_none_keeps_the_values() -> None:
    np.testing.assert_array_equal(normalise(np.array([[-5, 7]], np.int16), {"kind": "none"}), [[-5, 7]])


@every_kind
def test_result_is_a_new_float32_array(spec: dict) -> None:
    image = noise(1, 6, 7)
    kept = image.copy()
    out = normalise(image, spec)
    assert out.dtype == np.float32 and not np.shares_memory(out, image)
    np.testing.assert_array_equal(image, kept)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(width=64)),
    st.sampled_from(KINDS),
)
def test_every_image_gives_finite_numbers_in_range(image: np.ndarray, spec: dict) -> None:
    """NaN, infinities, values that overflow float32 and constants included."""
    with np.errstate(all="ignore"):
        out = normalise(image, spec)
    assert out.shape == image.shape
    assert np.isfinite(out).all()
    if spec in RANGED:
        assert out.min() >= 0 and out.max() <= 1


@every_kind
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_voxels_without_a_number_count_as_the_darkest(spec: dict, hole: float) -> None:
    image = noise(1, 30, 40) / 100
    image[0, 3:6, 4:8] = hole
    whole = image.copy()
    whole[0, 3:6, 4:8] = np.nanmin(np.where(np.isfinite(image), image, np.nan))
    out = normalise(image, spec)
    assert (out[0, 3:6, 4:8] == out.min()).all()
    if spec["kind"] in ("window", "unit", "none"):
        np.testing.assert_array_equal(out, normalise(whole, spec))


def test_voxels_without_a_number_do_not_shift_the_others() -> None:
    image = noise(1, 30, 40)
    image[0, :15] = np.nan
    for spec in ({"kind": "percentile"}, {"kind": "zscore"}):
        np.testing.assert_array_equal(normalise(image, spec)[:, 15:], normalise(image[:, 15:], spec))


@every_kind
def test_channel_without_any_number_is_zero(spec: dict) -> None:
    image = np.stack([np.full((4, 5), np.nan, np.float32), noise(4, 5)])
    out = normalise(image, spec)
    assert not out[0].any() and out[1].any()


@pytest.mark.parametrize("value", [0, 0.1, -1024, 1e-30, 1e30])
@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_constant_channel_is_zero(kind: str, value: float) -> None:
    assert not normalise(np.full((1, 50, 60), value, np.float32), {"kind": kind}).any()


def test_few_bright_voxels_on_black_are_not_lost() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 50, 40:44] = 200
    out = normalise(image, {"kind": "percentile"})
    np.testing.assert_array_equal(out, image / np.float32(200))


def test_large_images_are_sampled_evenly_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(1, 64, 64, 64) + np.arange(64, dtype=np.float32) * 5  # a ramp along the axis that varies fastest
    exact = {spec["kind"]: normalise(image, spec) for spec in KINDS[:2]}
    monkeypatch.setattr(intensity, "SAMPLE", 4096)  # a step of 64 would look at one column only
    for spec in KINDS[:2]:
        out = normalise(image, spec)
        np.testing.assert_array_equal(out, normalise(image.copy(), spec))
        np.testing.assert_allclose(out, exact[spec["kind"]], atol=0.1)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "minmax"},
        {"kind": "window"},
        {"kind": "window", "low": 5, "high": 5},
        {"kind": "percentile", "low": 90, "high": 10},
        {"kind": "percentile", "low": -1, "high": 101},
        {"kind": "local", "sigma": 0},
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense_is_refused(spec: dict) -> None:
    with pytest.raises(InputError, match="normalisation"):
        normalise(noise(1, 4, 5), spec)


# Local contrast and scales


def test_local_contrast_takes_uneven_light_and_contrast_away() -> None:
    rows, columns = np.mgrid[:128, :128] / 128
    pattern = np.sin(np.arange(128) * 0.9)[None, :]
    flat = normalise(np.broadcast_to(pattern, (1, 128, 128)).astype(np.float32), {"kind": "local", "sigma": 10})
    uneven = (20 * rows + (1 + 2 * columns) * pattern)[None]
    inside = (slice(None), slice(24, -24), slice(24, -24))
    np.testing.assert_allclose(normalise(uneven, {"kind": "local", "sigma": 10})[inside], flat[inside], atol=0.2)


def test_local_contrast_does_not_make_structure_of_faint_noise() -> None:
    image = noise(1, 80, 80) * 0.01
    image[:, :, 40:] *= 1000
    out = normalise(image, {"kind": "local", "sigma": 4})
    assert out[:, :, :20].std() < 0.05
    assert out[:, :, 60:].std() > 0.8


def test_scales_add_the_image_blurred_within_the_slice_only() -> None:
    volume = noise(1, 5, 30, 31)
    spec = {"kind": "none", "scales": [0, 2]}
    out = network_input(volume, 2, spec, slice_axis=0)
    np.testing.assert_array_equal(out[0], volume[0])
    for index in range(5):
        np.testing.assert_allclose(out[:, index], network_input(volume[:, index], 2, spec), atol=1e-6)
    assert out[1].std() < 0.5 * out[0].std()
    with pytest.raises(InputError, match="3 image channels cannot take 2 scales"):
        network_input(volume, 3, spec)


@pytest.mark.parametrize("slice_axis", [None, 1])
def test_a_part_has_the_values_it_has_in_the_whole(slice_axis: int | None) -> None:
    volume, spec = noise(1, 40, 9, 50), {"kind": "local", "sigma": 2, "scales": [0, 1.5]}
    given = NetworkInput(volume, 2, spec, slice_axis=slice_axis)
    whole = network_input(volume, 2, spec, slice_axis=slice_axis)
    for box in ((slice(3, 9), slice(2, 5), slice(0, 50)), (slice(20, 21), slice(0, 9), slice(30, 50))):
        np.testing.assert_array_equal(given.part(box), whole[(slice(None), *box)])


@pytest.mark.parametrize("spec", [{"kind": "local", "sigma": 2, "scales": [0, 1.5]}, {"kind": "percentile"}], ids=str)
def test_on_another_grid_contrast_and_blur_count_in_its_voxels(spec: dict[str, Any]) -> None:
    volume = noise(1, 30, 18, 40)
    channels, shape = len(spec.get("scales", [0])), (15, 9, 28)
    coarse = NetworkInput(volume, channels, spec, slice_axis=0).on(shape)
    whole = coarse.part(tuple(slice(0, n) for n in shape))
    assert whole.shape == (channels, *shape)
    first = normalise(volume, {"kind": "zscore"} if spec["kind"] == "local" else spec)
    low = resample(first[0], (1, 1, 1), shape=shape)[0]
    then = spec if spec["kind"] == "local" else {"kind": "none"}
    expected = NetworkInput(low[None], channels, then, slice_axis=0)
    np.testing.assert_allclose(whole, expected.part(tuple(slice(0, n) for n in shape)), atol=1e-4)
    for box in ((slice(3, 9), slice(2, 5), slice(0, 28)), (slice(14, 15), slice(0, 9), slice(20, 28))):
        np.testing.assert_array_equal(coarse.part(box), whole[(slice(None), *box)])


def test_normalisations_are_read_as_typed() -> None:
    assert parse_intensity("percentile") == {"kind": "percentile"}
    assert parse_intensity("local:8", "0,2") == {"kind": "local", "sigma": 8, "scales": [0, 2]}
    assert parse_intensity("window:-100:240") == {"kind": "window", "low": -100, "high": 240}
    for text, scales in (("local:x", "0"), ("window:1", "0"), ("unit:3", "0"), ("zscore", "a"), ("zscore", "-1")):
        with pytest.raises(InputError):
            parse_intensity(text, scales)
    with pytest.raises(InputError, match="unknown intensity"):
        parse_intensity("best")


# Channels


def test_colour_becomes_luminance_in_its_own_type() -> None:
    colours = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], np.uint8)[:, None]
    grey = match_channels(colours, 1)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, [[[76, 150, 29, 255]]])
    as_float = match_channels(colours.astype(np.float32) / 255, 1)
    np.testing.assert_allclose(as_float, [[[0.299, 0.587, 0.114, 1]]], atol=1e-6)


def test_colour_can_become_its_green_channel() -> None:
    colours = noise(3, 4, 5)
    np.testing.assert_array_equal(match_channels(colours, 1, "green"), colours[1:2])


def test_grey_is_repeated_and_equal_counts_are_left_alone() -> None:
    grey, colours = noise(1, 4, 5), noise(3, 4, 5)
    np.testing.assert_array_equal(match_channels(grey, 3), np.concatenate([grey] * 3))
    assert match_channels(colours, 3) is colours
    assert match_channels(noise(5, 4, 5, 6), 5).shape == (5, 4, 5, 6)


@pytest.mark.parametrize(("have", "wanted"), [(2, 1), (3, 2), (4, 3), (2, 3)])
def test_other_channel_counts_are_refused(have: int, wanted: int) -> None:
    with pytest.raises(InputError, match=f"{have} channels and the model takes {wanted}"):
        match_channels(noise(have, 4, 5), wanted)


def test_unknown_way_to_grey_is_refused() -> None:
    with pytest.raises(InputError, match="hue"):
        match_channels(noise(3, 4, 5), 1, "hue")
