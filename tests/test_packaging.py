"""What holds for the project as a whole: the wheel, versions, layers, what an import costs, and texts that are true."""

import ast
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import typer

import rnca
from rnca import cli
from rnca.jobs import Options, refine_file
from rnca.phantoms import phantom
from rnca.zoo import Metadata

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "model" / "rnca"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

LAYERS = (
    ("errors", "bars", "contrast", "pages"),
    ("automaton", "files", "geometry", "topology", "defects", "samples"),
    ("engine", "intensity", "labels", "metrics", "phantoms", "pictures", "changes", "shape"),
    ("joins", "looks", "mending"),
    ("coarse", "tidy"),
    ("fused", "window", "zoo", "cases"),
    ("cards", "gradients", "patches", "registry", "rollout"),
    ("training",),
    ("jobs", "live", "validation"),
    ("summary",),
    ("batch", "runs", "demo", "serve"),
    ("view",),
    ("cli",),
)
"""A module imports from the rows above its own only."""


def run(*words: str, cwd: Path = ROOT, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; with `path`, the package is imported from there."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done


# --- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (path,) = folder.glob("*.whl")
    return path


def files_under(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_wheel_holds_package_models_and_sample_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"rnca-{rnca.__version__}.dist-info/"
    expected = {f"rnca/{name}" for name in files_under(PACKAGE)}
    expected |= {f"rnca/sample-data/{name}" for name in files_under(ROOT / "sample-data")}
    kept_out = ("model/", "logs/", "bin/")  # what MONAI Label's start_server makes in the app's folder
    app = files_under(ROOT / "apps" / "rnca_refine")
    expected |= {f"rnca/apps/rnca_refine/{name}" for name in app if not name.startswith(kept_out)}
    for folder in ("apps/rnca_view", "slicer_extension/RNCARefine/RNCARefineLib"):
        expected |= {f"rnca/{folder}/{name}" for name in files_under(ROOT / folder)}
    assert {name for name in names if not name.startswith(about)} == expected
    assert {"rnca/zoo/ring-2d/ring-2d.ts", "rnca/zoo/ring-2d/metadata.json"} <= names
    assert f"{about}licenses/LICENSE" in names


def test_demo_and_models_run_from_the_wheel_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def command(*words: str) -> str:
        code = f"import rnca.cli; assert rnca.__file__.startswith({str(site)!r}); rnca.cli.main()"
        return run("-c", code, *words, cwd=tmp_path, path=site).stderr

    assert "ring-2d" in command("models")
    command("demo", "-o", "out")
    assert any((tmp_path / "out").rglob("*.png"))


def test_application_is_found_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    found = run("-c", "from rnca.view import folders; print(*folders(), sep='\\n')", cwd=tmp_path, path=site).stdout
    assert [Path(line).is_relative_to(site) for line in found.split()] == [True, True]


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [rnca.__version__]
    assert re.findall(r"^## \[(\d.*?)\]", changelog, re.M)[0] == rnca.__version__


# --- layers and imports ---------------------------------------------------------------------------------------------


def own_imports(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, anywhere in it."""
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("rnca")):
            home = (node.module or "").removeprefix("rnca").lstrip(".")
            yield from {home} & modules if home else {alias.name for alias in node.names} & modules


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_module_imports_downwards_only(path: Path) -> None:
    place = {module: row for row, modules in enumerate(LAYERS) for module in modules}
    assert path.stem in place, f"say in LAYERS and in CONTRIBUTING.md where {path.stem} belongs"
    assert [name for name in own_imports(path) if place.get(name, -1) >= place[path.stem]] == []


def test_contributing_names_the_layers_in_order() -> None:
    rows = re.findall(r"^\| (`[a-z`, ]+`) \|", TEXTS["CONTRIBUTING.md"], re.M)
    named = [tuple(re.findall(r"`(\w+)`", row)) for row in rows]
    assert [row for row in named if row] == list(LAYERS)


@pytest.mark.parametrize(
    "code",
    ["import rnca", "import sys; sys.argv = ['rnca', '--help']; import rnca.cli; rnca.cli.main()"],
    ids=["import rnca", "rnca --help"],
)
def test_start_loads_no_heavy_library(code: str) -> None:
    heavy = ("torch", "SimpleITK", "monai", "scipy", "skimage", "numpy", "PIL")
    tail = f"print('loaded:', [m for m in {heavy} if m in sys.modules])"
    done = run("-c", f"import atexit, sys; atexit.register(lambda: {tail})\n{code}")
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_public_names_are_there() -> None:
    assert all(getattr(rnca, name) is not None for name in rnca.__all__)


# --- texts ----------------------------------------------------------------------------------------------------------


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def shown_commands() -> list[tuple[str, list[str]]]:
    """(where, words) of every whole `rnca …` line in the pages and in the commands' own help."""
    found = []
    for page, text in TEXTS.items():
        for block in blocks(text, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, shlex.split(line, comments=True)) for line in lines if line.startswith("rnca ")]
    for name, command in COMMANDS.items():
        found.append((f"{name} --help", shlex.split(command.epilog.removeprefix("Example: "))))
    return found


@pytest.mark.parametrize(("where", "words"), shown_commands(), ids=lambda x: " ".join(x) if isinstance(x, list) else x)
def test_shown_command_parses(where: str, words: list[str]) -> None:
    name, *arguments = words[1:]
    COMMANDS[name].make_context(name, arguments)


def options_of(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}


@pytest.mark.parametrize("page", TEXTS)
def test_commands_in_running_text_exist(page: str) -> None:
    for span in re.findall(r"`(?:\S*[/\\])?rnca ([a-z][^`]*)`", TEXTS[page]):
        name, *words = span.split()
        known = options_of(name) | {"--help", "-h", "-o"}
        assert {word for word in words if word.startswith("-")} <= known, span
    for target in re.findall(r"`make ([a-z]+)", TEXTS[page]):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), target


def test_every_option_is_in_the_reference_and_no_other() -> None:
    sections = re.split(r"^## rnca ", TEXTS["docs/reference/command-line.md"], flags=re.M)[1:]
    described = {section.split()[0]: set(re.findall(r"`(--[a-z0-9-]+)`", section)) for section in sections}
    assert described == {name: options_of(name) for name in COMMANDS}


def test_readme_explains_every_option_of_refine() -> None:
    table = TEXTS["README.md"].split("| option of `refine`")[1].split("\n\n")[0]
    assert options_of("refine") == set(re.findall(r"`.*?(--[a-z0-9]+)", table))


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            goal = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert goal.is_file(), target
            if anchor:
                titles = re.findall(r"^#+ (.+)$", goal.read_text(encoding="utf-8"), re.M)
                assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@cache
def own_sentences() -> list[str]:
    """What the package can say, `…` for values: the texts of its errors, and its f-strings."""
    out = []
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("InputError", "fail") and node.args:
                node = node.args[0]
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                out.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant):
                out.append(str(node.value))
    return out


