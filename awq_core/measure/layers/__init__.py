"""The layer-level instruments: what every linear is fed, and what rounding it costs."""
