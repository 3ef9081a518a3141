"""From evidence to what a reader sees: the terminal's words, the files, the figures and the HTML report."""
