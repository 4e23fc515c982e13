"""Born-again networks (Furlanello et al., ICML 2018): a student of the same architecture as its teacher."""

from sdbench import Choice, LogUniform, Uniform, register
from sdbench.parts import PredecessorTaught


@register("ban", paper="https://arxiv.org/abs/1805.04770", year=2018)
class BornAgain(PredecessorTaught):
    """Born-again network: generation after generation learns from labels and from its predecessor.

    L = ce_weight * CE(z, y) + weight * T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)), with
    logits z [N, K], labels y [N] and t [N, K] the logits that the last generation's trained network,
    in eval mode and without gradient, gives for the same augmented images. Every generation starts
    from fresh weights.

    ce_weight: in [0, infinity); 0 leaves the labels out, so that the teacher alone is followed.
    weight: in [0, infinity); 0 skips the teacher's pass and is, with ce_weight 1, plain cross-entropy.
    temperature: T > 0; 1, the plain predictions, is the paper's.
    generations: trainings in a row, at least 2. The first is plain cross-entropy, the others are
        born again; 2 gives the paper's BAN-1, 4 its BAN-3.

    Two forward passes (one without gradient) and one backward pass in each generation but the
    first; one copy of the weights. All generations count as cost.

    Source: the paper, 2018. Its authors released no PyTorch code; the loss is the sum of both
    terms with weight 1 each, at T = 1. Not covered: the variants that reweight or permute the teacher's
    output (CWTM, DKPP), and ensembles of generations. Published: the CIFAR-100 numbers are for
    DenseNet and Wide ResNet under other recipes and were not verified, so none is quoted; Table 1 of
    arXiv 2207.12980 gives two trainings +2.2 points over its baseline, one run each.
    """

    space = {
        "ce_weight": Uniform(0.0, 10.0),
        "weight": LogUniform(0.01, 100.0),
        "temperature": Uniform(0.5, 20.0),
        "generations": Choice(2, 3, 4, 5),
    }
    recommended = {
        "cifar100": {"ce_weight": 1.0, "weight": 1.0, "temperature": 1.0},
        "tinyimagenet": {"ce_weight": 1.0, "weight": 1.0, "temperature": 1.0},
    }
    neutral = {"ce_weight": 1.0, "weight": 0.0}

    def __init__(
        self, *, ce_weight: float = 1.0, weight: float = 1.0, temperature: float = 1.0, generations: int = 2
    ) -> None:
        super().__init__(ce_weight, weight, temperature)
        if generations < 2:
            raise ValueError(f"generations must be at least 2, a teacher and a student, got {generations}")
        self.generations = generations
