"""The fast path: the automaton on alive cells only, as a TorchScript module.

A cell that is not alive is zero after every step, so only cells that are alive need work, and only they and
their neighbours need storage. The engine keeps a table with a row (a *slot*) for each cell that is or has
been alive, and the slots of its 3^dims neighbours. A step then is: gather the neighbourhoods of the alive
cells, two matrix products, scatter. Three things make it exact and fast:

* The perception filters are linear, so they are folded with the first layer into one matrix
  (3^dims · K, hidden); nothing of the size of the image is ever made for features.
* The image does not change, so its share of the hidden layer (`drive`) is computed once, when a cell gets
  its slot.
* The mask grows by at most one cell a step, so the table grows by the missing neighbours of the cells that
  newly exceed α.

Slots 0 and 1 are always zero: 0 stands for a position outside the image (the definition's zero padding),
1 for one that has no slot yet. Positions are flat indices into the batch, each sample padded by one.
"""

import warnings
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .automaton import RNCA


class Cells(NamedTuple):
    """A rollout between two steps; n slots, k = 3^dims neighbours, P padded positions. `step` consumes it."""

    shape: list[int]  # B, *S
    image: Tensor  # (C, P) padded guiding image
    slot: Tensor  # (P,) int32: the slot of each position
    where: Tensor  # (n,) int64: the position of each slot
    near: Tensor  # (n, k) int32: the slots of each slot's neighbours
    drive: Tensor  # (n, hidden): the image's share of the hidden layer
    state: Tensor  # (n, K) float32
    alive: Tensor  # (n,) bool: has a neighbour above α
    spread: Tensor  # (n,) bool: all neighbours inside the image have slots
    changed: Tensor  # (c,) int64: flat indices into (B, *S) whose binary value (> 0.5) the last step changed


class Folded(NamedTuple):
    """The definition's weights arranged for gathered neighbourhoods; k = 3^dims, rows ordered (neighbour, channel)."""

    state: Tensor  # (k · K, hidden)
    image: Tensor  # (k · C, hidden)
    bias: Tensor  # (hidden,)
    delta: Tensor  # (hidden, K)
    delta_bias: Tensor  # (K,)


def fold(net: RNCA) -> Folded:
    """Fold perception and first layer into one matrix; differentiable, so training uses it too."""
    features = net.filters * net.state_channels
    hidden = net.hidden.weight.flatten(1)  # (hidden, 2N)
    from_state = hidden[:, :features].unflatten(1, (net.state_channels, net.filters))
    state_filters = net.perceive_state.weight.flatten(1).unflatten(0, (net.state_channels, net.filters))  # (K, F, k)
    image_filters = net.perceive_image.weight.flatten(2)  # (N, C, k)
    assert net.perceive_image.bias is not None and net.hidden.bias is not None and net.delta.bias is not None
    return Folded(
        torch.einsum("hcf,cfk->kch", from_state, state_filters).flatten(0, 1),
        torch.einsum("hn,nck->kch", hidden[:, features:], image_filters).flatten(0, 1),
        net.hidden.bias + hidden[:, features:] @ net.perceive_image.bias,
        net.delta.weight.flatten(1).t(),
        net.delta.bias,
    )


