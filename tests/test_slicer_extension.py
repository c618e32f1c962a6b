"""The tree that becomes the extension's own repository, as the Extensions Index and its reviewers look at it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSION = Path(__file__).parents[1] / "slicer_extension"


def publish(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXTENSION / "publish.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A published tree."""
    done = publish(str(tmp_path / "out"), "--url", "https://somewhere.test/us/RNCARefine/")
    assert (done.returncode, done.stdout) == (0, "ready to publish\n"), done.stderr
    return tmp_path / "out"


def test_tree_is_whole_and_knows_its_address(tree: Path) -> None:
    texts = [p.read_text(encoding="utf-8") for p in tree.rglob("*") if p.suffix in (".txt", ".json", ".md", ".py")]
    assert not any("example.org" in text for text in texts)
    cmake = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    assert 'EXTENSION_HOMEPAGE "https://somewhere.test/us/RNCARefine"' in cmake
    assert json.loads((tree / "RNCARefine.json").read_text())["scm_url"] == "https://somewhere.test/us/RNCARefine.git"
    assert (tree / "LICENSE").read_bytes() == (EXTENSION.parent / "LICENSE").read_bytes()
    for address in re.findall(r"/raw/main/(\S+?\.png)", cmake):
        assert (tree / address).is_file()
    assert not list(tree.rglob("__pycache__")) and not (tree / "publish.py").exists()


BROKEN = {
    "an import that Slicer lacks": ("RNCARefine/RNCARefineLib/boxes.py", "import torch\n", "imports torch"),
    "code at file scope": ("RNCARefine/RNCARefineLib/boxes.py", "print(1)\n", "runs code at file scope"),
    "DOS line ends": ("RNCARefine/RNCARefineLib/boxes.py", "x = 1\r\n", "line ends"),
    "an unknown key": ("RNCARefine.json", '{"$schema": "", "category": "", "scm_url": "", "homepage": ""}', "homepage"),
    "no name": ("CMakeLists.txt", "", "does not name the project"),
    "no picture": ("RNCARefine.png", "text", "is not a picture"),
}


@pytest.mark.parametrize(("name", "content", "said"), BROKEN.values(), ids=BROKEN)
def test_what_reviewers_would_object_to_is_found(tree: Path, name: str, content: str, said: str) -> None:
    sys.path.insert(0, str(EXTENSION))
    try:
        from publish import problems
    finally:
        sys.path.remove(str(EXTENSION))
    assert problems(tree) == []
    (tree / name).write_bytes(content.encode())
    assert any(said in problem for problem in problems(tree))


def test_nothing_is_written_over(tree: Path) -> None:
    done = publish(str(tree), "--url", "https://somewhere.test/us/RNCARefine")
    assert done.returncode == 1 and "is not empty" in done.stderr
