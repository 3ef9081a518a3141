"""The parts of the HTML report's page, in plain HTML: everything is there before any script has run."""
