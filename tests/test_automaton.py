"""The definition: what a new network sees and does, the alive rule, and one step against a loop over cells."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from conftest import random_net
from rnca.automaton import RNCA
from rnca.errors import InputError

SHAPES = {2: (6, 5), 3: (4, 5, 3)}
both_dims = pytest.mark.parametrize("dims", [2, 3])


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def binary(*shape: int, seed: int = 0, share: float = 0.2) -> Tensor:
    return (noise(*shape, seed=seed) < share).float()


def grown(mask: np.ndarray) -> np.ndarray:
    """(*S) bool, grown by one cell in every direction, diagonals too."""
    return ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim))


# A new network


def test_default_network_has_19792_weights() -> None:
    assert sum(weight.numel() for weight in RNCA().parameters()) == 19_792


def test_config_builds_the_same_network_again() -> None:
    net = RNCA(3, 2, state_channels=5, filters=6, hidden=7, alive_threshold=0.2, skip=0.25)
    again = RNCA(**net.config)
    assert again.config == net.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}


@pytest.mark.parametrize("dims", [1, 4])
def test_other_than_two_or_three_dimensions_are_refused(dims: int) -> None:
    with pytest.raises(InputError, match=f"dims is {dims}.*2 and 3"):
        RNCA(dims=dims)


def perceived(net: RNCA, field: np.ndarray, channel: int) -> np.ndarray:
    """What the filters see when one state channel holds a field: (K, filters, *S)."""
    state = torch.zeros(1, net.state_channels, *field.shape)
    state[0, channel] = torch.from_numpy(field.astype(np.float32))
    features = net.perceive_state(state).detach()[0].numpy()
    return features.reshape(net.state_channels, net.filters, *field.shape)


@both_dims
def test_initial_perception_of_an_impulse_is_identity_and_sobel_and_laplacian(dims: int) -> None:
    impulse = np.zeros((7,) * dims)
    impulse[(3,) * dims] = 1
    smooth, slope = np.array([1, 2, 1]) / 4, np.array([-1, 0, 1]) / 2
    sobel, laplacian = [], impulse.copy()
    for axis in range(dims):
        out = impulse
        for along in range(dims):
            out = ndimage.correlate1d(out, slope if along == axis else smooth, axis=along, mode="constant")
        sobel.append(out)
        laplacian = ndimage.correlate1d(laplacian, smooth, axis=axis, mode="constant")
    seen = perceived(RNCA(dims), impulse, channel=3)
    np.testing.assert_allclose(seen[3], [impulse, *sobel, laplacian - impulse], atol=1e-7)
    assert not np.delete(seen, 3, axis=0).any(), "a filter looked at another channel"


@both_dims
def test_initial_perception_of_a_ramp_is_its_slope_along_its_own_axis_only(dims: int) -> None:
    inside = (slice(1, -1),) * dims
    for axis in range(dims):
        ramp = np.indices((6,) * dims)[axis] * 0.5
        identity, *sobel, laplacian = (f[inside] for f in perceived(RNCA(dims), ramp, channel=0)[0])
        np.testing.assert_allclose(identity, ramp[inside])
        for along, slope in enumerate(sobel):
            np.testing.assert_allclose(slope, 0.5 if along == axis else 0, atol=1e-6)
        np.testing.assert_allclose(laplacian, 0, atol=1e-6)
        bowl = np.indices((6,) * dims)[axis] ** 2.0
        np.testing.assert_allclose(perceived(RNCA(dims), bowl, 0)[0, -1][inside], 0.5, atol=1e-5)


@both_dims
def test_filters_beyond_the_named_ones_start_small_and_random(dims: int) -> None:
    bank = RNCA(dims, state_channels=1, filters=dims + 4).perceive_state.weight.detach()
    extra = bank[dims + 2 :]
    assert 0 < extra.abs().max() < 0.6
    assert not torch.equal(extra[0], extra[1])
    assert len(RNCA(dims, state_channels=1, filters=2).perceive_state.weight) == 2


@both_dims
def test_new_network_leaves_every_binary_mask_as_it_is(dims: int) -> None:
    shape = (2, 1, *SHAPES[dims])
    for share in (0.0, 0.1, 0.7, 1.0):
        mask = binary(*shape, share=share)
        assert torch.equal(RNCA(dims).eval()(noise(*shape), mask, steps=5), mask)


def test_new_network_drops_soft_values_that_no_living_cell_is_near() -> None:
    mask = torch.zeros(1, 1, 7, 9)
    mask[0, 0, 2, 2], mask[0, 0, 3, 3], mask[0, 0, 2, 4] = 0.6, 0.05, 0.09  # the last two: beside, and two away
    mask[0, 0, 5, 7] = 0.05  # alone
    expected = torch.zeros_like(mask)
    expected[0, 0, 2, 2], expected[0, 0, 3, 3] = 0.6, 0.05
    assert torch.equal(RNCA().eval()(noise(1, 1, 7, 9), mask, steps=1), expected)


# The alive rule


@both_dims
def test_empty_mask_stays_empty(dims: int) -> None:
    net = random_net(0, dims)
    state = net.rollout(noise(1, 1, *SHAPES[dims]), torch.zeros(1, 1, *SHAPES[dims]), steps=10)
    assert not state.any()


@both_dims
def test_a_value_of_exactly_the_threshold_is_dead_and_the_next_larger_one_lives(dims: int) -> None:
    threshold = np.float32(0.1)
    for value, lives in ((threshold, False), (np.nextafter(threshold, np.float32(1)), True)):
        mask = torch.zeros(1, 1, *SHAPES[dims])
        mask[(0, 0, *[1] * dims)] = float(value)
        out = RNCA(dims).eval()(torch.zeros_like(mask), mask, steps=1)
        assert torch.equal(out, mask if lives else torch.zeros_like(mask))


@both_dims
def test_mask_grows_by_one_cell_in_every_direction_a_step_and_no_more(dims: int) -> None:
    net = RNCA(dims, state_channels=3).eval()
    with torch.no_grad():
        net.delta.bias.fill_(5.0)  # wants to grow as fast as it can
    mask = torch.zeros(1, 1, *[9] * dims)
    mask[(0, 0, 1, *[4] * (dims - 1))] = 1
    reach = mask[0, 0].numpy() > 0
    for steps in range(1, 9):
        reach = grown(reach)
        state = net.rollout(torch.zeros_like(mask), mask, steps)[0].detach().numpy()
        for channel in state:
            np.testing.assert_array_equal(channel != 0, reach)


@both_dims
def test_the_whole_state_of_a_cell_that_was_dead_or_died_is_zero(dims: int) -> None:
    shape = (9,) * dims
    born_dead = died = survived = 0
    for seed in range(6):
        net, image = random_net(seed, dims), noise(1, 1, *shape, seed=seed)
        with torch.no_grad():
            net.delta.bias[0] -= 0.4  # much dies
            mask = binary(1, 1, *shape, seed=seed, share=0.05)
            features, state = net.perceive_image(image), net.seed(mask)
            for _ in range(3):
                after = net.step(state, features)
                alive = grown(state[0, 0].numpy() > 0.1)
                visible, whole = after[0, 0].numpy(), after[0].numpy()
                assert not whole[:, ~alive].any()
                # What is above the threshold keeps its neighbours alive; a cell near no such cell has died.
                still = grown(visible > 0.1) & alive
                assert not whole[:, ~still].any()
                assert whole[1:, still].any(0).all(), "a living cell was cleared"
                born_dead, died = born_dead + (~alive).sum(), died + (alive & ~still).sum()
                survived += still.sum()
                state = after
    assert min(born_dead, died, survived) > 20  # the example shows all three


# One step, against loops


def step_by_loops(net: RNCA, state: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The paper's update of one sample, (K, *S) and (C, *S), cell by cell with nothing but sums."""
    w = {name: weight.detach().numpy() for name, weight in net.state_dict().items()}
    shape, dims = state.shape[1:], net.dims

    def around(values: np.ndarray, cell: tuple[int, ...], outside: float = 0.0) -> np.ndarray:
        """(channels, 3, 3[, 3]): a cell's neighbourhood."""
        out = np.full((len(values), *[3] * dims), outside)
        for offset in product(range(3), repeat=dims):
            place = tuple(c + o - 1 for c, o in zip(cell, offset, strict=True))
            if all(0 <= p < n for p, n in zip(place, shape, strict=True)):
                out[(slice(None), *offset)] = values[(slice(None), *place)]
        return out

    def alive(visible: np.ndarray, cell: tuple[int, ...]) -> bool:
        return bool(around(visible[None], cell, -np.inf).max() > net.alive_threshold)

    updated = state.copy()
    cells = list(np.ndindex(*shape))
    for cell in cells:
        if not alive(state[0], cell):
            continue
        near, seen = around(state, cell), around(image, cell)
        features = []
        for channel in range(net.state_channels):
            for n in range(net.filters):
                features.append((w["perceive_state.weight"][channel * net.filters + n, 0] * near[channel]).sum())
        for n, bias in enumerate(w["perceive_image.bias"]):
            features.append((w["perceive_image.weight"][n] * seen).sum() + bias)
        hidden = w["hidden.weight"].reshape(net.hidden_width, -1) @ np.array(features) + w["hidden.bias"]
        delta = w["delta.weight"].reshape(net.state_channels, -1) @ np.maximum(hidden, 0) + w["delta.bias"]
        updated[(slice(None), *cell)] += delta
    after = np.zeros_like(state)
    for cell in cells:
        if alive(state[0], cell) and alive(updated[0], cell):
            after[(slice(None), *cell)] = updated[(slice(None), *cell)]
    return after


