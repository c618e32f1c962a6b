"""The part of the panel where the repair is: model, Refine, progress, steps, Accept, Undo."""

from trame.widgets import html
from trame.widgets import vuetify3 as v

from .control import Control
from .files import save_file


def repair_section(control: Control) -> None:
    """The model, the one button, and what comes of it."""
    with html.Div(classes="section"):
        html.Div("Repair", classes="section-name")
        with html.Div(classes="row"):
            v.VSelect(
                label="Model",
                v_model=("model",),
                update_modelValue=(control.choose_model, "[$event]"),
                items=("models",),
                disabled=("!connected",),
                classes="flex-grow-1 pick-model",
            )
            v.VTextField(
                label="Steps",
                type="number",
                min=1,
                max=100000,
                v_model=("steps",),
                placeholder=("String(model_steps)",),
                persistent_placeholder=True,
                style="max-width: 92px",
                id="steps",
            )
        with html.Div(v_if=("model_text",)):
            html.Div("{{ model_text }}", classes="quiet mt-2")
            html.Div("{{ model_licence }}", classes="fine mt-1")
        v.VSwitch(
            label="Show what changes",
            v_model=("show_changes",),
            update_modelValue=(control.mark_changes, "[$event]"),
            density="compact",
            color="success",
            hide_details=True,
            inset=True,
            classes="mt-1 ml-1",
        )
        with v.VBtn(
            block=True,
            classes="refine mt-2",
            color=("phase === 'running' ? 'error' : 'primary'",),
            disabled=("phase === 'review' || !connected || !segments.length",),
            click=(control.refine_or_stop, "[segment, steps]"),
            id="refine",
            v_if=("phase !== 'review'",),
        ):
            v.VIcon("{{ phase === 'running' ? 'mdi-stop' : 'mdi-auto-fix' }}", classes="mr-2")
            html.Span("{{ phase === 'running' ? 'Stop' : 'Refine' }}")
            html.Span("R", classes="key")
        _result(control)
        _past(control)


def _result(control: Control) -> None:
    with html.Div(classes="row", v_if=("phase === 'review'",)):
        with v.VBtn(color="success", classes="refine flex-grow-1 mt-2", click=control.accept, id="accept"):
            html.Span("{{ playing || step === last_step ? 'Accept' : 'Accept step ' + step }}")
            html.Span("A", classes="key", v_if=("playing || step === last_step",))
        with v.VBtn(variant="tonal", classes="refine flex-grow-1 mt-2", click=control.discard, id="discard"):
            html.Span("Discard")
            html.Span("Esc", classes="key")
    with html.Div(classes="result", v_if=("phase !== 'idle'",), id="result"):
        with html.Div(classes="row"):
            html.Span("{{ waiting || 'Step ' + step + ' of ' + (steps_of || '…') }}", classes="step", id="step")
            v.VSpacer()
            html.Span("{{ part }}", classes="fine")
            v.VBtn(
                icon=("playing ? 'mdi-pause' : 'mdi-replay'",),
                size="x-small",
                variant="text",
                title="Watch it again",
                click=control.play,
                v_if=("phase === 'review'",),
                id="play",
            )
        v.VProgressLinear(
            model_value=("fraction",),
            indeterminate=("!!waiting || !steps_of",),
            color="primary",
            height=4,
            rounded=True,
            classes="mt-2",
            v_if=("phase === 'running'",),
        )
        v.VSlider(
            model_value=("step",),
            update_modelValue=(control.scrub, "[$event]"),
            min=0,
            max=("Math.max(last_step, 1)",),
            step=1,
            thumb_size=14,
            track_size=3,
            classes="mt-1 mx-1",
            v_if=("last_step",),
            id="scrub",
        )
        _numbers()


def _numbers() -> None:
    with html.Div(classes="numbers", v_if=("last_step",)):
        with html.Div(classes="number"):
            html.Span("Added")
            html.B("+{{ added.toLocaleString() }}", classes="added", id="added")
        with html.Div(classes="number"):
            html.Span("Removed")
            html.B("−{{ removed.toLocaleString() }}", classes="removed", id="removed")
        with html.Div(v_for="row in figures", key="row.name", classes="number"):
            html.Span("{{ row.name }}")
            with html.B(classes=("row.now !== row.before ? 'better' : ''",)):
                html.Span("{{ row.before }} → ", classes="was")
                html.Span("{{ row.now }}")


def _past(control: Control) -> None:
    with html.Div(classes="row mt-3"):
        for name, icon, action, can in (
            ("Undo", "mdi-undo", control.undo, "can_undo"),
            ("Redo", "mdi-redo", control.redo, "can_redo"),
        ):
            v.VBtn(
                name,
                prepend_icon=icon,
                variant="text",
                size="small",
                click=action,
                disabled=(f"!{can}",),
                id=name.lower(),
            )
        v.VSpacer()
        save_file(control)
