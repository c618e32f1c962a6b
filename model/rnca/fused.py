"""Training's fast path on a GPU: the rollout of `gradients.py` and its gradient as fused Triton kernels.

Alive-only work written as PyTorch operations leaves a GPU idle: every step asks how many cells act, and waits for the
answer. Here the number stays on the GPU. A step lists the cells that act; a program takes a tile of them and keeps
neighbourhoods and hidden layer in registers; only the states are stored. As in `gradients.py` the backward pass
recomputes the hidden layer, and what a cell gets is gathered from the neighbours that saw it. Products take bfloat16
(or float32) and add in float32; sums are always made in the same order.

Which cells skip their update is drawn inside (Philox, from one seed a rollout). `tests/test_fused.py` holds values and
gradients to `gradients.py`. Triton comes with PyTorch's CUDA builds.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .automaton import RNCA
from .engine import fold

TILE = 32
"""Cells a program works on at a time. With 64, Triton 3.6 multiplies by warp groups (wgmma), and its product with the
16 columns of the last layer reads shared memory beyond its end (compute-sanitizer, on an H200)."""

PROGRAMS = 264
"""Programs of the backward pass, two for each multiprocessor of an H100; each has its own sums of gradients."""

STAGES = 1
"""Loads are not made ahead of a loop's turn: the order of loads and stores stays as it is written."""


