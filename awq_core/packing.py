"""How many bytes a linear takes when it is stored packed."""

from __future__ import annotations

from awq_core.quantizer import deployed_group_size

FP16_BYTES = 2


def packed_bytes(out_features: int, in_features: int, bits: int) -> float:
    """Bytes of one linear in the AWQ layout: packed codes, an FP16 step and a packed zero point for every group.

    Args:
        out_features: rows.
        in_features: columns.
        bits: of a code and of a zero point.
    """
    groups = out_features * in_features / deployed_group_size(in_features)
    return out_features * in_features * bits / 8 + groups * (FP16_BYTES + bits / 8)
