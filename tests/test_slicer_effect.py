"""The Segment Editor effect: its file as Slicer loads it, strokes of the brush, Apply and Cancel, on a live server."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")
pytest.importorskip("slicer", reason="needs the extra `view`, which has Slicer's classes", exc_type=ImportError)
pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6 and the libraries that it opens", exc_type=ImportError)

import vtk

from RNCARefineLib import nodes
from RNCARefineLib.boxes import on_box, whole
from RNCARefineLib.brush import Brush
from serving import SHAPE, Server, make_studies, running
from slicer_standins.application import MODULE, slicer_running
from workbench import BROKEN, OTHER, RING, Case, names_of, our_threads, until

EFFECT = MODULE.parent / "SegmentEditorRNCARefine" / "SegmentEditorRNCARefineLib" / "SegmentEditorEffect.py"


class ScriptedEffect:
    """What Slicer's C++ effect gives to its Python side: parameters, the Segment Editor's node, undo, a place."""

    def __init__(self, node: Any) -> None:
        import slicer

        self._node, self._values = node, dict[str, str]()
        self.widgets: list[Any] = []
        self.history = slicer.vtkSegmentationHistory()

    def parameterSetNode(self) -> Any:
        return self._node

    def setParameterDefault(self, name: str, value: Any) -> None:
        self._values.setdefault(name, str(value))

    def setParameter(self, name: str, value: Any) -> None:
        self._values[name] = str(value)

    def integerParameter(self, name: str) -> int:
        return int(self._values[name])

    def doubleParameter(self, name: str) -> float:
        return float(self._values[name])

    def addOptionsWidget(self, widget: Any) -> None:
        self.widgets.append(widget)

    def addLabeledOptionsWidget(self, _label: str, widget: Any) -> None:
        self.widgets.append(widget)

    def saveStateForUndo(self) -> None:
        self.history.SetSegmentation(self._node.GetSegmentationNode().GetSegmentation())
        self.history.SaveState()


class Abstract:
    """Slicer's base class of effects; a pixel is a millimetre in the view below."""

    def __init__(self, scriptedEffect: Any) -> None:
        self.scriptedEffect = scriptedEffect

    def xyToRas(self, xy: tuple[int, int], view: Any) -> list[float]:
        return list(view.places[xy[0]])


class View:
    """A slice view: the slice's plane is the volume's, and x counts through a list of places."""

    def __init__(self, volume: Any, kind: str = "qMRMLSliceWidget") -> None:
        import slicer

        self.places: list[Any] = []
        self._kind, self._node = kind, slicer.vtkMRMLSliceNode()
        axes = nodes.ijk_to_ras(volume)
        matrix = np.eye(4)
        matrix[:3, :3] = axes[:3, :3] / np.linalg.norm(axes[:3, :3], axis=0)
        self._node.GetSliceToRAS().DeepCopy(nodes.matrix_of(matrix))

    def className(self) -> str:
        return self._kind

    def sliceLogic(self) -> "View":
        return self

    def GetSliceNode(self) -> Any:
        return self._node


class Bench:
    """The effect over a scene, active in a Segment Editor."""

    def __init__(self, scene: Any, settings: Any, url: str) -> None:
        import slicer

        from RNCARefineLib.effect import EffectPanel
        from RNCARefineLib.parameters import Parameters

        Parameters(server=url).save(settings)
        self.scene, self.case = scene, Case(scene)
        self.node = slicer.vtkMRMLSegmentEditorNode()
        self.node.SetSingletonTag("SegmentEditor")
        scene.AddNode(self.node)
        self.node.SetAndObserveSegmentationNode(self.case.segmentation)
        self.node.SetAndObserveSourceVolumeNode(self.case.volume)
        self.node.SetSelectedSegmentID(self.case.ring)
        self.scripted = ScriptedEffect(self.node)
        spec = importlib.util.spec_from_file_location("SegmentEditorEffect", EFFECT)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.effect = module.SegmentEditorEffect(self.scripted)
        self.effect.setMRMLDefaults()
        self.effect.setupOptionsFrame()
        self.panel = self.effect.panel
        assert isinstance(self.panel, EffectPanel)
        self.panel._settings = settings
        self.panel._ask = lambda _text: False
        self.effect.updateGUIFromMRML()
        self.effect.activate()
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.view = View(self.case.volume)

    @property
    def state(self) -> str:
        return str(self.panel.session.logic.state)

    def settle(self) -> None:
        until(lambda: self.panel.session.interval is None)

    def stroke(self, *ijk: tuple[int, int, int]) -> list[bool]:
        """Press, move and release over places of the volume; what the effect answers to each event."""
        events, matrix = vtk.vtkCommand, nodes.ijk_to_ras(self.case.volume)
        self.view.places = [(matrix @ [*place, 1.0])[:3] for place in ijk]
        kinds = [events.LeftButtonPressEvent, *[events.MouseMoveEvent] * (len(ijk) - 1)]
        found = []
        for x, kind in enumerate(kinds):
            self.interactor.SetEventInformation(x, 0, 0, 0, chr(0), 0, None)
            found.append(self.effect.processInteractionEvents(self.interactor, kind, self.view))
        found.append(self.effect.processInteractionEvents(self.interactor, events.LeftButtonReleaseEvent, self.view))
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(make_studies(tmp_path_factory.mktemp("effect") / "studies", 1), conf={"model": "filler"}) as server:
        yield server


