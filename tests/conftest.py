"""What the tests share: one thread, property tests that draw the same examples everywhere, and small networks."""

import os
import signal
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: a GPU's kernels run without one

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from torch import Tensor

from rnca.automaton import RNCA

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Of what a shell starts in the background; the programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run. Look further with: pytest --hypothesis-profile=explore
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")

SHARED = Path(__file__).parents[2] / "shared" / "data"
"""Real images and masks beside the checkout, which not everyone has."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs data that is not here, and what takes long unless it is asked for."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"needs {SHARED}"))
        if item.get_closest_marker("slow") and "slow" not in config.getoption("markexpr"):
            item.add_marker(pytest.mark.skip(reason="takes long: run with -m slow"))


MARGIN = 1e-6
"""A trajectory whose every visible value stays this far from a threshold has one right outcome in float32."""


def random_net(
    seed: int,
    dims: int = 2,
    image_channels: int = 1,
    state_channels: int = 4,
    filters: int | None = None,
    hidden: int | None = None,
    **options: float,
) -> RNCA:
    """A network in evaluation mode with random weights in every layer, whose masks live, grow and die.

    Random updates alone would let states grow exponentially, so each channel also leaks: two hidden units a channel
    carry relu(s) and relu(-s) and take a fifth of the value away at each step. States stay of order one.
    """
    hidden = 2 * state_channels + 12 if hidden is None else hidden
    assert hidden >= 2 * state_channels
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = RNCA(dims, image_channels, state_channels, filters, hidden, **options)
        net.perceive_state.weight += 0.1 * torch.randn_like(net.perceive_state.weight)
        net.perceive_image.weight *= 3
        net.delta.weight.copy_(torch.randn_like(net.delta.weight) * 0.8 / dims / hidden**0.5)
        net.delta.bias.copy_(torch.randn_like(net.delta.bias) * 0.05)
        net.delta.bias[0] = 0.2 * torch.empty([]).uniform_(-0.1, 0.5)
        for channel in range(state_channels):
            for unit, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
                net.hidden.weight[unit], net.hidden.bias[unit] = 0, 0
                net.hidden.weight[unit, channel * net.filters] = sign  # the identity filter
                net.delta.weight[:, unit] = 0
                net.delta.weight[channel, unit] = -0.2 * sign
    return net.eval()


def filler(dims: int = 2, image_channels: int = 1) -> RNCA:
    """A network that repairs perfectly where the image shows the mask: visible values move to the first channel's.

    A quarter of the way at each step, so a mask grows one cell a step into what is bright, and dark parts fade.
    """
    net = RNCA(dims, image_channels, state_channels=2, filters=1, hidden=3)
    with torch.no_grad():
        for weight in (net.perceive_image.weight, net.perceive_image.bias, net.hidden.weight, net.hidden.bias):
            weight.zero_()
        net.perceive_image.weight[(0, 0, *[1] * dims)] = 1
        net.hidden.weight[0, 0] = 1  # relu(visible)
        net.hidden.weight[1, 0] = -1  # relu(-visible)
        net.hidden.weight[2, 2] = 1  # relu(image)
        net.delta.weight[0, :, ...] = torch.tensor([-0.25, 0.25, 0.25]).reshape(3, *[1] * dims)
    return net.eval()


def trajectory(net: RNCA, image: Tensor, mask: Tensor, steps: int) -> tuple[list[Tensor], float]:
    """The definition's states (B, K, *S) after 0, 1, … steps, and how close a decision came to a threshold.

    A visible value closer to the alive threshold, or after a step to 0.5, than rounding can tell apart has no one
    right outcome; comparisons of the fast paths to the definition leave such trajectories out (`MARGIN`).
    """
    nearest = [1.0]

    def alive(visible: Tensor) -> Tensor:
        nearest.append((visible - net.alive_threshold).abs().min().item())
        return RNCA.alive(net, visible)

    net.alive = alive  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            states, features = [net.seed(mask)], net.perceive_image(image)
            for _ in range(steps):
                states.append(net.step(states[-1], features))
                nearest.append((states[-1][:, 0] - 0.5).abs().min().item())
    finally:
        del net.alive
    return states, min(nearest)


def discs(shape: tuple[int, ...], *circles: tuple[tuple[float, ...], float]) -> NDArray[np.bool_]:
    """Balls of given centres and radii."""
    places = np.indices(shape)
    return np.logical_or.reduce(
        [np.linalg.norm(places - np.reshape(c, (-1, *[1] * len(shape))), axis=0) <= r for c, r in circles]
    )
