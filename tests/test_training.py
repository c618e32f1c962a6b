"""Training: it learns, it goes on where it stopped, and nothing that goes wrong on the way ruins what it has."""

import csv
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import discs
from rnca import training
from rnca.automaton import RNCA
from rnca.cases import Case, Starts
from rnca.errors import InputError
from rnca.metrics import dice
from rnca.training import Progress, Settings, Trainer, net_from, read_checkpoint, settings_from, train

CHUNKS = Starts(kinds=("chunks",), soft=0.3)
TINY = Settings(
    iterations=150,
    pool=32,
    patch=16,
    first=(6, 10),
    between=(2, 4),
    moments=2,
    learning_rate=3e-3,
    precision="float32",
    starts=CHUNKS,
)
SHORT = replace(TINY, iterations=12, batch=3, pool=8, patch=8, first=(3, 5), between=(1, 2))


def disc_cases(count: int, seed: int = 0, size: int = 16) -> list[Case]:
    """Discs, bright on dark, with noise."""
    random, cases = np.random.default_rng(seed), []
    for number in range(count):
        label = discs((size, size), (random.uniform(0.3, 0.7, 2) * size, random.uniform(0.2, 0.3) * size))
        image = 0.8 * label + 0.1 * random.random(label.shape)
        cases.append(Case(f"disc_{number}", image[None].astype(np.float32), label))
    return cases


def new_net(seed: int = 0, **options: Any) -> RNCA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RNCA(state_channels=6, hidden=16, **options)


def new_trainer(settings: Settings = SHORT, cases: list[Case] | None = None) -> Trainer:
    return Trainer(new_net(), disc_cases(5, size=12) if cases is None else cases, settings)


def weights(net: RNCA) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in net.state_dict().items()}


def assert_same_weights(a: RNCA, b: RNCA) -> None:
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]), name


# It learns


@pytest.fixture(scope="module")
def learned() -> tuple[RNCA, list[float]]:
    """A small network trained to close what is missing from discs, and its losses."""
    trainer = new_trainer(TINY, disc_cases(12))
    losses = [trainer.step() for _ in range(TINY.iterations)]
    return trainer.net.eval(), losses


def test_loss_falls_to_a_third_within_150_iterations(learned: tuple[RNCA, list[float]]) -> None:
    losses = learned[1]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 3


@pytest.mark.parametrize("steps", [20, 60])
@pytest.mark.parametrize("soft", [0.0, 1.0], ids=["binary", "soft"])
def test_a_trained_network_repairs_discs_it_has_not_seen(
    learned: tuple[RNCA, list[float]], steps: int, soft: float
) -> None:
    random, before, after = np.random.default_rng(1), [], []
    for case in disc_cases(20, seed=99):
        start = replace(CHUNKS, clean=0, soft=soft).draw(case.label, [], random)
        image, mask = torch.from_numpy(case.image)[None], torch.from_numpy(start)[None, None]
        with torch.no_grad():
            out = learned[0](image, mask, steps)[0, 0].numpy() > 0.5
        before.append(dice(start > 0.5, case.label))
        after.append(dice(out, case.label))
    assert np.mean(before) < 0.85
    assert np.mean(after) > 0.97


def test_the_same_seed_trains_the_same_weights_and_another_one_others() -> None:
    nets = []
    for seed in (1, 1, 2):
        trainer = new_trainer(replace(SHORT, seed=seed))
        for _ in range(4):
            trainer.step()
        nets.append(trainer.net)
    assert_same_weights(nets[0], nets[1])
    assert not torch.equal(nets[0].delta.weight, nets[2].delta.weight)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_weight_is_trained(dims: int, precision: str) -> None:
    label = discs((10,) * dims, ((5,) * dims, 3))
    cases = [Case(str(n), np.random.default_rng(n).random((2, *label.shape), np.float32), label) for n in range(3)]
    net = RNCA(dims, 2, state_channels=4, hidden=8)
    before = weights(net)
    trainer = Trainer(net, cases, replace(SHORT, precision=precision, weight_decay=0.0))
    for _ in range(3):  # the last layer starts at zero: what is before it learns from the second iteration on
        trainer.step()
    for name, weight in trainer.net.state_dict().items():
        assert weight.dtype == torch.float32
        assert weight.isfinite().all()
        assert not torch.equal(weight, before[name]), name


def test_without_cases_there_is_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="no training cases"):
        Trainer(new_net(), [], SHORT)


# One iteration


