"""The fast path: equal to the definition cell by cell, the same bits every time, at home without the project's code."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import MARGIN, discs, filler, random_net, trajectory
from rnca import compile
from rnca.automaton import RNCA
from rnca.engine import Engine, definition
from rnca.metrics import dice

both_dims = pytest.mark.parametrize("dims", [2, 3])
SHAPES = {2: (13, 11), 3: (6, 7, 5)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_mask(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """(B, 1, *S) float32."""
    values = noise(*shape, seed=seed)
    if kind == "sparse":
        return (values < 0.05).float()
    if kind == "dense":
        return (values < 0.6).float()
    if kind == "soft":
        return values**4
    if kind == "faint":  # most values below the alive threshold, none exactly zero
        return values**12
    out = torch.zeros(shape)
    if kind == "corner":  # touches a border along every axis
        out[(..., *[0] * (len(shape) - 2))] = 1
        out[(..., *[-1] * (len(shape) - 2))] = 1
    elif kind == "one sample only":
        out[0] = (values[0] < 0.2).float()
    elif kind == "full":
        out[:] = 1
    else:
        assert kind == "empty"
    return out


KINDS = ["sparse", "dense", "soft", "faint", "corner", "one sample only", "full", "empty"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[RNCA, Tensor, Tensor]:
    """A random network with an image and a mask for it."""
    dims = draw(st.sampled_from([2, 3]))
    batch, channels, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 10_000))
    shape = draw(st.tuples(*[st.integers(1, 17 if dims == 2 else 7)] * dims))
    net = random_net(
        seed,
        dims,
        channels,
        state_channels=draw(st.integers(1, 6)),
        filters=draw(st.sampled_from([None, 1, 6])),
        alive_threshold=draw(st.sampled_from([0.1, 0.1, 0.25])),
    )
    mask = make_mask(draw(st.sampled_from(KINDS)), (batch, 1, *shape), seed)
    return net, 2 * noise(batch, channels, *shape, seed=seed) - 0.5, mask


@given(problems())
@settings(max_examples=60)
def test_equals_the_definition_at_every_step_on_every_channel(problem: tuple[RNCA, Tensor, Tensor]) -> None:
    net, image, mask = problem
    states, nearest = trajectory(net, image, mask, 64)
    assume(nearest > MARGIN and max(s.abs().max() for s in states) < 10)
    fast = compile(net)
    cells = fast.start(image, mask)
    for step, state in enumerate(states):
        if step:
            cells = fast.step(cells)
            binary, before = state[:, 0] > 0.5, states[step - 1][:, 0] > 0.5
            flipped = (binary != before).flatten().nonzero().flatten()
            assert torch.equal(cells.changed.sort().values, flipped), "`changed` is not what flipped"
        if step in (1, 2, 3, 64):
            dense = fast.dense(cells, net.state_channels)
            torch.testing.assert_close(dense, state, atol=1e-5, rtol=0)
            assert torch.equal(dense[:, 0] > 0.5, state[:, 0] > 0.5)
    assert torch.equal(fast(image, mask, 64), fast.dense(cells, 1)), "stepping is not forward"


@both_dims
def test_equals_the_definition_at_the_default_width(dims: int) -> None:
    net = random_net(5, dims, state_channels=16, hidden=128)
    image, mask = noise(1, 1, *SHAPES[dims]), make_mask("sparse", (1, 1, *SHAPES[dims]), 0)
    states, nearest = trajectory(net, image, mask, 64)
    assert nearest > MARGIN, "choose another example"
    fast = compile(net)
    cells = fast.start(image, mask)
    for _ in range(64):
        cells = fast.step(cells)
    torch.testing.assert_close(fast.dense(cells, 16), states[-1], atol=1e-5, rtol=0)
    assert torch.equal(fast.dense(cells, 1) > 0.5, states[-1][:, :1] > 0.5)
    assert (states[-1][:, 0] > 0.5).sum() > 0


@both_dims
def test_more_cells_than_fit_one_chunk_equal_the_definition(dims: int) -> None:
    shape = {2: (90, 95), 3: (20, 21, 22)}[dims]
    assert np.prod(shape) > 2 * Engine.CHUNK
    net, image, mask = random_net(1, dims), noise(1, 1, *shape), make_mask("dense", (1, 1, *shape), 0)
    states, _ = trajectory(net, image, mask, 3)
    torch.testing.assert_close(compile(net)(image, mask, 3), states[-1][:, :1], atol=1e-5, rtol=0)


def test_a_start_of_exactly_the_threshold_is_dead() -> None:
    fast = compile(RNCA())
    threshold = np.float32(0.1)
    for value, lives in ((threshold, 0), (np.nextafter(threshold, np.float32(1)), 1)):
        mask = torch.zeros(1, 1, 5, 5)
        mask[0, 0, 2, 2] = float(value)
        assert (fast(torch.zeros_like(mask), mask, 1) != 0).sum() == lives


@both_dims
def test_empty_mask_stays_empty(dims: int) -> None:
    shape = (2, 1, *SHAPES[dims])
    fast = compile(random_net(0, dims))
    cells = fast.start(noise(*shape), torch.zeros(shape))
    for _ in range(5):
        cells = fast.step(cells)
        assert len(cells.changed) == 0
    assert not fast.dense(cells, 4).any()


def test_no_steps_give_the_mask_back() -> None:
    mask = make_mask("dense", (2, 1, 9, 8), 0)
    assert torch.equal(compile(random_net(0))(noise(2, 1, 9, 8), mask, 0), mask)


# The same bits


@both_dims
def test_same_input_gives_the_same_bits_on_every_call_of_one_module(dims: int) -> None:
    """TorchScript specialises on the shapes and types it has seen, so every call may run other code."""
    fast = compile(random_net(2, dims))
    shape = (2, 1, *SHAPES[dims])
    image, mask = noise(*shape), make_mask("soft", shape, 1)
    other = tuple(n + 2 for n in SHAPES[dims])
    first = fast(image, mask, 20)
    for round in range(6):
        fast(noise(1, 1, *other), make_mask(KINDS[round], (1, 1, *other), round), 5)
        fast(image, mask > 0.5, 3)
        assert torch.equal(fast(image, mask, 20), first)
    assert torch.equal(compile(random_net(2, dims))(image, mask, 20), first)


@both_dims
def test_inference_mode_and_its_absence_give_the_same_bits(dims: int) -> None:
    shape = (1, 1, *SHAPES[dims])
    fast, image, mask = compile(random_net(3, dims)), noise(*shape), make_mask("sparse", shape, 1)
    first = fast(image, mask, 20)
    with torch.inference_mode():
        assert torch.equal(fast(image, mask, 20), first)


@both_dims
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float64])
def test_masks_of_every_type_give_the_bits_of_the_float_one(dims: int, dtype: torch.dtype) -> None:
    shape = (1, 1, *SHAPES[dims])
    fast, image, mask = compile(random_net(4, dims)), noise(*shape), make_mask("dense", shape, 1)
    out = fast(image, mask.to(dtype), 12)
    assert out.dtype == torch.float32
    assert torch.equal(out, fast(image, mask, 12))


@both_dims
def test_inputs_are_not_written_to(dims: int) -> None:
    shape = (2, 1, *SHAPES[dims])
    image, mask = noise(*shape), make_mask("soft", shape, 1)
    copies = image.clone(), mask.clone()
    compile(random_net(5, dims))(image, mask, 5)
    assert torch.equal(image, copies[0])
    assert torch.equal(mask, copies[1])


@both_dims
def test_views_that_are_not_contiguous_are_read_right(dims: int) -> None:
    shape = (2, 1, *[7] * dims)
    fast, image, mask = compile(random_net(6, dims)), noise(*shape), make_mask("dense", shape, 1)
    turned = fast(image.transpose(-1, -2), mask.transpose(-1, -2), 6)
    assert torch.equal(turned, fast(image.transpose(-1, -2).contiguous(), mask.transpose(-1, -2).contiguous(), 6))


# Saved and loaded

ALONE = """
import sys
sys.modules["rnca"] = None  # importing the project now fails
import numpy as np, torch
torch.set_num_threads(1)
for dims in "23":
    fast = torch.jit.load(f"{dims}.ts")
    given = np.load(f"{dims}.npz")
    image, mask = torch.from_numpy(given["image"]), torch.from_numpy(given["mask"])
    outputs = [fast(image, mask, 30) for _ in range(3)]
    cells = fast.start(image, mask)
    for _ in range(30):
        cells = fast.step(cells, False)
    outputs.append(fast.dense(cells, 1))
    np.save(f"{dims}.npy", torch.stack(outputs).numpy())
