"""Training's fast path: values and gradients are the definition's, to float64, for every weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import random_net
from rnca.automaton import RNCA
from rnca.gradients import neighbour_table, rollout

both_dims = pytest.mark.parametrize("dims", [2, 3])
SHAPES = {2: (9, 8), 3: (5, 6, 4)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_state(net: RNCA, visible: Tensor, latents: bool = False) -> Tensor:
    """A state with this visible channel; with latents, as the pool returns it: values where a cell lives."""
    state = net.seed(visible)
    if latents:
        state[:, 1:] = (noise(*state[:, 1:].shape, seed=9) - 0.5) * net.alive(visible)
    return state


def by_definition(net: RNCA, image: Tensor, state: Tensor, moments: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """The visible channel at the moments and the last state, by plain automatic differentiation."""
    features, visible = net.perceive_image(image), []
    for step in range(1, moments[-1] + 1):
        state = net.step(state, features)
        if step in moments:
            visible.append(state[:, :1])
    return visible, state.detach()


def loss_of(visible: list[Tensor]) -> Tensor:
    """Another weight for every value, so that no two gradients can be exchanged."""
    return sum(((v - 0.4) ** 2 * noise(*v.shape, seed=n)).sum() for n, v in enumerate(visible, start=20))


def gradients(net: RNCA, visible: list[Tensor]) -> dict[str, Tensor]:
    net.zero_grad()
    loss_of(visible).backward()
    return {name: weight.grad.clone() for name, weight in net.named_parameters()}


def assert_equal_to_the_definition(net: RNCA, image: Tensor, state: Tensor, moments: tuple[int, ...]) -> None:
    visible, last = rollout(net, image, state, moments)
    expected, expected_last = by_definition(net, image, state, moments)
    torch.testing.assert_close(visible, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last, expected_last, atol=1e-10, rtol=1e-10)
    assert not last.requires_grad
    found, wanted = gradients(net, visible), gradients(net, expected)
    for name in wanted:
        scale = max(wanted[name].abs().max().item(), 1)
        torch.testing.assert_close(found[name], wanted[name], atol=1e-9 * scale, rtol=0, msg=name)


@st.composite
def problems(draw: st.DrawFn) -> tuple[RNCA, Tensor, Tensor, tuple[int, ...]]:
    """A random network, an image, a state in the middle of a training run, and the moments of the loss."""
    dims = draw(st.sampled_from([2, 3]))
    batch, channels, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 10_000))
    shape = draw(st.tuples(*[st.integers(1, 10 if dims == 2 else 5)] * dims))
    filters = draw(st.sampled_from([None, 1, 6]))
    net = random_net(seed, dims, channels, state_channels=draw(st.integers(1, 5)), filters=filters).double()
    visible = noise(batch, 1, *shape, seed=seed)
    kind = draw(st.sampled_from(["sparse", "dense", "soft", "faint", "full"]))
    if kind in ("sparse", "dense"):
        visible = (visible < (0.1 if kind == "sparse" else 0.6)).double()
    else:
        visible = visible ** {"soft": 3, "faint": 12, "full": 0}[kind]
    moments = draw(st.sets(st.integers(1, 9), min_size=1, max_size=4))
    state = make_state(net, visible, draw(st.booleans()))
    return net, noise(batch, channels, *shape, seed=seed + 1), state, tuple(sorted(moments))


@given(problems())
@settings(max_examples=150)
def test_values_and_gradients_equal_the_definitions(problem: tuple[RNCA, Tensor, Tensor, tuple[int, ...]]) -> None:
    assert_equal_to_the_definition(*problem)


@both_dims
def test_a_long_rollout_at_the_default_width_equals_the_definition(dims: int) -> None:
    net = random_net(1, dims, state_channels=16, hidden=64).double()
    state = make_state(net, (noise(2, 1, *SHAPES[dims]) < 0.2).double(), latents=True)
    assert_equal_to_the_definition(net, noise(2, 1, *SHAPES[dims], seed=1), state, (20, 25, 31))


@both_dims
def test_a_mask_at_every_border_equals_the_definition(dims: int) -> None:
    net = random_net(2, dims).double()
    visible = torch.ones(2, 1, *SHAPES[dims], dtype=torch.float64)
    visible[(..., *[slice(1, -1)] * dims)] = 0
    assert_equal_to_the_definition(net, noise(2, 1, *SHAPES[dims]), make_state(net, visible, True), (1, 4, 7))


@both_dims
def test_an_empty_mask_has_no_values_and_no_gradients(dims: int) -> None:
    net, shape = random_net(3, dims).double(), (2, 1, *SHAPES[dims])
    visible, last = rollout(net, noise(*shape), torch.zeros(2, 4, *SHAPES[dims], dtype=torch.float64), (2, 5))
    assert not last.any()
    assert not any(v.any() for v in visible)
    assert all(not g.any() for g in gradients(net, visible).values())


@both_dims
def test_a_mask_that_dies_out_half_way_equals_the_definition(dims: int) -> None:
    net = random_net(4, dims).double()
    with torch.no_grad():
        net.delta.bias[0] = -0.3
    state = make_state(net, (noise(1, 1, *SHAPES[dims]) < 0.3).double())
    visible, _ = by_definition(net, noise(1, 1, *SHAPES[dims]), state, (1, 9))
    assert visible[0].any()
    assert not visible[1].any()
    assert_equal_to_the_definition(net, noise(1, 1, *SHAPES[dims]), state, (1, 5, 9))


@both_dims
def test_going_on_from_the_last_state_is_one_longer_rollout(dims: int) -> None:
    net, image = random_net(5, dims).double(), noise(2, 1, *SHAPES[dims])
    state = make_state(net, (noise(2, 1, *SHAPES[dims], seed=1) < 0.3).double())
    whole = rollout(net, image, state, (7,))
    halves = rollout(net, image, rollout(net, image, state, (3,))[1], (4,))
    torch.testing.assert_close(halves, whole, atol=1e-12, rtol=0)


@both_dims
def test_inputs_are_not_written_to(dims: int) -> None:
    net, image = random_net(6, dims).double(), noise(1, 1, *SHAPES[dims])
    state = make_state(net, noise(1, 1, *SHAPES[dims]), latents=True)
    copies = image.clone(), state.clone()
    gradients(net, rollout(net, image, state, (1, 3))[0])
    assert torch.equal(image, copies[0])
    assert torch.equal(state, copies[1])


# Skipped updates


@both_dims
def test_in_training_a_cell_updates_all_its_channels_or_none_and_scaled(dims: int) -> None:
    shape = {2: (30, 31), 3: (9, 10, 11)}[dims]
    net, image = random_net(7, dims, skip=0.3).double(), noise(1, 1, *shape)
    state = make_state(net, torch.ones(1, 1, *shape, dtype=torch.float64))
    update = rollout(net.eval(), image, state, (1,))[1] - state
    torch.manual_seed(0)
    made = rollout(net.train(), image, state, (1,))[1] - state
    fires = (made != 0).any(1, keepdim=True)
    torch.testing.assert_close(made, update * fires / 0.7)
    assert abs(fires.double().mean().item() - 0.7) < 4 * (0.21 / fires.numel()) ** 0.5


@both_dims
def test_every_step_draws_anew_which_cells_skip(dims: int) -> None:
    net, shape = random_net(8, dims).double().train(), SHAPES[dims]
    state = make_state(net, torch.ones(1, 1, *shape, dtype=torch.float64))
    torch.manual_seed(0)
    first, second = rollout(net, torch.zeros(1, 1, *shape).double(), state, (1, 2))[0]
    moved = (first != state[:, :1]), (second != first)
    assert 0.2 < (moved[0] == moved[1]).double().mean() < 0.8


@both_dims
def test_gradients_with_skipped_updates_are_those_of_the_updates_drawn(dims: int) -> None:
    """Against finite differences, the same updates skipped in every evaluation."""
    net, image = random_net(9, dims).double().train(), noise(2, 1, *SHAPES[dims])
    state = make_state(net, noise(2, 1, *SHAPES[dims], seed=3) ** 2, latents=True)
    moments = (2, 5)

    def visible() -> list[Tensor]:
        torch.manual_seed(5)
        return rollout(net, image, state, moments)[0]

    found = gradients(net, visible())
    for number, (name, weight) in enumerate(net.named_parameters()):
        direction, step = noise(*weight.shape, seed=number) - 0.5, 1e-6
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
                losses.append(loss_of(visible()).item())
                weight -= sign * step * direction
        slope = (losses[0] - losses[1]) / (2 * step)
        assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6), name


@both_dims
def test_bfloat16_products_come_close_in_values_and_in_the_gradients_direction(dims: int) -> None:
    net = random_net(2, dims, state_channels=8, hidden=48)
    image = noise(4, 1, *SHAPES[dims]).float()
    state = net.seed(torch.ones(4, 1, *SHAPES[dims]))
    exact, _ = rollout(net, image, state, (3, 6))
    wanted = gradients(net, exact)
    low, last = rollout(net, image, state, (3, 6), precision=torch.bfloat16)
    assert last.dtype == torch.float32
    found = gradients(net, low)
    for a, b in zip(low, exact, strict=True):
        assert 0 < (a - b).abs().max() < 0.03
    for name in wanted:
        cosine = torch.nn.functional.cosine_similarity(found[name].flatten(), wanted[name].flatten(), dim=0)
        assert cosine > 0.99, name


# The table of neighbours


@both_dims
def test_neighbours_are_in_the_order_of_a_convolution_kernel(dims: int) -> None:
    shape = SHAPES[dims]
    padded = torch.arange(2 * torch.tensor([n + 2 for n in shape]).prod().item()).view(2, *(n + 2 for n in shape))
    near = neighbour_table(2, shape, torch.device("cpu"))
    cell = (1, *[2] * dims)
    window = padded[(1, *[slice(1, 4)] * dims)]
    assert torch.equal(near[padded[cell]], window.flatten())