def test_an_iteration_unrolls_a_batch_with_fresh_states_to_late_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, seen = new_trainer(replace(SHORT, moments=3)), []
    refreshed: list[int] = []
    refresh = trainer.pool.refresh

    def spy_refresh(row: int, random: np.random.Generator) -> None:
        refreshed.append(row)
        refresh(row, random)

    def spy_rollout(net: RNCA, image: torch.Tensor, state: torch.Tensor, moments: Any, **options: Any) -> Any:
        out = rollout(net, image, state, moments, **options)
        seen.append((image, state, moments, out[1]))
        return out

    rollout = training.rollout
    monkeypatch.setattr(training, "rollout", spy_rollout)
    monkeypatch.setattr(trainer.pool, "refresh", spy_refresh)
    firsts, gaps = set(), set()
    for _ in range(60):
        before = trainer.pool.state.clone()
        refreshed.clear()
        trainer.step()
        image, state, moments, last = seen[-1]
        assert len(image) == len(state) == SHORT.batch
        assert len(moments) == 3
        firsts.add(moments[0])
        gaps |= set(np.diff(moments))
        assert len(set(refreshed)) == SHORT.fresh
        # A row is found by its image; what was unrolled is what the pool now holds, and the rest is as it was.
        rows = [int((trainer.pool.image == one).flatten(1).all(1).nonzero()[0]) for one in image]
        assert len(set(rows)) == SHORT.batch
        assert set(refreshed) <= set(rows)
        for n, row in enumerate(rows):
            assert torch.equal(trainer.pool.state[row], last[n])
            if row in refreshed:
                assert not state[n, 1:].any()
            else:
                assert torch.equal(state[n], before[row])
        others = [row for row in range(SHORT.pool) if row not in rows]
        assert torch.equal(trainer.pool.state[others], before[others])
    assert firsts == {3, 4, 5}
    assert gaps == {1, 2}


def test_loss_is_the_squared_error_summed_over_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, seen = new_trainer(), []

    def spy(net: RNCA, image: torch.Tensor, *rest: Any, **options: Any) -> Any:
        out = rollout(net, image, *rest, **options)
        rows = [int((trainer.pool.image == one).flatten(1).all(1).nonzero()[0]) for one in image]
        seen.append(sum(((v - trainer.pool.target[rows]) ** 2).mean().item() for v in out[0]))
        return out

    rollout = training.rollout
    monkeypatch.setattr(training, "rollout", spy)
    losses = [trainer.step() for _ in range(5)]
    assert losses == pytest.approx(seen, rel=1e-6)


def test_wrong_pixels_weigh_more_where_the_loss_is_focused() -> None:
    # An untrained network changes nothing: all that is wrong after the rollout was wrong before it.
    settings = replace(SHORT, starts=Starts(kinds=("chunks",), clean=0, soft=0), seed=3)
    plain, focused = (new_trainer(replace(settings, focus=focus)).step() for focus in (0.0, 3.0))
    assert plain > 0
    assert focused == pytest.approx(4 * plain, rel=1e-5)


def test_right_pixels_weigh_more_towards_the_end_where_they_are_held() -> None:
    # An untrained network changes nothing: what is right stays right, and costs only what a soft start leaves there.
    softly = replace(SHORT, starts=Starts(clean=1, soft=1), seed=3)
    plain, held = (new_trainer(replace(softly, hold=hold)) for hold in (0.0, 3.0))
    assert held.step() == pytest.approx(plain.step(), rel=1e-6)  # an iteration's weight is that of its beginning
    plain, held = (new_trainer(replace(softly, hold=hold)) for hold in (0.0, 3.0))
    plain.iteration = held.iteration = softly.iterations
    assert 1.5 * (before := plain.step()) < held.step() < 4 * before  # but for what softening took across 0.5
    binary = replace(SHORT, starts=Starts(kinds=("chunks",), clean=0, soft=0), seed=3)
    plain, held = (new_trainer(replace(binary, hold=hold)) for hold in (0.0, 3.0))
    plain.iteration = held.iteration = binary.iterations
    assert held.step() == pytest.approx(plain.step(), rel=1e-5)  # what was wrong is all there is


def test_what_is_wrong_beyond_the_outline_is_found() -> None:
    target = np.zeros((16, 16), bool)
    target[4:12, 2:14] = True
    mask = target.copy()
    mask[4, 2:14] = False  # the outline, one pixel too far in
    mask[12, 5:8] = True  # and too far out
    mask[7, 5] = False  # a hole
    mask[5:12, 10] = False  # a gap
    mask[1, 1] = True  # a speck
    wrong = mask != target
    expected = np.zeros_like(mask)
    expected[7, 5] = expected[1, 1] = True
    expected[5:12, 10] = True
    found = training.off_outline(*(torch.from_numpy(m)[None, None] for m in (mask, target)))[0, 0].numpy()
    assert not (found & ~wrong).any()
    assert np.array_equal(found[6:, :], expected[6:, :])
    assert found[1, 1] and not found[4, 3:9].any() and not found[12, 5:8].any()


