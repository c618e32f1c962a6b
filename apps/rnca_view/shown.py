"""What the page shows, as plain values: read from the logics, written into trame's state."""

from typing import Any

from RNCARefineLib.logic import IDLE, RefineLogic
from RNCARefineLib.server import ModelChoice, ServerLogic

from .case import Case

ALL = "all"
"""In place of a segment's id."""

START: dict[str, Any] = {
    "case_name": "",
    "case_size": "",
    "case_flat": True,
    "samples": [],
    "sample": None,
    "segments": [],
    "segment": None,
    "place": "local",
    "address": "http://127.0.0.1:8000",
    "connected": False,
    "connecting": False,
    "models": [],
    "model": None,
    "model_text": "",
    "model_licence": "",
    "model_steps": 64,
    "steps": None,
    "show_changes": True,
    "phase": IDLE,
    "waiting": "",
    "fraction": 0.0,
    "step": 0,
    "last_step": 0,
    "steps_of": 0,
    "added": 0,
    "removed": 0,
    "figures": [],
    "part": "",
    "playing": False,
    "can_undo": False,
    "can_redo": False,
    "can_save": False,
    "save_name": "",
    "message": "",
    "message_error": False,
    "message_shown": False,
    "ask_send": "",
    "ask_login": "",
    "login_user": "",
    "login_password": "",
    "login_token": "",
    "busy_loading": False,
}
"""Every name of the state, with its value at the start."""


def of_case(case: Case | None) -> dict[str, Any]:
    """The open case and its segments."""
    if case is None:
        return {"case_name": "", "case_size": "", "segments": [], "can_save": False}
    return {
        "case_name": case.name,
        "case_size": case.size,
        "case_flat": case.flat,
        "segments": _segments(case),
        "can_save": case.mask is not None,
        "save_name": case.save_name,
    }


def _segments(case: Case) -> list[dict[str, str]]:
    if case.segmentation is None:
        return []
    inside = case.segmentation.GetSegmentation()
    found = []
    for segment in case.values:
        colour = "".join(f"{round(255 * c):02x}" for c in inside.GetSegment(segment).GetColor())
        found.append({"title": inside.GetSegment(segment).GetName(), "value": segment, "colour": f"#{colour}"})
    if len(found) > 1:
        found.insert(0, {"title": "All segments, in turn", "value": ALL, "colour": "#8a97a6"})
    return found


def of_place(place: ServerLogic, chosen: str | None) -> dict[str, Any]:
    """Who refines, and the models there; `chosen` stays chosen if it is there, or as long as none is known."""
    models = {model.name: model for model in place.models}
    fallback = place.default_model if place.default_model in models else None
    name = chosen if chosen in models or not models else fallback
    return {
        "connected": place.connected,
        "models": [{"title": m.name, "value": m.name} for m in place.models],
        "model": name,
        **_of_model(models.get(name or "")),
    }


def _of_model(model: ModelChoice | None) -> dict[str, Any]:
    if model is None:
        return {"model_text": "", "model_licence": "", "model_steps": 64}
    return {
        "model_text": model.description,
        "model_licence": (
            f"Version {model.version} · weights {model.licence or 'of unknown licence'}" if model.version else ""
        ),
        "model_steps": model.steps,
    }


def of_refinement(logic: RefineLogic, flat: bool) -> dict[str, Any]:
    """How the refinement stands."""
    progress = logic.progress()
    if progress is None:
        return {"phase": logic.state, "fraction": 0.0, "step": 0, "last_step": 0, "figures": [], "part": ""}
    return {
        "phase": logic.state,
        "fraction": round(100 * progress.fraction, 1),
        "step": logic.shown_step,
        "last_step": logic.last_step,
        "steps_of": progress.steps,
        "added": progress.added,
        "removed": progress.removed,
        "figures": figures(progress.before, progress.now, flat),
        "part": f"{progress.segment}, {min(progress.done + 1, progress.total)} of {progress.total}"
        if progress.total > 1
        else "",
    }


def figures(before: tuple[int, ...] | None, now: tuple[int, ...] | None, flat: bool) -> list[dict[str, Any]]:
    """Pieces and holes (of a volume: pieces, tunnels and cavities), before and now."""
    if before is None:
        return []
    names = ("Pieces", "Holes") if flat else ("Pieces", "Tunnels", "Cavities")
    now = now or before
    return [{"name": name, "before": b, "now": n} for name, b, n in zip(names, before, now, strict=False)]
