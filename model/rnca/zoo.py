"""Models on disk: TorchScript archives that carry their metadata, listed with their digest in a manifest.

A model is a file `NAME.ts`; `manifest.json` beside it lists the SHA-256 of the archives of its folder. TorchScript
is code and no sandbox: an archive whose digest is not listed is never opened, and a Python pickle never at all.
Shipped models live in `zoo/NAME/NAME.ts` with `metadata.json` (a readable copy) and a model card.
"""

import copy
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from . import DEFAULT_MODEL
from .automaton import RNCA
from .engine import compile, definition
from .errors import InputError
from .files import atomic_path, write_json
from .tidy import Tidying

ZOO = Path(__file__).parent / "zoo"
MANIFEST = "manifest.json"
EMBEDDED = "metadata.json"
SLICES = 16  # fewer are no volume to a model for volumes


@dataclass(frozen=True)
class Metadata:
    """What a model says about itself (design, contract 1)."""

    name: str
    version: str
    dims: int
    image_channels: int
    state_channels: int
    filters: int
    hidden: int
    alive_threshold: float
    weights_sha256: str
    description: str = ""
    licence: str = ""
    intended_use: str = "Research; not a medical device."
    spacing: list[float] | None = None  # trained spacing, array order (k, j, i); None: any
    spacing_unit: str = "mm"  # or "pixel"
    resample: bool = False  # whether to bring the input to `spacing`
    intensity: dict[str, Any] = field(default_factory=lambda: {"kind": "percentile", "low": 0.5, "high": 99.5})
    colour: str = "luminance"  # how colour becomes grey for a model with one image channel
    slice_axis: str = "largest_spacing"  # slices of a volume for a 2-D model
    steps: int = 64
    speck_size: int = 0  # voxels: dots, pinholes and cuts up to this size are undone after the last step
    nibble_size: int = 0  # the same for changes at the border
    bite_size: int = 0  # the same for those that take something away
    bulge_ratio: float = 0.0  # of the outline that a change takes away to what it makes: below it, it is undone
    look_size: int = 0  # voxels: what is added and is as large must look like the mask, not like background
    object_betti: list[int] | None = None  # of the one object that a mask, or each slice of a stack, holds
    keep_holes: bool = False  # whether small holes, tunnels and cavities are the objects' own
    tolerance: float = 0.0  # share of a mask's voxels within which its outline counts as right and is left alone
    gap_size: int = 0  # voxels: pieces that no more part are joined after the last step
    object_size: int = 0  # voxels: objects with a longer side are repaired on a coarser grid
    bay_width: int = 0  # voxels: bays no wider, and holes, that growth left half filled are filled
    trained_on: list[dict[str, str]] = field(default_factory=list)  # name, licence, citation
    training: dict[str, Any] = field(default_factory=dict)  # settings and the command
    figures: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None  # "name version sha256" of the model it was fine-tuned from

    @property
    def tidying(self) -> Tidying:
        """What is done after the last step, for `rnca.tidy`."""
        return Tidying(**{entry.name: getattr(self, entry.name) for entry in fields(Tidying)})

    @property
    def headline(self) -> str:
        """The first of its figures from binary masks, in a line; '' if there are none."""
        for where, starts in self.figures.items():
            found = starts.get("binary") if isinstance(starts, dict) else None
            if isinstance(found, dict) and {"dice", "cldice"} <= set(found):
                pairs = [(f"before_{k}", k) for k in ("dice", "cldice")]
                dice, cldice = (" → ".join(f"{found[k]:.3f}" for k in pair if k in found) for pair in pairs)
                return f"Dice {dice}, clDice {cldice} ({where})"
        return ""


@dataclass
class Model:
    """A loaded model: call it like the network, `model(image, mask, steps)`."""

    metadata: Metadata
    module: torch.jit.ScriptModule
    sha256: str  # of the archive; empty for one compiled in this process

    def __call__(self, image: torch.Tensor, mask: torch.Tensor, steps: int | None = None) -> torch.Tensor:
        return self.module(image, mask, self.metadata.steps if steps is None else steps)

    def to(self, device: str | torch.device) -> "Model":
        """This model with its weights on a device: itself if they are there, else a copy; others may be using it."""
        wanted, here = torch.device(device), next(self.module.buffers()).device
        if wanted.type == here.type and wanted.index in (None, here.index):
            return self
        return replace(self, module=copy.deepcopy(self.module).to(wanted))

    @property
    def definition(self) -> RNCA:
        """The readable network with these weights, on the CPU."""
        return definition(self.module)