def test_nothing_is_wrong_beyond_the_outline_of_a_mask_that_is_right() -> None:
    label = torch.from_numpy(discs((9, 9, 9), ((4, 4, 4), 3)))[None, None]
    assert not training.off_outline(label, label).any()
    assert training.off_outline(torch.zeros_like(label), label).sum() == label.sum()  # all of it is missing


def test_errors_beyond_the_outline_weigh_more_where_topology_counts() -> None:
    settings = replace(SHORT, starts=Starts(kinds=("islands",), clean=0, soft=0), seed=3)
    plain, weighed = (new_trainer(replace(settings, topology=t)).step() for t in (0.0, 3.0))
    assert 1.2 * plain < weighed <= 4 * plain * (1 + 1e-5)


def test_the_pool_weighs_cases_by_the_square_root_of_their_size() -> None:
    sizes = [4, 16, 100]
    cases = []
    for number, size in enumerate(sizes):
        label = np.zeros((10, 10), bool)
        label.flat[:size] = True
        cases.append(Case(str(number), np.full((1, 10, 10), 10.0 * number, np.float32), label))
    pool = training.Pool(cases, new_net(), replace(SHORT, pool=600, patch=8), np.random.default_rng(0))
    drawn = np.rint(pool.image.flatten(1).max(1).values.numpy() / 10.0)  # gain 0.8 to 1.25
    shares = np.array([(drawn == 0).mean(), (drawn == 1).mean(), (drawn >= 2).mean()])
    expected = np.sqrt(sizes) / np.sqrt(sizes).sum()
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)).all()


def test_a_new_pool_holds_starting_states_with_latents_at_zero() -> None:
    trainer = new_trainer()
    pool = trainer.pool
    assert not pool.state[:, 1:].any()
    assert pool.state[:, 0].flatten(1).any(1).all()
    assert ((pool.state >= 0) & (pool.state <= 1)).all()
    assert len(pool.state) == len(pool.image) == len(pool.target) == SHORT.pool
    assert pool.target.flatten(1).any(1).all()


def test_learning_rate_falls_along_half_a_cosine() -> None:
    trainer, used = new_trainer(replace(SHORT, iterations=10, last_rate=0.1)), []
    for _ in range(10):
        expected = trainer.learning_rate()
        trainer.step()
        used.append(trainer.optimizer.param_groups[0]["lr"])
        assert used[-1] == expected
    assert used[0] == 3e-3
    assert used[5] == pytest.approx((3e-3 + 3e-4) / 2)
    assert used == sorted(used, reverse=True)
    assert trainer.learning_rate() == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("precision", "abilities", "expected"),
    [
        ("auto", {}, torch.float32),
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("float32", {"amx_bf16": True}, torch.float32),
        ("bfloat16", {}, torch.bfloat16),
    ],
)
def test_precision_is_what_the_processor_does_fast_unless_given(
    precision: str, abilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert Settings(precision=precision).dtype(torch.device("cpu")) == expected


def test_settings_come_back_from_json() -> None:
    settings = replace(SHORT, first=(1, 2), starts=Starts(kinds=("gaps", "thin"), severity=(0.2, 0.3)))
    stored = json.loads(json.dumps(asdict(settings)))
    assert settings_from(stored | {"of_another_version": 1}) == settings


# What goes wrong


def test_a_loss_that_is_not_finite_leaves_weights_and_pool_in_order() -> None:
    cases = disc_cases(4, size=12)
    cases[0].image[0, 6, 6] = np.nan
    trainer = new_trainer(replace(SHORT, pool=12), cases)
    finite, infinite = 0, 0
    for _ in range(30):
        before, moments = weights(trainer.net), trainer.optimizer.state_dict()["state"].get(0, {})
        moments = {k: torch.as_tensor(v).clone() for k, v in moments.items()}
        loss = trainer.step()
        assert trainer.pool.state.isfinite().all()
        if np.isfinite(loss):
            finite += 1
            assert not torch.equal(trainer.net.delta.bias, before["delta.bias"])
        else:
            infinite += 1
            assert all(torch.equal(weight, before[name]) for name, weight in trainer.net.state_dict().items())
            after = trainer.optimizer.state_dict()["state"].get(0, {})
            assert all(torch.equal(torch.as_tensor(after[k]), v) for k, v in moments.items())
    assert min(finite, infinite) > 3
    assert all(weight.isfinite().all() for weight in trainer.net.parameters())


def test_a_gradient_that_is_not_finite_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = new_trainer()
    trainer.step()
    before = weights(trainer.net)

    def steep(net: RNCA, *arguments: Any, **options: Any) -> Any:
        visible, last = rollout(net, *arguments, **options)
        return [visible[0] + (net.hidden.bias.sum() * 0).sqrt(), *visible[1:]], last  # value 0, slope infinite

    rollout = training.rollout
    monkeypatch.setattr(training, "rollout", steep)
    assert np.isfinite(trainer.step())
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.net.state_dict().items())


