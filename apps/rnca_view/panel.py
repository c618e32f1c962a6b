"""The page: the panel on the left, the views beside it. Every name in quotes is one of `shown.START`."""

from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import html
from trame.widgets import vuetify3 as v

from .control import Control
from .files import pick_files
from .panel_repair import repair_section
from .views import Views

THEME = {
    "theme": {
        "defaultTheme": "calm",
        "themes": {
            "calm": {
                "dark": True,
                "colors": {
                    "background": "#05070a",
                    "surface": "#0c1117",
                    "primary": "#2f81f7",
                    "secondary": "#8a97a6",
                    "success": "#2ea35c",
                    "error": "#e5534b",
                    "info": "#1c2530",
                },
            }
        },
    },
    "defaults": {
        "VSelect": {"density": "compact", "variant": "outlined", "hideDetails": True},
        "VTextField": {"density": "compact", "variant": "outlined", "hideDetails": True},
        "VSlider": {"density": "compact", "hideDetails": True, "color": "primary"},
        "VBtn": {"elevation": 0, "rounded": "lg"},
    },
}

CONNECT = "[address, login_token, login_user, login_password]"
"""Sent with the click: what was typed last may come to the server's state after it."""

LOGO = (
    '<svg width="34" height="34" viewBox="0 0 34 34" fill="none"><rect width="34" height="34" rx="9" fill="#14202e"/>'
    '<path d="M17 7a10 10 0 1 1-8.7 5.1" stroke="#4d9fff" stroke-width="3.6" stroke-linecap="round"/>'
    '<path d="M9.2 10.7A10 10 0 0 1 13.4 7.7" stroke="#4be06f" stroke-width="3.6" stroke-linecap="round"/></svg>'
)


def build(server: Any, control: Control, views: Views) -> VAppLayout:
    """Make the page."""
    with VAppLayout(server, vuetify_config=THEME) as layout:
        with v.VNavigationDrawer(permanent=True, width=368, color="surface", classes="panel"):
            _brand()
            _case(control)
            _place(control)
            repair_section(control)
            _foot()
        with v.VMain(), html.Div(classes="views"):
            views.layouts.initialize_layout_grid(layout)
            with html.Div(classes="empty", v_if=("!case_name",)):
                html.Span("Open an image and its mask, or choose a sample case.")
            _legend()
        _message()
    return layout


def _brand() -> None:
    with html.Div(classes="brand"):
        html.Div(LOGO)
        with html.Div():
            html.Div("rNCA Refine", classes="brand-name")
            html.Div("Repairs broken masks, step by step", classes="brand-line")


def _case(control: Control) -> None:
    with html.Div(classes="section"):
        with html.Div(classes="section-name"):
            html.Span("Case")
            v.VSpacer()
            pick_files(control, "image", "Image", "mdi-image-outline")
            pick_files(control, "mask", "Mask", "mdi-vector-polygon")
        v.VSelect(
            label="Sample case",
            model_value=("sample",),
            update_modelValue=(control.open_sample, "[$event]"),
            items=("samples",),
            placeholder=("case_name || 'Choose one'",),
            persistent_placeholder=True,
            classes="pick-sample",
        )
        with html.Div(classes="fine mt-1 ml-1", v_if=("case_name",)):
            html.Span("{{ sample ? '' : case_name + ' · ' }}{{ case_size }}")
        with v.VSelect(
            label="Segment", v_model=("segment",), items=("segments",), classes="mt-3", v_if=("segments.length",)
        ):
            for slot in ("v_slot_selection", "v_slot_item"):
                _segment_slot(slot)


def _segment_slot(slot: str) -> None:
    if slot == "v_slot_selection":
        with v.Template(v_slot_selection="{ item }"), html.Div(classes="row"):
            html.Span(classes="dot", style=("{ background: item.raw ? item.raw.colour : '#8a97a6' }",))
            html.Span("{{ item.title }}")
    else:
        with (
            v.Template(v_slot_item="{ item, props }"),
            v.VListItem(v_bind="props"),
            v.Template(v_slot_prepend=True),
        ):
            html.Span(classes="dot mr-3", style=("{ background: item.raw ? item.raw.colour : '#8a97a6' }",))


def _place(control: Control) -> None:
    with html.Div(classes="section"):
        with html.Div(classes="section-name"):
            html.Span("Refine on")
            v.VSpacer()
            html.Span(classes=("'dot ' + (connected ? 'online' : 'offline')",))
        with v.VBtnToggle(
            v_model=("place",),
            update_modelValue=(control.choose_place, "[$event]"),
            mandatory=True,
            density="compact",
            divided=True,
            variant="outlined",
            classes="d-flex",
            style="height: 34px",
        ):
            v.VBtn("This computer", value="local", classes="flex-grow-1", id="place-local")
            v.VBtn("A server", value="server", classes="flex-grow-1", id="place-server")
        with html.Div(classes="row mt-3", v_if=("place === 'server'",)):
            v.VTextField(label="Address", v_model=("address",), id="address", keydown_enter=(control.connect, CONNECT))
            v.VBtn(
                "{{ connected ? 'Again' : 'Connect' }}",
                click=(control.connect, CONNECT),
                loading=("connecting",),
                variant="tonal",
                height=40,
                id="connect",
            )
        _login(control)
        _consent(control)


def _login(control: Control) -> None:
    with html.Div(classes="result", v_if=("ask_login",)):
        html.Div("{{ ask_login }}", classes="quiet mb-3")
        with html.Div(classes="row"):
            v.VTextField(label="User", v_model=("login_user",), autocomplete="username")
            v.VTextField(
                label="Password", type="password", v_model=("login_password",), autocomplete="current-password"
            )
        v.VTextField(label="or a token", type="password", v_model=("login_token",), classes="mt-2")
        v.VBtn("Log in", click=(control.connect, CONNECT), variant="tonal", color="primary", block=True, classes="mt-3")


def _consent(control: Control) -> None:
    with html.Div(classes="result", v_if=("ask_send",)):
        html.Div("The image will leave this computer: it is sent to {{ ask_send }}, which keeps it for this session.")
        with html.Div(classes="row mt-3"):
            v.VBtn("Send it", color="primary", click=(control.send_allowed, "[true]"), classes="flex-grow-1", id="send")
            v.VBtn("Do not", variant="tonal", click=(control.send_allowed, "[false]"), classes="flex-grow-1")


def _foot() -> None:
    with html.Div(classes="foot"):
        html.Div("For research use, not a medical device.", classes="fine")


def _legend() -> None:
    with html.Div(classes="legend", v_if=("phase !== 'idle' && show_changes",)):
        for name, colour in (("added", "#33e64d"), ("removed", "#f24033")):
            with html.Span():
                html.Span(classes="dot", style=f"background: {colour}")
                html.Span(name)


def _message() -> None:
    with v.VSnackbar(
        v_model=("message_shown",),
        classes=("message_error ? 'told wrong' : 'told'",),
        timeout=("message_error ? -1 : 4000",),
        location="bottom right",
    ):
        v.VIcon(
            "{{ message_error ? 'mdi-alert-circle-outline' : 'mdi-information-outline' }}",
            size="small",
            color=("message_error ? 'error' : 'secondary'",),
        )
        html.Span("{{ message }}", id="message")
        with v.Template(v_slot_actions=True):
            v.VBtn(icon="mdi-close", size="x-small", variant="text", click="message_shown = false")
