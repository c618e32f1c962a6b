"""What the rNCA Refine module is made of; no file here imports Slicer or Qt before something of it is used."""
