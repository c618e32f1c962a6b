"""Slicer's translations where they are; elsewhere texts stay as they are written."""

__all__ = ["_"]

try:
    # Itself and not called from here: it finds the context of a text by the file that calls it.
    from slicer.i18n import tr as _
except ImportError:

    def _(text: str) -> str:
        """A text in the user's language."""
        return text
