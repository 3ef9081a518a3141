"""`report.html`: its page, section by section."""
