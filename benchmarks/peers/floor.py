"""The least that does the work: one loop over clients, one model in memory.  floor.py WORK OUT"""

from __future__ import annotations

import numpy as np
from work import Stopwatch, arguments, finish, generator, train


def main() -> None:
    prepared, out = arguments()
    engine, clients = prepared.engine(), range(prepared.work.clients)
    data = [prepared.data(n) for n in clients]
    shared, watch = dict(prepared.initial), Stopwatch()
    for number in range(1, prepared.work.rounds + 1):
        total = {name: np.zeros(value.shape, np.float64) for name, value in shared.items()}
        for n in clients:
            with watch:
                delta = train(engine, prepared.plan, data[n], generator(n, number), shared)
            for name, value in delta.items():
                total[name] += value
        shared = {name: (shared[name] + total[name] / len(clients)).astype(np.float32) for name in shared}
    finish(shared, training=watch.seconds, out=out)


if __name__ == "__main__":
    main()
