"""Training's fast path: a rollout on alive cells and its exact gradient, by recomputation.

Backpropagation through T dense steps stores T feature volumes. Here a step stores only the rows of the cells
that were alive, and only those that do not skip their update are computed; the backward pass puts the rows
back into the table, gathers the neighbourhoods again and recomputes the hidden layer. The derivative of "gather
the neighbours" is again a gather: what a cell gets is the sum over its neighbours' gradients for the place it
has in their neighbourhoods (an embedding bag).
`tests/test_gradients.py` proves values and gradients equal to the definition's in float64.

Unlike the engine, every position of the (small) training patch has a row, so no table ever grows. Row 0 is
a corner of the rim, outside the image: what is computed for it fills products up to a round number of rows.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .automaton import RNCA
from .engine import fold

ROUND = 256
"""Products have a multiple of this many rows: for each new number oneDNN would prepare a kernel, which takes longer
than the product itself."""


def neighbour_table(batch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(P, k) int64: the rows of each row's neighbours, P = batch · prod(S + 2) padded positions, k = 3^dims.

    Rows of the rim are outside the image; they are never alive, and what their entries say is never used.
    """
    padded = [size + 2 for size in shape]
    offsets = torch.zeros(1, dtype=torch.int64, device=device)
    stride = 1
    for size in reversed(padded):
        offsets = (torch.arange(-1, 2, device=device)[:, None] * stride + offsets).flatten()
        stride *= size
    rows = torch.arange(batch * stride, device=device)
    return (rows[:, None] + offsets).clamp_(0, batch * stride - 1)


