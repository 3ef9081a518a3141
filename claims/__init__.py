"""The catalogue's claims, one file for each group, and what turns their estimates into verdicts."""
