"""Where networks put their classes. Müller et al. 2019, "When does label smoothing help?", arXiv 1906.02629, section 2.

The template of class k is row k of the classifier's weight matrix with its bias, w_k in R^(D+1), and a sample is its
penultimate (pooled) features with a 1 behind them, x in R^(D+1), so that its logit is x . w_k, as in the paper. A
classifier without bias has templates in R^D.

* Projection: three classes, an orthonormal basis e_1, e_2 of the directions of the plane through their templates
  (e_1 along w_2 - w_1, e_2 by Gram-Schmidt along w_3 - w_1), and for each sample the coordinates
  ((x - c) . e_1, (x - c) . e_2), c the mean of the three templates. The paper names no origin and no orientation; they
  move and turn the picture and change no distance within the plane.
* Tightness: with N samples in classes k of n_k samples each, class means mu_k and the overall mean mu,

      within  = (1/N) sum_n |x_n - mu_{y_n}|^2          between = (1/N) sum_k n_k |mu_k - mu|^2

  and their ratio within / between, which scaling all features leaves as it is: 0 where each class is a point. Their sum
  is the total scatter. It is the ratio of traces of the scatter matrices of linear discriminant analysis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane through three templates. origin [D]: their mean. basis [2, D]: orthonormal. templates [3, 2]: theirs."""

    origin: Floats
    basis: Floats
    templates: Floats


@dataclass(frozen=True, slots=True)
class Scatter:
    """within, between: mean squared distances, >= 0. ratio: None where the class means coincide. samples, classes:
    how many it rests on."""

    within: float
    between: float
    ratio: float | None
    samples: int
    classes: int


def template_plane(templates: NDArray[Any]) -> Plane:
    """The plane through three points [3, D], D >= 2. Raises ValueError where they lie on one line."""
    w = np.asarray(templates, dtype=np.float64)
    if w.ndim != 2 or len(w) != 3 or w.shape[1] < 2 or not np.isfinite(w).all():
        raise ValueError(f"need three finite templates [3, D] with D >= 2, got {list(w.shape)}")
    one, other = w[1] - w[0], w[2] - w[0]
    length = np.linalg.norm(one)
    e_1 = one / length if length > 0 else one
    rest = other - (other @ e_1) * e_1
    rest = rest - (rest @ e_1) * e_1  # once more: the first subtraction leaves rounding errors of the part taken out
    height = np.linalg.norm(rest)
    if length == 0 or height <= 1e-9 * np.linalg.norm(other):
        raise ValueError("the three templates lie on one line, so no plane goes through them; choose other classes")
    basis = np.stack([e_1, rest / height])
    origin = w.mean(0)
    return Plane(origin, basis, (w - origin) @ basis.T)


def project(features: NDArray[Any], plane: Plane) -> Floats:
    """Coordinates [V, 2] in the plane of features [V, D]."""
    projected: Floats = (np.asarray(features, dtype=np.float64) - plane.origin) @ plane.basis.T
    return projected


def scatter(features: NDArray[Any], labels: NDArray[Any]) -> Scatter:
    """Within-class and between-class scatter of features [V, D] under labels [V]. Raises ValueError for fewer than two
    classes, wrong shapes, and features that are not finite."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or not len(x) or labels.shape != x.shape[:1] or not np.isfinite(x).all():
        raise ValueError(f"need finite features [V, D] and labels [V], got {list(x.shape)} and {list(labels.shape)}")
    present, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2:
        raise ValueError("need samples of two classes at least")
    sums = np.zeros((len(present), x.shape[1]))
    np.add.at(sums, index, x)
    means = sums / counts[:, None]
    within = float(((x - means[index]) ** 2).sum() / len(x))
    between = float((counts @ ((means - x.mean(0)) ** 2).sum(1)) / len(x))
    return Scatter(within, between, within / between if between > 0 else None, len(x), len(present))


def with_one(features: NDArray[Any]) -> Floats:
    """Features [V, D] with a 1 behind each row: [V, D + 1], what a template with its bias is multiplied with."""
    x = np.asarray(features, dtype=np.float64)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)