@both_dims
@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("filters", [None, 2])
def test_steps_equal_a_loop_over_cells(dims: int, image_channels: int, filters: int | None) -> None:
    shape, net = SHAPES[dims], random_net(4, dims, image_channels, filters=filters).double()
    image = noise(2, image_channels, *shape, dtype=torch.float64)
    state = net.seed(noise(2, 1, *shape, seed=1, dtype=torch.float64) ** 3)
    by_loops = state.numpy().copy()
    features = net.perceive_image(image)
    for _ in range(3):
        with torch.no_grad():
            state = net.step(state, features)
        by_loops = np.stack([step_by_loops(net, s, i.numpy()) for s, i in zip(by_loops, image, strict=True)])
        np.testing.assert_allclose(state.numpy(), by_loops, atol=1e-12)
    assert state.any()


@both_dims
def test_sparse_masks_that_flare_up_and_die_equal_a_loop_over_cells(dims: int) -> None:
    """With updates so strong that all of a neighbourhood may die at once: dead cells must not keep it alive."""
    shape, cleared = {2: (8, 7), 3: (5, 6, 4)}[dims], 0
    for seed in range(12):
        net = random_net(seed, dims).double()
        with torch.no_grad():
            net.delta.weight[0] *= 6
            net.delta.bias[0] -= 0.3
        image = noise(1, 1, *shape, seed=seed, dtype=torch.float64)
        state = net.seed(0.6 * binary(1, 1, *shape, seed=seed, share=0.05).double())
        with torch.no_grad():
            found = net.step(state, net.perceive_image(image))[0].numpy()
        np.testing.assert_allclose(found, step_by_loops(net, state[0].numpy(), image[0].numpy()), atol=1e-12)
        alive = grown(state[0, 0].numpy() > 0.1)
        cleared += (alive & ~found.any(0)).sum()
    assert cleared > 20


