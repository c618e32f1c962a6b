"""Models on disk: what is saved comes back, and what is not known to be a model is refused before it can run."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from conftest import random_net
from rnca import compile, zoo
from rnca.errors import InputError
from rnca.zoo import (
    Metadata,
    Model,
    as_model,
    describe,
    load_model,
    named,
    parse_metadata,
    save_model,
    trust,
    weights_sha256,
)

NET = random_net(0, image_channels=2)
KNOWN = {
    "description": "closes gaps – in rings",
    "licence": "Apache-2.0",
    "spacing": [0.5, 0.7],
    "resample": True,
    "intensity": {"kind": "window", "low": -100, "high": 240},
    "colour": "green",
    "slice_axis": "k",
    "steps": 7,
    "trained_on": [{"name": "rings", "licence": "MIT", "citation": "none"}],
    "training": {"command": "rnca train"},
    "figures": {"dice": 0.99},
    "parent": "ring-2d 0.1.0 abc",
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(NET, tmp_path / "model.ts", describe(NET, "model", "1.2.3", **KNOWN))


def test_an_archive_does_not_tell_where_it_was_made(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        contents = b"".join(archive.read(entry) for entry in archive.namelist())
    assert str(Path(zoo.__file__).parents[1]).encode() not in contents
    assert b"site-packages" not in contents


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_model(NET, tmp_path / "elsewhere" / "model.ts", describe(NET, "model", "1.2.3", **KNOWN))
    assert again.read_bytes() == saved.read_bytes()


def refusal(name: str | Path) -> str:
    """The one sentence with which a model is refused."""
    with pytest.raises(InputError) as caught:
        load_model(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def list_in_manifest(path: Path) -> None:
    """As if someone had vouched for the file: only what it is can now stop it."""
    manifest = path.parent / zoo.MANIFEST
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    manifest.write_text(json.dumps(known | {path.name: sha256(path.read_bytes()).hexdigest()}))


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.rand(2, 2, 9, 8, generator=random), (torch.rand(2, 1, 9, 8, generator=random) < 0.3).float()


# There and back


def test_metadata_and_values_come_back(saved: Path) -> None:
    model = load_model(saved)
    assert model.metadata == describe(NET, "model", "1.2.3", **KNOWN)
    assert model.sha256 == sha256(saved.read_bytes()).hexdigest()
    image, mask = inputs()
    assert torch.equal(model(image, mask, 20), compile(NET)(image, mask, 20))
    assert torch.equal(model(image, mask), compile(NET)(image, mask, KNOWN["steps"]))
    assert model.definition.config == NET.config
    assert all(torch.equal(a, b) for a, b in zip(model.definition.parameters(), NET.parameters(), strict=True))


def test_metadata_describes_the_network() -> None:
    net = random_net(1, 3, 2, state_channels=5, filters=6, hidden=22, alive_threshold=0.2)
    about = describe(net, "x")
    for key, value in net.config.items():
        assert key == "skip" or getattr(about, key) == value
    assert about.weights_sha256 == weights_sha256(net)


def test_the_archive_holds_its_metadata_as_readable_json(saved: Path) -> None:
    extra = {"metadata.json": ""}
    torch.jit.load(str(saved), _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == asdict(describe(NET, "model", "1.2.3", **KNOWN))


def test_digest_of_the_weights_changes_with_any_weight_and_with_nothing_else() -> None:
    first, again = random_net(0), random_net(0)
    assert weights_sha256(first) == weights_sha256(again) == weights_sha256(first.double().train())
    with torch.no_grad():
        again.delta.bias[-1] += 1e-6
    assert weights_sha256(again) != weights_sha256(random_net(0))


def test_saving_records_the_digest_of_the_weights_it_saves(tmp_path: Path) -> None:
    stale = describe(random_net(5, image_channels=2), "model")
    model = load_model(save_model(NET, tmp_path / "model.ts", stale))
    assert model.metadata.weights_sha256 == weights_sha256(NET) == weights_sha256(model.definition)


def test_metadata_of_a_later_version_is_read_without_the_fields_it_adds(tmp_path: Path) -> None:
    values = asdict(describe(NET, "model", **KNOWN))
    assert parse_metadata(values | {"invented_later": {"a": 1}}) == Metadata(**values)
    path = tmp_path / "later.ts"
    torch.jit.save(compile(NET), path, _extra_files={"metadata.json": json.dumps(values | {"invented_later": 1})})
    trust(path)
    assert load_model(path).metadata == Metadata(**values)


def test_a_folder_with_one_model_stands_for_it(saved: Path) -> None:
    assert load_model(saved.parent).sha256 == load_model(str(saved)).sha256


def test_shipped_models_are_found_by_name_and_described_without_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    save_model(NET, tmp_path / "tiny" / "tiny.ts", describe(NET, "tiny"))
    (tmp_path / "tiny" / "metadata.json").write_text(json.dumps(asdict(describe(NET, "tiny"))))
    (tmp_path / "not a model").mkdir()
    assert zoo.shipped() == ["tiny"]
    assert load_model("tiny").metadata == zoo.shipped_metadata("tiny") == describe(NET, "tiny")
    assert "tiny" in refusal("tony")


def test_every_shipped_model_loads_and_its_readable_copy_says_the_same() -> None:
    for name in zoo.shipped():
        model = load_model(name)
        assert model.metadata == zoo.shipped_metadata(name)
        assert model.metadata.name == name
        assert model.metadata.weights_sha256 == weights_sha256(model.definition)


def test_networks_modules_models_and_paths_all_serve_as_models(saved: Path) -> None:
    image, mask = inputs()
    expected = compile(NET)(image, mask, 9)
    model = load_model(saved)
    for given in (NET, compile(NET), model, saved, str(saved)):
        found = as_model(given)
        assert isinstance(found, Model)
        assert torch.equal(found(image, mask, 9), expected)
        assert found.metadata.weights_sha256 == weights_sha256(NET)
    assert as_model(model) is model


# Refused


def test_a_changed_archive_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    message = refusal(saved)
    assert "damaged or was replaced" in message
    assert sha256(data).hexdigest()[:12] in message


def test_another_model_under_the_same_name_is_refused(saved: Path, tmp_path: Path) -> None:
    other = save_model(random_net(1), tmp_path / "other" / "model.ts", describe(random_net(1), "model"))
    saved.write_bytes(other.read_bytes())
    assert "damaged or was replaced" in refusal(saved)


def test_an_archive_that_is_not_listed_is_not_opened(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive was opened"))
    copy = tmp_path / "copy.ts"
    copy.write_bytes(saved.read_bytes())
    message = refusal(copy)
    assert "not listed" in message
    assert f"rnca models --trust {copy}" in message
    (saved.parent / zoo.MANIFEST).unlink()
    assert "not listed" in refusal(saved)


def test_trusting_an_archive_lists_it_and_keeps_what_was_listed(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ts"
    copy.write_bytes(saved.read_bytes())
    assert trust(copy) == sha256(saved.read_bytes()).hexdigest()
    assert load_model(copy).sha256 == load_model(saved).sha256
    assert set(json.loads((tmp_path / zoo.MANIFEST).read_text(encoding="utf-8"))) == {"model.ts", "copy.ts"}


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def pickled(payload: Payload) -> bytes:
    return pickle.dumps(payload)


def torch_saved(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": payload}, buffer)
    return buffer.getvalue()


def torch_saved_as_tar_era(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped_with_code(payload: Payload) -> bytes:
    """A pickle dressed up as a TorchScript archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"model/{name}", pickle.dumps(payload))
        archive.writestr("model/version", "3\n")
        archive.writestr("model/code/x.py", "")
        archive.writestr("model/extra/metadata.json", json.dumps(asdict(describe(NET, "model"))))
    return buffer.getvalue()


