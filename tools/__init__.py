"""Tools that make the embedded models and their cards; they are not shipped."""