class Engine(nn.Module):
    """The alive-only form of one network; `compile` scripts it.

    The definition's own weights travel along (buffers `definition__*`), so that an archive can be trained on.
    Set `low_precision` to run the matrix products in bfloat16 (state and sums stay float32).
    """

    OUTSIDE: Final[int] = 0  # two slots that stay zero ...
    MISSING: Final[int] = 1
    FIRST: Final[int] = 2  # ... and the first that is a cell
    CHUNK_CPU: Final[int] = 4096  # cells a float32 product: its operands stay in a CPU's L2 cache
    CHUNK_CUDA: Final[int] = 1 << 17

    w_state: Tensor
    w_image: Tensor
    w_bias: Tensor
    w_delta: Tensor
    w_delta_bias: Tensor

    def __init__(self, net: RNCA) -> None:
        super().__init__()
        self.dims: int = net.dims
        self.neighbours: int = 3**net.dims
        self.image_channels: int = net.image_channels
        self.state_channels: int = net.state_channels
        self.hidden: int = net.hidden_width
        self.threshold: float = net.alive_threshold
        self.skip: float = net.skip
        self.low_precision: bool = False
        for name, weight in fold(net)._asdict().items():
            # a copy in any case: a bias would stay the network's own, and follow its training
            self.register_buffer("w_" + name, weight.detach().float().clone(memory_format=torch.contiguous_format))
        for name, weight in net.state_dict().items():
            self.register_buffer("definition__" + name.replace(".", "__"), weight.detach().clone())

    def forward(self, image: Tensor, mask: Tensor, steps: int = 64) -> Tensor:
        """image (B, C, *S), mask (B, 1, *S) in 0..1 -> visible channel (B, 1, *S) after `steps` updates."""
        cells = self.start(image, mask)
        for _ in range(steps):
            cells = self.step(cells, False)
        return self.dense(cells, 1)

    @torch.jit.export
    def start(self, image: Tensor, mask: Tensor) -> Cells:
        """The cells before the first step; mask (B, 1, *S): bool, integer or float in 0..1."""
        if image.dim() != self.dims + 2 or mask.dim() != self.dims + 2:
            raise ValueError("image and mask must be (B, C, *S) and (B, 1, *S) with the model's number of axes")
        if image.size(1) != self.image_channels or mask.size(1) != 1:
            raise ValueError("the image's or the mask's number of channels is not the model's")
        if image.size(0) != mask.size(0) or image.shape[2:] != mask.shape[2:]:
            raise ValueError("image and mask differ in batch size or shape")
        shape = [int(size) for size in mask.shape[:1] + mask.shape[2:]]
        frame = [1, 1] * self.dims
        slot = F.pad(torch.ones_like(mask, dtype=torch.int32), frame).flatten()
        values = F.pad(mask, frame).flatten()
        above = values > self.threshold
        wanted = self.dilate(above.nonzero().flatten(), slot, shape)
        if mask.is_floating_point():
            # A soft value that does not live is still seen by its alive neighbours in the first step.
            soft = (values != 0) & ~above
            if bool(soft.any()):
                wanted |= self.dilate(wanted.nonzero().flatten(), slot, shape) & soft
        where = torch.cat(
            [torch.zeros([self.FIRST], dtype=torch.int64, device=mask.device), wanted.nonzero().flatten()]
        )

        image = F.pad(image, frame).transpose(0, 1).flatten(1)
        none = torch.zeros([self.FIRST, self.neighbours], dtype=torch.int32, device=mask.device)
        near = self.link(slot, where, none, shape)
        state = torch.cat([values[where].unsqueeze(1).to(torch.float32)] * self.state_channels, 1)
        state[:, 1:] = 0.0
        seeds = state[:, 0] > self.threshold
        return Cells(
            shape,
            image,
            slot,
            where,
            near,
            self.drive(image, where, shape, torch.bfloat16 if self.low_precision else torch.float32),
            state,
            self.any_near(seeds, near),
            seeds,
            where[:0],
        )

    @torch.jit.export
    def step(self, cells: Cells, stochastic: bool = False) -> Cells:
        """One update. With `stochastic`, cells skip it as in training (torch's global random generator)."""
        active = cells.alive.nonzero().flatten()
        old = cells.state.index_select(0, active)
        new = self.update(cells, active, stochastic)
        new += old
        above = torch.zeros_like(cells.alive)
        above[active] = new[:, 0] > self.threshold

        where, near, drive, state, spread = cells.where, cells.near, cells.drive, cells.state, cells.spread
        fresh = above & ~spread
        if bool(fresh.any()):
            added = self.missing_near(where[fresh], cells.slot, cells.shape)
            where = torch.cat([where, added])
            near = self.link(cells.slot, where, near, cells.shape)
            drive = torch.cat([drive, self.drive(cells.image, added, cells.shape, drive.dtype)])
            state = F.pad(state, [0, 0, 0, added.size(0)])
            above = F.pad(above, [0, added.size(0)])
            spread = F.pad(spread | fresh, [0, added.size(0)])
        alive = self.any_near(above, near)
        new *= alive.index_select(0, active).unsqueeze(1)
        flipped = active[(new[:, 0] > 0.5) != (old[:, 0] > 0.5)]
        return Cells(
            cells.shape,
            cells.image,
            cells.slot,
            where,
            near,
            drive,
            torch.zeros_like(state).index_copy_(0, active, new),
            alive,
            spread,
            self.unpad(where.index_select(0, flipped), cells.shape),
        )

    @torch.jit.export
    def dense(self, cells: Cells, channels: int) -> Tensor:
        """The first channels of the state, (B, channels, *S) float32; channel 0 is the visible mask."""
        count = 1
        for size in cells.shape:
            count *= size
        out = torch.zeros([count, channels], device=cells.state.device)
        out[self.unpad(cells.where[self.FIRST :], cells.shape)] = cells.state[self.FIRST :, :channels]
        return out.view(cells.shape + [channels]).movedim(-1, 1)

    def update(self, cells: Cells, active: Tensor, stochastic: bool) -> Tensor:
        """f(g(s, x)) of the active slots, (len(active), K): the paper's equations 1 and 2, folded."""
        precision = cells.drive.dtype
        table, w_state, w_delta = cells.state.to(precision), self.w_state.to(precision), self.w_delta.to(precision)
        out = torch.empty([active.size(0), self.state_channels], device=active.device)
        chunk = self.CHUNK_CPU if precision == torch.float32 else 2 * self.CHUNK_CPU  # as many bytes
        if active.is_cuda:
            chunk = self.CHUNK_CUDA
        for first in range(0, active.size(0), chunk):
            rows = active[first : first + chunk]
            near = cells.near.index_select(0, rows).flatten()
            perception = table.index_select(0, near).view(rows.size(0), -1)
            hidden = cells.drive.index_select(0, rows).addmm_(perception, w_state).relu_()
            out[first : first + chunk] = hidden @ w_delta
        out += self.w_delta_bias
        if stochastic:
            out *= (torch.rand([out.size(0), 1], device=out.device) >= self.skip) / (1 - self.skip)
        return out

    def missing_near(self, where: Tensor, slot: Tensor, shape: list[int]) -> Tensor:
        """The positions next to these that have no slot yet, each once."""
        around = (where.unsqueeze(1) + self.offsets(shape, where.device)).flatten()
        return torch.unique(around[slot[around] == self.MISSING])

    def link(self, slot: Tensor, where: Tensor, near: Tensor, shape: list[int]) -> Tensor:
        """Give the positions that have no row in `near` yet a slot, and return `near` with their rows."""
        offsets = self.offsets(shape, where.device)
        first, k = near.size(0), offsets.size(0)
        slots = torch.arange(first, where.size(0), dtype=torch.int32, device=where.device)
        added = where[first:]
        slot[added] = slots
        rows = torch.empty([added.size(0), k], dtype=torch.int32, device=where.device)
        for j in range(k):
            rows[:, j] = slot[added + offsets[j]]
        near = torch.cat([near, rows])
        if first > self.FIRST:  # an older neighbour sees the new cell in the opposite direction
            for j in range(k):
                older = (rows[:, j] >= self.FIRST) & (rows[:, j] < first)
                near[rows[:, j][older].long(), k - 1 - j] = slots[older]
        return near

    def drive(self, image: Tensor, where: Tensor, shape: list[int], precision: torch.dtype) -> Tensor:
        """The image's share of the hidden layer at these positions, (len(where), hidden)."""
        offsets = self.offsets(shape, where.device)
        out = torch.empty([where.size(0), self.hidden], dtype=precision, device=where.device)
        for first in range(0, where.size(0), self.CHUNK_CUDA):
            around = where[first : first + self.CHUNK_CUDA].unsqueeze(1) + offsets
            patch = image[:, around.clamp_min_(0)].permute(1, 2, 0).flatten(1)  # (m, k · C)
            out[first : first + self.CHUNK_CUDA] = torch.addmm(self.w_bias, patch, self.w_image)
        return out

    def any_near(self, flags: Tensor, near: Tensor) -> Tensor:
        """Whether a slot or one of its neighbours is flagged: the alive rule's maximum over N⁺."""
        return flags.to(torch.uint8).index_select(0, near.flatten()).view(near.shape).amax(1) > 0

    def dilate(self, positions: Tensor, slot: Tensor, shape: list[int]) -> Tensor:
        """(P,) bool: these positions and their neighbours, inside the image."""
        wanted = torch.zeros_like(slot, dtype=torch.bool)
        offsets = self.offsets(shape, positions.device)
        for j in range(offsets.size(0)):
            wanted[positions + offsets[j]] = True
        return wanted & (slot != self.OUTSIDE)

    def offsets(self, shape: list[int], device: torch.device) -> Tensor:
        """(k,) int64: from a padded position to its neighbours, in the order of a convolution kernel."""
        out = torch.zeros([1], dtype=torch.int64, device=device)
        stride = 1
        for axis in range(self.dims):
            reach = torch.arange(-1, 2, device=device) * stride
            out = (reach.unsqueeze(1) + out.unsqueeze(0)).flatten()
            stride *= shape[self.dims - axis] + 2
        return out

    def unpad(self, where: Tensor, shape: list[int]) -> Tensor:
        """Padded positions -> flat indices into (B, *S)."""
        out, rest, stride = torch.zeros_like(where), where, 1
        for axis in range(self.dims):
            size = shape[self.dims - axis]
            out += (rest % (size + 2) - 1) * stride
            rest = rest.div(size + 2, rounding_mode="floor")
            stride *= size
        return out + rest * stride


def compile(net: RNCA, *, bfloat16: bool = False) -> torch.jit.ScriptModule:
    """The fast form of a network: `fast(image, mask, steps)` has the signature and values of `net.eval()(…)`.

    Step by step: `cells = fast.start(image, mask)`; `cells = fast.step(cells)`; `fast.dense(cells, 1)`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is how models ship (design, contract 1)
        fast = torch.jit.script(Engine(net).eval())
    fast.low_precision = bfloat16
    return fast


def definition(fast: torch.jit.ScriptModule) -> RNCA:
    """The readable network inside a compiled or loaded module: to look at, train on or compile again."""
    weights = {
        name.removeprefix("definition__").replace("__", "."): tensor.detach().cpu().clone()
        for name, tensor in fast.named_buffers()
        if name.startswith("definition__")
    }
    net = RNCA(
        dims=fast.dims,
        image_channels=fast.image_channels,
        state_channels=fast.state_channels,
        filters=weights["perceive_state.weight"].shape[0] // fast.state_channels,
        hidden=fast.hidden,
        alive_threshold=fast.threshold,
        skip=fast.skip,
    )
    net.load_state_dict(weights)
    return net
