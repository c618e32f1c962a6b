"""What the rNCA Refine module is made of.

No file here imports Slicer before something of it is used, and only those whose names begin with `panel`, and
`effect.py`, import Qt.
"""