def test_a_batch_of_dead_states_moves_no_weight_and_does_not_stop_the_training() -> None:
    trainer = new_trainer(replace(SHORT, fresh=0, weight_decay=0.0))
    trainer.pool.state.zero_()
    before = weights(trainer.net)
    assert trainer.step() > 0
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.net.state_dict().items())
    trainer.settings = SHORT
    trainer.step()
    assert not torch.equal(trainer.net.delta.bias, before["delta.bias"])


# Checkpoints


class Interrupted(Exception):
    """As Ctrl-C, or a crash."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_in_the_same_bits_as_one_that_was_not_interrupted(precision: str, tmp_path: Path) -> None:
    settings, cases = replace(SHORT, precision=precision), disc_cases(5, size=12)
    whole = train(new_trainer(settings, cases), tmp_path / "whole")

    def stop(trainer: Trainer) -> None:
        if trainer.iteration == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(new_trainer(settings, cases), tmp_path / "halves", checkpoint_every=5, on_checkpoint=stop)
    torch.manual_seed(1234)  # another process
    resumed = Trainer.resume(tmp_path / "halves" / "checkpoint.npz", cases)
    assert resumed.iteration == 5
    assert resumed.settings == settings
    halves = train(resumed, tmp_path / "halves", checkpoint_every=5)
    assert_same_weights(whole, halves)
    assert not whole.training
    _, first = read_checkpoint(tmp_path / "whole" / "checkpoint.npz")
    _, second = read_checkpoint(tmp_path / "halves" / "checkpoint.npz")
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_a_checkpoint_before_the_first_iteration_can_be_resumed(tmp_path: Path) -> None:
    trainer, cases = new_trainer(), disc_cases(5, size=12)
    trainer.save(tmp_path / "start.npz")
    resumed = Trainer.resume(tmp_path / "start.npz", cases)
    random = torch.get_rng_state()
    expected = trainer.step()
    torch.set_rng_state(random)
    assert resumed.step() == expected


def test_a_finished_run_can_be_prolonged(tmp_path: Path) -> None:
    cases = disc_cases(5, size=12)
    train(new_trainer(SHORT, cases), tmp_path)
    trainer = Trainer.resume(tmp_path / "checkpoint.npz", cases, iterations=15)
    assert (trainer.iteration, trainer.settings.iterations) == (12, 15)
    train(trainer, tmp_path)
    assert read_checkpoint(tmp_path / "checkpoint.npz")[0]["iteration"] == 15


def test_the_network_of_a_checkpoint_is_the_trained_one(tmp_path: Path) -> None:
    net = new_net(skip=0.25, alive_threshold=0.2)
    trainer = Trainer(net, disc_cases(5, size=12), SHORT)
    trainer.step()
    trainer.save(tmp_path / "c.npz")
    found = net_from(*read_checkpoint(tmp_path / "c.npz"))
    assert found.config == net.config
    assert_same_weights(found, net)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint after two iterations."""
    trainer = new_trainer()
    for _ in range(2):
        trainer.step()
    path = tmp_path_factory.mktemp("run") / "checkpoint.npz"
    trainer.save(path)
    return path.read_bytes()


