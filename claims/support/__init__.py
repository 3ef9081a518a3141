"""Parts that claims are made of: the decorator, shared readings, judging, registered deviations."""
