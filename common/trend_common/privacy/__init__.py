"""Differential privacy for whole series: everything between a retailer's gradients and the bytes that leave.

One noun a module::

    noise        Gaussian noise from the operating system's entropy
    sampling     which units take part in a step (Poisson)
    per_series   one gradient for each privacy unit
    step         clip, sum, add noise: the only thing that may leave
    accounting   what it costs: ε from σ, q, steps and δ
    plan         a federation's privacy plan, and what a client makes of it
    policy       what this client allows
    chain        append-only, hash-chained files
    ledger       what this client has spent, and the bytes that it sealed
    sent         every message that ever left
    selftest     does this model do what all of the above assumes?
    audit        what an attack proves: lower bounds to hold against the claims

Importing this package imports neither torch nor scipy; ``per_series``, ``step`` and ``selftest`` import torch.
"""
