"""Save shipped models again with the present engine: python benchmarks/reexport.py [NAME …] [-o FOLDER]

With other rules for the end: python benchmarks/reexport.py NAME --specks N --nibbles M --betti 1,1 --version V

An archive holds the engine's code as it was when it was saved; this gives it today's. Weights and metadata stay as they
are (but for the options'), the manifest gets the new digest, and the same weights, engine and torch give the same
bytes in every run. What the archive repairs before and after is compared on a noisy picture, and nothing is written if
a voxel differs.
"""

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rnca.automaton import RNCA
from rnca.engine import compile
from rnca.errors import InputError
from rnca.files import write_json
from rnca.tidy import object_betti
from rnca.zoo import ZOO, Model, load_model, save_model, shipped


def check(model: Model, net: RNCA) -> None:
    """The repair of one picture by the archive's engine and by today's.

    Raises:
        InputError: they differ.
    """
    shape = [48] * net.dims if net.dims == 2 else [16] * net.dims
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, net.image_channels, *shape, generator=random)
    mask = (torch.rand(1, 1, *shape, generator=random) < 0.3).float()
    with torch.inference_mode():
        before, after = model(image, mask, 16) > 0.5, compile(net)(image, mask, 16) > 0.5
    if not torch.equal(before, after):
        differ = int((before ^ after).sum())
        raise InputError(f"{model.metadata.name}: today's engine repairs {differ} voxels otherwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="shipped models, or files; default: all shipped")
    parser.add_argument("--specks", type=int, help="the metadata's speck_size")
    parser.add_argument("--nibbles", type=int, help="the metadata's nibble_size")
    parser.add_argument(
        "--keep-holes", action=argparse.BooleanOptionalAction, default=None, help="the metadata's keep_holes"
    )
    parser.add_argument("--bites", type=int, help="the metadata's bite_size")
    parser.add_argument("--looks", type=int, help="the metadata's look_size")
    parser.add_argument("--bulges", type=float, help="the metadata's bulge_ratio")
    parser.add_argument("--bays", type=int, help="the metadata's bay_width")
    parser.add_argument("--gaps", type=int, help="the metadata's gap_size")
    parser.add_argument("--tolerance", type=float, help="the metadata's tolerance")
    parser.add_argument("--betti", help="the metadata's object_betti: 1,1 or none")
    parser.add_argument("--object-size", type=int, help="the metadata's object_size")
    parser.add_argument("--steps", type=int, help="the metadata's steps")
    parser.add_argument("--version", help="the metadata's version")
    parser.add_argument("-o", "--output", type=Path, default=ZOO, help="for NAME/NAME.ts; default: the zoo")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # TorchScript writes the engine's constants in the order of a set
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
    for name in options.names or shipped():
        model = load_model(name)
        net = model.definition
        check(model, net)
        given = {
            "speck_size": options.specks,
            "nibble_size": options.nibbles,
            "bite_size": options.bites,
            "look_size": options.looks,
            "bulge_ratio": options.bulges,
            "keep_holes": options.keep_holes,
            "tolerance": options.tolerance,
            "bay_width": options.bays,
            "gap_size": options.gaps,
            "object_size": options.object_size,
            "steps": options.steps,
            "version": options.version,
        }
        changes: dict[str, Any] = {entry: value for entry, value in given.items() if value is not None}
        if options.betti is not None:
            changes["object_betti"] = object_betti(options.betti)
        metadata = replace(model.metadata, **changes)
        path = save_model(net, options.output / metadata.name / f"{metadata.name}.ts", metadata)
        saved = load_model(path)
        assert saved.metadata == metadata, "the weights' digest or another entry changed"
        write_json(path.with_name("metadata.json"), asdict(metadata))
        print(f"{metadata.name} {saved.metadata.version}: {model.sha256[:12]}… → {saved.sha256[:12]}…")


if __name__ == "__main__":
    main()
