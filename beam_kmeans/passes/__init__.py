"""Passes over a staged dataset, a run in and a run out; and the one over files, that predicts."""
