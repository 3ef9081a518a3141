"""The methods: how each calibrates a block and rounds it, and the losses that follow."""
