"""``sdbench analyze``: what papers say of trained networks, asked of the logits and weights that trials keep.

``zipf``: sorted softmax outputs against rank. ``calibration``: before and after temperature scaling. ``geometry``:
penultimate features of three classes in the plane of their templates. These three are functions of arrays; ``trials``
finds the trials, ``questions`` asks, ``tables`` and ``pictures`` show.
"""