@pytest.mark.parametrize("make", [pickled, torch_saved, torch_saved_as_tar_era, zipped_with_code])
def test_a_pickle_is_refused_without_being_unpickled_even_if_listed(make: Callable, tmp_path: Path) -> None:
    harm, path = tmp_path / "harm", tmp_path / "model.ts"
    path.write_bytes(make(Payload(harm)))
    list_in_manifest(path)
    refusal(path)
    assert not harm.exists()
    if make is torch_saved:  # the payload is armed
        torch.load(path, weights_only=False)
        assert harm.is_dir()


@pytest.mark.parametrize("make", [pickled, torch_saved, torch_saved_as_tar_era])
def test_a_pickle_cannot_be_trusted_and_is_told_as_what_it_is(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(make(Payload(tmp_path / "harm")))
    with pytest.raises(InputError, match=r"not a TorchScript archive \(a Python pickle, perhaps.*rnca export"):
        trust(path)
    assert not (tmp_path / zoo.MANIFEST).exists()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04 and then nothing", bytes(1000)])
def test_garbage_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(data)
    list_in_manifest(path)
    assert "not a TorchScript archive" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused_even_if_listed(share: float, saved: Path) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    assert "damaged" in refusal(saved)
    list_in_manifest(saved)
    assert "not a" in refusal(saved)


@pytest.mark.parametrize("about", [None, "", "not json", "[]", "{}", '{"name": "model"}'])
def test_torchscript_without_right_metadata_is_refused(about: str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    torch.jit.save(compile(NET), path, _extra_files={} if about is None else {"metadata.json": about})
    trust(path)
    assert "not an rnca model" in refusal(path)


def test_a_missing_model_is_told_with_what_was_given(tmp_path: Path) -> None:
    assert "no model 'vesel-2d'" in refusal("vesel-2d")
    assert str(tmp_path / "none.ts") in refusal(tmp_path / "none.ts")


def test_a_folder_must_hold_exactly_one_model(saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} holds 0 models" in refusal(empty)
    (tmp_path / "second.ts").write_bytes(saved.read_bytes())
    assert f"{tmp_path} holds 2 models" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "7", '"text"', "null", "\xff"])