def test_readme_quotes_errors_as_the_program_says_them() -> None:
    table = TEXTS["README.md"].split("| the sentence |")[1].split("\n\n")[0]
    quoted = re.findall(r"^\| `(.+?)` \|", table, re.M)
    assert len(quoted) > 10
    for sentence in quoted:
        pattern = ".*".join(re.escape(part) for part in sentence.split("…"))
        assert any(re.search(pattern, known) for known in own_sentences()), sentence


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages speak of."""
    image, mask = phantom("rings", (48, 48), 0)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "image.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(mask.astype("uint8")), tmp_path / "mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "python")])
def test_python_shown_runs(page: str, case: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(TEXTS[page], "python"):
        exec(compile(block, page, "exec"), names)
    assert (case / "repaired.nii.gz").is_file()


def fields_told(page: str) -> set[str]:
    """What stands as code in the rows of a page's tables."""
    rows = "".join(line for line in TEXTS[page].splitlines() if line.startswith("| "))
    return {word for name in re.findall(r"`([\w.]+)`", rows) for word in name.split(".")}


def test_reference_tells_every_field_of_metadata() -> None:
    assert {field.name for field in fields(Metadata)} <= fields_told("docs/reference/model.md")


def test_reference_tells_every_field_of_the_run_record(case: Path) -> None:
    record = refine_file(case / "image.nii.gz", case / "mask.nii.gz", case / "out.nii.gz", Options())

    def names(part: dict[str, Any]) -> set[str]:
        return set(part).union(*(names(value) for value in part.values() if isinstance(value, dict)))

    found = names(record).union(*(names(label) for label in record["labels"]))
    assert found - {"foreground", "background"} <= fields_told("docs/reference/run-record.md")
