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
    image: Tensor  # (P, C) padded guiding image
    slot: Tensor  # (P,) int32: the slot of each position
    where: Tensor  # (n,) int64: the position of each slot
    near: Tensor  # (n, k) int32: the slots of each slot's neighbours
    drive: list[Tensor]  # (m, hidden) each, n rows in all: the image's share of the hidden layer, in chunks
    state: Tensor  # (n, K) float32
    above: Tensor  # (n,) bool: exceeds α
    crowd: Tensor  # (n,) int32: how many of its neighbours, itself among them, exceed α
    alive: Tensor  # (n,) bool: crowd is not zero
    shown: Tensor  # (n,) bool: its visible value exceeds 0.5, so the binary mask has it
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
    CHUNK: Final[int] = 4096  # cells a product on a CPU in float32: its operands stay in the L2 cache
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
        cells = self.start(image, mask, None)
        for _ in range(steps):
            cells = self.step(cells, False)
        return self.dense(cells, 1)

    @torch.jit.export
    def start(self, image: Tensor, mask: Tensor, low_precision: bool | None = None) -> Cells:
        """The cells before the first step; mask (B, 1, *S): bool, integer or float in 0..1.

        `low_precision` makes the products of this rollout in bfloat16; default as the module was compiled.
        """
        if image.dim() != self.dims + 2 or mask.dim() != self.dims + 2:
            raise ValueError("image and mask must be (B, C, *S) and (B, 1, *S) with the model's number of axes")
        if image.size(1) != self.image_channels or mask.size(1) != 1:
            raise ValueError("the image's or the mask's number of channels is not the model's")
        if image.size(0) != mask.size(0) or image.shape[2:] != mask.shape[2:]:
            raise ValueError("image and mask differ in batch size or shape")
        low = self.low_precision if low_precision is None else low_precision
        shape = [int(size) for size in mask.shape[:1] + mask.shape[2:]]
        values = F.pad(mask, [1, 1] * self.dims).flatten()
        live = values if mask.dtype == torch.bool else values > self.threshold
        crowd = self.crowds(live, shape)
        needed = crowd
        if mask.is_floating_point():
            # A soft value that does not live is still seen by its alive neighbours in the first step.
            lives = crowd > 0
            needed = lives | ((values != 0) & (self.crowds(lives, shape) > 0))
        wanted = needed.nonzero().flatten()
        zeros = torch.zeros([self.FIRST], dtype=torch.int64, device=mask.device)
        where = torch.cat([zeros - self.offsets(shape, mask.device)[0], wanted])  # of the first two: any inside
        none = torch.zeros([self.FIRST, self.neighbours], dtype=torch.int32, device=mask.device)
        image = F.pad(image, [1, 1] * self.dims).movedim(1, -1).flatten(0, -2)
        no_drive = torch.zeros([self.FIRST, self.hidden], device=mask.device)
        drive = [no_drive.to(torch.bfloat16 if low else torch.float32)]
        slot = torch.full(live.shape, self.MISSING, dtype=torch.int32, device=mask.device)
        self.fill_border(slot, shape, self.OUTSIDE)
        near = self.link(slot, where, none, shape, image, drive)
        state = torch.zeros([where.size(0), self.state_channels], device=mask.device)
        state[self.FIRST :, 0] = values.index_select(0, wanted).to(torch.float32)
        above = state[:, 0] > self.threshold
        count = crowd.index_select(0, where).to(torch.int32)
        count[: self.FIRST] = 0
        shown = state[:, 0] > 0.5
        return Cells(shape, image, slot, where, near, drive, state, above, count, count > 0, shown, above, where[:0])

    @torch.jit.export
    def step(self, cells: Cells, stochastic: bool = False) -> Cells:
        """One update. With `stochastic`, cells skip it as in training (torch's global random generator)."""
        new = self.update(cells, stochastic)
        visible = new[:, 0].contiguous()  # read once: a column of rows costs a cache line a value
        above = (visible > self.threshold) & cells.alive
        where, near, drive, before, spread = cells.where, cells.near, cells.drive, cells.above, cells.spread
        count = cells.crowd
        fresh = (above & ~spread).nonzero().flatten()
        if fresh.size(0) > 0:
            added = self.missing_near(where.index_select(0, fresh), cells.slot, cells.shape)
            where = torch.cat([where, added])
            drive = drive[:]
            near = self.link(cells.slot, where, near, cells.shape, cells.image, drive)
            rows = [0, added.size(0)]
            above, before, count = F.pad(above, rows), F.pad(before, rows), F.pad(count, rows)
            spread = F.pad(spread.index_fill(0, fresh, 1), rows)
        count = self.recount(count, above, before, near)
        alive = count.to(torch.bool)  # much faster than a comparison
        known = new.size(0)
        stays = cells.alive & alive[:known]
        dead = (~stays).nonzero().flatten()
        new.index_fill_(0, dead, 0)
        shown = (visible > 0.5) & stays
        flipped = (shown != cells.shown).nonzero().flatten()
        changed = self.unpad(where.index_select(0, flipped), cells.shape)
        if where.size(0) > known:
            rows = [0, where.size(0) - known]
            new, shown = F.pad(new, [0, 0] + rows), F.pad(shown, rows)
        after = Cells(
            cells.shape, cells.image, cells.slot, where, near, drive, new, above, count, alive, shown, spread, changed
        )
        if dead.size(0) > 0.15 * known + self.CHUNK:
            return self.compact(after)
        return after

    @torch.jit.export
    def dense(self, cells: Cells, channels: int) -> Tensor:
        """The first channels of the state, (B, channels, *S) float32; channel 0 is the visible mask."""
        count = 1
        for size in cells.shape:
            count *= size
        out = torch.zeros([count, channels], device=cells.state.device)
        out[self.unpad(cells.where[self.FIRST :], cells.shape)] = cells.state[self.FIRST :, :channels]
        return out.view(cells.shape + [channels]).movedim(-1, 1)

    def update(self, cells: Cells, stochastic: bool) -> Tensor:
        """s + f(g(s, x)) of all slots, (n, K): the paper's equations 1 and 2, folded. Of use where a slot is alive."""
        precision = cells.drive[0].dtype
        table, w_state, w_delta = cells.state.to(precision), self.w_state.to(precision), self.w_delta.to(precision)
        out = torch.empty_like(cells.state)
        size = cells.drive[0].size(0)
        # one memory for all chunks: fresh pages would cost a good part of a product
        around = torch.empty([size * self.neighbours, self.state_channels], dtype=precision, device=table.device)
        hidden = torch.empty([size, self.hidden], dtype=precision, device=table.device)
        # ReLU works on the numbers' bits, read as integers: they have the same signs. In bfloat16 it takes a sixth of
        # the time, as nothing is converted. (TorchScript has no other operator for such a view.)
        bits = torch.int16 if precision == torch.bfloat16 else torch.int32
        signed = torch.ops.inductor._alloc_from_pool(hidden, 0, bits, hidden.shape, [self.hidden, 1])
        first = 0
        for drive in cells.drive:
            rows = drive.size(0)
            if rows < size:
                size = rows
                around, hidden, signed = around[: rows * self.neighbours], hidden[:rows], signed[:rows]
            torch.index_select(table, 0, cells.near[first : first + rows].flatten(), out=around)
            torch.addmm(drive, around.view(rows, -1), w_state, out=hidden)
            signed.relu_()
            change = torch.mm(hidden, w_delta) + self.w_delta_bias  # float32
            if stochastic:
                change *= (torch.rand([rows, 1], device=out.device) >= self.skip) / (1 - self.skip)
            torch.add(cells.state[first : first + rows], change, out=out[first : first + rows])
            first += rows
        return out

    def recount(self, count: Tensor, above: Tensor, before: Tensor, near: Tensor) -> Tensor:
        """Neighbours above α, from what they were and the cells that came to be above it or ceased to."""
        moved = (above != before).nonzero().flatten()
        change = above.index_select(0, moved).to(torch.int32) * 2 - 1
        around = near.index_select(0, moved).flatten()
        count = count.index_add(0, around, change.repeat_interleave(self.neighbours))
        count[: self.FIRST] = 0
        return count

    def compact(self, cells: Cells) -> Cells:
        """Without the slots of cells that are no longer alive: their state is zero, and nobody near is above α."""
        keep = cells.alive.clone()
        keep[: self.FIRST] = True
        rows = keep.nonzero().flatten()
        number = torch.full_like(cells.crowd, self.MISSING)
        number[rows] = torch.arange(rows.size(0), dtype=torch.int32, device=rows.device)
        slot, where = cells.slot, cells.where.index_select(0, rows)
        slot[cells.where[~keep]] = self.MISSING
        slot[where[self.FIRST :]] = number[rows[self.FIRST :]]
        drive: list[Tensor] = []
        first = 0
        for block in cells.drive:
            self.append(drive, block[keep[first : first + block.size(0)]])
            first += block.size(0)
        above = cells.above.index_select(0, rows)
        near = cells.near.index_select(0, rows)
        return Cells(
            cells.shape,
            cells.image,
            slot,
            where,
            number.index_select(0, near.flatten()).view(near.shape),
            drive,
            cells.state.index_select(0, rows),
            above,
            cells.crowd.index_select(0, rows),
            cells.alive.index_select(0, rows),
            cells.shown.index_select(0, rows),
            above,  # of the others, neighbours may be gone
            cells.changed,
        )

    def missing_near(self, where: Tensor, slot: Tensor, shape: list[int]) -> Tensor:
        """The positions next to these that have no slot yet, each once."""
        around = (where.unsqueeze(1) + self.offsets(shape, where.device)).flatten()
        return torch.unique(around[slot[around] == self.MISSING])

    def link(
        self, slot: Tensor, where: Tensor, near: Tensor, shape: list[int], image: Tensor, drive: list[Tensor]
    ) -> Tensor:
        """Give the positions that have no row in `near` yet a slot; `near` with their rows, and `drive` gets theirs."""
        offsets = self.offsets(shape, where.device)
        old, k = near.size(0), offsets.size(0)
        slots = torch.arange(old, where.size(0), dtype=torch.int32, device=where.device)
        added = where[old:]
        slot[added] = slots
        out = torch.empty([where.size(0), k], dtype=torch.int32, device=where.device)
        out[:old] = near
        chunk = self.chunk(drive[0])
        buffer = torch.empty([min(chunk, added.size(0)), k], dtype=torch.int64, device=where.device)
        driven = torch.empty([added.size(0), self.hidden], dtype=drive[0].dtype, device=where.device)
        for first in range(0, added.size(0), chunk):
            places = added[first : first + chunk]
            last = first + places.size(0)
            torch.add(places.unsqueeze(1), offsets, out=buffer[: places.size(0)])
            around = buffer[: places.size(0)].flatten()
            out[old + first : old + last] = slot.index_select(0, around).view(-1, k)
            # (a row at a time is slow for rows of one number)
            patch = image.flatten() if self.image_channels == 1 else image
            patch = patch.index_select(0, around).view(places.size(0), -1)
            if driven.dtype == torch.float32:
                torch.addmm(self.w_bias, patch, self.w_image, out=driven[first:last])
            else:
                driven[first:last] = torch.addmm(self.w_bias, patch, self.w_image)
        self.append(drive, driven)
        if old > self.FIRST:  # an older neighbour sees the new cell in the opposite direction
            seen = out[old:]
            pairs = ((seen >= self.FIRST) & (seen < old)).flatten().nonzero().flatten()
            place = seen.flatten().index_select(0, pairs).long() * k + (k - 1 - pairs % k)
            out.view(-1)[place] = slots[pairs.div(k, rounding_mode="floor")]
        return out

    def chunk(self, drive: Tensor) -> int:
        """Cells a product: as many bytes in both precisions."""
        return self.CHUNK_CUDA if drive.is_cuda else self.CHUNK * 4 // drive.element_size()

    def append(self, drive: list[Tensor], rows: Tensor) -> None:
        """Append rows to a list of chunks: all but the last are full."""
        chunk = self.chunk(rows)
        first = 0
        if len(drive) > 0 and drive[-1].size(0) < chunk:
            first = chunk - drive[-1].size(0)
            drive.append(torch.cat([drive.pop(), rows[:first]]))
        for start in range(first, rows.size(0), chunk):
            drive.append(rows[start : start + chunk])

    def crowds(self, cells: Tensor, shape: list[int]) -> Tensor:
        """(P,) bool -> (P,) uint8: how many of a position's neighbours, itself among them, are set; 0 outside."""
        total = cells.to(torch.uint8)
        line = torch.empty_like(total)
        stride = 1
        for axis in range(self.dims):
            line.copy_(total)
            line[stride:] += total[:-stride]
            line[:-stride] += total[stride:]
            total, line = line, total
            stride *= shape[self.dims - axis] + 2
        self.fill_border(total, shape, 0)
        return total

    def fill_border(self, positions: Tensor, shape: list[int], value: int) -> None:
        """Set all positions outside the image; positions (P,)."""
        grid = positions.view(shape[:1] + [size + 2 for size in shape[1:]])
        for axis in range(1, len(shape)):
            grid.narrow(axis, 0, 1).fill_(value)
            grid.narrow(axis, shape[axis] + 1, 1).fill_(value)

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
