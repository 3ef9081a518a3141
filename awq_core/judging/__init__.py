"""Judging of measurements: metrics, confidence intervals, verdicts and evidence."""