def test_a_volume_of_one_slice_behaves_as_the_image_it_is() -> None:
    flat = random_net(3, 2, image_channels=2)
    deep = RNCA(3, 2, flat.state_channels, flat.filters, flat.hidden_width).eval()
    with torch.no_grad():
        for name, weight in flat.state_dict().items():
            target = deep.state_dict()[name]
            if name.startswith("perceive") and name.endswith("weight"):
                target[:, :, 1] = weight  # what lies above and below is outside the volume: any weights will do
            else:
                target.copy_(weight.reshape(target.shape))
        image, mask = noise(1, 2, 9, 8), binary(1, 1, 9, 8)
        expected = flat.rollout(image, mask, 12)
        found = deep.rollout(image[:, :, None], mask[:, :, None], 12)[:, :, 0]
    assert expected.any()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@both_dims
def test_the_samples_of_a_batch_do_not_see_each_other(dims: int) -> None:
    net, shape = random_net(1, dims), SHAPES[dims]
    image, mask = noise(3, 1, *shape), binary(3, 1, *shape, share=0.4)
    with torch.no_grad():
        together = net.rollout(image, mask, 10)
        for sample in range(3):
            alone = net.rollout(image[sample : sample + 1], mask[sample : sample + 1], 10)
            torch.testing.assert_close(together[sample : sample + 1], alone, atol=1e-5, rtol=0)


