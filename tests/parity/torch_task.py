"""A small network with BatchNorm, dropout, a frozen layer and a personal head."""

import torch

from choral.tasks.torch import TorchTask


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.2)
        )
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(self.frozen(x)))


task = TorchTask(
    model=Net,
    loss=torch.nn.functional.cross_entropy,
    optimizer="sgd",
    lr=0.05,
    batch_size=8,
    roles={"head.*": "personal"},
)
