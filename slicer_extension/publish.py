"""Make the tree of the extension's own repository, and check it: python publish.py OUT --url https://HOST/OWNER/RNCARefine

The Extensions Index reads CMakeLists.txt, licence, icon and screenshots at a repository's root, so the extension is
published as a repository of its own: commit what this writes to OUT. With --check, nothing is left behind.
"""

import argparse
import ast
import json
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PLACEHOLDER = "https://example.org/RNCARefine"
NAME = "RNCARefine"
LEFT_OUT = {"publish.py", "__pycache__"}
PICTURES = {
    "RNCARefine.png": "slicer_extension/RNCARefine/Resources/Icons/RNCARefine.png",
    "Screenshots/panel.png": "docs/images/slicer-panel.png",
    "Screenshots/repair.png": "docs/images/view-repair.png",
}
"""Where the pictures of the tree come from, below the project's root."""

CATALOGUE_KEYS = {"$schema", "category", "scm_url"}
CATALOGUE_MORE = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "enabled", "tier"}
ALLOWED = {"numpy", "vtk", "requests", "slicer", "qt", "ctk", "SampleData", "SegmentEditorEffects"}
"""What may be imported when a file is loaded, besides the standard library and the extension itself."""

OWN = {"RNCARefineLib", "SegmentEditorRNCARefineLib"}
LARGEST = 1 << 20  # bytes of a file


def files(root: Path) -> Iterator[Path]:
    """Every file that belongs to the extension."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not LEFT_OUT & set(path.relative_to(root).parts) and path.suffix != ".pyc":
            yield path


def problems(root: Path) -> list[str]:
    """What the Extensions Index or its reviewers would object to, a sentence each."""
    found = [*_cmake(root), *_catalogue(root), *_pictures(root)]
    for path in files(root):
        name = path.relative_to(root).as_posix()
        if path.stat().st_size > LARGEST:
            found.append(f"{name} is larger than {LARGEST >> 20} MiB")
        if path.suffix in (".py", ".txt", ".json", ".ui", ".md") and b"\r" in path.read_bytes():
            found.append(f"{name} has line ends that are not LF")
        if path.suffix == ".py":
            found += [f"{name}: {what}" for what in _python(path.read_text(encoding="utf-8"))]
        if path.suffix == ".ui":
            xml.etree.ElementTree.parse(path)
    return found


def _cmake(root: Path) -> Iterator[str]:
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    if f"project({NAME})" not in text:
        yield f"CMakeLists.txt does not name the project {NAME}"
    for key in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        if not re.search(rf'set\(EXTENSION_{key} "[^"]+"\)', text):
            yield f"CMakeLists.txt has no EXTENSION_{key}"
    for folder in re.findall(r"add_subdirectory\((\w+)\)", text):
        if not (root / folder / f"{folder}.py").is_file():
            yield f"there is no module {folder}/{folder}.py"
    if not (root / "LICENSE").is_file():
        yield "there is no LICENSE"


def _catalogue(root: Path) -> Iterator[str]:
    said = json.loads((root / f"{NAME}.json").read_text(encoding="utf-8"))
    if missing := CATALOGUE_KEYS - set(said):
        yield f"{NAME}.json lacks {', '.join(sorted(missing))}"
    if unknown := set(said) - CATALOGUE_KEYS - CATALOGUE_MORE:
        yield f"{NAME}.json has unknown keys: {', '.join(sorted(unknown))}"


def _pictures(root: Path) -> Iterator[str]:
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    for address in re.findall(r"https?://[^\s\"]+?\.(?:png|jpg)", text):
        path = root / address.partition("/raw/main/")[2]
        if not path.is_file() or not path.read_bytes().startswith((b"\x89PNG", b"\xff\xd8")):
            yield f"{path.relative_to(root)} is not a picture"


def _python(text: str) -> Iterator[str]:
    """Imports at file scope that Slicer lacks, and code that runs on loading."""
    for node in ast.parse(text).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            if top not in ALLOWED | OWN and not top.startswith("slicer") and top not in sys.stdlib_module_names:
                yield f"imports {top} at file scope"
        text_only = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring
        if isinstance(node, (ast.For, ast.While, ast.With, ast.Expr)) and not text_only:
            yield f"runs code at file scope, line {node.lineno}"


def publish(out: Path, url: str) -> None:
    """Write the tree to an empty or new folder."""
    if out.exists() and any(p.name != ".git" for p in out.iterdir()):
        raise SystemExit(f"{out} is not empty: give a new folder, or a repository with nothing but .git in it.")
    for path in files(HERE):
        target = out / path.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".json", ".md", ".py"):
            text = path.read_text(encoding="utf-8").replace(PLACEHOLDER, url.rstrip("/"))
            target.write_text(text, encoding="utf-8", newline="\n")
        else:
            shutil.copyfile(path, target)
    for name, source in {**PICTURES, "LICENSE": "LICENSE"}.items():
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(HERE.parent / source, out / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="folder to write the tree to")
    parser.add_argument("--url", help="address of the published repository")
    parser.add_argument("--check", action="store_true", help="only check")
    given = parser.parse_args()
    if given.check:
        with tempfile.TemporaryDirectory() as folder:
            publish(Path(folder), PLACEHOLDER)
            found = problems(Path(folder))
    elif given.out is None or not given.url or not given.url.startswith("https://"):
        parser.error("give OUT and --url https://HOST/OWNER/RNCARefine, or --check")
    else:
        publish(given.out, given.url)
        found = problems(given.out)
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(found)} problems" if found else "ready to publish")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