"""


def test_a_saved_module_gives_the_same_bits_in_a_process_without_the_project(tmp_path: Path) -> None:
    expected = {}
    for dims, shape in SHAPES.items():
        fast = compile(random_net(7, dims, image_channels=2))
        image, mask = noise(2, 2, *shape), make_mask("soft", (2, 1, *shape), 3)
        torch.jit.save(fast, tmp_path / f"{dims}.ts")
        np.savez(tmp_path / f"{dims}.npz", image=image.numpy(), mask=mask.numpy())
        expected[dims] = fast(image, mask, 30).numpy()
        assert expected[dims].any()
    subprocess.run([sys.executable, "-I", "-c", ALONE], check=True, cwd=tmp_path)
    for dims in SHAPES:
        for out in np.load(tmp_path / f"{dims}.npy"):
            np.testing.assert_array_equal(out, expected[dims])


def reloaded(fast: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    torch.jit.save(fast, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@both_dims
@pytest.mark.parametrize("through", [lambda fast: fast, reloaded], ids=["compiled", "saved"])
def test_the_definition_comes_back_exactly(dims: int, through: Callable) -> None:
    net = random_net(8, dims, 3, state_channels=5, filters=7, alive_threshold=0.123, skip=0.4)
    back = definition(through(compile(net)))
    assert back.config == net.config
    assert back.state_dict().keys() == net.state_dict().keys()
    for name, weight in net.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight)


def test_a_compiled_module_does_not_follow_later_changes_of_the_network() -> None:
    net, image, mask = random_net(9), noise(1, 1, 9, 9), make_mask("dense", (1, 1, 9, 9), 0)
    fast = compile(net)
    first = fast(image, mask, 5)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1)
    assert torch.equal(fast(image, mask, 5), first)
    assert torch.equal(definition(fast).delta.bias, random_net(9).delta.bias)


# bfloat16


@both_dims
def test_bfloat16_repairs_as_float32_does(dims: int) -> None:
    shape = {2: (60, 70), 3: (18, 22, 20)}[dims]
    blobs = discs(shape, ([s * 0.35 for s in shape], min(shape) * 0.3), ([s * 0.7 for s in shape], min(shape) * 0.25))
    image = torch.from_numpy(blobs).float()[None, None] * 0.8 + 0.3 * noise(1, 1, *shape)
    mask = torch.from_numpy(blobs & (np.indices(shape)[-1] % 9 > 3)).float()[None, None]
    net = filler(dims)
    exact, low = compile(net)(image, mask, 40), compile(net, bfloat16=True)(image, mask, 40)
    assert low.dtype == torch.float32
    assert (
        0 < (low - exact)[exact > 0.5].abs().max() < 0.02
    )  # fainter cells may fall on the other side of the threshold
    assert dice((low > 0.5).numpy()[0, 0], (exact > 0.5).numpy()[0, 0]) >= 0.99
    assert dice((exact > 0.5).numpy()[0, 0], blobs) > 0.95 > dice(mask.numpy()[0, 0] > 0.5, blobs)


@both_dims
def test_more_cells_than_fit_one_chunk_in_bfloat16(dims: int) -> None:
    shape = (1, 1, *{2: (100, 101), 3: (21, 22, 23)}[dims])
    assert np.prod(shape) > 2 * Engine.CHUNK
    image, mask, net = noise(*shape), torch.ones(shape), filler(dims)
    low, exact = compile(net, bfloat16=True)(image, mask, 3), compile(net)(image, mask, 3)
    assert 0 < (low - exact)[exact > 0.5].abs().max() < 0.02


def test_bfloat16_can_be_switched_on_and_off() -> None:
    fast, image, mask = compile(random_net(1)), noise(1, 1, 9, 9), make_mask("dense", (1, 1, 9, 9), 0)
    exact = fast(image, mask, 8)
    fast.low_precision = True
    assert torch.equal(fast(image, mask, 8), compile(random_net(1), bfloat16=True)(image, mask, 8))
    fast.low_precision = False
    assert torch.equal(fast(image, mask, 8), exact)


def test_the_precision_of_a_rollout_can_be_asked_for() -> None:
    image, mask = noise(1, 1, 9, 9), make_mask("dense", (1, 1, 9, 9), 0)
    for compiled in (False, True):
        fast = compile(random_net(1), bfloat16=compiled)
        for asked in (None, False, True):
            cells = fast.start(image, mask, asked)
            for _ in range(8):
                cells = fast.step(cells)
            low = compiled if asked is None else asked
            assert torch.equal(fast.dense(cells, 1), compile(random_net(1), bfloat16=low)(image, mask, 8))


def test_a_mask_that_shrinks_gives_its_slots_back_and_can_grow_again() -> None:
    """The image drives: what is bright fills, what is dark fades; so a block fades, and a line through it stays."""
    shape = (150, 150)
    net, image, mask = filler(), torch.zeros(1, 1, *shape), torch.zeros(1, 1, *shape)
    mask[..., 5:145, 5:145], image[..., 74:77, 2:148] = 1, 1
    fast = compile(net)
    cells, visible = fast.start(image, mask), net.seed(mask)
    rows = len(cells.where)
    features = net.perceive_image(image)
    with torch.no_grad():
        for _ in range(30):
            cells, visible = fast.step(cells), net.step(visible, features)
            torch.testing.assert_close(fast.dense(cells, 2), visible, atol=1e-5, rtol=0)
    assert len(cells.where) < rows / 4
    slots = cells.slot[cells.where[Engine.FIRST :]]
    assert torch.equal(slots, torch.arange(Engine.FIRST, len(cells.where), dtype=torch.int32))
    assert int((cells.slot >= Engine.FIRST).sum()) == len(slots)
    assert sum(len(block) for block in cells.drive) == len(cells.where)


def test_switching_bfloat16_does_not_disturb_a_rollout_under_way() -> None:
    """A server shares one module between requests; each keeps the precision it began with."""
    image, mask = noise(1, 1, 30, 30), make_mask("corner", (1, 1, 30, 30), 0)
    for begun in (False, True):
        fast = compile(filler(), bfloat16=begun)
        expected, cells = fast(image, mask, 12), fast.start(image, mask)
        fast.low_precision = not begun
        for _ in range(12):
            cells = fast.step(cells)
        assert torch.equal(fast.dense(cells, 1), expected)


# Stochastic steps, as training makes them


@both_dims
def test_a_stochastic_step_moves_a_cell_with_all_channels_or_not_at_all(dims: int) -> None:
    shape = {2: (30, 31), 3: (9, 10, 11)}[dims]
    fast = compile(random_net(5, dims, skip=0.3))
    image, mask = noise(1, 1, *shape), torch.ones(1, 1, *shape)
    start = fast.dense(fast.start(image, mask), 4)
    update = fast.dense(fast.step(fast.start(image, mask)), 4) - start
    torch.manual_seed(0)
    made = fast.dense(fast.step(fast.start(image, mask), True), 4) - start
    fires = (made != 0).any(1, keepdim=True)
    torch.testing.assert_close(made, update * fires / 0.7, atol=1e-6, rtol=1e-5)
    assert abs(fires.float().mean().item() - 0.7) < 4 * (0.21 / fires.numel()) ** 0.5
    torch.manual_seed(0)
    assert torch.equal(fast.dense(fast.step(fast.start(image, mask), True), 4) - start, made)


# Memory


class Largest(TorchDispatchMode):
    """Remembers the largest number of elements that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@both_dims
