"""What only desktop Slicer has, thin, so that the module can be tested without it.

The MRML scene, nodes and logics are Slicer's own (slicer-core), and Qt is Qt (PySide6, offscreen). Stood in for are:
PythonQt's way to see Qt (`qt.py`), the widgets of CTK and qMRML that RNCARefine.ui names (`widgets.py`), and the
application around them (`application.py`). None of them knows anything of rNCA Refine.
"""
