"""Passes over a staged dataset, each with the transition that follows: a run in, a run out."""