@triton.jit
def _offset(k, line, plane, NEAR: tl.constexpr):
    """How many rows after a cell its neighbour k comes; in the order of a convolution kernel."""
    rows = (k // 3 % 3 - 1) * line + k % 3 - 1
    if NEAR == 27:
        rows += (k // 9 - 1) * plane
    return rows


@triton.jit
def _hidden(
    table,
    rows,
    inside,
    line,
    plane,
    patches,
    w_state,
    w_image,
    count,
    NEAR: tl.constexpr,
    K: tl.constexpr,
    PATCH: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """The hidden layer (TILE, HIDDEN) of these rows, before its ReLU."""
    kind = w_state.dtype.element_ty
    channel, unit, column = tl.arange(0, K), tl.arange(0, HIDDEN), tl.arange(0, PATCH)
    image = tl.load(patches + rows[:, None] * PATCH + column[None, :], mask=inside[:, None], other=0.0)
    to_hidden = tl.load(w_image + column[:, None] * HIDDEN + unit[None, :])
    found = tl.dot(image, to_hidden, input_precision="ieee")
    for k in range(NEAR):
        at = rows + _offset(k, line, plane, NEAR)
        there = inside & (at >= 0) & (at < count)
        around = tl.load(table + at[:, None] * K + channel[None, :], mask=there[:, None], other=0.0).to(kind)
        weights = tl.load(w_state + (k * K + channel[:, None]) * HIDDEN + unit[None, :])
        found = tl.dot(around, weights, found, input_precision="ieee")
    return found


@triton.jit
def _list(acting, order, rows_acting, count, TILE: tl.constexpr):
    """The rows that act, in order; `order` (P,) counts them up to and with each row."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = rows < count
    acts = inside & (tl.load(acting + rows, mask=inside, other=0) > 0)
    tl.store(rows_acting + tl.load(order + rows, mask=inside, other=1) - 1, rows, mask=acts)


@triton.jit
def _advance(
    table,
    rows_acting,
    order,
    line,
    plane,
    patches,
    w_state,
    w_image,
    w_delta,
    bias,
    new,
    skip,
    count,
    NEAR: tl.constexpr,
    K: tl.constexpr,
    PATCH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
):
    """Adds the update of the cells that act; the alive rule comes after (`_settle`), as it needs the neighbours'."""
    acting = tl.load(order + count - 1)
    first = tl.program_id(0) * TILE
    if first < acting:
        slots = first + tl.arange(0, TILE)
        inside = slots < acting
        rows = tl.load(rows_acting + slots, mask=inside, other=0)
        channel, unit = tl.arange(0, K), tl.arange(0, HIDDEN)
        hidden = _hidden(table, rows, inside, line, plane, patches, w_state, w_image, count, NEAR, K, PATCH, HIDDEN)
        hidden = tl.maximum(hidden, 0.0).to(w_state.dtype.element_ty)
        weights = tl.load(w_delta + unit[:, None] * K + channel[None, :])
        update = tl.dot(hidden, weights, input_precision="ieee") + tl.load(bias + channel)[None, :]
        place = rows[:, None] * K + channel[None, :]
        state = tl.load(table + place, mask=inside[:, None], other=0.0)
        tl.store(new + place, state + update / (1 - skip), mask=inside[:, None])


@triton.jit(do_not_specialize=["seed"])
def _settle(
    new,
    before,
    within,
    line,
    plane,
    table,
    kept,
    living,
    acting,
    threshold,
    seed,
    skip,
    count,
    NEAR: tl.constexpr,
    K: tl.constexpr,
    TILE: tl.constexpr,
):
    """The alive rule after an update: who lives next, who keeps its state, the state; and who acts next."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, K)
    inside = rows < count
    highest = tl.zeros([TILE], tl.float32)
    for k in range(NEAR):
        at = rows + _offset(k, line, plane, NEAR)
        there = (at >= 0) & (at < count)
        highest = tl.maximum(highest, tl.load(new + at * K, mask=there, other=0.0))
    lives = (highest > threshold) & (tl.load(within + rows, mask=inside, other=0) > 0)
    keeps = lives & (tl.load(before + rows, mask=inside, other=0) > 0)
    tl.store(living + rows, lives.to(tl.uint8), mask=inside)
    tl.store(kept + rows, keeps.to(tl.uint8), mask=inside)
    tl.store(acting + rows, (lives & (tl.rand(seed, rows) >= skip)).to(tl.uint8), mask=inside)
    place = rows[:, None] * K + channel[None, :]
    state = tl.load(new + place, mask=inside[:, None] & keeps[:, None], other=0.0)
    tl.store(table + place, state, mask=inside[:, None])


@triton.jit
def _add(place, value):
    tl.store(place, tl.load(place) + value)


@triton.jit
def _backward(
    table,
    rows_acting,
    order,
    kept,
    d_table,
    line,
    plane,
    patches,
    w_state,
    w_image,
    w_delta,
    d_around,
    sums_state,
    sums_image,
    sums_delta,
    sums_bias,
    skip,
    count,
    NEAR: tl.constexpr,
    K: tl.constexpr,
    PATCH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
):
    """Gradients of the weights, and for each acting cell that of what it saw (`d_around`)."""
    program = tl.program_id(0)
    acting = tl.load(order + count - 1)
    kind = w_state.dtype.element_ty
    channel, unit, column = tl.arange(0, K), tl.arange(0, HIDDEN), tl.arange(0, PATCH)
    for tile in range(program, tl.cdiv(acting, TILE), tl.num_programs(0)):
        slots = tile * TILE + tl.arange(0, TILE)
        inside = slots < acting
        rows = tl.load(rows_acting + slots, mask=inside, other=0)
        keeps = inside & (tl.load(kept + rows, mask=inside, other=0) > 0)
        place = rows[:, None] * K + channel[None, :]
        d_update = tl.load(d_table + place, mask=keeps[:, None], other=0.0) / (1 - skip)
        hidden = _hidden(table, rows, inside, line, plane, patches, w_state, w_image, count, NEAR, K, PATCH, HIDDEN)
        to_delta = tl.load(w_delta + unit[:, None] * K + channel[None, :])
        d_hidden = tl.dot(d_update.to(kind), tl.trans(to_delta), input_precision="ieee")
        d_hidden = tl.where(hidden > 0, d_hidden, 0.0).to(kind)
        active = tl.maximum(hidden, 0.0).to(kind)

        _add(sums_bias + program * K + channel, tl.sum(d_update, 0))
        of_delta = tl.dot(tl.trans(active), d_update.to(kind), input_precision="ieee")
        _add(sums_delta + (program * HIDDEN + unit[:, None]) * K + channel[None, :], of_delta)
        image = tl.load(patches + rows[:, None] * PATCH + column[None, :], mask=inside[:, None], other=0.0)
        of_image = tl.dot(tl.trans(image), d_hidden, input_precision="ieee")
        _add(sums_image + (program * PATCH + column[:, None]) * HIDDEN + unit[None, :], of_image)
        for k in range(NEAR):
            at = rows + _offset(k, line, plane, NEAR)
            there = inside & (at >= 0) & (at < count)
            around = tl.load(table + at[:, None] * K + channel[None, :], mask=there[:, None], other=0.0).to(kind)
            of_state = tl.dot(tl.trans(around), d_hidden, input_precision="ieee")
            weight = k * K + channel[:, None]
            _add(sums_state + (program * NEAR * K + weight) * HIDDEN + unit[None, :], of_state)
            weights = tl.load(w_state + weight * HIDDEN + unit[None, :])
            given = tl.dot(d_hidden, tl.trans(weights), input_precision="ieee").to(kind)
            tl.store(d_around + (slots[:, None] * NEAR + k) * K + channel[None, :], given, mask=inside[:, None])


@triton.jit
def _gather(
    d_table,
    d_around,
    acting,
    order,
    kept,
    line,
    plane,
    d_earlier,
    count,
    NEAR: tl.constexpr,
    K: tl.constexpr,
    TILE: tl.constexpr,
):
    """What each cell gets: from its own state a step later, and from each acting neighbour that saw it."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, K)
    inside = rows < count
    stays = inside & (tl.load(kept + rows, mask=inside, other=0) > 0)
    place = rows[:, None] * K + channel[None, :]
    found = tl.load(d_table + place, mask=stays[:, None], other=0.0)
    for k in range(NEAR):
        at = rows - _offset(k, line, plane, NEAR)
        there = (at >= 0) & (at < count)
        saw = there & (tl.load(acting + at, mask=there, other=0) > 0)
        slot = tl.load(order + at, mask=saw, other=1) - 1
        given = tl.load(d_around + (slot[:, None] * NEAR + k) * K + channel[None, :], mask=saw[:, None], other=0.0)
        found += given.to(tl.float32)
    tl.store(d_earlier + place, found, mask=inside[:, None])


class FusedRollout(torch.autograd.Function):
    """As `gradients.AliveRollout`, with two strides in place of the table of neighbours."""

    @staticmethod
    def forward(
        ctx: Any,
        w_state: Tensor,  # (k · K, hidden)
        w_image: Tensor,  # (p, hidden): k · C rows, the bias, rows of zeros
        w_delta: Tensor,  # (hidden, K)
        delta_bias: Tensor,  # (K,)
        patches: Tensor,  # (P, p): the image around each position, 1, zeros
        table: Tensor,  # (P, K)
        strides: tuple[int, int],  # rows from a line to the next, from a plane to the next (2-D: 0)
        within: Tensor,  # (P,) uint8: 0 for the rim
        moments: tuple[int, ...],
        skip: float,
        threshold: float,
        precision: torch.dtype,
    ) -> tuple[Tensor, ...]:
        count, channels = table.shape
        sizes = {"NEAR": w_state.shape[0] // channels, "K": channels, "TILE": TILE, "num_stages": STAGES}
        wide = {**sizes, "PATCH": patches.shape[1], "HIDDEN": w_delta.shape[0]}
        grid = (triton.cdiv(count, TILE),)
        weights = [w.detach().to(precision).contiguous() for w in (w_state, w_image, w_delta)]
        bias, patches = delta_bias.detach().contiguous(), patches.to(precision)
        seed = int(torch.randint(1 << 30, ())) if skip > 0 else 0
        table = table.contiguous()
        outputs = []
        living, kept, acting = (torch.empty_like(within) for _ in range(3))
        new, everyone = torch.empty_like(table), torch.ones_like(within)
        _settle[grid](
            table, everyone, within, *strides, new, kept, living, acting, threshold, seed, skip, count, **sizes
        )
        ctx.steps = []
        for step in range(1, moments[-1] + 1):
            before, acted = living, acting
            order = acted.cumsum(0, dtype=torch.int32)
            rows = torch.empty_like(order)
            _list[grid](acted, order, rows, count, TILE=TILE)
            new.copy_(table)
            _advance[grid](table, rows, order, *strides, patches, *weights, bias, new, skip, count, **wide)
            earlier, table = table, torch.empty_like(new)
            living, kept, acting = (torch.empty_like(within) for _ in range(3))
            _settle[grid](
                new, before, within, *strides, table, kept, living, acting, threshold, seed + step, skip, count, **sizes
            )
            ctx.steps.append((earlier, rows, order, acted, kept))
            if step in moments:
                outputs.append(table[:, 0].clone())
        ctx.save_for_backward(*weights, patches)
        ctx.moments, ctx.strides, ctx.skip, ctx.wide, ctx.sizes = moments, strides, skip, wide, sizes
        ctx.mark_non_differentiable(table)
        return (*outputs, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *weights, patches = ctx.saved_tensors
        count, channels = ctx.steps[0][0].shape
        near, (patch, hidden) = weights[0].shape[0] // channels, weights[1].shape
        shapes = ((near * channels, hidden), (patch, hidden), (hidden, channels), (channels,))
        sums = [torch.zeros([PROGRAMS, *shape], device=patches.device) for shape in shapes]
        d_around = torch.empty([count, near * channels], device=patches.device, dtype=weights[0].dtype)
        d_table, d_earlier = (torch.zeros_like(ctx.steps[0][0]) for _ in range(2))
        at = dict(zip(ctx.moments, grads, strict=False))
        for step in range(ctx.moments[-1], 0, -1):
            if step in at:
                d_table[:, 0] += at[step]
            table, rows, order, acted, kept = ctx.steps[step - 1]
            _backward[(PROGRAMS,)](
                table,
                rows,
                order,
                kept,
                d_table,
                *ctx.strides,
                patches,
                *weights,
                d_around,
                *sums,
                ctx.skip,
                count,
                **ctx.wide,
            )
            if step > 1:
                _gather[(triton.cdiv(count, TILE),)](
                    d_table, d_around, acted, order, kept, *ctx.strides, d_earlier, count, **ctx.sizes
                )
                d_table, d_earlier = d_earlier, d_table
        return *(s.sum(0) for s in sums), *[None] * 8


def fused_rollout(
    net: RNCA, image: Tensor, state: Tensor, moments: tuple[int, ...], precision: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """`gradients.rollout` by these kernels; K and the hidden width are powers of two, 16 or more."""
    batch, channels, *shape = state.shape
    frame = [1, 1] * len(shape)
    padded = [size + 2 for size in shape]
    offsets = [0]
    for size in padded:
        offsets = [size * a + b for a in offsets for b in (-1, 0, 1)]
    flat = F.pad(image, frame).movedim(1, -1).reshape(-1, image.shape[1])
    seen = [flat.roll(-offset, 0) for offset in offsets]  # what comes in from the other end is seen by the rim alone
    width = max(16, 1 << (len(offsets) * image.shape[1]).bit_length())
    spare = width - len(offsets) * image.shape[1] - 1
    patches = torch.cat([*seen, flat.new_ones(len(flat), 1), flat.new_zeros(len(flat), spare)], 1)
    folded = fold(net)
    *visible, last = FusedRollout.apply(
        folded.state,
        F.pad(torch.cat([folded.image, folded.bias[None]]), [0, 0, 0, spare]),
        folded.delta,
        folded.delta_bias,
        patches,
        F.pad(state, frame).movedim(1, -1).reshape(-1, channels).detach(),
        (padded[-1], padded[-1] * padded[-2] if len(shape) == 3 else 0),
        F.pad(torch.ones([batch, *shape], dtype=torch.uint8, device=state.device), frame).flatten(),
        moments,
        net.skip if net.training else 0.0,
        net.alive_threshold,
        precision,
    )
    inner = (slice(None), *[slice(1, -1)] * len(shape))

    def unpad(column: Tensor) -> Tensor:
        return column.view(batch, *padded, -1)[inner].movedim(-1, 1)

    return [unpad(v) for v in visible], unpad(last)
