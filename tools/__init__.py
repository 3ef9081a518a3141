"""Makes what this project ships and shows: its embedded models and their cards. Not shipped."""
