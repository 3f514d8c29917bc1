"""Pretraining of the shared backbone on a synthetic world of retail: nobody's data is in it."""
