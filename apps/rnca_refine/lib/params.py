"""What a request asks for, checked: anything else than the values described here is a 400 of one sentence."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnca import InputError
from rnca.geometry import parse_roi

from .refusals import Refusal

MODEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}(@\d{1,6}\.\d{1,6}\.\d{1,6})?")
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".png", ".tif", ".tiff")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


@dataclass(frozen=True)
class Params:
    """One refinement. `None` stands for the default: the model's steps, the only label, everywhere."""

    model: str | None = None  # "NAME" or "NAME@VERSION"
    steps: int | None = None
    label: int | str | None = None  # a value of the mask, "all", or None
    roi: tuple[slice, ...] | None = None  # array order, ends may be None
    device: str = "cpu"
    every: int = 1  # of the live stream: send a step out of so many
    label_tag: str | None = None  # of the datastore, where no mask is uploaded
    extension: str | None = None
    dtype: str | None = None
    compress: bool = True


def parse_json(text: str | bytes | None, what: str = "params") -> dict[str, Any]:
    """A JSON object from a form field; empty is {}."""
    if not text:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(400, f"{what} is not readable as JSON: give an object such as {{}}.") from None
    if not isinstance(values, dict):
        raise Refusal(400, f"{what} is JSON but not an object: give one such as {{}}.")
    return values


def parse_params(values: Mapping[str, Any], most_steps: int, device: str = "cpu") -> Params:
    """Read the parameters that are known; others, which stock clients send along, are ignored."""
    extension, dtype = values.get("result_extension"), values.get("result_dtype")
    return Params(
        model=_model(values.get("model")),
        steps=_whole(values.get("steps"), "steps", 0, most_steps),
        label=_label(values),
        roi=_roi(values.get("roi")),
        device=_one_of(values.get("device") or device, "device", ("auto", "cpu", "cuda")),
        every=_whole(values.get("every"), "every", 1, most_steps) or 1,
        label_tag=_text(values.get("label_tag"), "label_tag"),
        extension=_one_of(extension, "result_extension", EXTENSIONS) if extension else None,
        dtype=_one_of(dtype, "result_dtype", DTYPES) if dtype else None,
        compress=values.get("result_compress") is not False,
    )


def _model(value: Any) -> str | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not MODEL.fullmatch(value):
        raise Refusal(400, f"model is {_shown(value)}: give the name of a model of this server, or NAME@VERSION.")
    return value


def _whole(value: Any, name: str, low: int, high: int) -> int | None:
    if value in (None, ""):
        return None
    number = _number(value)
    if number is None or not low <= number <= high:
        raise Refusal(400, f"{name} is {_shown(value)}: give a whole number from {low} to {high}.")
    return number


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value.strip()):
        return int(value)
    return value if isinstance(value, int) else None


def _label(values: Mapping[str, Any]) -> int | str | None:
    """The value to repair; a stock client on a segment sends the names of all and the selected one's."""
    value = values.get("label")
    if value in (None, "") and values.get("selected_label_name"):
        chosen, known = values["selected_label_name"], values.get("label_info")
        for number, entry in enumerate(known if isinstance(known, list) else [], start=1):
            if isinstance(entry, dict) and entry.get("name") == chosen:
                return _whole(entry.get("id", entry.get("idx", number)), "label_info.id", 1, 2**31 - 1)
        raise Refusal(400, "selected_label_name is not in label_info: give the name of one of its segments.")
    if value == "all" or value in (None, ""):
        return value or None
    number = _number(value)
    if number is None or not -(2**31) <= number < 2**31:
        raise Refusal(400, f"label is {_shown(value)}: give a value of the mask as a whole number, or all.")
    return number


def _roi(value: Any) -> tuple[slice, ...] | None:
    """A box in array order, from "i0:i1,j0:j1,k0:k1" or Slicer\'s [i0, i1, j0, j1, k0, k1] with ends in any order."""
    if value in (None, "", []):
        return None
    if isinstance(value, str):
        try:
            return parse_roi(value)
        except (InputError, ValueError) as error:
            raise Refusal(400, str(error)) from None
    if isinstance(value, list) and len(value) in (4, 6):
        numbers = [_number(v) for v in value]
        if all(n is not None and abs(n) < 2**31 for n in numbers):
            pairs = [sorted((numbers[i], numbers[i + 1])) for i in range(0, len(numbers), 2)]  # type: ignore[type-var]
            return tuple(slice(max(0, a), max(0, b) + 1) for a, b in reversed(pairs))  # type: ignore[operator,type-var]
    raise Refusal(400, f"roi is {_shown(value)}: give i0:i1,j0:j1,k0:k1, or a list of 4 or 6 whole numbers.")


def _one_of(value: Any, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise Refusal(400, f"{name} is {_shown(value)}: give one of {', '.join(known)}.")
    return str(value)


def _text(value: Any, name: str) -> str | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or len(value) > 64:
        raise Refusal(400, f"{name} is {_shown(value)}: give a short text.")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
