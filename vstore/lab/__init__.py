"""Experiments: sweeps, traces and plots."""
