"""Training on a GPU: the fused kernels give the values and gradients of `gradients.rollout`; run by an interpreter."""

import pytest
import torch
from torch import Tensor

from conftest import random_net
from rnca.automaton import RNCA
from rnca.gradients import _fits_fused, rollout

pytest.importorskip("triton")
from rnca import fused

SHAPES = {2: (7, 9), 3: (3, 4, 3)}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "PROGRAMS", 3)


def problem(dims: int, channels: int = 1) -> tuple[RNCA, Tensor, Tensor]:
    net = random_net(3, dims, channels, state_channels=16, hidden=64)
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(2, channels, *SHAPES[dims], generator=draw)
    mask = torch.rand(2, 1, *SHAPES[dims], generator=draw)
    return net, image, net.seed(mask * (mask > 0.6))


def gradients(net: RNCA, visible: list[Tensor]) -> dict[str, Tensor]:
    net.zero_grad()
    sum((((v - 0.4) ** 2).sum() for v in visible), start=torch.zeros(())).backward()
    return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 2), (3, 1)])
def test_values_and_gradients_are_those_of_the_plain_rollout(dims: int, channels: int) -> None:
    net, image, state = problem(dims, channels)
    visible, last = fused.fused_rollout(net, image, state, (2, 3), torch.float32)
    expected, expected_last = rollout(net, image, state, (2, 3))
    torch.testing.assert_close(visible, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last, expected_last, atol=1e-5, rtol=1e-5)
    assert last[:, 1:].any()
    found, wanted = gradients(net, visible), gradients(net, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=0, msg=name)


def test_an_empty_mask_has_no_values_and_no_gradients() -> None:
    net, image, state = problem(2)
    visible, last = fused.fused_rollout(net, image, torch.zeros_like(state), (2,), torch.float32)
    assert not last.any()
    assert not any(gradient.any() for gradient in gradients(net, visible).values())


def test_in_training_some_cells_skip_and_the_seed_says_which() -> None:
    net, image, state = problem(2)
    net.train()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(fused.fused_rollout(net, image, state, (1,), torch.float32)[1])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    everyone = rollout(net.eval(), image, state, (1,))[1]
    changed = (found[0] != state).any(1) & (everyone != state).any(1)
    assert 0.25 < changed.float().sum() / (everyone != state).any(1).float().sum() < 0.75


def test_gradients_with_skipped_updates_are_those_of_the_updates_drawn() -> None:
    net, image, state = problem(2)
    net.train()

    def loss() -> Tensor:
        torch.manual_seed(7)  # the same cells skip
        visible, _ = fused.fused_rollout(net, image, state, (2,), torch.float32)
        return ((visible[0] - 0.4) ** 2).sum()

    net.zero_grad()
    loss().backward()
    bias = net.delta.bias
    assert bias is not None and bias.grad is not None
    step = torch.zeros_like(bias)
    step[1] = 1e-2  # a latent channel: no cell dies of it
    with torch.no_grad():
        bias += step
        after = loss()
        bias -= 2 * step
        slope = (after - loss()) / 2e-2
    assert slope.item() == pytest.approx(bias.grad[1].item(), rel=0.02)


@pytest.mark.parametrize(
    ("channels", "hidden", "precision", "expected"),
    [
        (16, 128, torch.bfloat16, True),
        (16, 64, torch.float32, True),
        (16, 128, torch.float64, False),
        (8, 128, torch.bfloat16, False),
        (16, 96, torch.bfloat16, False),
    ],
)
def test_other_networks_and_precisions_are_left_to_the_plain_rollout(
    channels: int, hidden: int, precision: torch.dtype, expected: bool
) -> None:
    assert _fits_fused(RNCA(state_channels=channels, hidden=hidden), precision) is expected
