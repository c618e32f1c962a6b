"""Pictures of repairs: what the colours say, which slice is shown, and what ends up in the files."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from rnca.errors import InputError
from rnca.pictures import (
    ADDED,
    KEPT,
    REMOVED,
    busiest_slice,
    caption,
    data_url,
    enlarge,
    grey,
    overlay,
    sheet,
    write_gif,
    write_png,
)


def noise(height=40, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_grey_spreads_the_bulk_of_the_intensities_over_the_whole_range():
    image = np.linspace(-1000, 3000, 10_000).reshape(100, 100)
    image[0, 0] = 1e9  # one hot pixel must not make the rest black
    picture = grey(image)
    assert picture.shape == (100, 100, 3)
    assert picture.dtype == np.uint8
    assert (picture[..., 0] == picture[..., 1]).all()
    assert picture[0, 1, 0] == 0
    assert picture[-1, -1, 0] == 255
    assert abs(int(picture[50, 0, 0]) - 127) <= 3


@pytest.mark.parametrize("image", [np.full((4, 5), 7.0), np.full((4, 5), np.nan), np.zeros((4, 5), np.uint16)])
def test_constant_and_undefined_images_become_one_grey(image):
    assert len(np.unique(grey(image))) == 1


def test_voxels_that_are_not_a_number_are_black_and_do_not_disturb_the_others():
    image = np.linspace(0, 1, 100).reshape(10, 10)
    image[3, 3] = np.nan
    picture = grey(image)
    assert (picture[3, 3] == 0).all()
    assert picture.max() == 255


def test_three_channels_stay_colour_and_of_two_the_first_is_shown():
    image = np.zeros((6, 6, 3))
    image[:3, :, 0] = 1
    assert (grey(image)[0, 0] == (255, 0, 0)).all()
    two = grey(image[..., :2])
    assert (two[0, 0] == 255).all()
    assert (two[5, 5] == 0).all()


def test_overlay_colours_what_stayed_came_and_went_and_nothing_else():
    picture = noise(1, 4)
    before, after = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    shown = overlay(picture, before, after, strength=1)
    np.testing.assert_array_equal(shown[0], [KEPT, REMOVED, ADDED, picture[0, 3]])
    half = overlay(picture, before, after, strength=0.5)
    np.testing.assert_allclose(half[0, 0], (picture[0, 0] + np.array(KEPT, float)) / 2, atol=1)


def test_small_pictures_are_enlarged_by_whole_factors_and_large_ones_shrunk_in_proportion():
    picture = noise(40, 30)
    large = enlarge(picture, 130)
    assert large.shape == (120, 90, 3)
    np.testing.assert_array_equal(large[1::3, 1::3], picture)
    assert enlarge(picture, 20).shape == (20, 15, 3)
    assert enlarge(noise(400, 1), 20).shape == (20, 1, 3)


def test_the_busiest_slice_is_the_one_that_changed_most_or_the_fullest_if_none_did():
    before = np.zeros((5, 6, 7), bool)
    before[1] = True
    after = before.copy()
    assert busiest_slice(before, after) == 1
    after[3, :2] = True
    after[4, 0, 0] = True
    assert busiest_slice(before, after) == 3
    assert busiest_slice(before, after, axis=1) == 0


def test_a_sheet_holds_every_picture_unchanged():
    first, second, third = noise(10, 20), noise(14, 9), noise(5, 5)
    out = sheet([[first, second], [third]], gap=2)
    assert out.shape == (2 + 14 + 2 + 5 + 2, 2 + 20 + 2 + 9 + 2, 3)
    np.testing.assert_array_equal(out[2:12, 2:22], first)
    np.testing.assert_array_equal(out[2:16, 24:33], second)
    np.testing.assert_array_equal(out[18:23, 2:7], third)


def test_a_caption_stands_above_the_picture_and_is_never_cut_off():
    picture = noise(10, 12)
    out = caption(picture, "a caption that is wider than the picture", "and a second line")
    np.testing.assert_array_equal(out[-10:, :12], picture)
    text = (out[:-10] < 128).any((0, 2))  # dark columns
    assert text.any()
    assert not text[-2:].any()
    assert caption(picture, "x").shape[0] < out.shape[0]


def test_an_animation_rests_on_its_first_and_last_frame(tmp_path):
    frames = [np.full((8, 9, 3), value, np.uint8) for value in (0, 100, 200)]
    write_gif(frames, tmp_path / "a.gif", milliseconds=50, hold=900)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
        durations, shades = [], []
        for n in range(3):
            gif.seek(n)
            durations.append(gif.info["duration"])
            shades.append(np.asarray(gif.convert("RGB"))[4, 4, 0])
    assert durations == [900, 50, 900]
    assert shades == [0, 100, 200]


def test_the_few_pixels_of_a_first_change_keep_their_colour(tmp_path):
    grey_picture = np.repeat(noise(64, 64)[..., :1], 3, axis=2)
    frames = [grey_picture] * 12
    frames[1] = grey_picture.copy()
    frames[1][5, 5] = ADDED
    frames[-1] = grey_picture.copy()
    frames[-1][4:7, 4:7] = ADDED
    write_gif(frames, tmp_path / "a.gif")
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        gif.seek(1)
        shown = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(shown[5, 5] - ADDED).max() <= 8
    assert np.abs(shown - frames[1]).max() <= 8


def test_files_are_written_whole_or_not_at_all(tmp_path):
    picture = noise()
    write_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), picture)
    with pytest.raises(InputError, match="does not exist"):
        write_png(picture, tmp_path / "missing" / "a.png")
    with pytest.raises(ValueError):
        write_gif([picture, picture[:, :, :2]], tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_data_url_holds_the_picture_and_with_a_palette_is_smaller():
    picture = noise()
    head, data = data_url(picture).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))), picture)
    assert len(data_url(picture, colours=16)) < len(data) / 2
