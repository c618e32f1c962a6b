"""The refinement neural cellular automaton (rNCA) as the paper defines it: the readable definition.

Silbernagel, Alonso et al., "rNCA: Self-Repairing Segmentation Masks", arXiv 2512.13397, section 3 and
Appendix A. Equation numbers are the paper's. `engine.py` computes the same values on alive cells only and
`training.py` their gradients; tests hold both to this file.

Where the paper leaves room, this file decides:

* α: "exceeds 0.1" (text, authors' code) against "≥ 0.1" (formula): strictly greater, so an empty mask stays empty.
* "Only alive pixels may update the visible channel": the visible value that the second alive test looks at
  is updated on pixels that were alive before the step. Every other pixel ends at zero by the formula.
* The update is skipped with probability τ in training only, one draw for all channels of a pixel, and the
  updates that fire are scaled by 1/(1 − τ): evaluation, where all fire, then takes the same step on average.
* The last layer outputs all K channels, as the paper says (the authors' code outputs one).
* The filters that the paper does not name: a Laplacian follows identity and Sobel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError


def initial_filters(dims: int, count: int) -> Tensor:
    """Identity, one Sobel filter an axis, Laplacian; further filters start small and random.

    Returns (count, 3, 3) or (count, 3, 3, 3), float32. Sobel and Laplacian are scaled so that their positive
    weights sum to at most 1 ("Growing NCA", Distill 2020, divides by 8 in 2-D likewise).
    """
    smooth, slope, delta = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2, torch.eye(3)[1]

    def outer(factors: list[Tensor]) -> Tensor:
        out = factors[0]
        for factor in factors[1:]:
            out = out[..., None] * factor
        return out

    identity = outer([delta] * dims)
    sobel = [outer([slope if axis == a else smooth for axis in range(dims)]) for a in range(dims)]
    laplacian = outer([smooth] * dims) - identity
    known = torch.stack([identity, *sobel, laplacian])
    extra = torch.randn(max(count - len(known), 0), *known.shape[1:]) * 0.1
    return torch.cat([known, extra])[:count]


class RNCA(nn.Module):
    """Local, image-guided update rule that repairs a mask when iterated.

    Args:
        dims: spatial dimensions, 2 or 3.
        image_channels: channels of the guiding image.
        state_channels: K, channels of the state; channel 0 is the visible mask ŷ, the others are latent.
        filters: depthwise perception filters a state channel; default 4 in 2-D and 5 in 3-D (identity,
            a Sobel filter an axis, Laplacian). N = filters · K features come from the state, N from the image.
        hidden: width of the transition network's hidden layer.
        alive_threshold: α; a pixel lives while the visible value of one of its 3^dims neighbourhood exceeds it;
            0 to 0.5, so that whatever is in the mask lives.
        skip: τ, the probability that a pixel skips its update in training mode.

    The default 2-D network has 19,792 weights.
    """

    def __init__(
        self,
        dims: int = 2,
        image_channels: int = 1,
        state_channels: int = 16,
        filters: int | None = None,
        hidden: int = 128,
        alive_threshold: float = 0.1,
        skip: float = 0.5,
    ) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise InputError(f"dims is {dims}, but the automaton is defined for 2 and 3 spatial dimensions.")
        self.dims, self.image_channels, self.state_channels = dims, image_channels, state_channels
        self.filters = dims + 2 if filters is None else filters
        self.hidden_width, self.alive_threshold, self.skip = hidden, alive_threshold, skip
        if not 0 <= alive_threshold <= 0.5:
            raise InputError(f"alive_threshold is {alive_threshold}: give 0 to 0.5, so that what is in the mask lives.")
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        features = self.filters * state_channels  # N
        self.perceive_state = conv(state_channels, features, 3, padding=1, groups=state_channels, bias=False)  # g_φs
        self.perceive_image = conv(image_channels, features, 3, padding=1)  # g_φx
        self.hidden = conv(2 * features, hidden, 1)  # f_θ, first layer
        self.delta = conv(hidden, state_channels, 1)  # f_θ, last layer
        with torch.no_grad():
            bank = initial_filters(dims, self.filters)
            self.perceive_state.weight.copy_(bank[:, None].repeat(state_channels, *[1] * (dims + 1)))
            self.delta.weight.zero_()
            assert self.delta.bias is not None
            self.delta.bias.zero_()

    @property
    def config(self) -> dict[str, int | float]:
        """The arguments that build this network again: `RNCA(**net.config)`."""
        return {
            "dims": self.dims,
            "image_channels": self.image_channels,
            "state_channels": self.state_channels,
            "filters": self.filters,
            "hidden": self.hidden_width,
            "alive_threshold": self.alive_threshold,
            "skip": self.skip,
        }

    def seed(self, mask: Tensor) -> Tensor:
        """(B, 1, *S) mask in 0..1 -> (B, K, *S) initial state: visible channel from the mask, latents zero."""
        return torch.cat([mask, mask.new_zeros(mask.shape[0], self.state_channels - 1, *mask.shape[2:])], dim=1)

    def alive(self, visible: Tensor) -> Tensor:
        """(B, 1, *S) -> bool of that shape: max over N⁺(v) of ŷ exceeds α (Appendix A)."""
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        return pool(visible, 3, stride=1, padding=1) > self.alive_threshold

    def step(self, state: Tensor, image_features: Tensor) -> Tensor:
        """One update of a (B, K, *S) state; `image_features` = g_φx(x), (B, N, *S), does not change with time."""
        before = self.alive(state[:, :1])
        perception = torch.cat([self.perceive_state(state), image_features], dim=1)  # (1)
        update = self.delta(F.relu(self.hidden(perception)))
        if self.training and self.skip > 0:
            fires = torch.rand_like(state[:, :1]) >= self.skip
            update = update * fires / (1 - self.skip)
        state = state + update * before  # (2), (4)
        return state * (self.alive(state[:, :1]) & before)

    def rollout(self, image: Tensor, mask: Tensor, steps: int = 64) -> Tensor:
        """The state (B, K, *S) after `steps` updates, all channels; arguments as for `forward`."""
        state, image_features = self.seed(mask), self.perceive_image(image)
        for _ in range(steps):
            state = self.step(state, image_features)
        return state

    def forward(self, image: Tensor, mask: Tensor, steps: int = 64) -> Tensor:
        """Repair a mask: image (B, C, *S), mask (B, 1, *S) in 0..1 -> visible channel (B, 1, *S), not clipped."""
        return self.rollout(image, mask, steps)[:, :1]
