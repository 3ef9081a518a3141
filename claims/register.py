"""Register the verdicts of a run: writes `claims/deviations/<model>.toml` from its evidence.

    python -m claims.register reports/out/embedded-tiny reports/out/embedded-small

Reasons already given by hand are kept where the claim still has the same verdict.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from awq_core.evidence import Evidence
from claims.deviations_file import FOLDER, DeviationsError, read_deviations, write_deviations

GROUPS = ["concentration", "outliers", "learned", "localization", "payoff", "replication", "constant_alpha"]


def main() -> None:
    """Command line: output folders of models, as `--output` wrote them."""
    parser = argparse.ArgumentParser(description="Register the verdicts of a run as a model's known deviations.")
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that hold evidence.json")
    for group in GROUPS:  # fills the registry, so that entries can be checked against it
        importlib.import_module(f"claims.test_{group}")
    for output in parser.parse_args().outputs:
        record = json.loads((output / "evidence.json").read_text(encoding="utf-8"))
        if not record["complete"]:
            raise SystemExit(f"register: {output}/evidence.json is partial; run the suite to its end first")
        model = record["model"]["name"]
        # A claim about two sizes is registered with the larger one.
        evidence = [e for e in map(Evidence.from_dict, record["claims"]) if e.models[-1] == model]
        try:
            known = read_deviations(model).entries
        except DeviationsError:
            known = {}
        kept = {
            e.key: known[e.key].reason
            for e in evidence
            if e.key in known and known[e.key].verdict is e.verdict and not known[e.key].reason.startswith("measured ")
        }
        write_deviations(FOLDER / f"{model}.toml", model, evidence, record["model"], kept)
        print(f"wrote {FOLDER / f'{model}.toml'}")


if __name__ == "__main__":
    main()
