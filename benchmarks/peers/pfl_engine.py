"""pfl-research: its SimulatedBackend, FederatedAveraging and PyTorchModel.  pfl_engine.py WORK OUT

Runs in an environment with pfl. Weights of users are equal, there is no evaluation, and the local loop is pfl's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from work import BATCH, arguments, batches, finish, generator

from trend_common import adapters
from trend_common.backbones.base import Backbone, Batch


class Never(int):
    """A frequency that no iteration is a multiple of."""

    def __rmod__(self, _: int) -> int:
        return 1


class Learner(torch.nn.Module):
    """The backbone with the two methods that pfl asks for."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def loss(self, **fields: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch."""
        found = self.backbone(Batch(**fields)).loss_per_sample
        assert found is not None
        return found.mean()

    def metrics(self, **_: torch.Tensor) -> dict[str, Any]:
        """Nothing is evaluated."""
        return {}


class Windows(Dataset):
    """A client's data: each local step draws its windows when it is taken."""

    def __init__(self, client: int, data: Any, steps: int) -> None:
        super().__init__(raw_data=(torch.zeros(steps * BATCH),), user_id=str(client))
        self._client, self._data, self._steps, self._round = client, data, steps, 0

    def iter(self, batch_size: int | None) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one round."""
        self._round += 1
        yield from batches(self._data, self._steps, generator(self._client, self._round))


def main() -> None:
    prepared, out = arguments()
    engine, plan, work = prepared.engine(), prepared.plan, prepared.work
    engine.use(prepared.initial)
    users = {n: Windows(n, prepared.data(n), work.steps) for n in range(work.clients)}
    order = itertools.cycle(users)
    model = PyTorchModel(
        Learner(engine.backbone),
        local_optimizer_create=torch.optim.Adam,
        central_optimizer=torch.optim.SGD([p for p in engine.backbone.parameters() if p.requires_grad], lr=1.0),
    )
    dataset = FederatedDataset(lambda n: users[n], lambda: next(order))
    backend = SimulatedBackend(training_data=dataset, val_data=dataset)
    FederatedAveraging().run(
        backend=backend,
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=Never(1),
            train_cohort_size=work.clients,
            val_cohort_size=None,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_batch_size=BATCH,
            local_learning_rate=plan.local_learning_rate,
            local_max_grad_norm=1.0,
        ),
        callbacks=[],
    )
    after = adapters.export(engine.backbone)
    finish({name: after[name] for name in prepared.initial}, training=float("nan"), out=out)


if __name__ == "__main__":
    main()
