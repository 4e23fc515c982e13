"""What finished trials show, in pictures: one HTML file (``sdbench report``) and figures for papers (``sdbench plot``).

No torch: curves are read from ``curve.jsonl``, logits with NumPy.
"""
