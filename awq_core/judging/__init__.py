"""From measurements to verdicts: metrics, intervals, evidence."""
