"""Table 6: what the automaton needs: python benchmarks/ablation.py --base OUT [--iterations 800] [--variant NAME …]

Trains one small automaton a variant, with `rnca.training` on the train images of OUT/vessels and the U-Net's
out-of-fold predictions of them (benchmarks/segmenters.py), all with the same iterations, and repairs the validation
images from the U-Net's soft predictions, 64 steps. Metrics are means over 64×64 patches, as in benchmarks/vessels.py.

    base                 K = 16 channels, N = 2 fresh states of a batch of 8, T = 64 updates at most
    K = 1, K = 32        state channels
    N = B/2, N = B       fresh states: half of the batch, all of it (no pool)
    T = 16, T = 128      updates; the loss is taken at three moments from T/2 to T
    static               perception of state and image by fixed filters (identity, Sobel, Laplacian)
    perturbed labels     trained on damaged labels (thinned, gaps) in place of predictions

Different from the paper: the hidden layer has 64 units, a run 800 iterations of batch 8 at 48×48, so that all nine take
about an hour on two cores (0.6 CPU-seconds an iteration); evaluated on predictions, where the paper evaluates on
perturbed labels. Every run continues from its last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data import read_cases
from common.refiners import automaton, none
from common.running import guarded, measure, options, say
from common.scores import COUNTS, pool_patches
from common.tables import Row, Rows, aggregate, markdown, versions, write_table
from rnca.automaton import RNCA, initial_filters
from rnca.cases import Case, Starts, load_cases
from rnca.training import Progress, Settings, Trainer, net_from, read_checkpoint, train
from rnca.zoo import Model, as_model
from vessels import PATCH, score, soft

BATCH, PATCH_EDGE = 8, 48
PERTURBED = Starts(kinds=("thin", "gaps"), severity=(0.3, 0.9), given=0.0)


def until(updates: int) -> dict[str, Any]:
    """Settings whose three moments of the loss lie between half of these updates and all of them."""
    half, later = updates // 2, updates // 8
    return {"first": (half, updates - 2 * later), "between": (max(later // 2, 1), later)}


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    channels: int = 16
    settings: dict[str, Any] = field(default_factory=dict)
    static: bool = False


VARIANTS = [
    Variant("base (K = 16, N = 2, T = 64)"),
    Variant("K = 1", channels=1),
    Variant("K = 32", channels=32),
    Variant("N = B/2", settings={"fresh": BATCH // 2}),
    Variant("N = B", settings={"fresh": BATCH}),
    Variant("T = 16", settings=until(16)),
    Variant("T = 128", settings=until(128)),
    Variant("static", static=True),
    Variant("perturbed labels", settings={"starts": PERTURBED}),
]


class StaticTrainer(Trainer):
    """Training that leaves the perception as `make_static` set it."""

    def step(self) -> float:
        kept = [weight.detach().clone() for weight in perception(self.net)]
        loss = super().step()
        with torch.no_grad():
            for weight, old in zip(perception(self.net), kept, strict=True):
                weight.copy_(old)
        return loss


def perception(net: RNCA) -> list[torch.Tensor]:
    """The weights of both perceive networks."""
    return [*net.perceive_state.parameters(), *net.perceive_image.parameters()]


def make_static(net: RNCA) -> None:
    """Give the image's perception the state's filters in turn; the state's are the known ones already."""
    with torch.no_grad():
        bank = initial_filters(net.dims, net.filters)
        weight, bias = net.perceive_image.weight, net.perceive_image.bias
        assert bias is not None
        weight.copy_(bank.repeat(len(weight) // len(bank), *[1] * net.dims)[:, None].expand_as(weight))
        bias.zero_()


def network(variant: Variant) -> RNCA:
    """The variant's network before training; seeded."""
    torch.manual_seed(0)
    net = RNCA(state_channels=variant.channels, hidden=64)
    if variant.static:
        make_static(net)
    return net


def trained(variant: Variant, cases: Sequence[Case], iterations: int, seed: int, folder: Path) -> Model:
    """The variant's model, trained as far as it is not yet."""
    settings = replace(
        Settings(
            iterations=iterations, batch=BATCH, patch=PATCH_EDGE, seed=seed, starts=Starts(given=1.0), **until(64)
        ),
        **variant.settings,
    )
    kind = StaticTrainer if variant.static else Trainer
    checkpoint = folder / "checkpoint.npz"
    if checkpoint.exists():
        about, arrays = read_checkpoint(checkpoint)
        if about["iteration"] == iterations:
            return as_model(net_from(about, arrays).eval())
        trainer = kind.resume(checkpoint, cases, iterations=iterations)
    else:
        trainer = kind(network(variant), cases, settings)

    def tell(report: Progress) -> None:
        if report.iteration % 100 == 0:
            say(f"{variant.name}: iteration {report.iteration}, loss {report.loss:.4f}, {report.seconds:.2f} s each")

    return as_model(train(trainer, folder, on_progress=tell, checkpoint_every=100))


def predicted(base: Path, split: str, limit: int | None) -> list[Case]:
    """Training cases with the U-Net's predictions as their only starting masks."""
    folder = base / "vessels" / split
    starts = {case.name: soft(case.starts["unet"]) for case in read_cases(folder) if "unet" in case.starts}
    cases = [case for case in load_cases(folder, dims=2) if case.name in starts][:limit]
    return [replace(case, starts=[starts[case.name]]) for case in cases]


def main() -> None:
    parser = options(__doc__, "", [64])
    parser.add_argument("--base", type=Path, required=True, help="folder that segmenters.py wrote")
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--variant", nargs="+", choices=[v.name for v in VARIANTS], help="these rows only")
    given = parser.parse_args()
    rows = Rows(given.output / "ablation.rows.jsonl")
    cases = predicted(given.base, "train", given.limit)
    held = [c for c in read_cases(given.base / "vessels" / "val", given.limit) if "unet_fold0" in c.starts]
    found: list[Row] = []
    runs = given.output / "ablation"
    variants = [v for v in VARIANTS if not given.variant or v.name in given.variant]
    for variant in [None, *variants]:
        name = variant.name if variant else "predictions (no repair)"
        refiner = none()
        if variant:
            folder = runs / f"{variant.name} {given.iterations}".replace("/", "-").replace(" ", "_")
            model = trained(variant, cases, given.iterations, given.seed, folder)
            refiner = replace(automaton(model, given.steps, soft=True), name=variant.name)
        for case in held:
            key = {"task": "ablation", "case": case.name, "iterations": given.iterations, "seed": given.seed}
            start = soft(case.starts["unet_fold0"])
            made = measure(rows, key, refiner, case.image, start, case.truth, score)
            found += [{**row, "variant": name, "steps": step} for step, row in zip(refiner.steps, made, strict=True)]
        dice = np.mean([row["patch_dice"] for row in found if row["variant"] == name])
        say(f"{name}: Dice {dice:.4f} a patch")
    by = ["variant", "steps"]
    table = aggregate(found, by, [*PATCH, *COUNTS])
    pool_patches(table)
    about = f"n is images; split val, fold 0 of the U-Net; {given.iterations} iterations; seed {given.seed}"
    print(write_table(given.output, "ablation", [("Ablation", table, markdown(table, by, PATCH))], [about, versions()]))


if __name__ == "__main__":
    guarded(main)
