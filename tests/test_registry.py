"""The registry: versions published whole, one of them active, none lost."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from conftest import filler
from little import run_cli
from rnca import InputError
from rnca.registry import Registry, open_registry
from rnca.zoo import describe


def publish(folder: Path, name: str = "mine") -> str:
    net = filler()
    return Registry(folder).publish(net, describe(net, name), user="u", gate={"passed": True}, data={"c": "h"}).version


def test_shipped_models_are_versions_and_active_until_another_one_is(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    record = registry.active("ring-2d")
    assert record.shipped and registry.load(record).sha256 == record.sha256
    assert "ring-2d" in registry.names()


def test_published_versions_count_up_and_the_newest_is_active(tmp_path: Path) -> None:
    assert [publish(tmp_path) for _ in range(3)] == ["1.0.0", "1.1.0", "1.2.0"]
    registry = Registry(tmp_path)
    active = registry.active("mine")
    assert active.version == "1.2.0" and active.user == "u" and active.data == {"c": "h"} and active.created
    assert registry.load(active).metadata.version == "1.2.0"


def test_roll_back_changes_the_pointer_alone(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    registry = Registry(tmp_path)
    registry.activate("mine", "1.0.0", "boss")
    assert registry.active("mine").version == "1.0.0"
    assert [r.version for r in registry.versions("mine")] == ["1.0.0", "1.1.0"]


def test_fine_tuned_shipped_model_can_be_rolled_back_to_what_was_shipped(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    shipped = registry.active("ring-2d").version
    assert publish(tmp_path, "ring-2d") == "1.1.0" and registry.active("ring-2d").version == "1.1.0"
    registry.activate("ring-2d", shipped, "boss")
    assert registry.active("ring-2d").shipped


def test_archive_that_was_replaced_is_not_loaded(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, "other")
    registry = Registry(tmp_path)
    path = registry.path(registry.active("mine"))
    other = registry.path(registry.active("other")).read_bytes()
    path.write_bytes(other)
    with pytest.raises(InputError, match="damaged or was replaced"):
        registry.load(registry.active("mine"))
    from rnca.zoo import trust

    trust(path)  # even listed in the manifest beside it, it is not what was published
    with pytest.raises(InputError, match="was replaced"):
        registry.load(registry.active("mine"))


@pytest.mark.parametrize("name", ["../x", "nobody", "", "."])
def test_unknown_name_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="there is no model"):
        Registry(tmp_path).active(name)
    publish(tmp_path)
    with pytest.raises(InputError, match=r"no version 7\.0\.0"):
        Registry(tmp_path).record("mine", "7.0.0")


def publish_for_ever(folder: str) -> None:
    while True:
        publish(Path(folder))


def test_a_kill_during_publication_leaves_an_old_version_active_or_the_new_one(tmp_path: Path) -> None:
    publish(tmp_path)
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(5):
        worker = context.Process(target=publish_for_ever, args=(str(tmp_path),))
        worker.start()
        time.sleep(0.1 + 0.2 * chance.random())
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        registry = Registry(tmp_path)
        versions = registry.versions("mine")
        active = registry.active("mine")
        assert active in versions and registry.load(active).metadata.version == active.version
        for record in versions:
            assert registry.path(record).is_file()


def test_cli_lists_a_servers_versions_and_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies"
    for _ in range(2):
        publish(studies / ".rnca" / "models")
    assert run_cli(monkeypatch, "models", "--studies", studies) == 0
    assert "1.1.0" in capsys.readouterr().err
    assert run_cli(monkeypatch, "models", "mine", "--studies", studies, "--activate", "1.0.0") == 0
    assert open_registry(studies).active("mine").version == "1.0.0"
    assert run_cli(monkeypatch, "models", "mine", "--studies", studies, "--json") == 0
    assert [r["version"] for r in json.loads(capsys.readouterr().out)["mine"]] == ["1.0.0", "1.1.0"]
    for words in (("--activate", "1.0.0"), ("--studies", tmp_path), ("--studies", studies, "--activate", "1.0.0")):
        assert run_cli(monkeypatch, "models", *words) == 2
