"""`report.html`: what it shows, as data, and the templates of every page."""
