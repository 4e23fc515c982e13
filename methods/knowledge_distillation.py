"""Knowledge distillation (Hinton et al., 2015): a student learns from a trained network that is named for it."""

from sdbench import Uniform, register
from sdbench.parts import PredecessorTaught


@register("kd", paper="https://arxiv.org/abs/1503.02531", year=2015)
class KnowledgeDistillation(PredecessorTaught):
    """Knowledge distillation: learn from labels and from a named, finished network; for `sdbench distill`.

    L = (1 - alpha) CE(z, y) + alpha T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)), with logits z [N, K],
    labels y [N] and t [N, K] the logits that the teacher, in eval mode and without gradient, gives for the same
    augmented images. T^2 keeps the gradient's size independent of T (the paper, section 2.1).

    This is not self-distillation: the teacher is another finished trial, of whatever method and network, and
    `sdbench distill` says which. `sdbench run` has none to give and refuses it.

    alpha: in [0, 1]. 0 skips the teacher's pass and is plain cross-entropy; 1 leaves the labels out.
    temperature: T > 0; 1 compares the plain predictions.
    taught_by: what tables call the teacher; it changes nothing in training.

    Two forward passes (one of them the teacher's, without gradient) and one backward pass; the teacher's weights.

    Source: the paper, 2015; its authors released no code. Whether networks trained with label smoothing teach worse
    is the question of Müller et al. 2019, https://arxiv.org/abs/1906.02629.
    """

    generations = 1
    wants_teacher = True
    space = {"alpha": Uniform(0.0, 1.0), "temperature": Uniform(0.5, 20.0)}
    neutral = {"alpha": 0.0}

    def __init__(self, *, alpha: float = 0.9, temperature: float = 4.0, taught_by: str = "") -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        super().__init__(1 - alpha, alpha, temperature)
        self.alpha, self.taught_by = alpha, taught_by