def test_forward_is_the_visible_channel_of_the_rollout() -> None:
    net, image, mask = random_net(2), noise(2, 1, 8, 7), binary(2, 1, 8, 7)
    out = net(image, mask, 6)
    assert out.shape == mask.shape
    assert out.dtype == torch.float32
    assert torch.equal(out, net.rollout(image, mask, 6)[:, :1])
    assert torch.equal(net(image, mask, 0), mask)


# Stochastic updates


@both_dims
def test_in_training_a_cell_updates_all_its_channels_or_none_and_scaled(dims: int) -> None:
    shape = (12,) * dims
    net, image = random_net(5, dims, skip=0.3), noise(1, 1, *shape)
    features, state = net.perceive_image(image), net.seed(torch.ones(1, 1, *shape))
    with torch.no_grad():
        update = net.eval().step(state, features) - state
        torch.manual_seed(0)
        made = net.train().step(state, features) - state
    fires = (made != 0).any(1, keepdim=True)
    torch.testing.assert_close(made, update * fires / 0.7, atol=1e-6, rtol=1e-5)
    share = fires.float().mean().item()
    assert abs(share - 0.7) < 4 * (0.21 / fires.numel()) ** 0.5


@both_dims
def test_the_update_expected_in_training_is_the_one_of_evaluation(dims: int) -> None:
    shape = (8,) * dims
    net = random_net(6, dims)
    features, state = net.perceive_image(noise(1, 1, *shape)), net.seed(torch.ones(1, 1, *shape))
    with torch.no_grad():
        update = net.eval().step(state, features) - state
        torch.manual_seed(0)
        mean = torch.stack([net.train().step(state, features) - state for _ in range(800)]).mean(0)
    # With skip 1/2 each draw is 0 or twice the update: a deviation of |update| a draw.
    assert ((mean - update).abs() <= 5 / 800**0.5 * update.abs() + 1e-7).all()


def test_evaluation_is_deterministic_and_training_without_skips_equals_it() -> None:
    net, image, mask = random_net(7, skip=0.0), noise(1, 1, 9, 9), binary(1, 1, 9, 9)
    expected = net.eval()(image, mask, 9)
    assert torch.equal(net.train()(image, mask, 9), expected)
    net.skip = 0.5
    assert not torch.equal(net(image, mask, 9), expected)
    assert torch.equal(net.eval()(image, mask, 9), expected)


@pytest.mark.parametrize("threshold", [-0.1, 0.6, float("nan")])
def test_a_threshold_that_would_not_let_the_mask_live_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=r"alive_threshold.*0 to 0\.5"):
        RNCA(alive_threshold=threshold)
