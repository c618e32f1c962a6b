"""See rNCA Refine in a browser: a trame-slicer application on the library of the Slicer module (`rnca view`)."""