class AliveRollout(torch.autograd.Function):
    """Rollout of a padded table (P, K); returns the visible column after each moment, and the last table."""

    @staticmethod
    def forward(
        ctx: Any,
        w_state: Tensor,  # (k · K, hidden)
        w_image: Tensor,  # (k · C + 1, hidden), the last row is the bias
        w_delta: Tensor,  # (hidden, K)
        delta_bias: Tensor,  # (K,)
        patches: Tensor,  # (P, k · C + 1): the image around each position, and 1
        table: Tensor,  # (P, K)
        near: Tensor,  # (P, k)
        grid: tuple[int, ...],  # B, *(S + 2)
        moments: tuple[int, ...],
        skip: float,
        threshold: float,
        precision: torch.dtype,
    ) -> tuple[Tensor, ...]:
        pool = F.max_pool2d if len(grid) == 3 else F.max_pool3d
        inside = F.pad(
            torch.ones([grid[0], 1, *(s - 2 for s in grid[1:])], device=table.device), [1, 1] * (len(grid) - 1)
        )

        def alive(visible: Tensor) -> Tensor:
            """(P,) bool; the rim of each sample stays dead."""
            return ((pool(visible.view(grid[0], 1, *grid[1:]), 3, 1, 1) > threshold) & (inside > 0)).flatten()

        ctx.table, ctx.near, ctx.moments, ctx.steps = table, near, moments, []
        ctx.precision, ctx.skip = precision, skip
        patches = ctx.patches = patches.to(precision)
        ctx.save_for_backward(w_state, w_image, w_delta)
        weights = [w.to(precision) for w in (w_state, w_image, w_delta)]
        outputs = []
        living = alive(table[:, 0])
        table = table.clone()
        for step in range(1, moments[-1] + 1):
            rows = living.nonzero().flatten()
            acting = _draw_acting(len(rows), skip, table)
            _, hidden = hidden_layer(table, _round_up(rows[acting]), near, patches, weights)
            update = ((hidden @ weights[2])[: len(acting)].to(table.dtype) + delta_bias) / (1 - skip)
            new = table[rows].index_add_(0, acting, update)
            visible = torch.zeros_like(table[:, 0]).index_copy_(0, rows, new[:, 0])
            living = alive(visible)
            kept = living[rows, None]
            new *= kept
            if step == 1:
                table.zero_()  # soft values that did not live; later, all that is not zero is in `rows`
            table.index_copy_(0, rows, new)
            ctx.steps.append((rows, acting, new, kept))
            if step in moments:
                outputs.append(table[:, 0].clone())
        ctx.mark_non_differentiable(table)
        return (*outputs, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        w_state, w_image, w_delta = ctx.saved_tensors
        weights = [w.to(ctx.precision) for w in (w_state, w_image, w_delta)]
        near, k, dtype = ctx.near, ctx.near.shape[1], ctx.table.dtype
        d_state, d_image, d_delta = (torch.zeros_like(w) for w in (w_state, w_image, w_delta))
        d_bias = torch.zeros_like(w_delta[0])
        at = dict(zip(ctx.moments, grads, strict=False))
        place = torch.empty(len(near), dtype=torch.int64, device=near.device)
        corner = torch.arange(k, device=near.device)
        most = max(len(acting) for _, acting, *_ in ctx.steps)
        d_around = torch.empty([most + ROUND, len(w_state)], device=near.device, dtype=ctx.precision)
        table = torch.zeros_like(ctx.table)
        d_rows = torch.zeros_like(ctx.steps[-1][2])
        for step in range(len(ctx.steps), 0, -1):
            rows, acting, _, kept = ctx.steps[step - 1]
            if step in at:
                d_rows[:, 0] += at[step][rows]
            d_rows = d_rows * kept
            d_update = d_rows[acting] / (1 - ctx.skip)

            table.index_fill_(0, rows, 0)
            if step > 1:
                earlier, _, before, _ = ctx.steps[step - 2]
                table.index_copy_(0, earlier, before)
            else:
                table = ctx.table
            sites = _round_up(rows[acting])
            around, hidden = hidden_layer(table, sites, near, ctx.patches, weights)
            d_update_low = F.pad(d_update.to(ctx.precision), [0, 0, 0, len(sites) - len(acting)])
            d_bias += d_update.sum(0)
            d_delta += hidden.t() @ d_update_low
            d_hidden = torch.ops.aten.threshold_backward(d_update_low @ weights[2].t(), hidden, 0)
            d_state += around.t() @ d_hidden
            d_image += ctx.patches[sites].t() @ d_hidden

            if step > 1:  # gradient of the rows that the step before wrote
                torch.mm(d_hidden, weights[0].t(), out=d_around[: len(sites)])
                d_around[len(acting)] = 0  # what a cell that did not update passes on
                place.fill_(len(acting))
                place[rows[acting]] = torch.arange(len(acting), device=rows.device)
                # earlier cell q is neighbour j of the cell at q's neighbour k - 1 - j
                seen_by = place[near[earlier].flip(1)] * k + corner
                d_earlier = F.embedding_bag(seen_by, d_around.view(-1, table.shape[1]), mode="sum").to(dtype)
                place.fill_(len(rows))
                place[rows] = torch.arange(len(rows), device=rows.device)
                d_rows = d_earlier + F.pad(d_rows, [0, 0, 0, 1])[place[earlier]]
        return d_state, d_image, d_delta, d_bias, *[None] * 8


def _draw_acting(count: int, skip: float, like: Tensor) -> Tensor:
    """Which of `count` alive cells do not skip their update (A.1); the others need no work, here and backwards."""
    if skip == 0:
        return torch.arange(count, device=like.device)
    return (torch.rand([count], device=like.device, dtype=like.dtype) >= skip).nonzero().flatten()


def _round_up(rows: Tensor) -> Tensor:
    """These rows and as many times row 0 as make their number a multiple of `ROUND`."""
    return F.pad(rows, [0, -len(rows) % ROUND])


def hidden_layer(
    table: Tensor, rows: Tensor, near: Tensor, patches: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The neighbourhoods (n, k · K) of these rows and their hidden layer (n, hidden), in the weights' precision."""
    precision = weights[0].dtype
    around = table.to(precision).index_select(0, near.index_select(0, rows).flatten()).view(len(rows), len(weights[0]))
    hidden = (patches.index_select(0, rows) @ weights[1]).addmm_(around, weights[0]).relu_()
    return around, hidden


def rollout(
    net: RNCA,
    image: Tensor,
    state: Tensor,
    moments: tuple[int, ...],
    *,
    precision: torch.dtype | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Differentiable rollout: the visible channel at some moments, and the last state.

    Args:
        net: the definition; in training mode updates are skipped as it does.
        image: (B, C, *S); no gradient is taken with respect to it.
        state: (B, K, *S) initial state; no gradient is taken with respect to it.
        moments: increasing numbers of updates, at least 1, after which the visible channel is returned.
        precision: dtype of the matrix products, e.g. torch.bfloat16; default the state's.

    Returns:
        The visible channels, (B, 1, *S) each, with gradients to the net's weights, and the detached last
        state (B, K, *S).
    """
    if state.is_cuda and _fits_fused(net, precision or state.dtype):
        from .fused import fused_rollout

        return fused_rollout(net, image, state, moments, precision or state.dtype)
    batch, channels, *shape = state.shape
    frame = [1, 1] * len(shape)
    near = neighbour_table(batch, tuple(shape), state.device)
    padded = F.pad(image, frame).movedim(1, -1).reshape(-1, image.shape[1])  # (P, C)
    patches = F.pad(padded[near].flatten(1), [0, 1], value=1.0)
    table = F.pad(state, frame).movedim(1, -1).reshape(-1, channels)
    grid = (batch, *(size + 2 for size in shape))
    folded = fold(net)
    *visible, last = AliveRollout.apply(
        folded.state,
        torch.cat([folded.image, folded.bias[None]]),
        folded.delta,
        folded.delta_bias,
        patches,
        table.detach(),
        near,
        grid,
        moments,
        net.skip if net.training else 0.0,
        net.alive_threshold,
        precision or state.dtype,
    )
    inner = (slice(None), *[slice(1, -1)] * len(shape))

    def unpad(column: Tensor) -> Tensor:
        return column.view(*grid, -1)[inner].movedim(-1, 1)

    return [unpad(v) for v in visible], unpad(last)


def _fits_fused(net: RNCA, precision: torch.dtype) -> bool:
    """Whether the kernels of `fused.py` take this network: Triton is there, and its tiles need powers of two."""
    sizes = (net.state_channels, net.hidden_width)
    return (
        precision in (torch.float32, torch.bfloat16)
        and all(size >= 16 and size & (size - 1) == 0 for size in sizes)
        and find_spec("triton") is not None
    )