def test_nothing_of_the_size_of_voxels_times_features_is_made(dims: int) -> None:
    shape = {2: (400, 400), 3: (50, 60, 50)}[dims]
    net = random_net(0, dims, state_channels=8, hidden=64)
    mask = torch.zeros(1, 1, *shape)
    mask[(0, 0, *[slice(20, 24)] * dims)] = 1
    padded = int(np.prod([n + 2 for n in shape]))
    with Largest() as largest, torch.no_grad():
        engine = Engine(net)
        cells = engine.start(torch.zeros(1, 1, *shape), mask)
        for _ in range(4):
            cells = engine.step(cells)
        most = 14**dims + Engine.FIRST  # the mask grown by five
        for rows in (cells.where, cells.near, torch.cat(cells.drive), cells.state, cells.alive, cells.spread):
            assert len(rows) <= most
    assert cells.drive[0].shape[1] == 64
    assert padded <= largest.elements < 1.1 * padded  # positions, and nothing larger


@both_dims
def test_faint_values_far_from_the_mask_get_no_rows(dims: int) -> None:
    shape = {2: (60, 70), 3: (20, 21, 22)}[dims]
    mask = 0.09 * noise(1, 1, *shape)
    mask[(0, 0, *[slice(8, 10)] * dims)] = 1
    cells = compile(random_net(0, dims)).start(noise(1, 1, *shape), mask)
    assert len(cells.where) == 6**dims + Engine.FIRST  # the two, their neighbours, and what those see


