"""The parts of the MONAI Label app. `main.py` imports them; they import each other relatively, and `rnca`."""