def test_a_damaged_manifest_is_told(text: str, saved: Path) -> None:
    manifest = saved.parent / zoo.MANIFEST
    manifest.write_bytes(text.encode("latin-1"))
    assert str(manifest) in refusal(saved)
    with pytest.raises(InputError, match=r"manifest\.json"):
        trust(saved)
    assert manifest.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("digest", ["null", "7", '"abc"', "[]"])
def test_a_manifest_with_something_else_than_a_digest_trusts_nothing(digest: str, saved: Path) -> None:
    (saved.parent / zoo.MANIFEST).write_text(f'{{"model.ts": {digest}}}')
    assert "damaged or was replaced" in refusal(saved)


# Written whole or not at all


def test_a_model_that_cannot_be_written_leaves_the_old_one_in_place(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"model\.ts.*[Nn]o space left"):
        patch.setattr(Path, "write_bytes", full)
        save_model(random_net(1, image_channels=2), saved, describe(NET, "model"))
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before
    assert load_model(saved).metadata.weights_sha256 == weights_sha256(NET)


def test_an_interrupted_save_leaves_the_old_model_in_place(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupted)
        save_model(random_net(1, image_channels=2), saved, describe(NET, "model"))
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_saving_again_replaces_model_and_digest(saved: Path) -> None:
    other = random_net(1, image_channels=2)
    save_model(other, saved, describe(other, "model", "2"))
    model = load_model(saved)
    assert (model.metadata.version, model.metadata.weights_sha256) == ("2", weights_sha256(other))
    assert sorted(p.name for p in saved.parent.iterdir()) == [zoo.MANIFEST, "model.ts"]


def test_a_name_that_is_no_ts_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.pt.*ends in \.ts"):
        save_model(NET, tmp_path / "model.pt", describe(NET, "model"))
    assert not list(tmp_path.iterdir())


def test_asking_for_another_device_leaves_the_callers_model_where_it_is() -> None:
    model = as_model(random_net(0))
    there = as_model(model, "meta")
    assert next(there.module.buffers()).device.type == "meta"
    assert next(model.module.buffers()).device.type == "cpu"
    assert as_model(model, "cpu") is model


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((), "general-2d"),
        ((512, 512), "general-2d"),
        ((10, 256, 256), "general-2d"),  # a stack of few slices
        ((256, 256, 1), "general-2d"),
        ((16, 16, 16), "general-3d"),
        ((120, 512, 512), "general-3d"),
    ],
)
def test_the_general_model_is_that_for_the_masks_size(shape: tuple[int, ...], name: str) -> None:
    assert named("general", shape) == name
    assert named("vessel-2d", shape) == "vessel-2d"
    assert as_model("general", shape=shape).metadata.name == name


def test_an_object_has_as_many_betti_numbers_as_the_network_has_axes() -> None:
    for dims, numbers in ((2, [1, 1]), (3, [1, 0, 0])):
        assert describe(random_net(0, dims), "a", object_betti=numbers).tidying.object_betti == numbers
        with pytest.raises(InputError, match=f"{dims}-D"):
            describe(random_net(0, dims), "a", object_betti=[*numbers, 0])
