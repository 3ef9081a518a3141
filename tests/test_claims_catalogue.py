"""Every claim's threshold, precisions, version, kind and level are the registered ones."""

from __future__ import annotations

from claims.support.catalogue import whole_catalogue
from tests.registered_claims import CATALOGUE, MECHANICAL, MODEL_LEVEL, VERSIONS

REGISTERED = whole_catalogue()


def test_the_registered_claims_are_the_catalogue_s() -> None:
    registered = {
        claim.id: (
            claim.threshold.lower if claim.threshold else None,
            claim.threshold.upper if claim.threshold else None,
            claim.bits,
        )
        for claim in REGISTERED.values()
    }
    assert registered == CATALOGUE


def test_versions_kinds_and_levels_are_the_registered_ones() -> None:
    for name in CATALOGUE:
        claim = REGISTERED[name]
        assert claim.version == VERSIONS.get(name, 1)
        assert claim.kind == ("mechanical" if name in MECHANICAL else "structural")
        level = "model" if name in MODEL_LEVEL else "pair" if claim.group == "replication" else "layer"
        assert claim.level == level
        assert claim.words
        assert claim.source
        assert claim.unit
