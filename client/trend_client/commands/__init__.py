"""The subcommands of ``trend-client`` beyond joining: each module has ``register(app)`` and imports late."""
