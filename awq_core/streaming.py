from awq_core.architectures.block_stream import BlockStream  # noqa
