"""``trend-client serve``: forecasts over HTTP on the retailer's own machine.

The way of a request: guard (token, size, log) → strict schema → rows become windows → batcher (one forward pass for
all who wait) → answer. :mod:`~trend_client.serve.app` has the endpoints.
"""
