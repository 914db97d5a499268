"""Conformance suites for those who plug in their own parts."""