def weights_sha256(net: RNCA) -> str:
    """SHA-256 over the names and float32 little-endian bytes of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode() + b"\0" + tensor.detach().cpu().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def describe(net: RNCA, name: str, version: str = "0.1.0", **known: Any) -> Metadata:
    """Metadata of a network; what the network itself tells is filled in.

    Raises:
        InputError: `object_betti` is not for as many axes as the network.
    """
    config = net.config
    betti = known.get("object_betti")
    if betti is not None and len(betti) != config["dims"]:
        dims = config["dims"]
        raise InputError(f"the object's Betti numbers are {betti}: for a {dims}-D model give {dims} of them.")
    config.pop("skip")
    return Metadata(name=name, version=version, weights_sha256=weights_sha256(net), **config, **known)  # type: ignore[arg-type]


def named(name: str, shape: Sequence[int]) -> str:
    """What a name stands for where the mask has this shape: of most names themselves.

    "general" is `general-3d` for volumes of at least 16 voxels along each axis, `general-2d` for images and for stacks
    of few slices: a wall that is cut open in one of ten slices is better closed within it
    (docs/explanation/experiments.md).
    """
    if name != DEFAULT_MODEL:
        return name
    return f"{name}-3d" if len(shape) == 3 and min(shape) >= SLICES else f"{name}-2d"


def as_model(
    model: "str | Path | Model | torch.jit.ScriptModule | RNCA", device: str = "cpu", shape: Sequence[int] = ()
) -> Model:
    """A model from its name (for a mask of this shape) or path, or one that is in memory already."""
    if isinstance(model, (str, Path)):
        model = named(model, shape) if isinstance(model, str) else model
        return load_model(model, device=device)
    if isinstance(model, RNCA):
        model = compile(model)
    if isinstance(model, Model):
        return model.to(device)
    return Model(describe(definition(model), "unnamed"), model, "").to(device)


def save_model(net: RNCA, path: str | Path, metadata: Metadata) -> Path:
    """Write `NAME.ts` with its metadata inside and list it in the manifest beside it; each file whole or not at all."""
    path = Path(path)
    if path.suffix != ".ts":
        raise InputError(f"{path}: a model's file name ends in .ts.")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = replace(metadata, weights_sha256=weights_sha256(net))
    buffer = io.BytesIO()
    torch.jit.save(compile(net), buffer, _extra_files={EMBEDDED: json.dumps(asdict(metadata), indent=2)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(_without_places(buffer.getvalue()))
    trust(path)
    return path


def _without_places(archive: bytes) -> bytes:
    """A TorchScript archive less what depends on where the sources lie: debugging records, and a hash of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/serialization_id")):
                target.writestr(entry, source.read(entry))
    return out.getvalue()


def trust(path: str | Path) -> str:
    """List an archive in the manifest of its folder as one that may be loaded; returns its SHA-256."""
    path = Path(path)
    data = _read(path)
    _refuse_pickles(data, path)
    digest = hashlib.sha256(data).hexdigest()
    write_json(path.parent / MANIFEST, _manifest(path.parent) | {path.name: digest})
    return digest


def load_model(name: str | Path, device: str = "cpu") -> Model:
    """Load a shipped model by name, or any by path (`NAME.ts`, or a folder that holds one).

    Raises:
        InputError: no such model; a pickle; a digest that is not in the manifest beside the archive; metadata missing.
    """
    path = find_model(name)
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    listed = _manifest(path.parent).get(path.name)
    if listed is not None and listed != digest:
        raise InputError(
            f"{path} is damaged or was replaced: its SHA-256 is {digest[:12]}…, the manifest says {listed[:12]}…;"
            " get it again from its source."
        )
    _refuse_pickles(data, path)
    if listed is None:
        raise InputError(
            f"{path} is not listed in the {MANIFEST} beside it, so its code is not run;"
            f" if you know where it comes from, list it with: rnca models --trust {path}"
        )
    extra = {EMBEDDED: ""}
    try:
        module = torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=extra)
        metadata = parse_metadata(json.loads(extra[EMBEDDED]))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not an rnca model: it holds no TorchScript module with metadata.json.") from error
    return Model(metadata, module.eval(), digest)


def parse_metadata(values: Mapping[str, Any]) -> Metadata:
    """Metadata from its JSON form; fields of later versions are ignored."""
    known = {f.name for f in fields(Metadata)}
    return Metadata(**{k: v for k, v in values.items() if k in known})


def find_model(name: str | Path) -> Path:
    """The archive of a shipped name or of a path."""
    text = str(name)
    if text in shipped():
        return ZOO / text / f"{text}.ts"
    path = Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.ts"))
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} models (NAME.ts); name one.")
        return found[0]
    if not path.is_file():
        raise InputError(
            f"there is no model {text!r}: give a path to a NAME.ts or one of {', '.join(shipped()) or '–'}."
        )
    return path


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.parent.name for p in ZOO.glob("*/*.ts") if p.stem == p.parent.name)


def shipped_metadata(name: str) -> Metadata:
    """A shipped model's metadata from its readable copy, without opening the archive."""
    return parse_metadata(json.loads((ZOO / name / EMBEDDED).read_text(encoding="utf-8")))


def _manifest(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in listed.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not readable as JSON ({{file: SHA-256}}); restore it.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}.") from error


def _refuse_pickles(data: bytes, path: Path) -> None:
    """A TorchScript archive is a zip with a `code/` folder; anything else may be a pickle and is not touched."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any("/code/" in entry for entry in archive.namelist()):
                return
    except zipfile.BadZipFile:
        pass
    raise InputError(
        f"{path} is not a TorchScript archive (a Python pickle, perhaps, which could run anything and is never loaded);"
        " make one from a training run with: rnca export."
    )
