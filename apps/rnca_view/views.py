"""What is seen of the case: one slice view of a picture, three and a 3-D view of a volume."""

from typing import Any

from trame.widgets import html
from trame.widgets import vuetify3 as v
from trame_slicer.app.logic.slice_view_logic import connect_slice_view_slider_to_state
from trame_slicer.core import LayoutManager, SlicerApp
from trame_slicer.rca_view import register_rca_factories
from trame_slicer.views import Layout, LayoutDirection, ViewLayoutDefinition

from RNCARefineLib.preview import ADDED, REMOVED, UNSURE

FLAT, VOLUME = "flat", "volume"
BACKGROUND = "#05070a"


class Views:
    """The views of one application.

    Args:
        server: the trame server.
        slicer_app: whose scene they show.
    """

    def __init__(self, server: Any, slicer_app: SlicerApp) -> None:
        self._app = slicer_app
        register_rca_factories(
            slicer_app.view_manager,
            server,
            slice_view_ui_f=_slice_controls,
            three_d_view_ui_f=_solid_controls,
            target_fps=20.0,
            blur_fps=20.0,
            interactive_quality=85,
        )
        self.layouts = LayoutManager(slicer_app.scene, slicer_app.view_manager, server)
        axial = ViewLayoutDefinition.axial_view()
        solid = ViewLayoutDefinition.threed_view(background_color=(BACKGROUND, "#10161d"))
        side = [solid, ViewLayoutDefinition.coronal_view(), ViewLayoutDefinition.sagittal_view()]
        down, across = LayoutDirection.Vertical, LayoutDirection.Horizontal
        self.layouts.register_layout(VOLUME, Layout(across, [axial, Layout(down, side)], ["2", "1"]))
        self.layouts.register_layout(FLAT, Layout(across, [axial]))
        self.layouts.set_layout(FLAT)
        for view in self._slices + slicer_app.view_manager.get_threed_views():
            view.interactor().AddObserver("WindowResizeEvent", lambda *_, view=view: self._fit(view))

    @property
    def _slices(self) -> list[Any]:
        return list(self._app.view_manager.get_slice_views())

    def show(self, volume: Any, flat: bool) -> None:
        """Show a volume, in the layout for its kind."""
        self.layouts.set_layout(FLAT if flat else VOLUME)
        for view in self._slices:
            view.set_background_volume_id(volume.GetID())
        for view in self._app.view_manager.get_views():
            view.reset_view()

    def go_to(self, point: tuple[float, float, float]) -> None:
        """Bring every slice view to a point in RAS."""
        for view in self._slices:
            view.get_view_node().JumpSliceByOffsetting(*point)

    def show_preview(self, preview: Any, segmentation: Any, changes: bool) -> None:
        """In 3D: the original and what was added to it, or the result alone; without a preview the original."""
        if segmentation is not None:
            segmentation.GetDisplayNode().SetVisibility3D(preview is None or changes)
        if preview is not None:
            names = [
                preview.GetSegmentation().GetNthSegmentID(n)
                for n in range(preview.GetSegmentation().GetNumberOfSegments())
            ]
            for name in names:
                seen = name in (ADDED, UNSURE) if changes else name not in (ADDED, REMOVED, UNSURE)
                preview.GetDisplayNode().SetSegmentVisibility3D(name, seen)

    def render(self) -> None:
        """Draw what changed, soon."""
        for view in self._app.view_manager.get_views():
            view.schedule_render()

    def _fit(self, view: Any) -> None:
        """A window has a new size: the whole image is in it again."""
        view.fit_view_to_content()
        view.schedule_render()


def _reset(view: Any) -> None:
    v.VBtn(
        icon="mdi-fit-to-screen-outline",
        size="x-small",
        variant="text",
        classes="view-button",
        title="Show all of it",
        click=view.reset_view,
    )


def _slice_controls(server: Any, _: str, view: Any) -> None:
    with html.Div(classes="view-top"):
        html.Span(view.get_orientation() if view.get_view_node() else "", classes="view-name", v_if=("!case_flat",))
        _reset(view)
    slider = connect_slice_view_slider_to_state(server, view)
    with html.Div(classes="view-bottom", v_if=("!case_flat",)):
        v.VSlider(
            min=(slider.name.min_value,),
            max=(slider.name.max_value,),
            step=(slider.name.step,),
            v_model=(slider.name.value,),
            hide_details=True,
            density="compact",
            color="grey-lighten-1",
            track_size=2,
            thumb_size=12,
        )


def _solid_controls(_: Any, __: str, view: Any) -> None:
    with html.Div(classes="view-top"):
        html.Span("3D", classes="view-name")
        _reset(view)
