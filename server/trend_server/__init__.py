"""What the operator runs: enrolment, rounds, aggregation, the registry of adapters."""