def test_a_checkpoint_holds_plain_arrays_and_no_pickle(checkpoint: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(checkpoint)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                assert np.lib.format.read_magic(entry) <= (3, 0)
                entry.seek(0)
                assert np.lib.format.read_array(entry, allow_pickle=False).dtype.kind in "fiu", name


def refusal(path: Path) -> str:
    messages = []
    for read in (read_checkpoint, lambda path: Trainer.resume(path, disc_cases(5, size=12))):
        with pytest.raises(InputError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert str(path) in messages[0]
    return messages[0]


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.npz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_checkpoint_is_refused(share: float, checkpoint: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(checkpoint[: int(len(checkpoint) * share)])
    refusal(path)


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_unharmed(checkpoint: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(checkpoint)
    about, arrays = read_checkpoint(path)
    random, refused = np.random.default_rng(0), 0
    places = [*random.integers(len(checkpoint) * 0.9, len(checkpoint), 150), *random.integers(len(checkpoint), size=50)]
    for place in places:  # most of them in the archive's directory
        data = bytearray(checkpoint)
        data[place] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            found = read_checkpoint(path)
        except InputError:
            refused += 1
            continue
        assert found[0] == about
        assert found[1].keys() == arrays.keys()
        assert all(np.array_equal(found[1][name], array) for name, array in arrays.items())
    assert refused > 50


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "torch"])
def test_a_pickle_is_refused_without_being_unpickled(kind: str, tmp_path: Path) -> None:
    path, payload = tmp_path / "c.npz", Payload(tmp_path / "harm")
    boxed = np.array([payload], dtype=object)
    with path.open("wb") as stream:
        if kind == "npz":
            np.savez(stream, about=boxed)
        elif kind == "npy":
            np.save(stream, boxed)
        elif kind == "pickle":
            pickle.dump(payload, stream)
        else:
            torch.save(payload, stream)
    refusal(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("kind", ["text", "other arrays", "one array", "no json"])
def test_something_else_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    with path.open("wb") as stream:
        if kind == "text":
            stream.write(b"iteration,loss\n")
        elif kind == "other arrays":
            np.savez(stream, weights=np.zeros(3))
        elif kind == "one array":
            np.save(stream, np.zeros(3))
        else:
            np.savez(stream, about=np.frombuffer(b"{oops", np.uint8))
    refusal(path)


def test_an_interrupted_save_leaves_the_last_checkpoint(
    checkpoint: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(checkpoint)

    def interrupted(stream: Any, **arrays: Any) -> None:
        stream.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new_trainer().save(path)
    assert path.read_bytes() == checkpoint
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


# The loop


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_log_has_a_line_for_every_report_and_listeners_are_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 5)
    reports: list[Progress] = []
    trainer, losses = new_trainer(), []
    step = trainer.step
    monkeypatch.setattr(trainer, "step", lambda: losses.append(step()) or losses[-1])
    train(trainer, tmp_path, on_progress=reports.append)
    rows = read_log(tmp_path)
    assert list(rows[0]) == ["iteration", "loss", "learning_rate", "seconds"]
    assert [int(row["iteration"]) for row in rows] == [5, 10, 12]
    expected = [np.mean(part) for part in (losses[:5], losses[5:10], losses[10:])]
    assert [float(row["loss"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert [report.iteration for report in reports] == [5, 10, 12]
    assert [report.loss for report in reports] == pytest.approx(expected)
    assert all(float(row["learning_rate"]) > 0 and float(row["seconds"]) > 0 for row in rows)


def test_the_log_of_a_resumed_run_has_each_iteration_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    cases = disc_cases(5, size=12)

    def stop(report: Progress) -> None:
        if report.iteration == 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(new_trainer(SHORT, cases), tmp_path, checkpoint_every=4, on_progress=stop)
    assert [int(row["iteration"]) for row in read_log(tmp_path)] == [2, 4, 6, 8]
    train(Trainer.resume(tmp_path / "checkpoint.npz", cases), tmp_path, checkpoint_every=4)
    assert [int(row["iteration"]) for row in read_log(tmp_path)] == [2, 4, 6, 8, 10, 12]


def test_going_back_to_an_earlier_checkpoint_takes_the_log_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    cases, kept = disc_cases(5, size=12), {}

    def keep(trainer: Trainer) -> None:
        kept[trainer.iteration] = (tmp_path / "checkpoint.npz").read_bytes()

    train(new_trainer(SHORT, cases), tmp_path, checkpoint_every=4, on_checkpoint=keep)
    (tmp_path / "checkpoint.npz").write_bytes(kept[4])
    train(Trainer.resume(tmp_path / "checkpoint.npz", cases), tmp_path)
    assert [int(row["iteration"]) for row in read_log(tmp_path)] == [2, 4, 6, 8, 10, 12]


def test_a_new_run_does_not_continue_an_old_log(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("iteration,loss,learning_rate,seconds\n1,1,1,1\n")
    train(new_trainer(), tmp_path)
    assert [int(row["iteration"]) for row in read_log(tmp_path)] == [12]


def test_listeners_hear_of_every_checkpoint_after_it_is_written(tmp_path: Path) -> None:
    heard = []

    def listen(trainer: Trainer) -> None:
        heard.append((trainer.iteration, read_checkpoint(tmp_path / "run" / "checkpoint.npz")[0]["iteration"]))

    train(new_trainer(), tmp_path / "run", checkpoint_every=5, on_checkpoint=listen)
    assert heard == [(5, 5), (10, 10), (12, 12)]