# Misuse


@pytest.mark.parametrize(
    ("image", "mask", "told"),
    [
        ((1, 1, 5, 5, 5), (1, 1, 5, 5, 5), "number of axes"),
        ((1, 1, 5, 5), (5, 5), "number of axes"),
        ((1, 3, 5, 5), (1, 1, 5, 5), "number of channels"),
        ((1, 1, 5, 5), (1, 2, 5, 5), "number of channels"),
        ((1, 1, 5, 5), (1, 1, 5, 6), "shape"),
        ((2, 1, 5, 5), (1, 1, 5, 5), "batch size"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(image: tuple[int, ...], mask: tuple[int, ...], told: str) -> None:
    with pytest.raises(Exception, match=told):
        compile(random_net(0))(torch.zeros(image), torch.zeros(mask), 1)


# CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@both_dims
def test_equals_the_definition_on_a_gpu(dims: int) -> None:
    allowed, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        for seed in range(4):
            net, shape = random_net(seed, dims), (2, 1, *SHAPES[dims])
            image, mask = noise(*shape, seed=seed), make_mask("sparse", shape, seed)
            states, nearest = trajectory(net, image, mask, 64)
            if nearest < 10 * MARGIN:
                continue
            fast = compile(net).cuda()
            cells = fast.start(image.cuda(), mask.cuda())
            for _ in range(64):
                cells = fast.step(cells)
            dense = fast.dense(cells, 4).cpu()
            torch.testing.assert_close(dense, states[-1], atol=1e-5, rtol=0)
            assert torch.equal(dense[:, 0] > 0.5, states[-1][:, 0] > 0.5)
            assert torch.equal(fast(image.cuda(), mask.cuda(), 64).cpu(), dense[:, :1])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
