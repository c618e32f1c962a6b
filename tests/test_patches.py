"""Patches drawn ahead by worker processes: the same patches, whoever draws them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import discs
from rnca.cases import Case, Starts
from rnca.patches import TOGETHER, Patch, Patches, PatchesAhead
from rnca.training import Settings, draw_ahead, patches_of

SIZE, STARTS = (12, 12), Starts(("chunks",))


def cases() -> list[Case]:
    labels = [discs((20, 20), ((10, 10), radius)) for radius in (3, 6)]
    return [Case(str(n), label[None].astype(np.float32), label) for n, label in enumerate(labels)]


def drawn(workers: int, seed: int, count: int) -> list[Patch]:
    ignored = np.random.default_rng()
    with PatchesAhead(Patches(cases(), SIZE, STARTS), workers=workers, seed=seed) as patches:
        return [patches.draw(ignored) for _ in range(count)]


def same(one: list[Patch], other: list[Patch]) -> bool:
    return all(np.array_equal(a, b) for p, q in zip(one, other, strict=True) for a, b in zip(p, q, strict=True))


def test_patches_do_not_depend_on_the_number_of_workers() -> None:
    count = 3 * TOGETHER + 1
    one = drawn(1, 5, count)
    assert same(one, drawn(2, 5, count))
    assert not same(one, drawn(1, 6, count))
    assert len({image.tobytes() for image, _, _ in one}) == count


def test_workers_draw_what_this_process_would() -> None:
    generator = np.random.default_rng((5, 0))
    here = Patches(cases(), SIZE, STARTS)
    assert same([here.draw(generator) for _ in range(TOGETHER)], drawn(1, 5, TOGETHER))


@pytest.mark.parametrize("changed", [{"noise": 0.5}, {"zoom": (1.5, 2.0)}, {"neighbours": 1.0}])
def test_what_a_run_is_set_to_changes_its_patches_here_and_in_workers(changed: dict[str, Any]) -> None:
    plain = Settings(patch=SIZE[0], noise=0, starts=STARTS)
    made = []
    for settings in (plain, replace(plain, **changed)):
        generator = np.random.default_rng((0, 0))
        here = patches_of(cases(), 2, settings)
        with draw_ahead(cases(), 2, settings, workers=1) as ahead:
            made.append([here.draw(generator) for _ in range(TOGETHER)])
            assert same(made[-1], [ahead.draw(generator) for _ in range(TOGETHER)])
    assert not same(*made)


def test_an_error_in_a_worker_is_told() -> None:
    broken = PatchesAhead(Patches(cases(), SIZE, Starts(("no such damage",), clean=0)), workers=1)
    with broken, pytest.raises(Exception, match="no such damage"):
        broken.draw(np.random.default_rng())
