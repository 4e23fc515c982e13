"""Train ResNet-8 on CIFAR-100 with plain cross-entropy or Zipf's LS, sharing no code with sdbench.

    python benchmarks/plain_loop.py DATA_DIR ce|zipf SEED EPOCHS

Prints the top-1 accuracy of the last epoch. It is the independent yardstick for sdbench's trainer:
`sdbench run --methods zipf --dataset cifar100 --model resnet8 --epochs 5` must land within the
spread of its seeds. Written to be checked by eye: ranks by scipy, targets row by row, no tricks.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.datasets import CIFAR100


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            projection = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.classifier = nn.Linear(64, 100)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        final = self.stages(self.stem(x))
        return self.classifier(final.mean((2, 3))), final


def zipf_term(logits: Tensor, labels: Tensor, votes: Tensor) -> Tensor:
    loss = logits.new_zeros(())
    for z, y, v in zip(logits.float(), labels.tolist(), votes.numpy(), strict=True):
        weight = 1.0 / rankdata(-np.bincount(v, minlength=100), method="min")
        others = np.arange(100) != y
        target = torch.from_numpy(weight[others] / weight[others].sum()).float()
        loss = loss + (target * (target.log() - F.log_softmax(z[torch.from_numpy(others)], 0))).sum()
    return loss / len(labels)


def main(folder: str, method: str, seed: int, epochs: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    sets = [CIFAR100(folder, train=train) for train in (True, False)]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    x, test_x = (torch.from_numpy(s.data).permute(0, 3, 1, 2) for s in sets)
    y, test_y = (torch.tensor(s.targets) for s in sets)
    net = ResNet8().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** ((epoch >= epochs / 2) + (epoch >= epochs * 3 / 4))
        for rows in torch.randperm(len(x)).split(128):
            images = torch.stack([F.pad(x[i], (4, 4, 4, 4)) for i in rows.tolist()])
            shifts, flips = torch.randint(0, 9, (len(rows), 2)).tolist(), (torch.rand(len(rows)) < 0.5).tolist()
            crops = [im[:, a : a + 32, b : b + 32] for im, (a, b) in zip(images, shifts, strict=True)]
            images = torch.stack([c.flip(2) if f else c for c, f in zip(crops, flips, strict=True)])
            images = ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits, final = net(images)
                loss = F.cross_entropy(logits.float(), y[rows])
                if method == "zipf":
                    votes = net.classifier(final.detach().flatten(2).mT).argmax(2)
                    loss = loss + 0.1 * zipf_term(logits, y[rows], votes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        guesses = torch.cat([net((part / 255 - mean) / std)[0].argmax(1) for part in test_x.split(500)])
    print(f"{method} seed {seed}: top-1 {(guesses == test_y).double().mean():.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