@pytest.fixture
def bench(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    editor_effects = ModuleType("SegmentEditorEffects")
    editor_effects.AbstractScriptedSegmentEditorEffect = Abstract  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SegmentEditorEffects", editor_effects)
    server.idle()
    with slicer_running() as scene:
        import qt

        bench = Bench(scene, qt.QSettings(str(tmp_path / "settings.ini"), qt.QSettings.IniFormat), server.url)
        yield bench
        bench.effect.cleanup()
        until(lambda: not our_threads())


def test_one_click_connects_refines_and_apply_is_one_undo_state(bench: Bench) -> None:
    before = names_of(bench.scene)
    bench.panel.refine_button.click()
    bench.settle()
    assert bench.state == "review" and bench.case.untouched(), bench.panel.message.text
    bench.panel.apply_button.click()
    assert (bench.case.mask() == RING).all() and (bench.case.mask(bench.case.other) == OTHER).all()
    assert names_of(bench.scene) == before
    assert bench.scripted.history.GetNumberOfStates() == 1
    bench.scripted.history.RestorePreviousState()
    assert bench.case.untouched()


def test_cancel_and_leaving_the_effect_take_the_preview_away(bench: Bench) -> None:
    before = names_of(bench.scene)
    for leave in (bench.panel.cancel_button.click, bench.effect.deactivate):
        bench.panel.refine_button.click()
        bench.settle()
        assert names_of(bench.scene) != before
        leave()
        assert bench.state == "idle" and names_of(bench.scene) == before and bench.case.untouched()


def test_brush_repairs_only_where_painted(bench: Bench) -> None:
    bench.panel.brush_box.click()
    bench.panel.radius_box.setValue(1.2)
    assert bench.stroke((11, 6, 1), (14, 6, 1)) == [True, True, True]
    bench.settle()
    assert bench.state == "idle", bench.panel.message.text  # applied at once
    changed = bench.case.mask() ^ BROKEN
    brush = Brush(bench.case.volume, 1.2)
    matrix = nodes.ijk_to_ras(bench.case.volume)
    for place in ((11, 6, 1), (14, 6, 1)):
        brush.paint(tuple((matrix @ [*place, 1.0])[:3]), tuple(matrix[:3, 2] / np.linalg.norm(matrix[:3, 2])))
    assert brush.painted is not None
    painted = on_box(*brush.painted, whole(SHAPE))
    assert changed.any() and not (changed & ~painted).any()
    assert changed[1].any() and not changed[[0, 2, 3]].any()
    assert bench.scripted.history.GetNumberOfStates() == 1


def test_stroke_can_wait_for_apply(bench: Bench) -> None:
    bench.panel.brush_box.click()
    bench.panel.at_once_box.click()
    bench.stroke((12, 6, 2))
    bench.settle()
    assert bench.state == "review" and bench.case.untouched()
    assert bench.stroke((12, 6, 1)) == [False, False]  # not while one waits
    bench.panel.apply_button.click()
    assert not bench.case.untouched()


def test_stroke_beside_the_image_is_told_and_leaves_nothing(bench: Bench) -> None:
    before = names_of(bench.scene)
    bench.panel.brush_box.click()
    bench.stroke((500, 500, 0))
    assert "Nothing of the image was painted" in bench.panel.message.text
    assert bench.state == "idle" and names_of(bench.scene) == before


def test_mouse_is_left_alone_without_the_brush_and_in_other_views(bench: Bench) -> None:
    assert bench.stroke((12, 6, 2)) == [False, False]
    bench.panel.brush_box.click()
    bench.view = View(bench.case.volume, "qMRMLThreeDWidget")
    assert bench.stroke((12, 6, 2)) == [False, False]


def test_parameters_go_to_the_editors_node_and_back(bench: Bench) -> None:
    bench.panel.brush_box.click()
    bench.panel.radius_box.setValue(3.5)
    assert (bench.scripted.integerParameter("Brush"), bench.scripted.doubleParameter("BrushRadiusMm")) == (1, 3.5)
    bench.scripted.setParameter("BrushRadiusMm", 5.0)
    bench.effect.updateGUIFromMRML()
    assert bench.panel.radius_box.value == 5.0
    assert "not a medical device" in bench.effect.helpText()
    panel = bench.panel
    assert all(w.toolTip for w in (panel.brush_box, panel.radius_box, panel.at_once_box, panel.progress_bar))
    assert all(w.toolTip for w in (panel.refine_button, panel.apply_button, panel.cancel_button))


@pytest.mark.parametrize("flat", [True, False])
def test_brush_is_a_disc_of_one_slice_or_a_ball(bench: Bench, flat: bool) -> None:
    volume, matrix = bench.case.volume, nodes.ijk_to_ras(bench.case.volume)
    across = matrix[:3, 2] / np.linalg.norm(matrix[:3, 2])
    brush = Brush(volume, 3.1)
    centre = (matrix @ [12, 12, 1, 1.0])[:3]
    brush.paint(tuple(centre), tuple(across) if flat else None)
    assert brush.painted is not None
    painted = on_box(*brush.painted, whole(SHAPE))
    places = np.argwhere(np.ones(SHAPE, bool))[:, ::-1]
    apart = (np.c_[places, np.ones(len(places))] @ matrix.T)[:, :3] - centre
    depth = apart @ across
    if flat:
        expected = (np.linalg.norm(apart - depth[:, None] * across, axis=1) <= 3.1) & (places[:, 2] == 1)
    else:
        expected = np.linalg.norm(apart, axis=1) <= 3.1
    assert (painted.ravel() == expected).all()


def test_module_registers_the_effect_file() -> None:
    source = EFFECT.parents[1] / "SegmentEditorRNCARefine.py"
    assert EFFECT.is_file() and f'"{EFFECT.parent.name}"' in source.read_text(encoding="utf-8")
    assert (EFFECT.parent / "SegmentEditorEffect.png").is_file()
